//! What can go wrong with the store, and how callers see it.

use std::path::{Path, PathBuf};

use aios_kit::{Category, Error};
use tonic::{Code, Status};

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The folder of the database cannot be used.
    #[error("cannot use the folder {}: {reason}", path.display())]
    Folder {
        /// Which folder.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The file is damaged, or no database at all.
    #[error("{} is damaged and was left as it is: {reason}", path.display())]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        reason: String,
    },
    /// The database was written by a newer aiOS.
    #[error(
        "{} has schema version {found}, but this aios-memory knows versions up to {known}",
        path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest that this program can read.
        known: u32,
    },
    /// A database of some other program.
    #[error("{} is a database, but not one of aios-memory", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A record that cannot be stored as it is.
    #[error("{0}")]
    Invalid(String),
    /// A record was changed by somebody else, or is older than the caller thinks.
    #[error("{kind} {id}: the stored version is {stored}, the given one is {given}")]
    Version {
        /// `goal` or `task`.
        kind: &'static str,
        /// Which record.
        id: String,
        /// 0: there is none yet.
        stored: u64,
        /// What the caller gave.
        given: u64,
    },
    /// A record refers to nothing, or takes what another record has.
    #[error("{0}")]
    Conflict(String),
    /// No such record.
    #[error("there is no {kind} {id}")]
    NotFound {
        /// `goal`.
        kind: &'static str,
        /// The id that was asked for.
        id: String,
    },
    /// No room on the disk.
    #[error("no room to store records: the volume of {} is full", path.display())]
    Full {
        /// The database.
        path: PathBuf,
    },
    /// Too many wait already.
    #[error("{0}")]
    Busy(String),
    /// The store has been closed.
    #[error("the store is closing")]
    Closed,
    /// Anything else that SQLite or the disk says.
    #[error("{}: {reason}", path.display())]
    Database {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        reason: String,
    },
}

impl StoreError {
    /// Reads an error of SQLite on the database at `path`.
    #[must_use]
    pub fn sqlite(path: &Path, error: &rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        let path = path.to_owned();
        let reason = error.to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Corrupt { path, reason }
            }
            Some(ErrorCode::DiskFull) => Self::Full { path },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                Self::Busy(format!("{}: {reason}", path.display()))
            }
            Some(ErrorCode::ConstraintViolation) => Self::Conflict(reason),
            _ => Self::Database { path, reason },
        }
    }

    /// Whether only the one request is at fault, so that others in the same transaction may go on.
    #[must_use]
    pub fn is_of_the_request(&self) -> bool {
        matches!(
            self,
            Self::Invalid(_) | Self::Version { .. } | Self::Conflict(_) | Self::NotFound { .. }
        )
    }

    /// What the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Folder { path, .. } => {
                format!("{} must be a folder that aios-memory owns", path.display())
            }
            Self::Corrupt { path, .. } => format!(
                "restore {0} from a backup, or move {0}, {0}-wal and {0}-shm away to start with \
                 an empty memory; nothing is deleted by itself",
                path.display()
            ),
            Self::Newer { .. } => {
                "start the newer aiOS again, or restore the copy from before the update".to_owned()
            }
            Self::Foreign { path } => format!("move {} away", path.display()),
            Self::Version { .. } => "read the record again and repeat the change on it".to_owned(),
            Self::Full { .. } => "free some space; reading still works".to_owned(),
            Self::Invalid(_)
            | Self::Conflict(_)
            | Self::NotFound { .. }
            | Self::Busy(_)
            | Self::Closed
            | Self::Database { .. } => String::new(),
        }
    }

    fn category(&self) -> Category {
        match self {
            Self::Folder { .. } | Self::Full { .. } => Category::Filesystem,
            Self::Corrupt { .. } | Self::Newer { .. } | Self::Foreign { .. } => Category::Database,
            Self::Database { .. } => Category::Database,
            Self::Invalid(_) | Self::NotFound { .. } => Category::Validation,
            Self::Version { .. } | Self::Conflict(_) => Category::Conflict,
            Self::Busy(_) => Category::RateLimit,
            Self::Closed => Category::Network,
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Folder { .. } | Self::Database { .. } | Self::Newer { .. } => Code::Internal,
            Self::Foreign { .. } => Code::Internal,
            Self::Corrupt { .. } => Code::DataLoss,
            Self::Invalid(_) => Code::InvalidArgument,
            Self::Version { .. } => Code::Aborted,
            Self::Conflict(_) => Code::FailedPrecondition,
            Self::NotFound { .. } => Code::NotFound,
            Self::Full { .. } | Self::Busy(_) => Code::ResourceExhausted,
            Self::Closed => Code::Unavailable,
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let retryable = matches!(
            error,
            StoreError::Full { .. } | StoreError::Busy(_) | StoreError::Closed
        );
        Error::new(error.category(), error.to_string())
            .hint(error.hint())
            .with_retryable(retryable)
    }
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        let code = error.code();
        let status = Status::from(Error::from(error));
        // The category chooses a code, but the protocol names a more exact one here.
        Status::with_metadata(code, status.message().to_owned(), status.metadata().clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_conflict_is_aborted_and_says_what_it_met() {
        let error = StoreError::Version {
            kind: "goal",
            id: "g1".into(),
            stored: 4,
            given: 4,
        };
        let status = Status::from(error);
        assert_eq!(status.code(), Code::Aborted);
        let error = Error::from(status);
        assert_eq!(error.category(), Category::Conflict);
        assert!(!error.retryable());
        assert_eq!(
            error.message(),
            "goal g1: the stored version is 4, the given one is 4"
        );
    }

    #[test]
    fn a_full_disk_is_a_filesystem_error_that_may_pass() {
        let status = Status::from(StoreError::Full {
            path: "/x/working.db".into(),
        });
        assert_eq!(status.code(), Code::ResourceExhausted);
        let error = Error::from(status);
        assert_eq!(error.category(), Category::Filesystem);
        assert!(error.retryable());
    }
}
