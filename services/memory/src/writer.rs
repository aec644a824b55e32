//! The one thread that writes. Commits that wait together share one transaction and one fsync.
//!
//! Invariants: a commit is answered with success only after its transaction is durable; a commit
//! that is refused is rolled back to its savepoint and harms no other of its group; when the
//! database itself fails, the whole group fails and nothing of it is stored.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use aios_proto::v1::CommitRequest;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::{
    apply::{apply, count},
    error::StoreError,
};

/// Commits that share one transaction at most.
const MAX_GROUP: usize = 64;

/// A commit that waits for the writer.
#[derive(Debug)]
pub struct Job {
    /// What to store.
    pub request: CommitRequest,
    /// Gets the number of the transaction once it is durable.
    pub reply: oneshot::Sender<Result<u64, StoreError>>,
}

/// What keeps the writer from storing, empty while all is well.
pub type Trouble = Arc<Mutex<Option<StoreError>>>;

/// Writes until every sender is gone.
pub fn run(
    mut connection: Connection,
    path: PathBuf,
    mut jobs: mpsc::Receiver<Job>,
    trouble: Trouble,
) {
    let mut group = Vec::with_capacity(MAX_GROUP);
    while jobs.blocking_recv_many(&mut group, MAX_GROUP) > 0 {
        let (requests, replies): (Vec<_>, Vec<_>) =
            group.drain(..).map(|job| (job.request, job.reply)).unzip();
        let results = match commit_group(&mut connection, &path, &requests) {
            Ok(results) => {
                *trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
                results
            }
            Err(error) => {
                tracing::error!(%error, commits = requests.len(), "could not store");
                *trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
                requests.iter().map(|_| Err(error.clone())).collect()
            }
        };
        for (reply, result) in replies.into_iter().zip(results) {
            if reply.send(result).is_err() {
                tracing::debug!("the caller of a commit has gone before its answer");
            }
        }
    }
}

/// Stores a group in one transaction; one result per request, or the error that met them all.
fn commit_group(
    connection: &mut Connection,
    path: &Path,
    requests: &[CommitRequest],
) -> Result<Vec<Result<u64, StoreError>>, StoreError> {
    let fail = |error: rusqlite::Error| StoreError::sqlite(path, &error);
    let mut transaction = connection
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .map_err(fail)?;
    let number: i64 = transaction
        .query_row(
            "UPDATE store SET transactions = transactions + 1 WHERE id = 1 RETURNING transactions",
            [],
            |row| row.get(0),
        )
        .map_err(fail)?;
    let mut results = Vec::with_capacity(requests.len());
    for request in requests {
        let savepoint = transaction.savepoint().map_err(fail)?;
        match apply(&savepoint, path, request) {
            Ok(()) => {
                savepoint.commit().map_err(fail)?;
                results.push(Ok(count(number)));
            }
            // Dropping the savepoint rolls it back.
            Err(error) if error.is_of_the_request() => {
                savepoint.finish().map_err(fail)?;
                results.push(Err(error));
            }
            Err(error) => return Err(error),
        }
    }
    transaction.commit().map_err(fail)?;
    Ok(results)
}
