//! A loaded model: its queue, the requests in it, and what their callers hold of them.
//!
//! Every request is answered by its deadline and a short grace, whatever its worker does; one that
//! still waits is answered right at its deadline.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use aios_kit::{Category, Error};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    catalog::Entry,
    driver::Driver,
    process::{Process, Program},
    queue::FairQueue,
    request::Checked,
    threads::Threads,
    trust::{self, Verified},
};
use crate::protocol::{Failure, FailureKind, Finish, Generated, Loaded, Outcome, Task};

/// The longest pause between attempts to start a worker.
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(60);
/// What a request is thought to take before any was done.
const FIRST_GUESS: Duration = Duration::from_secs(1);

/// What happens to a request.
#[derive(Debug)]
pub enum Event {
    /// Text of a generation.
    Text(String),
    /// The end, with the time that the request waited.
    Done(Outcome, Duration),
    /// The end, without a result.
    Failed(Error),
}

pub(super) struct Job {
    pub(super) id: u64,
    pub(super) task: Task,
    pub(super) arrived: Instant,
    pub(super) deadline: Instant,
    /// Set by a cancel, or when the caller is gone.
    pub(super) cancel: CancellationToken,
    /// Without a limit of its own: `max_tokens` limits what there is to send.
    pub(super) events: mpsc::UnboundedSender<Event>,
    /// Whether a worker died of it, or at least with it.
    pub(super) killed_once: bool,
}

impl Job {
    pub(super) fn finish(&self, event: Event) {
        // Nobody may be listening any more, which is no fault.
        let _gone = self.events.send(event);
    }

    /// Ends without a worker's answer.
    pub(super) fn finish_early(&self, finish: Finish, waited: Duration) {
        let outcome = match self.task {
            Task::Generate(_) => Outcome::Generated(Generated {
                finish,
                prompt_tokens: 0,
                completion_tokens: 0,
                prompt_us: 0,
                decode_us: 0,
            }),
            Task::Embed { .. } | Task::Tokenize { .. } => Outcome::Failed(Failure {
                kind: FailureKind::Ended,
                message: format!("ended before it began: {}", finish.name()),
            }),
        };
        self.finish(Event::Done(outcome, waited));
    }
}

/// How a loaded model is.
#[derive(Debug, Clone)]
pub enum Condition {
    /// It works.
    Up(Loaded),
    /// Its worker is being started, the last attempts failed for this reason.
    Down(String),
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) name: String,
    pub(super) queue: Mutex<FairQueue<Job>>,
    pub(super) condition: Mutex<Condition>,
    pub(super) wake: Notify,
    pub(super) closed: CancellationToken,
    pub(super) next_id: AtomicU64,
    pub(super) running: AtomicU32,
    /// Microseconds that a request takes, smoothed.
    pub(super) typical_us: AtomicU64,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the task: prompts do not belong into logs.
        f.debug_struct("Job")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A loaded model.
#[derive(Debug, Clone)]
pub struct Slot {
    shared: Arc<Shared>,
}

/// A request on its way. Dropping it cancels the request.
#[derive(Debug)]
pub struct Ticket {
    shared: Arc<Shared>,
    id: u64,
    arrived: Instant,
    deadline: Instant,
    cancel: CancellationToken,
    events: mpsc::UnboundedReceiver<Event>,
}

impl Slot {
    /// Checks a model file, loads it and keeps it loaded.
    ///
    /// # Errors
    /// An error that says why this model cannot be used.
    pub async fn load(
        entry: &Entry,
        program: &Program,
        threads: &Arc<Threads>,
        queue: usize,
    ) -> Result<Self, Error> {
        let refused = |error: trust::TrustError| Error::new(Category::Conflict, error.to_string());
        let verified = verify(entry).await?.map_err(refused)?;
        let file = verified
            .file()
            .map_err(|error| Error::new(Category::Filesystem, format!("{}: {error}", entry.file)))?
            .ok_or_else(|| {
                let message = format!("{} is being written to", entry.file);
                Error::new(Category::Conflict, message).with_retryable(true)
            })?;
        let (process, loaded) = Process::start(program, file)
            .await
            .map_err(|error| Error::new(Category::Conflict, format!("{}: {error}", entry.file)))?;
        tracing::info!(
            model = entry.name,
            load_ms = loaded.load_ms,
            parameters = loaded.parameters,
            context_tokens = loaded.context_tokens,
            "model loaded"
        );
        let shared = Arc::new(Shared {
            name: entry.name.clone(),
            queue: Mutex::new(FairQueue::new(queue)),
            condition: Mutex::new(Condition::Up(loaded)),
            wake: Notify::new(),
            closed: CancellationToken::new(),
            next_id: AtomicU64::new(1),
            running: AtomicU32::new(0),
            typical_us: AtomicU64::new(micros(FIRST_GUESS)),
        });
        let driver = Driver {
            shared: Arc::clone(&shared),
            entry: entry.clone(),
            program: program.clone(),
            threads: Arc::clone(threads),
            verified,
        };
        tokio::spawn(driver.run(process));
        Ok(Self { shared })
    }

