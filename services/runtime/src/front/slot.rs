//! A loaded model: its queue, its worker, and the task that brings the two together.
//!
//! The task takes one request at a time. When the worker dies, it is started again at once; the
//! request that it worked on is done over if nothing of its answer was shown yet, but only once, so
//! that a request that kills the engine cannot keep it dead. Every request is answered by its
//! deadline and a short grace, after which the worker is killed.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use aios_kit::{Category, Error};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    catalog::Entry,
    process::{Process, Program},
    queue::FairQueue,
    request::Checked,
    trust::{self, Verified},
};
use crate::protocol::{
    Failure, FailureKind, Finish, FromWorker, Generated, Loaded, Outcome, Task, ToWorker,
};

/// How long after its deadline or cancel a request may still be computed before the worker is killed.
const GRACE: Duration = Duration::from_secs(5);
/// The longest pause between attempts to start a worker.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// What a request is thought to take before any was done.
const FIRST_GUESS: Duration = Duration::from_secs(1);

/// Threads that all workers share.
#[derive(Debug)]
pub struct Threads {
    total: u32,
    /// Whether a small model may be given fewer.
    by_size: bool,
    computing: AtomicU32,
}

/// Below so many weights a second thread costs more than it brings: the threads wait for each other
/// between operations, and on a busy machine they wait for a core first.
const SMALL_MODEL: u64 = 20_000_000;

impl Threads {
    /// One per core, and only one for a small model.
    #[must_use]
    pub fn automatic(cores: u32) -> Self {
        Self {
            total: cores.max(1),
            by_size: true,
            computing: AtomicU32::new(0),
        }
    }

    /// So many in all for any model, but never more than cores.
    #[must_use]
    pub fn fixed(threads: u32, cores: u32) -> Self {
        Self {
            total: threads.min(cores).max(1),
            by_size: false,
            computing: AtomicU32::new(0),
        }
    }

    /// The share of one more worker, whose model has so many weights; more threads than cores cost
    /// far more than they bring.
    fn enter(&self, parameters: u64) -> (u32, Counted<'_>) {
        let counted = Counted::new(&self.computing);
        let workers = self.computing.load(Ordering::SeqCst).max(1);
        let threads = if self.by_size && parameters < SMALL_MODEL {
            1
        } else {
            (self.total / workers).max(1)
        };
        (threads, counted)
    }
}

/// Adds one to a number for as long as it lives, however its owner ends.
#[derive(Debug)]
struct Counted<'a>(&'a AtomicU32);

