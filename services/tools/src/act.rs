//! The thread of one call: look whether it was made before, validate, authorise, record, save, act,
//! check, record.

use std::{sync::Arc, sync::atomic::Ordering, time::Instant};

use aios_kit::{Category, Error, Principal};
use aios_proto::v1::ExecuteReply;
use aios_tool_api::{Context, ToolError, canonical};
use serde_json::{Value, json};
use tokio::{runtime::Handle, sync::OwnedMutexGuard, time::timeout_at};

use crate::{
    authorise::{Refusal, Subject},
    calls::{self, Call, State},
    catalogue::CatalogueEntry,
    engine::{Chain, Engine},
    ledger::{Kind, LedgerError},
    outcome::{Outcome, ledger_error},
    pipeline::{Asked, SharedProgress, bare_reply, locked},
    prepare::{OnBehalf, Prepared, guarded},
    redact::{self, Kept},
};

/// Everything that the thread of a call has.
pub struct Act {
    /// The engine.
    pub engine: Arc<Engine>,
    /// The tool.
    pub entry: Arc<CatalogueEntry>,
    /// What was asked.
    pub asked: Asked,
    /// The tool's surroundings.
    pub context: Context,
    /// How far it is.
    pub progress: SharedProgress,
}

type Reply = Result<ExecuteReply, Error>;

impl Act {
    /// Makes the call.
    ///
    /// # Errors
    /// When it could not be begun because it could not be recorded.
    pub fn run(self) -> Reply {
        self.steps().map_err(|error| ledger_error(&error))
    }

