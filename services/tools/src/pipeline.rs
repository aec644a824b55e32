//! From a request to its reply: waiting for a turn and for room, the thread that does the work, and
//! what happens when it does not come back in time.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use aios_kit::{Category, Error, Principal, identity::Caller};
use aios_proto::v1::ExecuteReply;
use aios_tool_api::Risk;
use serde_json::Value;
use tokio::{
    sync::oneshot,
    time::{timeout, timeout_at},
};

use crate::{
    act::Act,
    calls::Call,
    engine::Engine,
    ledger::{Entry, Kind},
    outcome::{Outcome, kit_error, ledger_error},
};

/// How long a tool that was told to stop has for that, before its caller is answered without it.
const GRACE: Duration = Duration::from_secs(2);
/// How long a finished call has to record its outcome.
const RECORDING: Duration = Duration::from_secs(10);

/// A call as it was asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Who asks.
    pub caller: Caller,
    /// The tool's name.
    pub tool: String,
    /// The arguments as they came.
    pub args: Value,
    /// The task; required from agents.
    pub task_id: String,
    /// The idempotency key; may be empty.
    pub key: String,
    /// How long the caller allows.
    pub limit: Option<Duration>,
    /// Only say what would be done.
    pub dry_run: bool,
}

impl Asked {
    /// The key with the scope in which it is unique. Agents share one scope, since a task may pass
    /// from one to another; an agent that names no key means its task.
    #[must_use]
    pub fn scoped_key(&self) -> Option<String> {
        match &self.caller.process {
            Principal::Agent(_) => {
                let key = if self.key.is_empty() {
                    &self.task_id
                } else {
                    &self.key
                };
                (!key.is_empty()).then(|| format!("task/{key}"))
            }
            process => (!self.key.is_empty())
                .then(|| format!("{process}/{}/{}", self.caller.principal, self.key)),
        }
    }
}

/// How far the thread of a call is, for the case that it does not come back.
#[derive(Debug, Default)]
pub struct Progress {
    /// The call, once it acts.
    pub recorded: Option<Call>,
    /// Its intent, while that is not in the ledger: a call that only reads.
    pub unrecorded_intent: Option<Entry>,
    /// The thread has its outcome and is recording it.
    pub settled: bool,
    /// The caller was answered without it.
    pub abandoned: bool,
}

/// Shared between the thread of a call and the one who waits for it.
pub type SharedProgress = Arc<Mutex<Progress>>;

/// Locks the progress; a panic elsewhere does not make it less true.
pub fn locked(progress: &SharedProgress) -> std::sync::MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells a call that its caller has gone.
#[derive(Debug)]
pub struct CancelOnDrop(pub Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Engine {
    /// Makes a call. It goes on to its end, and is recorded, whether or not anyone still waits.
    ///
    /// # Errors
    /// When the call could not be begun: the ledger cannot record it, or there is no room in time.
    pub async fn execute(self: Arc<Self>, asked: Asked) -> Result<ExecuteReply, Error> {
        let cancelled = Arc::new(AtomicBool::new(false));
        let guard = CancelOnDrop(Arc::clone(&cancelled));
        let work = tokio::spawn(self.execute_detached(asked, cancelled));
        let reply = work.await.unwrap_or_else(|error| {
            Err(Error::new(
                Category::Internal,
                format!("the call ended unexpectedly: {error}"),
            ))
        });
        drop(guard);
        reply
    }

    async fn execute_detached(
        self: Arc<Self>,
        asked: Asked,
        cancelled: Arc<AtomicBool>,
    ) -> Result<ExecuteReply, Error> {
        let entry = match self.catalogue.get(&asked.tool) {
            Ok(entry) => Arc::clone(entry),
            Err(error) => return Ok(bare_reply(&Outcome::invalid(&error))),
        };
        let limit = asked
            .limit
            .map_or(entry.spec.deadline, |limit| limit.min(entry.spec.deadline));
        let deadline = Instant::now() + limit;
        let turn = match asked.scoped_key() {
            None => None,
            Some(key) => {
                let turn = timeout(limit, self.in_flight.turn(&key)).await;
                Some(turn.map_err(|_| busy("an earlier call with the same key is still running"))?)
            }
        };
        let room = if entry.spec.risk == Risk::Low {
            &self.reads
        } else {
            &self.changes
        };
        let room = timeout_at(deadline.into(), Arc::clone(room).acquire_owned())
            .await
            .ok()
            .and_then(Result::ok)
            .ok_or_else(|| busy("too many calls are running"))?;
        let mut context = self.context(limit);
        context.deadline = deadline;
        context.cancelled = cancelled;
        let progress = SharedProgress::default();
        let act = Act {
            engine: Arc::clone(&self),
            entry,
            asked,
            context,
            progress: Arc::clone(&progress),
        };
        let (send, mut receive) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            let reply = act.run();
            drop((turn, room));
            let _ = send.send(reply);
        });
        if let Ok(reply) = timeout_at((deadline + GRACE).into(), &mut receive).await {
            return reply.unwrap_or_else(|_| Err(fault()));
        }
        let recorded = {
            let mut progress = locked(&progress);
            if progress.settled {
                None
            } else {
                progress.abandoned = true;
                Some((
                    progress.recorded.clone(),
                    progress.unrecorded_intent.clone(),
                ))
            }
        };
        match recorded {
            // It has its outcome and is only waiting for the disk.
            None => match timeout(RECORDING, receive).await {
                Ok(reply) => reply.unwrap_or_else(|_| Err(fault())),
                Err(_) => Err(busy("the outcome could not be recorded in time")),
            },
            Some((recorded, intent)) => self.abandon(recorded, intent).await,
        }
    }

    /// Answers for a call that did not stop when its time was over.
    async fn abandon(
        &self,
        recorded: Option<Call>,
        intent: Option<Entry>,
    ) -> Result<ExecuteReply, Error> {
        let error = Error::new(
            Category::Timeout,
            "the call ran past its deadline and did not stop; it may still be acting",
        )
        .hint("its end will be in the ledger; look there before trying again")
        .with_retryable(false);
        let outcome = Outcome::error("timeout", error);
        let Some(mut call) = recorded else {
            return Ok(bare_reply(&outcome));
        };
        call.finish(&outcome, 0);
        let call = self
            .ledger
            .write(move |batch| {
                let mut detail = outcome.detail(false, 0);
                detail["still_running"] = Value::Bool(true);
                if let Some(intent) = intent {
                    call.intent_seq = batch.append(intent)?;
                }
                call.outcome_seq = batch.append(call.entry(Kind::Outcome, detail))?;
                crate::calls::put(batch, &call)?;
                Ok(call)
            })
            .await
            .map_err(|error| ledger_error(&error))?;
        Ok(call.reply(false))
    }
}

/// A reply about a call that was never begun.
#[must_use]
pub fn bare_reply(outcome: &Outcome) -> ExecuteReply {
    ExecuteReply {
        outcome: outcome.name.to_owned(),
        result_json: outcome
            .result
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        error: outcome.error.as_ref().map(Error::detail),
        ..ExecuteReply::default()
    }
}

fn busy(why: &str) -> Error {
    Error::new(Category::RateLimit, why)
        .hint("try again later")
        .with_retry_after(Duration::from_secs(1))
}

fn fault() -> Error {
    kit_error(&aios_tool_api::ToolError::new(
        aios_tool_api::ToolErrorKind::Internal,
        "the thread of this call ended without an answer",
    ))
}