impl<'a> Counted<'a> {
    fn new(number: &'a AtomicU32) -> Self {
        number.fetch_add(1, Ordering::SeqCst);
        Self(number)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

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

struct Job {
    id: u64,
    task: Task,
    arrived: Instant,
    deadline: Instant,
    /// Set by a cancel, or when the caller is gone.
    cancel: CancellationToken,
    events: mpsc::UnboundedSender<Event>,
    /// Whether a worker died of it, or at least with it.
    killed_once: bool,
}

impl Job {
    fn finish(&self, event: Event) {
        // Nobody may be listening any more, which is no fault.
        let _gone = self.events.send(event);
    }

    /// Ends without a worker's answer.
    fn finish_early(&self, finish: Finish, waited: Duration) {
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
struct Shared {
    name: String,
    queue: Mutex<FairQueue<Job>>,
    condition: Mutex<Condition>,
    wake: Notify,
    closed: CancellationToken,
    next_id: AtomicU64,
    running: AtomicU32,
    /// Microseconds that a request takes, smoothed.
    typical_us: AtomicU64,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the task: prompts do not belong into logs.
        f.debug_struct("Job")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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

async fn verify(entry: &Entry) -> Result<Result<Verified, trust::TrustError>, Error> {
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

/// How a request's time with a worker ended.
enum Ended {
    /// It was answered.
    Answered,
    /// The worker is gone; the request is not answered yet.
    Lost(Job, bool),
    /// The worker did not stop in time and must be killed; the request is answered.
    Stuck,
}

struct Driver {
    shared: Arc<Shared>,
    entry: Entry,
    program: Program,
    threads: Arc<Threads>,
    verified: Verified,
}

impl Driver {
    async fn run(mut self, process: Process) {
        let mut worker = Some(process);
        let mut again: Option<Job> = None;
        let closed = self.shared.closed.clone();
        loop {
            let Some(process) = &mut worker else {
                tokio::select! {
                    () = closed.cancelled() => break,
                    process = self.restart() => worker = Some(process),
                }
                continue;
            };
            let job = match again.take() {
                Some(job) => job,
                None => tokio::select! {
                    () = closed.cancelled() => break,
                    job = next_job(&self.shared) => job,
                    message = process.receive() => {
                        if let Some(message) = message {
                            // Late words of a request that ended.
                            tracing::debug!(?message, "nobody waits for this");
                            continue;
                        }
                        self.bury(worker.take()).await;
                        continue;
                    }
                },
            };
            let name = self.shared.name.clone();
            tokio::select! {
                () = closed.cancelled() => break,
                ended = self.work(process, job) => match ended {
                    Ended::Answered => {}
                    Ended::Stuck => {
                        tracing::error!(model = name, "the engine did not stop in time: killing it");
                        self.bury(worker.take()).await;
                    }
                    Ended::Lost(mut job, shown) => {
                        self.bury(worker.take()).await;
                        if job.killed_once {
                            job.finish(Event::Failed(Error::new(
                                Category::Internal,
                                "the engine died twice while it worked on this request",
                            ).hint("change the request; the log has the engine's last words")));
                        } else if shown {
                            job.finish(Event::Failed(Error::new(
                                Category::Network,
                                "the engine was lost in the middle of the answer",
                            )));
                        } else {
                            job.killed_once = true;
                            again = Some(job);
                        }
                    }
                },
            }
        }
        // Whoever still waits learns of it by the end of its events.
        while lock(&self.shared.queue).pop().is_some() {}
        drop(again);
        if let Some(process) = worker {
            process.end().await;
        }
    }

    async fn bury(&self, worker: Option<Process>) {
        if let Some(process) = worker {
            let how = process.end().await;
            tracing::warn!(
                model = self.shared.name,
                how,
                "the engine is gone, starting it again"
            );
        }
    }

    /// Starts a worker again, at once and then with growing pauses. While it fails, requests are
    /// refused and those that wait are told.
    async fn restart(&mut self) -> Process {
        let mut pause = Duration::from_millis(250);
        loop {
            match self.start().await {
                Ok((process, loaded)) => {
                    *lock(&self.shared.condition) = Condition::Up(loaded);
                    return process;
                }
                Err(reason) => {
                    tracing::error!(
                        model = self.shared.name,
                        reason,
                        "the engine does not start"
                    );
                    *lock(&self.shared.condition) = Condition::Down(reason.clone());
                    while let Some(job) = next_waiting(&self.shared) {
                        job.finish(Event::Failed(Error::new(
                            Category::Network,
                            format!("the engine does not start: {reason}"),
                        )));
                    }
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    async fn start(&mut self) -> Result<(Process, Loaded), String> {
        let changed = |error: io::Error| format!("{}: {error}", self.entry.file);
        let file = match self.verified.file().map_err(changed)? {
            Some(file) => file,
            None => {
                // Somebody wrote to the file: it must have the hash that it had.
                let mut entry = self.entry.clone();
                entry.expected =
                    super::catalog::Expected::FirstUse(self.verified.sha256().to_owned());
                self.verified = verify(&entry)
                    .await
                    .map_err(|error| error.to_string())?
                    .map_err(|error| error.to_string())?;
                self.verified
                    .file()
                    .map_err(changed)?
                    .ok_or_else(|| format!("{} is being written to", self.entry.file))?
            }
        };
        Process::start(&self.program, file)
            .await
            .map_err(|error| error.to_string())
    }

    async fn work(&self, process: &mut Process, job: Job) -> Ended {
        let started = Instant::now();
        let waited = started - job.arrived;
        if job.cancel.is_cancelled() || started >= job.deadline {
            let cancelled = job.cancel.is_cancelled();
            let finish = if cancelled {
                Finish::Cancelled
            } else {
                Finish::Deadline
            };
            job.finish_early(finish, waited);
            return Ended::Answered;
        }
        let parameters = match &*lock(&self.shared.condition) {
            Condition::Up(loaded) => loaded.parameters,
            Condition::Down(_) => 0,
        };
        let (threads, computing) = self.threads.enter(parameters);
        let running = Counted::new(&self.shared.running);
        let ended = self.compute(process, job, threads, waited).await;
        drop((computing, running));
        let took = micros(started.elapsed());
        let typical = self.shared.typical_us.load(Ordering::Relaxed);
        let smoothed = typical - typical / 8 + took / 8;
        self.shared.typical_us.store(smoothed, Ordering::Relaxed);
        ended
    }

    async fn compute(
        &self,
        process: &mut Process,
        job: Job,
        threads: u32,
        waited: Duration,
    ) -> Ended {
        let left = job.deadline.saturating_duration_since(Instant::now());
        let run = ToWorker::Run {
            id: job.id,
            threads,
            deadline_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
            task: job.task.clone(),
        };
        if let Err(error) = process.send(&run).await {
            tracing::warn!(%error, "cannot reach the engine");
            return Ended::Lost(job, false);
        }
        let mut shown = false;
        let mut cancelled = false;
        let mut give_up = job.deadline + GRACE;
        loop {
            tokio::select! {
                () = job.cancel.cancelled(), if !cancelled => {
                    cancelled = true;
                    give_up = give_up.min(Instant::now() + GRACE);
                    if process.send(&ToWorker::Cancel { id: job.id }).await.is_err() {
                        return Ended::Lost(job, true);
                    }
                }
                () = sleep_until(give_up) => {
                    let finish = if cancelled { Finish::Cancelled } else { Finish::Deadline };
                    job.finish_early(finish, waited);
                    return Ended::Stuck;
                }
                message = process.receive() => match message {
                    None => return Ended::Lost(job, shown),
                    Some(FromWorker::Text { id, text }) if id == job.id => {
                        shown = true;
                        job.finish(Event::Text(text));
                    }
                    Some(FromWorker::Done { id, outcome }) if id == job.id => {
                        job.finish(Event::Done(outcome, waited));
                        return Ended::Answered;
                    }
                    Some(message) => tracing::debug!(?message, "nobody waits for this"),
                },
            }
        }
    }
}

async fn next_job(shared: &Shared) -> Job {
    loop {
        if let Some(job) = next_waiting(shared) {
            return job;
        }
        shared.wake.notified().await;
    }
}

fn next_waiting(shared: &Shared) -> Option<Job> {
    lock(&shared.queue).pop()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_the_threads() {
        let threads = Threads::automatic(8);
        let (first, one) = threads.enter(SMALL_MODEL);
        let (second, _two) = threads.enter(SMALL_MODEL);
        assert_eq!((first, second), (8, 4));
        drop(one);
        assert_eq!(threads.enter(SMALL_MODEL).0, 4);
        assert_eq!(threads.enter(1000).0, 1);
    }

    #[test]
    fn a_configured_number_holds_for_small_models_too_but_not_beyond_the_cores() {
        assert_eq!(Threads::fixed(3, 8).enter(1000).0, 3);
        assert_eq!(Threads::fixed(64, 2).enter(1000).0, 2);
        assert_eq!(Threads::fixed(0, 2).enter(1000).0, 1);
    }
}