    /// The model's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// How it is.
    #[must_use]
    pub fn condition(&self) -> Condition {
        lock(&self.shared.condition).clone()
    }

    /// Requests that wait, and that are worked on.
    #[must_use]
    pub fn load_figures(&self) -> (u32, u32) {
        let waiting = lock(&self.shared.queue).len();
        let running = self.shared.running.load(Ordering::SeqCst);
        (u32::try_from(waiting).unwrap_or(u32::MAX), running)
    }

    /// Takes a request of a caller.
    ///
    /// # Errors
    /// `RateLimit` with a time to wait when the queue is full, `Network` while there is no worker.
    pub fn submit(&self, caller: u32, work: Checked) -> Result<Ticket, Error> {
        let shared = &self.shared;
        if shared.closed.is_cancelled() {
            return Err(unloaded(&shared.name));
        }
        if let Condition::Down(reason) = self.condition() {
            return Err(Error::new(
                Category::Network,
                format!("the engine of {} is not up: {reason}", shared.name),
            )
            .with_retry_after(Duration::from_secs(1)));
        }
        let arrived = Instant::now();
        let (sender, events) = mpsc::unbounded_channel();
        let job = Job {
            id: shared.next_id.fetch_add(1, Ordering::Relaxed),
            task: work.task,
            arrived,
            deadline: arrived + work.limit,
            cancel: CancellationToken::new(),
            events: sender,
            killed_once: false,
        };
        let ticket = Ticket {
            shared: Arc::clone(shared),
            id: job.id,
            arrived,
            deadline: job.deadline,
            cancel: job.cancel.clone(),
            events,
        };
        let mut queue = lock(&shared.queue);
        let waiting = queue.len();
        queue.push(caller, job).map_err(|full| {
            let typical = Duration::from_micros(shared.typical_us.load(Ordering::Relaxed));
            let wait = typical.saturating_mul(u32::try_from(waiting).unwrap_or(u32::MAX).max(1));
            Error::new(
                Category::RateLimit,
                format!("the queue of {} is full: {full}", shared.name),
            )
            .with_retry_after(wait.clamp(Duration::from_millis(100), MAX_PAUSE))
        })?;
        drop(queue);
        shared.wake.notify_one();
        Ok(ticket)
    }

    /// Ends the worker and every request.
    pub fn close(&self) {
        self.shared.closed.cancel();
    }
}

fn unloaded(name: &str) -> Error {
    Error::new(Category::Conflict, format!("the model {name} was unloaded"))
        .hint("load it again, or name another one")
}

pub(super) async fn verify(entry: &Entry) -> Result<Result<Verified, trust::TrustError>, Error> {
    let entry = entry.clone();
    tokio::task::spawn_blocking(move || trust::verify(&entry))
        .await
        .map_err(|error| {
            Error::new(
                Category::Internal,
                format!("the hash check failed: {error}"),
            )
        })
}

impl Ticket {
    /// Cancels the request when it is used, from wherever.
    #[must_use]
    pub fn canceller(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// What happens next; after `Done` or `Failed` nothing does. A request that still waits ends by
    /// itself at its deadline or by a cancel; one that is worked on is ended by its worker.
    pub async fn next(&mut self) -> Event {
        let waiting_ends = async {
            tokio::select! {
                () = sleep_until(self.deadline) => Finish::Deadline,
                () = self.cancel.cancelled() => Finish::Cancelled,
            }
        };
        let event = tokio::select! {
            event = self.events.recv() => event,
            finish = waiting_ends => {
                let removed = lock(&self.shared.queue).remove(|job| job.id == self.id);
                if let Some(job) = removed {
                    job.finish_early(finish, self.arrived.elapsed());
                }
                // In the other case its worker has it, or just had it.
                self.events.recv().await
            }
        };
        event.unwrap_or_else(|| Event::Failed(unloaded(&self.shared.name)))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.cancel.cancel();
        drop(lock(&self.shared.queue).remove(|job| job.id == self.id));
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