    fn steps(&self) -> Result<ExecuteReply, LedgerError> {
        let asked_hash = canonical::action_hash(self.entry.spec.name, &self.asked.args);
        let earlier = match self.asked.scoped_key() {
            Some(key) => self
                .engine
                .ledger
                .read(|connection| calls::by_key(connection, &key))?,
            None => None,
        };
        if let Some(call) = &earlier {
            if call.tool != self.entry.spec.name || call.asked_hash != asked_hash {
                return Ok(bare_reply(&Outcome::error(
                    "invalid",
                    Error::new(
                        Category::Conflict,
                        format!(
                            "this key was already used for another call, {}",
                            call.call_id
                        ),
                    )
                    .hint("use a new key for a new call"),
                )));
            }
            if call.is_final(&self.entry) {
                return self.replay(call);
            }
        }
        let cut_short = earlier.as_ref().filter(|call| call.state != State::Done);
        let prepared = match cut_short {
            Some(call) => self.as_recorded(call)?,
            None => self
                .engine
                .validate(self.entry.spec.name, &self.asked.args, &self.context),
        };
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return Ok(bare_reply(&Outcome::invalid(&error))),
        };
        let who = match self.on_behalf(&prepared.action_hash)? {
            Ok(who) => who,
            Err((who, refusal)) => return self.deny(&prepared, &who, &refusal),
        };
        let subject = Subject {
            role: &who.role,
            agent: (!who.agent.is_empty()).then_some(&who.agent),
        };
        if let Err(refusal) = self.engine.authorise(&prepared, subject) {
            return self.deny(&prepared, &who, &refusal);
        }
        if self.asked.dry_run {
            return Ok(dry_run(&prepared));
        }
        if !prepared.changes() {
            return self.read(&prepared, who, asked_hash, earlier);
        }
        let _family = match self.may_change() {
            Ok(family) => family,
            Err(outcome) => {
                if let Chain::Broken { seq, problem } = self.engine.chain() {
                    let refusal = Refusal {
                        capability: String::new(),
                        message: broken_ledger(seq, &problem).message().to_owned(),
                        hint: String::new(),
                    };
                    let process = self.asked.caller.process.to_string();
                    self.engine
                        .record_denial(&prepared, &who, &process, &refusal)?;
                }
                return Ok(bare_reply(&outcome));
            }
        };
        // What an earlier attempt may have begun is brought to its end all the same.
        if earlier.is_none()
            && let Err(error) = self.engine.room_for(&prepared)
        {
            return Ok(bare_reply(&Outcome::error("failed", error)));
        }
        let mut call = self.new_call(&prepared, who, asked_hash, earlier)?;
        if call.state != State::Done
            && call.attempt > 1
            && let Some(reply) = self.resolve_cut_short(&prepared, &mut call)?
        {
            return Ok(reply);
        }
        self.change(&prepared, call)
    }

    /// For whom the call is made. An agent's word does not count: its grant says it.
    fn on_behalf(
        &self,
        action_hash: &str,
    ) -> Result<Result<OnBehalf, (OnBehalf, Refusal)>, LedgerError> {
        let caller = &self.asked.caller;
        let mut who = OnBehalf {
            principal: caller.principal.clone(),
            role: caller.role.clone(),
            task_id: self.asked.task_id.clone(),
            ..OnBehalf::default()
        };
        let Principal::Agent(agent) = &caller.process else {
            return Ok(Ok(who));
        };
        who.agent.clone_from(agent);
        let tool = self.entry.spec.name;
        Ok(
            match self
                .engine
                .grant(agent, &self.asked.task_id, tool, action_hash)?
            {
                Ok(grant) => Ok(OnBehalf {
                    principal: grant.principal,
                    role: grant.role,
                    goal_id: grant.goal_id,
                    ..who
                }),
                Err(refusal) => Err((who, refusal)),
            },
        )
    }

    fn deny(
        &self,
        prepared: &Prepared,
        who: &OnBehalf,
        refusal: &Refusal,
    ) -> Result<ExecuteReply, LedgerError> {
        let process = self.asked.caller.process.to_string();
        let seq = self
            .engine
            .record_denial(prepared, who, &process, refusal)?;
        Ok(ExecuteReply {
            outcome_seq: seq,
            risk: prepared.risk.name().to_owned(),
            ..bare_reply(&Outcome::denied(refusal))
        })
    }

    /// Answers a repeated call from its record, if the caller may still have it.
    fn replay(&self, call: &Call) -> Result<ExecuteReply, LedgerError> {
        if let Err((who, refusal)) = self.on_behalf(&call.action_hash)? {
            return match self.as_recorded(call)? {
                Ok(prepared) => self.deny(&prepared, &who, &refusal),
                Err(_) => Ok(bare_reply(&Outcome::denied(&refusal))),
            };
        }
        Ok(call.reply(true))
    }

    /// The call as it was recorded: its arguments were made canonical when the machine was as it was
    /// before, and would perhaps come out differently now.
    fn as_recorded(&self, call: &Call) -> Result<Result<Prepared, ToolError>, LedgerError> {
        let kept: Kept = serde_json::from_str(&call.args)
            .map_err(|error| LedgerError::Damaged(format!("call {}: {error}", call.call_id)))?;
        let prepared = Engine::describe(&self.entry, kept.completed_from(&self.asked.args));
        match &prepared {
            Ok(prepared) if prepared.action_hash != call.action_hash => {
                Err(LedgerError::Damaged(format!(
                    "call {}: its arguments are not those of its hash",
                    call.call_id
                )))
            }
            _ => Ok(prepared),
        }
    }

    /// Waits until nothing else of the family changes anything, with a ledger that can be trusted.
    fn may_change(&self) -> Result<Option<OwnedMutexGuard<()>>, Box<Outcome>> {
        let engine = &self.engine;
        let deadline = self.context.deadline.into();
        let late = |_| {
            Box::new(Outcome::error(
                "timeout",
                Error::new(
                    Category::Timeout,
                    "the call never had its turn before its deadline",
                )
                .hint("nothing was done; another call of the same family is still running"),
            ))
        };
        let chain = Handle::current()
            .block_on(async { timeout_at(deadline, engine.chain_checked()).await })
            .map_err(late)?;
        if let Chain::Broken { seq, problem } = chain {
            return Err(Box::new(Outcome::error(
                "failed",
                broken_ledger(seq, &problem),
            )));
        }
        let family = engine
            .family(self.entry.family)
            .map(|lock| {
                Handle::current().block_on(async { timeout_at(deadline, lock.lock_owned()).await })
            })
            .transpose()
            .map_err(late)?;
        self.context
            .check_alive()
            .map_err(|error| Box::new(Outcome::of_tool(&error)))?;
        Ok(family)
    }

    fn new_call(
        &self,
        prepared: &Prepared,
        who: OnBehalf,
        asked_hash: String,
        earlier: Option<Call>,
    ) -> Result<Call, LedgerError> {
        let secret = prepared.entry.tool.redacted();
        let store = (prepared.changes() && prepared.entry.spec.undo.is_some())
            .then_some(&self.engine.blobs);
        let kept =
            Kept::new(&prepared.args, secret, store).map_err(|error| LedgerError::Database {
                what: "keep the arguments in the pre-image store",
                message: error.to_string(),
            })?;
        let args = serde_json::to_string(&kept)
            .map_err(|error| LedgerError::Damaged(error.to_string()))?;
        let process = self.asked.caller.process.to_string();
        let fresh = Call {
            call_id: uuid::Uuid::now_v7().to_string(),
            key: self.asked.scoped_key(),
            tool: prepared.entry.spec.name.to_owned(),
            asked_hash,
            action_hash: prepared.action_hash.clone(),
            process,
            principal: who.principal,
            role: who.role,
            agent: who.agent,
            goal_id: who.goal_id,
            task_id: who.task_id,
            args,
            risk: prepared.risk.name().to_owned(),
            state: State::Acting,
            attempt: 1,
            intent_seq: 0,
            outcome_seq: 0,
            pre_image: None,
            outcome: String::new(),
            result: None,
            error: None,
            duration_us: 0,
            ended_ms: 0,
            undo_state: String::new(),
        };
        Ok(match earlier {
            None => fresh,
            // The pre-image of the first attempt is the state that undoing must lead back to.
            Some(earlier) => Call {
                call_id: earlier.call_id,
                attempt: earlier.attempt + 1,
                state: earlier.state,
                pre_image: earlier.pre_image.filter(|_| earlier.undo_state.is_empty()),
                intent_seq: earlier.intent_seq,
                ..fresh
            },
        })
    }

    /// A call that only reads: it runs, then intent and outcome are recorded in one commit.
    fn read(
        &self,
        prepared: &Prepared,
        who: OnBehalf,
        asked_hash: String,
        earlier: Option<Call>,
    ) -> Result<ExecuteReply, LedgerError> {
        let mut call = self.new_call(prepared, who, asked_hash, earlier)?;
        let intent = call.entry(Kind::Intent, self.intent_detail(prepared, &call));
        {
            let mut progress = locked(&self.progress);
            progress.recorded = Some(call.clone());
            progress.unrecorded_intent = Some(intent.clone());
        }
        let started = Instant::now();
        let outcome = self.attempt(prepared, || Ok(()));
        if self.settle() {
            // Its caller was answered and its timeout recorded; a read that ends late left nothing.
            return Ok(call.reply(false));
        }
        call.finish(&outcome, micros(started));
        let detail = outcome.detail(false, call.duration_us);
        let call = self.engine.ledger.write_blocking(move |batch| {
            call.intent_seq = batch.append(intent)?;
            call.outcome_seq = batch.append(call.entry(Kind::Outcome, detail))?;
            // Without a key nobody can ask for it again.
            if call.key.is_some() {
                calls::put(batch, &call)?;
            }
            Ok(call)
        })?;
        Ok(call.reply(false))
    }

    /// A call that may change something: every step is on the disk before the next.
    fn change(&self, prepared: &Prepared, mut call: Call) -> Result<ExecuteReply, LedgerError> {
        let ledger = &self.engine.ledger;
        let was_interrupted = call.state == State::Interrupted;
        // What can be undone acts only after what was there is saved; anything else may act as soon
        // as its intent is recorded.
        let saves = prepared.entry.spec.undo.is_some() && call.pre_image.is_none();
        call.state = if saves {
            State::Intended
        } else {
            State::Acting
        };
        call.undo_state.clear();
        let intent = call.entry(Kind::Intent, self.intent_detail(prepared, &call));
        let mut call = ledger.write_blocking(move |batch| {
            call.intent_seq = batch.append(intent)?;
            calls::put(batch, &call)?;
            Ok(call)
        })?;
        if was_interrupted {
            self.engine.interrupted.fetch_sub(1, Ordering::Relaxed);
        }
        locked(&self.progress).recorded = Some(call.clone());
        let started = Instant::now();
        let mut unrecorded = None;
        let outcome = self.attempt(prepared, || {
            if saves {
                let pre_image = prepared
                    .entry
                    .tool
                    .pre_image(&prepared.args, &self.context)?;
                self.context.check_alive()?;
                call.state = State::Acting;
                call.pre_image = pre_image.as_ref().map(|before| before.data.to_string());
                let detail = match &pre_image {
                    Some(before) => json!({ "pre_image": redact::for_ledger(&before.data, &[]) }),
                    None => json!({ "nothing_to_save": true }),
                };
                let record = call.entry(Kind::PreImage, detail);
                let row = call.clone();
                let saved = ledger.write_blocking(move |batch| {
                    batch.append(record)?;
                    calls::put(batch, &row)
                });
                if let Err(error) = saved {
                    unrecorded = Some(error.clone());
                    return Err(ToolError::new(
                        aios_tool_api::ToolErrorKind::Filesystem,
                        error.to_string(),
                    ));
                }
                locked(&self.progress).recorded = Some(call.clone());
            }
            self.context.check_alive()
        });
        if let Some(error) = unrecorded {
            return Err(error);
        }
        let late = self.settle();
        let reached = call.state;
        call.finish(&outcome, micros(started));
        let mut detail = outcome.detail(true, call.duration_us);
        if outcome.name != "ok" && self.context.cancelled.load(Ordering::Relaxed) {
            // Its caller has gone, perhaps killed, and nobody was told. Whoever asks again with the
            // same key must not get this as the answer: the call is one that was cut short.
            call.state = match reached {
                State::Intended => State::Intended,
                _ => {
                    self.engine.interrupted.fetch_add(1, Ordering::Relaxed);
                    State::Interrupted
                }
            };
            detail["caller_gone"] = Value::Bool(true);
        }
        if late {
            detail["late"] = Value::Bool(true);
        }
        let mut row = call.clone();
        let recorded = ledger.write_blocking(move |batch| {
            row.outcome_seq = batch.append(row.entry(Kind::Outcome, detail))?;
            calls::put(batch, &row)?;
            Ok(row)
        });
        Ok(match recorded {
            Ok(call) => call.reply(false),
            Err(error) => {
                tracing::error!(%error, call = call.call_id, "an outcome could not be recorded");
                let unknown = Error::new(
                    Category::Database,
                    format!("{} ran ({}), but its outcome could not be recorded: {error}", call.tool, outcome.name),
                )
                .hint("make room on the disk and restart aios-tools, which will mark the call as interrupted");
                ExecuteReply {
                    call_id: call.call_id,
                    intent_seq: call.intent_seq,
                    ..bare_reply(&Outcome::error("unknown", unknown))
                }
            }
        })
    }

    /// Before, execute, check; whatever goes wrong in it is the outcome.
    fn attempt(
        &self,
        prepared: &Prepared,
        before: impl FnOnce() -> Result<(), ToolError>,
    ) -> Outcome {
        let tool = &prepared.entry.tool;
        let done = guarded(prepared.entry.spec.name, || {
            before()?;
            let output = tool.execute(&prepared.args, &self.context)?;
            tool.check(&prepared.args, &output, &self.context)?;
            Ok(output)
        });
        match done {
            Ok(output) => Outcome::ok(output),
            Err(error) => Outcome::of_tool(&error),
        }
    }

    /// Says that the outcome is there, and whether the caller has been answered without it.
    fn settle(&self) -> bool {
        let mut progress = locked(&self.progress);
        progress.settled = true;
        progress.abandoned
    }

    fn intent_detail(&self, prepared: &Prepared, call: &Call) -> Value {
        json!({
            "args": redact::for_ledger(&prepared.args, prepared.entry.tool.redacted()),
            "action_hash": call.action_hash,
            "risk": call.risk,
            "process": call.process,
            "role": call.role,
            "capabilities": prepared.capabilities.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "key": call.key,
            "attempt": (call.attempt > 1).then_some(call.attempt),
        })
    }
}

/// Why nothing is changed while the ledger does not verify.
pub fn broken_ledger(seq: u64, problem: &str) -> Error {
    Error::new(
        Category::Database,
        format!("the ledger does not verify from record {seq} on ({problem}), so nothing is changed"),
    )
    .hint("find out who changed it; `aios audit verify` checks again after the ledger was restored and aios-tools restarted")
    .with_retryable(false)
}

fn dry_run(prepared: &Prepared) -> ExecuteReply {
    let would = json!({
        "dry_run": true,
        "tool": prepared.entry.spec.name,
        "args": prepared.args,
        "risk": prepared.risk.name(),
        "capabilities": prepared.capabilities.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "undo": prepared.entry.spec.undo,
        "action_hash": prepared.action_hash,
    });
    ExecuteReply {
        reversible: prepared.entry.spec.undo.is_some(),
        risk: prepared.risk.name().to_owned(),
        ..bare_reply(&Outcome::ok(would))
    }
}

fn micros(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX)
}
