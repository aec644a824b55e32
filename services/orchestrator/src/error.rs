//! What can go wrong inside the orchestrator, and how it reads on the wire.

use aios_kit::{Category, Error as KitError};

/// A failure inside the orchestrator.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A state was to follow that the table does not allow.
    #[error("a {what} that is {from} cannot become {to}")]
    Transition {
        /// `GoalStatus`, `TaskStatus` or `AgentStatus`.
        what: &'static str,
        /// The state that it has.
        from: &'static str,
        /// The state that was asked for.
        to: &'static str,
    },
    /// A stored record cannot be understood.
    #[error("a stored record is wrong: {0}")]
    Stored(String),
    /// A plan is not fit to run.
    #[error("{0}")]
    Plan(String),
    /// Another daemon said no, or did not answer for too long.
    #[error(transparent)]
    Peer(#[from] KitError),
}

impl Error {
    /// The form in which it is told to a caller.
    #[must_use]
    pub fn to_kit(&self) -> KitError {
        match self {
            Self::Transition { .. } => KitError::new(Category::Conflict, self.to_string()),
            Self::Stored(_) => KitError::new(Category::Database, self.to_string()),
            Self::Plan(_) => KitError::new(Category::Validation, self.to_string()),
            Self::Peer(error) => error.clone(),
        }
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        error.to_kit().into()
    }
}
