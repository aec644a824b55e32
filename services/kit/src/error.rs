//! One error for everything that crosses a process border: a category, a message that says what was
//! wrong and where, a hint, and whether the same call may succeed later (requirement Z-13).

use std::{fmt, time::Duration};

use aios_proto::v1::ErrorDetail;
use prost::Message as _;
use tonic::{Code, Status, metadata::MetadataValue};

/// The metadata key under which an encoded [`ErrorDetail`] travels with a [`Status`].
pub const ERROR_METADATA: &str = "aios-error-bin";

/// What kind of thing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Category {
    /// Another process or machine could not be reached.
    Network,
    /// Too much was asked at once.
    RateLimit,
    /// The caller may not do this.
    Auth,
    /// The request is wrong.
    Validation,
    /// Stored records cannot be read or written.
    Database,
    /// Files cannot be read or written.
    Filesystem,
    /// It took longer than it may.
    Timeout,
    /// It contradicts the state that things are in.
    Conflict,
    /// A fault of aiOS itself.
    Internal,
}

impl Category {
    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::RateLimit => "rate_limit",
            Self::Auth => "auth",
            Self::Validation => "validation",
            Self::Database => "database",
            Self::Filesystem => "filesystem",
            Self::Timeout => "timeout",
            Self::Conflict => "conflict",
            Self::Internal => "internal",
        }
    }

    /// The category of that name; anything unknown is a fault.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        match name {
            "network" => Self::Network,
            "rate_limit" => Self::RateLimit,
            "auth" => Self::Auth,
            "validation" => Self::Validation,
            "database" => Self::Database,
            "filesystem" => Self::Filesystem,
            "timeout" => Self::Timeout,
            "conflict" => Self::Conflict,
            _ => Self::Internal,
        }
    }

    fn code(self) -> Code {
        match self {
            Self::Network => Code::Unavailable,
            Self::RateLimit => Code::ResourceExhausted,
            Self::Auth => Code::PermissionDenied,
            Self::Validation => Code::InvalidArgument,
            Self::Database | Self::Filesystem | Self::Internal => Code::Internal,
            Self::Timeout => Code::DeadlineExceeded,
            Self::Conflict => Code::FailedPrecondition,
        }
    }

    /// Whether such an error passes by itself, unless it is said otherwise.
    #[must_use]
    pub fn usually_retryable(self) -> bool {
        matches!(self, Self::Network | Self::RateLimit | Self::Timeout)
    }
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    category: Category,
    message: String,
    hint: String,
    retryable: bool,
    retry_after: Option<Duration>,
    missing: bool,
}

impl Error {
    /// An error that is retryable if its category usually is.
    pub fn new(category: Category, message: impl Into<String>) -> Self {
        Self {
            category,
            message: message.into(),
            hint: String::new(),
            retryable: category.usually_retryable(),
            retry_after: None,
            missing: false,
        }
    }

    /// What the request names is not there: a request that is wrong, with a status of its own, by
    /// which a caller can tell it from one that can never be right.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self {
            missing: true,
            ..Self::new(Category::Validation, message)
        }
    }

    /// Adds what the reader can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Says whether the same call may succeed later.
    #[must_use]
    pub fn with_retryable(mut self, retryable: bool) -> Self {
        self.retryable = retryable;
        self
    }

    /// Says how long to wait before a retry.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retryable = true;
        self.retry_after = Some(after);
        self
    }

    /// The kind of error.
    #[must_use]
    pub fn category(&self) -> Category {
        self.category
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub fn retryable(&self) -> bool {
        self.retryable
    }

    /// How long to wait before a retry, if known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// What was wrong, without the hint.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The form on the wire.
    #[must_use]
    pub fn detail(&self) -> ErrorDetail {
        ErrorDetail {
            category: self.category.name().to_owned(),
            message: self.message.clone(),
            hint: self.hint.clone(),
            retryable: self.retryable,
            retry_after_ms: self.retry_after.map_or(0, |after| {
                u64::try_from(after.as_millis()).unwrap_or(u64::MAX)
            }),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if !self.hint.is_empty() {
            write!(f, " ({})", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl From<ErrorDetail> for Error {
    fn from(detail: ErrorDetail) -> Self {
        Self {
            category: Category::from_name(&detail.category),
            message: detail.message,
            hint: detail.hint,
            retryable: detail.retryable,
            retry_after: (detail.retry_after_ms > 0)
                .then(|| Duration::from_millis(detail.retry_after_ms)),
            missing: false,
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = if error.missing {
            Code::NotFound
        } else {
            error.category.code()
        };
        let mut status = Status::new(code, error.to_string());
        status.metadata_mut().insert_bin(
            ERROR_METADATA,
            MetadataValue::from_bytes(&error.detail().encode_to_vec()),
        );
        status
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let detail = status
            .metadata()
            .get_bin(ERROR_METADATA)
            .and_then(|value| value.to_bytes().ok())
            .and_then(|bytes| ErrorDetail::decode(bytes).ok());
        if let Some(detail) = detail {
            return Self {
                missing: status.code() == Code::NotFound,
                ..detail.into()
            };
        }
        // Which code the transport gives to a connection that broke depends on the moment in which
        // it broke; a status that a daemon has sent has no source.
        let broke = std::error::Error::source(&status).is_some();
        let category = match status.code() {
            Code::Internal | Code::Cancelled if broke => Category::Network,
            Code::Unavailable | Code::Unknown | Code::Aborted => Category::Network,
            Code::ResourceExhausted => Category::RateLimit,
            Code::PermissionDenied | Code::Unauthenticated => Category::Auth,
            Code::InvalidArgument | Code::NotFound | Code::OutOfRange | Code::Unimplemented => {
                Category::Validation
            }
            Code::DeadlineExceeded => Category::Timeout,
            Code::FailedPrecondition | Code::AlreadyExists => Category::Conflict,
            _ => Category::Internal,
        };
        Error::new(category, status.message())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_has_its_own_status_and_keeps_it() {
        let error = Error::not_found("there is no goal x").hint("list them");
        let status = Status::from(error.clone());
        assert_eq!(status.code(), Code::NotFound);
        let back = Error::from(status);
        assert_eq!(back, error);
        assert_eq!(back.category(), Category::Validation);
        assert_eq!(Status::from(back).code(), Code::NotFound);
    }

    #[test]
    fn an_error_survives_the_wire() {
        let error = Error::new(Category::RateLimit, "queue is full")
            .hint("wait")
            .with_retry_after(Duration::from_secs(2));
        assert_eq!(Error::from(Status::from(error.clone())), error);
    }

    #[test]
    fn a_broken_connection_is_the_network_whatever_its_code() {
        for code in [Code::Internal, Code::Cancelled, Code::Unknown] {
            assert!(!Error::from(Status::internal("a fault")).retryable());
            let mut status = Status::new(code, "h2 protocol error");
            status.set_source(std::sync::Arc::new(std::io::Error::other(
                "connection reset",
            )));
            assert!(Error::from(status).retryable(), "{code}");
        }
    }

    #[test]
    fn a_foreign_status_keeps_its_meaning() {
        let error = Error::from(Status::unavailable("gone"));
        assert_eq!(error.category(), Category::Network);
        assert!(error.retryable());
        assert!(!Error::from(Status::permission_denied("no")).retryable());
    }
}
