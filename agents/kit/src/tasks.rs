//! The tasks that an agent has in hand.
//!
//! Invariants: never more than `max_tasks`; one task id is carried out at most once at a time; a
//! caller who asks for the very attempt that is running gets that one's outcome; a task outlives
//! the call that began it, so that an orchestrator that restarted finds it again, and ends with its
//! deadline or when it is cancelled.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aios_kit::{Category, Error};
use aios_proto::v1::{ExecuteReply, RunTaskRequest};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What became of a task.
pub type Outcome = Result<ExecuteReply, Error>;

/// How long a cancelled task may take to be gone before the canceller is answered anyway.
const CANCEL_WAIT: Duration = Duration::from_millis(1500);

#[derive(Debug)]
struct Running {
    request: RunTaskRequest,
    cancel: CancellationToken,
    reason: Arc<Mutex<String>>,
    outcome: watch::Receiver<Option<Outcome>>,
}

/// All tasks in hand, and how many have ended.
#[derive(Debug)]
pub struct Tasks {
    running: Mutex<BTreeMap<String, Running>>,
    max_tasks: usize,
    done: AtomicU64,
    failed: AtomicU64,
    /// How many tasks are in hand, for whoever waits for their end.
    count: watch::Sender<usize>,
}

impl Tasks {
    /// None yet, and never more than `max_tasks`.
    #[must_use]
    pub fn new(max_tasks: u32) -> Self {
        Self {
            running: Mutex::default(),
            max_tasks: usize::try_from(max_tasks).unwrap_or(usize::MAX),
            done: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            count: watch::Sender::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins `work` for a task, or joins the same attempt where it is running already, and waits
    /// for the outcome.
    ///
    /// # Errors
    /// When there is no room, another attempt is still running, or as the work.
    pub async fn run<W>(
        self: &Arc<Self>,
        request: RunTaskRequest,
        work: impl FnOnce(RunTaskRequest) -> W,
    ) -> Outcome
    where
        W: Future<Output = Outcome> + Send + 'static,
    {
        let mut outcome = self.begin(request, work)?;
        let ended = outcome.wait_for(Option::is_some).await;
        match ended.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            _ => Err(Error::new(
                Category::Internal,
                "the task ended without an outcome",
            )),
        }
    }

    fn begin<W>(
        self: &Arc<Self>,
        request: RunTaskRequest,
        work: impl FnOnce(RunTaskRequest) -> W,
    ) -> Result<watch::Receiver<Option<Outcome>>, Error>
    where
        W: Future<Output = Outcome> + Send + 'static,
    {
        let mut running = self.lock();
        if let Some(other) = running.get(&request.task_id) {
            if other.request == request {
                return Ok(other.outcome.clone());
            }
            return Err(Error::new(
                Category::Conflict,
                format!(
                    "task {} is still running as attempt {}",
                    request.task_id, other.request.attempt
                ),
            )
            .with_retryable(true));
        }
        if running.len() >= self.max_tasks {
            return Err(Error::new(
                Category::RateLimit,
                format!(
                    "this agent has {} tasks in hand, which is its limit",
                    running.len()
                ),
            ));
        }
        let cancel = CancellationToken::new();
        let reason = Arc::new(Mutex::new(String::new()));
        let (sender, outcome) = watch::channel(None);
        let id = request.task_id.clone();
        let future = work(request.clone());
        let entry = Running {
            request,
            cancel: cancel.clone(),
            reason: reason.clone(),
            outcome: outcome.clone(),
        };
        running.insert(id.clone(), entry);
        self.count.send_replace(running.len());
        let place = Place {
            tasks: self.clone(),
            id,
        };
        tokio::spawn(async move {
            let place = place;
            let ended = tokio::select! {
                biased;
                () = cancel.cancelled() => {
                    let reason = reason.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    Err(Error::new(Category::Conflict, format!("the task was cancelled: {reason}")))
                }
                ended = future => ended,
            };
            let good = ended.as_ref().is_ok_and(|call| call.outcome == "ok");
            let counter = if good {
                &place.tasks.done
            } else {
                &place.tasks.failed
            };
            counter.fetch_add(1, Ordering::Relaxed);
            // The place is given back first, so that whoever has the outcome can begin the next.
            drop(place);
            sender.send_replace(Some(ended));
        });
        Ok(outcome)
    }

    /// Stops a task by dropping its work; waits a moment until it is gone. A task that is not in
    /// hand is as stopped as can be.
    pub async fn cancel(&self, task_id: &str, reason: &str) {
        self.cancel_those(|id| id == task_id, reason).await;
    }

    /// Stops all tasks.
    pub async fn cancel_all(&self, reason: &str) {
        self.cancel_those(|_| true, reason).await;
    }

    async fn cancel_those(&self, chosen: impl Fn(&str) -> bool, reason: &str) {
        let outcomes: Vec<_> = self
            .lock()
            .iter()
            .filter(|(id, _)| chosen(id))
            .map(|(_, task)| {
                reason.clone_into(&mut task.reason.lock().unwrap_or_else(PoisonError::into_inner));
                task.cancel.cancel();
                task.outcome.clone()
            })
            .collect();
        let gone = async {
            for mut outcome in outcomes {
                // A sender that has gone without an outcome is as good as an outcome here.
                drop(outcome.wait_for(Option::is_some).await);
            }
        };
        if tokio::time::timeout(CANCEL_WAIT, gone).await.is_err() {
            tracing::warn!("cancelled tasks take their time to end");
        }
    }

    /// Ends when no task is in hand.
    pub async fn drained(&self) {
        // The sender lives as long as `self`, so waiting cannot fail.
        drop(self.count.subscribe().wait_for(|count| *count == 0).await);
    }

    /// The ids of the tasks in hand.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// How many tasks have ended well, and how many otherwise.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        (
            self.done.load(Ordering::Relaxed),
            self.failed.load(Ordering::Relaxed),
        )
    }
}

