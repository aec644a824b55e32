//! How a call ended, in the forms that the ledger, the table of calls and the caller get.

use aios_kit::{Category, Error};
use aios_proto::v1::ErrorDetail;
use aios_tool_api::{ToolError, ToolErrorKind, canonical};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{authorise::Refusal, ledger::LedgerError, redact};

/// Longest result of a change that stands in the ledger in full, in bytes of JSON.
const LONGEST_RESULT: usize = 4096;

/// The end of a call.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// `ok`, `invalid`, `denied`, `failed`, `timeout` or `unknown`.
    pub name: &'static str,
    /// The result, when it is `ok`.
    pub result: Option<Value>,
    /// Why not, when it is not.
    pub error: Option<Error>,
}

impl Outcome {
    /// It was done.
    #[must_use]
    pub fn ok(result: Value) -> Self {
        Self {
            name: "ok",
            result: Some(result),
            error: None,
        }
    }

    /// It was not done.
    #[must_use]
    pub fn error(name: &'static str, error: Error) -> Self {
        Self {
            name,
            result: None,
            error: Some(error),
        }
    }

    /// The arguments or the tool's name are wrong.
    #[must_use]
    pub fn invalid(error: &ToolError) -> Self {
        Self::error("invalid", kit_error(error))
    }

    /// Somebody lacks a right.
    #[must_use]
    pub fn denied(refusal: &Refusal) -> Self {
        let error = Error::new(Category::Auth, refusal.message.clone()).hint(refusal.hint.clone());
        Self::error("denied", error)
    }

    /// A tool failed.
    #[must_use]
    pub fn of_tool(error: &ToolError) -> Self {
        let name = if error.kind == ToolErrorKind::Timeout {
            "timeout"
        } else {
            "failed"
        };
        Self::error(name, kit_error(error))
    }

    /// The record's detail. Results of calls that only read are not kept: their hash is.
    #[must_use]
    pub fn detail(&self, changed: bool, duration_us: u64) -> Value {
        let mut detail = json!({ "outcome": self.name, "duration_us": duration_us });
        if let Some(result) = &self.result {
            let text = canonical::to_string(result);
            if changed && text.len() <= LONGEST_RESULT {
                detail["result"] = redact::for_ledger(result, &[]);
            } else {
                detail["result"] = json!({
                    "sha256": canonical::sha256_hex(text.as_bytes()),
                    "bytes": text.len(),
                });
            }
        }
        if let Some(error) = &self.error {
            detail["error"] = json!({
                "category": error.category().name(),
                "message": redact::for_ledger(&error.message().into(), &[]),
                "retryable": error.retryable(),
            });
        }
        detail
    }
}

/// An error as the table of calls keeps it.
#[derive(Debug, Serialize, Deserialize)]
struct StoredError {
    category: String,
    message: String,
    hint: String,
    retryable: bool,
}

/// The stored form of an error.
#[must_use]
pub fn store_error(error: &Error) -> String {
    let detail = error.detail();
    serde_json::to_string(&StoredError {
        category: detail.category,
        message: detail.message,
        hint: detail.hint,
        retryable: detail.retryable,
    })
    .unwrap_or_default()
}

/// An error from its stored form.
#[must_use]
pub fn stored_error(text: &str) -> Option<ErrorDetail> {
    let error: StoredError = serde_json::from_str(text).ok()?;
    Some(ErrorDetail {
        category: error.category,
        message: error.message,
        hint: error.hint,
        retryable: error.retryable,
        retry_after_ms: 0,
    })
}

/// A tool's error in the form that crosses process borders.
#[must_use]
pub fn kit_error(error: &ToolError) -> Error {
    let category = match error.kind {
        ToolErrorKind::Invalid | ToolErrorKind::NotFound => Category::Validation,
        ToolErrorKind::Conflict | ToolErrorKind::Unverified => Category::Conflict,
        ToolErrorKind::Permission => Category::Auth,
        ToolErrorKind::Network => Category::Network,
        ToolErrorKind::Filesystem => Category::Filesystem,
        ToolErrorKind::Timeout | ToolErrorKind::Cancelled => Category::Timeout,
        ToolErrorKind::Program | ToolErrorKind::Internal => Category::Internal,
    };
    Error::new(category, error.message.clone())
        .hint(error.hint.clone())
        .with_retryable(error.retryable)
}

/// The ledger's error in the form that crosses process borders.
#[must_use]
pub fn ledger_error(error: &LedgerError) -> Error {
    Error::new(Category::Database, error.to_string())
        .hint("nothing is done that cannot be recorded; look at the disk below the state directory")
}
