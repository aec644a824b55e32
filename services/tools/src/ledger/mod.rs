//! The ledger: every decision, intent and outcome, in order, each record bound to the one before it.
//!
//! One SQLite file (WAL, `synchronous=FULL`) holds the chained records and, beside them, the tables
//! that are derived from what happened (calls, grants), so that a record and the state that goes
//! with it become durable in one commit. Everything is written by one thread, which takes all the
//! work that waits into one commit: one `fsync` for many callers.
//!
//! Invariants: what [`Ledger::write`] has returned is on the disk; sequence numbers have no gaps;
//! `hash` is the SHA-256 of the canonical JSON of all other fields, the previous hash included.
//!
//! What the chain shows: any record that was changed, dropped from the middle, inserted or
//! reordered, and (by `head.json`, written after each commit) a tail that was cut off. What it does
//! not show: a rewrite of the whole chain, or a cut tail together with a matching `head.json`, by
//! someone who can write as root to this machine's disk. For that, keep a head hash elsewhere: it is
//! in every `VerifyLedger` and `ListLedger` reply.
//!
//! This module's interface (append, list, verify) does not say how records are bound; a Merkle tree
//! can take the chain's place behind it.

mod head;
mod query;
mod record;
mod schema;
mod verify;
mod writer;

use std::path::{Path, PathBuf};

pub use query::{Filter, Page};
pub use record::{Entry, Kind, Record};
pub use verify::Verdict;
pub use writer::{Batch, Ledger, Tail, now_ms};

/// Why the ledger could not do what it was asked to.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LedgerError {
    /// The files could not be opened or made.
    #[error("cannot open the ledger {}: {message}", path.display())]
    Open {
        /// The file or directory.
        path: PathBuf,
        /// What the system or SQLite said.
        message: String,
    },
    /// SQLite refused a statement or could not write.
    #[error("the ledger cannot {what}: {message}")]
    Database {
        /// What was being done.
        what: &'static str,
        /// What SQLite said.
        message: String,
    },
    /// The writing thread has ended.
    #[error("the ledger is closed: this daemon is stopping")]
    Closed,
    /// A stored value does not have the form that it was written in.
    #[error("the ledger holds a damaged value: {0}")]
    Damaged(String),
}

impl LedgerError {
    pub(crate) fn database(what: &'static str) -> impl FnOnce(rusqlite::Error) -> Self {
        move |error| Self::Database {
            what,
            message: error.to_string(),
        }
    }

    fn open(path: &Path, error: impl std::fmt::Display) -> Self {
        Self::Open {
            path: path.to_owned(),
            message: error.to_string(),
        }
    }
}

#[cfg(test)]
mod tests;