/// A task's place in the table, given back even when its work panics.
struct Place {
    tasks: Arc<Tasks>,
    id: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut running = self.tasks.lock();
        running.remove(&self.id);
        self.tasks.count.send_replace(running.len());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use tokio::sync::Semaphore;

    use super::*;

    fn request(id: &str, attempt: u32) -> RunTaskRequest {
        RunTaskRequest {
            task_id: id.into(),
            attempt,
            ..RunTaskRequest::default()
        }
    }

    fn done() -> Outcome {
        Ok(ExecuteReply {
            outcome: "ok".into(),
            ..ExecuteReply::default()
        })
    }

    #[tokio::test]
    async fn one_attempt_runs_once_and_all_callers_get_its_outcome() {
        let tasks = Arc::new(Tasks::new(4));
        let (gate, begun) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicU32::new(0)));
        let start = |tasks: Arc<Tasks>| {
            let (gate, begun) = (gate.clone(), begun.clone());
            async move {
                tasks
                    .run(request("t", 1), |_| async move {
                        begun.fetch_add(1, Ordering::SeqCst);
                        drop(gate.acquire().await);
                        done()
                    })
                    .await
            }
        };
        let first = tokio::spawn(start(tasks.clone()));
        let second = tokio::spawn(start(tasks.clone()));
        tokio::task::yield_now().await;
        while begun.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        // The first caller goes away; the task does not.
        first.abort();
        let other = tasks
            .run(request("t", 2), |_| async { done() })
            .await
            .unwrap_err();
        assert!(
            other.retryable() && other.message().contains("attempt 1"),
            "{other}"
        );
        gate.add_permits(1);
        assert_eq!(second.await.unwrap(), done());
        assert_eq!(begun.load(Ordering::SeqCst), 1);
        assert_eq!((tasks.ids(), tasks.totals()), (Vec::new(), (1, 0)));
        assert_eq!(
            tasks.run(request("t", 2), |_| async { done() }).await,
            done()
        );
    }

    #[tokio::test]
    async fn there_is_room_for_so_many_and_a_panic_gives_its_place_back() {
        let tasks = Arc::new(Tasks::new(1));
        let holder = tasks.clone();
        let held = tokio::spawn(async move {
            holder
                .run(request("a", 1), |_| std::future::pending())
                .await
        });
        while tasks.ids().is_empty() {
            tokio::task::yield_now().await;
        }
        let full = tasks
            .run(request("b", 1), |_| async { done() })
            .await
            .unwrap_err();
        assert_eq!(
            (full.category(), full.retryable()),
            (Category::RateLimit, true)
        );
        tasks.cancel("a", "enough").await;
        let ended = held.await.unwrap().unwrap_err();
        assert_eq!(ended.message(), "the task was cancelled: enough");
        let lost = tasks
            .run(request("c", 1), |_| async { panic!("a fault") })
            .await
            .unwrap_err();
        assert_eq!(lost.category(), Category::Internal);
        tokio::time::timeout(Duration::from_secs(1), tasks.drained())
            .await
            .unwrap();
        assert_eq!(
            tasks.run(request("d", 1), |_| async { done() }).await,
            done()
        );
        tasks.cancel("nobody", "").await;
    }

    #[tokio::test]
    async fn cancelling_drops_the_work() {
        struct Told(Arc<AtomicU32>);
        impl Drop for Told {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let tasks = Arc::new(Tasks::new(2));
        let dropped = Arc::new(AtomicU32::new(0));
        let (runner, told) = (tasks.clone(), Told(dropped.clone()));
        let task = tokio::spawn(async move {
            runner
                .run(request("t", 1), |_| async move {
                    let _told = told;
                    std::future::pending().await
                })
                .await
        });
        while tasks.ids().is_empty() {
            tokio::task::yield_now().await;
        }
        tasks.cancel_all("stop").await;
        assert_eq!(dropped.load(Ordering::SeqCst), 1);
        assert!(task.await.unwrap().is_err());
    }
}
