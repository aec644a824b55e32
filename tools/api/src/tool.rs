//! The [`Tool`] trait and the facts that describe a tool.

use std::{fmt, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{capability::Capability, context::Context, error::ToolError};

/// How much a call can hurt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Risk {
    /// Reads only.
    Low,
    /// A reversible change.
    Medium,
    /// Hard to reverse, or widely felt.
    High,
    /// May lose data for good, or changes who may do what.
    Critical,
}

impl Risk {
    /// The name in the catalogue.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Risk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is known of a tool before any call.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// `family.action`, as in the catalogue.
    pub name: &'static str,
    /// One sentence for people and planners: what it does, what it needs, what it cannot do.
    pub summary: &'static str,
    /// The risk of an ordinary call.
    pub risk: Risk,
    /// What `rollback` does; `None` when the tool only reads or cannot be undone.
    pub undo: Option<&'static str>,
    /// Whether doing it twice with the same arguments leaves what doing it once leaves.
    pub idempotent: bool,
    /// Longest that a call may take.
    pub deadline: Duration,
    /// Namespace and action of the capability, e.g. `("fs", "read")`.
    pub capability: (&'static str, &'static str),
}

/// What was there before a call, so that it can be undone. Contents of files are in the blob store;
/// `data` names them and is recorded in the ledger before the call acts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreImage {
    /// Whatever the tool's `undo` needs, in the tool's own form.
    pub data: Value,
}

/// The outcome of an undo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome", content = "detail")]
pub enum Undone {
    /// The state before the call is back, and was read back; says what was done.
    Undone(String),
    /// There was nothing to undo; says why.
    Nothing(String),
    /// The world has moved on since the call (something else changed the same thing), so undoing
    /// would destroy that; says what differs and what to do.
    Refused(String),
}

/// One tool.
pub trait Tool: Send + Sync + 'static {
    /// Arguments. Must carry `#[serde(deny_unknown_fields)]`.
    type Args: DeserializeOwned + Serialize + JsonSchema + Send + Sync;
    /// Facts read back from the machine.
    type Output: Serialize + DeserializeOwned + JsonSchema + Send;

    /// What is known of the tool before any call.
    fn spec(&self) -> Spec;

    /// Checks what the schema cannot say (an absolute path, a port in range, a name without a
    /// slash), and resolves what must be resolved once (symbolic links), by changing the arguments
    /// into their canonical form. What comes out is what is authorised, recorded and used.
    ///
    /// # Errors
    /// [`ToolError::invalid`] that says which argument is wrong and what would be right.
    fn normalise(&self, args: Self::Args, context: &Context) -> Result<Self::Args, ToolError> {
        let _ = context;
        Ok(args)
    }

    /// The risk of this call, where it differs from the tool's.
    fn risk(&self, args: &Self::Args) -> Risk {
        let _ = args;
        self.spec().risk
    }

    /// Whether doing this call twice leaves what doing it once leaves, where that differs from the
    /// tool's [`Spec::idempotent`] (an HTTP GET against a POST). After a crash in the middle of a
    /// call, this decides whether it may simply be made again.
    fn idempotent(&self, args: &Self::Args) -> bool {
        let _ = args;
        self.spec().idempotent
    }

    /// Every capability that this call needs; never empty. All of them must be granted.
    fn capabilities(&self, args: &Self::Args) -> Vec<Capability>;

    /// Saves what `undo` will need. Called after the intent is recorded and before `execute`.
    /// `None` means that there is nothing to undo.
    ///
    /// # Errors
    /// When the state cannot be read or saved; the call is then not made.
    fn pre_image(
        &self,
        args: &Self::Args,
        context: &Context,
    ) -> Result<Option<PreImage>, ToolError> {
        let _ = (args, context);
        Ok(None)
    }

    /// Does it.
    ///
    /// # Errors
    /// [`ToolError`] that says what was wrong, where, and what to do.
    fn execute(&self, args: &Self::Args, context: &Context) -> Result<Self::Output, ToolError>;

    /// Looks at the machine, by another way than `execute` where there is one, and says whether
    /// what was asked is now so.
    ///
    /// # Errors
    /// [`ToolErrorKind::Unverified`](crate::ToolErrorKind::Unverified) when it is not.
    fn check(
        &self,
        args: &Self::Args,
        output: &Self::Output,
        context: &Context,
    ) -> Result<(), ToolError> {
        let _ = (args, output, context);
        Ok(())
    }

    /// Puts back what was there before. Must refuse ([`Undone::Refused`]) when what the call left is
    /// no longer what is there. Undoing twice must be harmless.
    ///
    /// # Errors
    /// When putting back failed; what was done so far is said.
    fn undo(
        &self,
        args: &Self::Args,
        pre_image: &PreImage,
        output: Option<&Self::Output>,
        context: &Context,
    ) -> Result<Undone, ToolError> {
        let _ = (args, pre_image, output, context);
        Ok(Undone::Nothing("this tool changes nothing".to_owned()))
    }

    /// Arguments that must not stand in the ledger in clear, as JSON pointers (`/content`); the
    /// ledger keeps their SHA-256 and length instead.
    fn redacted(&self) -> &'static [&'static str] {
        &[]
    }
}
