//! The one thread that writes, and the handle that everyone else has.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use rusqlite::Connection;
use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    LedgerError,
    head::{HeadFile, Stored},
    query::{self, Filter, Page},
    record::{Entry, Kind, Record},
    schema, verify,
};

/// Work that may wait; more is held back at its sender.
const QUEUE: usize = 1024;
/// Most work of one commit, so that the first of it does not wait for ever.
const GROUP: usize = 256;

/// The newest record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// Its number, which is the count of records.
    pub seq: u64,
    /// Its hash.
    pub hash: String,
}

/// A piece of work within a commit: records to append, and the tables that go with them.
#[derive(Debug)]
pub struct Batch<'a> {
    connection: &'a Connection,
    tail: &'a mut Tail,
}

impl Batch<'_> {
    /// Appends a record and returns its number.
    ///
    /// # Errors
    /// When SQLite refuses.
    pub fn append(&mut self, entry: Entry) -> Result<u64, LedgerError> {
        let record = Record::chained(entry, self.tail.seq + 1, now_ms(), &self.tail.hash);
        self.connection
            .prepare_cached("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
            .and_then(|mut statement| {
                statement.execute(rusqlite::params![
                    record.seq.cast_signed(),
                    record.time_ms.cast_signed(),
                    record.kind,
                    record.principal,
                    record.agent,
                    record.goal_id,
                    record.task_id,
                    record.call_id,
                    record.tool,
                    record.detail_json,
                    record.prev_hash,
                    record.hash,
                ])
            })
            .map_err(LedgerError::database("take a record"))?;
        *self.tail = Tail {
            seq: record.seq,
            hash: record.hash,
        };
        Ok(self.tail.seq)
    }

    /// The connection, for the tables beside the records.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        self.connection
    }
}

trait Job: Send {
    fn run(&mut self, batch: &mut Batch<'_>) -> Result<(), LedgerError>;
    fn finish(self: Box<Self>, committed: Result<(), LedgerError>);
}

struct Typed<F, T> {
    work: Option<F>,
    result: Option<T>,
    reply: oneshot::Sender<Result<T, LedgerError>>,
}

impl<F, T> Job for Typed<F, T>
where
    F: FnOnce(&mut Batch<'_>) -> Result<T, LedgerError> + Send,
    T: Send,
{
    fn run(&mut self, batch: &mut Batch<'_>) -> Result<(), LedgerError> {
        if let Some(work) = self.work.take() {
            self.result = Some(work(batch)?);
        }
        Ok(())
    }

    fn finish(self: Box<Self>, committed: Result<(), LedgerError>) {
        let Self { result, reply, .. } = *self;
        let result = committed.and_then(|()| result.ok_or(LedgerError::Closed));
        // A caller that no longer waits has nothing to be told; its record stands.
        let _ = reply.send(result);
    }
}

/// A handle on the ledger.
#[derive(Clone)]
pub struct Ledger {
    queue: mpsc::Sender<Box<dyn Job>>,
    reader: Arc<Mutex<Connection>>,
    tail: watch::Receiver<Tail>,
    path: PathBuf,
    head_path: PathBuf,
    stored_head: Stored,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Ledger {
    /// Opens the ledger in a directory, making both if need be, and starts the writing thread.
    ///
    /// # Errors
    /// When a file cannot be made or is no ledger of a known version.
    pub fn open(dir: &Path) -> Result<Self, LedgerError> {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|error| LedgerError::open(dir, error))?;
        let path = dir.join("ledger.db");
        let head_path = dir.join("head.json");
        let (head, stored_head) =
            HeadFile::open(&head_path).map_err(|error| LedgerError::open(&head_path, error))?;
        head.lock()
            .map_err(|error| LedgerError::open(&head_path, error))?;
        let connection = schema::open_writer(&path)?;
        let (seq, hash) = query::tail(&connection)?;
        let reader = schema::open_reader(&path)?;
        let (queue, jobs) = mpsc::channel(QUEUE);
        let (tail_sender, tail) = watch::channel(Tail { seq, hash });
        let writer = Writer {
            connection,
            head,
            tail: tail_sender,
        };
        thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || writer.run(jobs))
            .map_err(|error| LedgerError::open(&path, error))?;
        let ledger = Self {
            queue,
            reader: Arc::new(Mutex::new(reader)),
            tail,
            path,
            head_path,
            stored_head,
        };
        if ledger.tail().seq == 0 && ledger.stored_head == Stored::Absent {
            let genesis = Entry::new(Kind::Genesis, "daemon:tools", json!({ "format": 1 }));
            ledger.write_blocking(move |batch| batch.append(genesis))?;
        }
        Ok(ledger)
    }

    /// Does a piece of work in the next commit and returns when it is on the disk.
    ///
    /// # Errors
    /// The work's own error, or that the commit failed; nothing of the work is stored then.
    pub async fn write<T, F>(&self, work: F) -> Result<T, LedgerError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Batch<'_>) -> Result<T, LedgerError> + Send + 'static,
    {
        let (job, result) = typed(work);
        self.queue
            .send(job)
            .await
            .map_err(|_| LedgerError::Closed)?;
        result.await.unwrap_or(Err(LedgerError::Closed))
    }

    /// As [`Ledger::write`], for threads that may block.
    ///
    /// # Errors
    /// As [`Ledger::write`].
    pub fn write_blocking<T, F>(&self, work: F) -> Result<T, LedgerError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Batch<'_>) -> Result<T, LedgerError> + Send + 'static,
    {
        let (job, result) = typed(work);
        self.queue
            .blocking_send(job)
            .map_err(|_| LedgerError::Closed)?;
        result.blocking_recv().unwrap_or(Err(LedgerError::Closed))
    }

    /// The newest record.
    #[must_use]
    pub fn tail(&self) -> Tail {
        self.tail.borrow().clone()
    }

    /// Lists records. Blocks.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn list(&self, filter: &Filter) -> Result<Page, LedgerError> {
        self.read(|connection| query::list(connection, filter))
    }

