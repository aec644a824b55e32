//! Working memory: one SQLite database with one writer and a few readers.
//!
//! Invariants: WAL with `synchronous=FULL`, so that what was acknowledged survives a power cut;
//! foreign keys are on; a file that is damaged, newer or foreign is refused and never replaced;
//! readers cannot write.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc as sync_mpsc},
    thread,
    time::Duration,
};

use aios_proto::v1::CommitRequest;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::{
    apply::count,
    error::StoreError,
    query::Query,
    schema,
    writer::{self, Job, Trouble},
};

/// Reads that run at the same time.
const READERS: usize = 4;
/// Commits that may wait for the writer.
const QUEUE: usize = 256;
/// Longest wait for a place in the queue, or for a reader.
const QUEUE_WAIT: Duration = Duration::from_secs(10);
/// Longest wait for a commit that is queued.
const COMMIT_WAIT: Duration = Duration::from_secs(30);
/// How long SQLite waits for a lock of another process.
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// How much of a start the integrity check may take; what it does not reach shows when it is read.
const CHECK_WAIT: Duration = Duration::from_millis(400);
/// Prepared statements that a connection keeps.
const STATEMENTS: usize = 64;

/// The database.
#[derive(Debug, Clone)]
pub struct Store {
    path: Arc<PathBuf>,
    jobs: mpsc::Sender<Job>,
    readers: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
    trouble: Trouble,
    start: u64,
}

impl Store {
    /// Opens `DIR/working.db`, making it when there is none, and starts the writer.
    ///
    /// # Errors
    /// When the folder or the file cannot be used; the message says which and what to do.
    pub fn open(dir: &Path) -> Result<(Self, thread::JoinHandle<()>), StoreError> {
        let folder = |error: std::io::Error| StoreError::Folder {
            path: dir.to_owned(),
            reason: error.to_string(),
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(folder)?;
        let path = dir.join("working.db");
        let fail = |error: rusqlite::Error| StoreError::sqlite(&path, &error);
        let mut writer = connect(&path).map_err(fail)?;
        check(&writer, &path)?;
        schema::migrate(&mut writer, &path, schema::MIGRATIONS)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(folder)?;
        let start: i64 = writer
            .query_row(
                "UPDATE store SET starts = starts + 1 WHERE id = 1 RETURNING starts",
                [],
                |row| row.get(0),
            )
            .map_err(fail)?;
        let mut readers = Vec::with_capacity(READERS);
        for _ in 0..READERS {
            let reader = connect(&path).map_err(fail)?;
            reader
                .pragma_update(None, "query_only", true)
                .map_err(fail)?;
            readers.push(reader);
        }
        let (jobs, waiting) = mpsc::channel(QUEUE);
        let trouble = Trouble::default();
        let thread = thread::Builder::new()
            .name("writer".to_owned())
            .spawn({
                let (path, trouble) = (path.clone(), trouble.clone());
                move || writer::run(writer, path, waiting, trouble)
            })
            .map_err(folder)?;
        let store = Self {
            path: Arc::new(path),
            jobs,
            readers: Arc::new(Mutex::new(readers)),
            permits: Arc::new(Semaphore::new(READERS)),
            trouble,
            start: count(start),
        };
        Ok((store, thread))
    }

    /// How many times the database has been opened, this time included.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// What keeps the last commit from being stored, if something of the machine did.
    #[must_use]
    pub fn trouble(&self) -> Option<StoreError> {
        self.trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Ends when the writer has gone, which it does only when it has failed.
    pub async fn writer_gone(&self) {
        self.jobs.closed().await;
    }

    /// Stores everything in `request` or nothing; returns when it is durable.
    ///
    /// # Errors
    /// As [`crate::apply::apply`], or when the database cannot be written.
    pub async fn commit(&self, request: CommitRequest) -> Result<u64, StoreError> {
        let (reply, answer) = oneshot::channel();
        let place = tokio::time::timeout(QUEUE_WAIT, self.jobs.reserve())
            .await
            .map_err(|_| StoreError::Busy(format!("{QUEUE} commits wait already")))?
            .map_err(|_| StoreError::Closed)?;
        place.send(Job { request, reply });
        match tokio::time::timeout(COMMIT_WAIT, answer).await {
            Ok(answer) => answer.map_err(|_| StoreError::Closed)?,
            Err(_) => Err(StoreError::Busy(
                "the disk did not take the commit in time; read the records to see whether it was \
                 stored"
                    .to_owned(),
            )),
        }
    }

    /// Reads, away from the threads that serve.
    ///
    /// # Errors
    /// As `read`, or when all readers are taken for too long.
    pub async fn read<T, F>(&self, read: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Query<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let permit = tokio::time::timeout(QUEUE_WAIT, self.permits.clone().acquire_owned())
            .await
            .map_err(|_| StoreError::Busy(format!("{READERS} long reads are running")))?
            .map_err(|_| StoreError::Closed)?;
        let (readers, path) = (self.readers.clone(), self.path.clone());
        let pool = move || readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let back = self.readers.clone();
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let connection = match pool() {
                Some(connection) => connection,
                // A read that panicked took its connection along.
                None => reader(&path)?,
            };
            let result = read(&Query::new(&connection, &path));
            back.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(connection);
            result
        })
        .await
        .map_err(|error| StoreError::Busy(format!("a read was interrupted: {error}")))?
    }
}

fn reader(path: &Path) -> Result<Connection, StoreError> {
    connect(path)
        .and_then(|connection| {
            connection.pragma_update(None, "query_only", true)?;
            Ok(connection)
        })
        .map_err(|error| StoreError::sqlite(path, &error))
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_WAIT)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

/// Looks for damage, as far as it gets in [`CHECK_WAIT`].
fn check(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let interrupt = connection.get_interrupt_handle();
    let (done, checked) = sync_mpsc::channel::<()>();
    let result = thread::scope(|scope| {
        scope.spawn(move || {
            if checked.recv_timeout(CHECK_WAIT) == Err(sync_mpsc::RecvTimeoutError::Timeout) {
                interrupt.interrupt();
            }
        });
        let result =
            connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
        drop(done);
        result
    });
    match result {
        Ok(verdict) if verdict == "ok" => Ok(()),
        Ok(reason) => Err(StoreError::Corrupt {
            path: path.to_owned(),
            reason,
        }),
        Err(error)
            if error.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted) =>
        {
            tracing::info!("the database is too large to be checked whole at every start");
            Ok(())
        }
        Err(error) => Err(StoreError::sqlite(path, &error)),
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
