//! What ends a command without success, and the exit code that says so.

use std::{error::Error as _, process::ExitCode};

use aios_kit::{Category, Error};
use tonic::{Code, Status};

/// How a command ended, as its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// It did what it was asked.
    Ok = 0,
    /// It was tried and failed.
    Failed = 1,
    /// The command line, or a value in it, is wrong.
    Usage = 2,
    /// It was refused or denied.
    Denied = 3,
    /// The machine, or the daemon that should do it, cannot be reached.
    Unreachable = 4,
    /// There is no such thing.
    NotFound = 5,
    /// It is not done yet, and the time to wait is over.
    Timeout = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A problem and its exit code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) error: Error,
}

impl Failure {
    pub(crate) fn new(exit: Exit, category: Category, message: impl Into<String>) -> Self {
        Self {
            exit,
            error: Error::new(category, message),
        }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, Category::Internal, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, Category::Validation, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Exit::NotFound, Category::Validation, message)
    }

    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        Self::new(Exit::Unreachable, Category::Network, message)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.error = self.error.hint(hint);
        self
    }

    pub(crate) fn file(path: &std::path::Path, error: &std::io::Error) -> Self {
        let exit = match error.kind() {
            std::io::ErrorKind::NotFound => Exit::NotFound,
            std::io::ErrorKind::PermissionDenied => Exit::Denied,
            _ => Exit::Failed,
        };
        Self::new(
            exit,
            Category::Filesystem,
            format!("{}: {error}", path.display()),
        )
    }
}

/// Whether the call never got through, or lost its connection, so that it may be made again.
pub(crate) fn interrupted(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable => true,
        // What tonic makes of a connection that broke during a call.
        Code::Unknown | Code::Cancelled | Code::Internal => status.source().is_some(),
        _ => false,
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let exit = match status.code() {
            _ if interrupted(&status) => Exit::Unreachable,
            Code::NotFound => Exit::NotFound,
            Code::PermissionDenied | Code::Unauthenticated => Exit::Denied,
            Code::InvalidArgument | Code::OutOfRange => Exit::Usage,
            Code::DeadlineExceeded => Exit::Timeout,
            _ => Exit::Failed,
        };
        // The innermost cause says most: "connection refused", "certificate expired".
        let mut cause = None;
        let mut source = status.source();
        while let Some(inner) = source {
            cause = Some(inner.to_string());
            source = inner.source();
        }
        let error = match cause {
            Some(cause) => transport(&cause),
            None => Error::from(status),
        };
        Self { exit, error }
    }
}

fn transport(cause: &str) -> Error {
    let error = Error::new(
        Category::Network,
        format!("the connection to the machine failed: {cause}"),
    );
    if cause.contains("received fatal alert") {
        error.hint(
            "the machine does not accept this profile's certificate; an administrator can issue a new one",
        )
    } else if cause.contains("invalid peer certificate") {
        error.hint(
            "this is not the machine that the profile belongs to, or it was set up anew; enrol again",
        )
    } else {
        error.hint("is it running, and is the address in the profile right?")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_the_wire_become_exit_codes() {
        for (status, exit) in [
            (Status::permission_denied("x"), Exit::Denied),
            (Status::unauthenticated("x"), Exit::Denied),
            (Status::unavailable("x"), Exit::Unreachable),
            (Status::not_found("x"), Exit::NotFound),
            (Status::invalid_argument("x"), Exit::Usage),
            (Status::deadline_exceeded("x"), Exit::Timeout),
            (Status::internal("x"), Exit::Failed),
            (Status::cancelled("x"), Exit::Failed),
        ] {
            assert_eq!(Failure::from(status.clone()).exit, exit, "{status:?}");
        }
    }

    #[test]
    fn a_daemons_own_words_and_hint_arrive() {
        let sent = Error::new(Category::Network, "aios-tools is down").hint("wait");
        let failure = Failure::from(Status::from(sent));
        assert_eq!(failure.exit, Exit::Unreachable);
        assert_eq!(failure.error.message(), "aios-tools is down");
        assert_eq!(failure.to_string(), "aios-tools is down (wait)");
    }

    #[test]
    fn a_refused_certificate_says_what_to_do() {
        let error = transport("received fatal alert: CertificateExpired");
        assert!(error.to_string().contains("issue a new one"), "{error}");
    }
}