    /// Reads from the tables beside the records. Blocks.
    ///
    /// # Errors
    /// The reader's.
    pub fn read<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        read(&self.reader.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Recomputes the whole chain as it stands now, on a connection of its own. Blocks.
    ///
    /// # Errors
    /// When the files cannot be read at all; a broken chain is a [`verify::Verdict`].
    pub fn verify(&self) -> Result<verify::Verdict, LedgerError> {
        // The head is read first: records that come in meanwhile make the chain longer, never shorter.
        let (_, head) = HeadFile::open(&self.head_path)
            .map_err(|error| LedgerError::open(&self.head_path, error))?;
        verify::chain(&schema::open_reader(&self.path)?, &head)
    }

    /// Checks the chain against the head that was stored when this process opened the ledger; later
    /// heads were written by this process itself. Blocks.
    ///
    /// # Errors
    /// As [`Ledger::verify`].
    pub fn verify_as_opened(&self) -> Result<verify::Verdict, LedgerError> {
        verify::chain(&schema::open_reader(&self.path)?, &self.stored_head)
    }

    /// Whether there was no readable head although there were records: then a tail that was cut off
    /// before this start would not have been noticed.
    #[must_use]
    pub fn opened_without_head(&self) -> bool {
        self.stored_head != Stored::Absent && !matches!(self.stored_head, Stored::Head(_))
            || (self.stored_head == Stored::Absent && self.tail().seq > 1)
    }
}

fn typed<T, F>(work: F) -> (Box<dyn Job>, oneshot::Receiver<Result<T, LedgerError>>)
where
    T: Send + 'static,
    F: FnOnce(&mut Batch<'_>) -> Result<T, LedgerError> + Send + 'static,
{
    let (reply, result) = oneshot::channel();
    let job = Typed {
        work: Some(work),
        result: None,
        reply,
    };
    (Box::new(job), result)
}

struct Writer {
    connection: Connection,
    head: HeadFile,
    tail: watch::Sender<Tail>,
}

impl Writer {
    fn run(mut self, mut jobs: mpsc::Receiver<Box<dyn Job>>) {
        while let Some(first) = jobs.blocking_recv() {
            let mut group = vec![first];
            while group.len() < GROUP
                && let Ok(next) = jobs.try_recv()
            {
                group.push(next);
            }
            self.commit(group);
        }
    }

    /// One transaction; each piece of work in a savepoint, so that one that fails takes nothing of
    /// the others with it.
    fn commit(&mut self, mut group: Vec<Box<dyn Job>>) {
        let before = self.tail.borrow().clone();
        let mut tail = before.clone();
        let mut results = Vec::with_capacity(group.len());
        let committed = self.connection.transaction().and_then(|mut transaction| {
            for job in &mut group {
                let savepoint = transaction.savepoint()?;
                let mut reached = tail.clone();
                let result = job.run(&mut Batch {
                    connection: &savepoint,
                    tail: &mut reached,
                });
                if result.is_ok() {
                    savepoint.commit()?;
                    tail = reached;
                } else {
                    savepoint.finish()?;
                }
                results.push(result);
            }
            transaction.commit()
        });
        let committed = committed.map_err(LedgerError::database("commit"));
        match &committed {
            Ok(()) if tail != before => {
                if let Err(error) = self.head.write(tail.seq, &tail.hash) {
                    tracing::warn!(%error, "head.json could not be written");
                }
                self.tail.send_replace(tail);
            }
            Ok(()) => {}
            Err(error) => tracing::error!(%error, "nothing of this commit was recorded"),
        }
        // Work that was never reached because the commit failed early has no result of its own.
        results.resize_with(group.len(), || Ok(()));
        for (job, result) in group.into_iter().zip(results) {
            job.finish(committed.clone().and(result));
        }
    }
}

/// Milliseconds since the epoch.
#[must_use]
pub fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}
