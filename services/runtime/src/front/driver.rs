//! The task behind a loaded model: it takes one request at a time from the queue to the worker, starts
//! a lost worker again, and kills one that does not stop in time.
//!
//! A request whose worker died is done over if nothing of its answer was shown yet, but only once, so
//! that a request that kills the engine cannot keep it dead.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use aios_kit::{Category, Error};
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    catalog::{Entry, Expected},
    process::{Process, Program},
    slot::{Condition, Event, Job, MAX_PAUSE, Shared, lock, micros, verify},
    threads::{Counted, Threads},
    trust::Verified,
};
use crate::protocol::{Finish, FromWorker, Loaded, ToWorker};

/// How long after its deadline or cancel a request may still be computed before the worker is killed.
const GRACE: Duration = Duration::from_secs(5);

/// How a request's time with a worker ended.
enum Ended {
    /// It was answered.
    Answered,
    /// The worker is gone; the request is not answered yet.
    Lost(Job, bool),
    /// The worker did not stop in time and must be killed; the request is answered.
    Stuck,
}

pub(super) struct Driver {
    pub(super) shared: Arc<Shared>,
    pub(super) entry: Entry,
    pub(super) program: Program,
    pub(super) threads: Arc<Threads>,
    pub(super) verified: Verified,
}

impl Driver {
    pub(super) async fn run(mut self, process: Process) {
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
                entry.expected = Expected::FirstUse(self.verified.sha256().to_owned());
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
