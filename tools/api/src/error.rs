//! Why a tool call did not do what it was asked to do.

use std::io;

/// The kind of failure; it decides whether a retry can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ToolErrorKind {
    /// The arguments are wrong.
    Invalid,
    /// What is to be worked on does not exist.
    NotFound,
    /// It contradicts what is there (exists already, not empty, in use).
    Conflict,
    /// The system refused.
    Permission,
    /// Another machine or service could not be reached.
    Network,
    /// Files or disks failed.
    Filesystem,
    /// It took longer than it may.
    Timeout,
    /// The call was cancelled.
    Cancelled,
    /// It was done, but a look at the machine says that the outcome is not what was asked.
    Unverified,
    /// A program that the tool uses failed.
    Program,
    /// A fault of the tool.
    Internal,
}

/// A failure, with what to do about it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ToolError {
    /// What kind of failure.
    pub kind: ToolErrorKind,
    /// What was wrong and where.
    pub message: String,
    /// What to do; may be empty.
    pub hint: String,
    /// Whether the same call may succeed later.
    pub retryable: bool,
}

impl ToolError {
    /// A failure that is retryable if its kind passes by itself.
    pub fn new(kind: ToolErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: String::new(),
            retryable: matches!(kind, ToolErrorKind::Network | ToolErrorKind::Timeout),
        }
    }

    /// Wrong arguments.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ToolErrorKind::Invalid, message)
    }

    /// A failed system call on a named thing: `what` reads like "cannot open /srv/x".
    pub fn io(what: impl std::fmt::Display, error: &io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => ToolErrorKind::NotFound,
            io::ErrorKind::PermissionDenied => ToolErrorKind::Permission,
            io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty => {
                ToolErrorKind::Conflict
            }
            io::ErrorKind::TimedOut => ToolErrorKind::Timeout,
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable => ToolErrorKind::Network,
            _ => ToolErrorKind::Filesystem,
        };
        Self::new(kind, format!("{what}: {error}"))
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
}
