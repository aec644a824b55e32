//! Undoing what calls did, from what was saved before they acted: the latest call first, each one
//! recorded before and after, stopping at the first that cannot be undone (what came before it may
//! be what it stands on).
//!
//! Invariants: undoing needs the capability `ledger:rollback` and every capability that the call
//! needed; a call that was undone is never undone again; a call whose undoing was cut short may be.

use std::sync::Arc;

use aios_kit::{Category, Error, identity::Caller};
use aios_proto::v1::{RollbackReply, RolledBack};
use aios_tool_api::{Capability, PreImage, Undone};
use serde_json::json;
use tokio::{runtime::Handle, time::timeout};

use crate::{
    act::broken_ledger,
    authorise::{self, Refusal, Subject},
    calls::{self, Call, Selection, State},
    engine::{Chain, Engine},
    ledger::{Entry, Kind, LedgerError},
    outcome::ledger_error,
    prepare::{OnBehalf, Prepared, guarded},
    redact::Kept,
};

/// How undoing one call ended.
struct Undoing {
    outcome: &'static str,
    detail: String,
    seq: u64,
}

impl Undoing {
    fn unrecorded(outcome: &'static str, detail: impl Into<String>) -> Self {
        Self {
            outcome,
            detail: detail.into(),
            seq: 0,
        }
    }

    /// Whether earlier calls may be undone after this.
    fn went_well(&self) -> bool {
        matches!(self.outcome, "undone" | "would_undo" | "nothing_to_undo")
    }
}

impl Engine {
    /// Undoes the calls of a selection. Blocks.
    ///
    /// # Errors
    /// When there is no such call, the caller lacks the right, or the ledger cannot be used.
    pub fn roll_back(
        &self,
        caller: &Caller,
        selection: &Selection,
        dry_run: bool,
    ) -> Result<RollbackReply, Error> {
        let fail = |error: LedgerError| ledger_error(&error);
        let chosen = self
            .ledger
            .read(|connection| calls::to_undo(connection, selection))
            .map_err(fail)?;
        if chosen.is_empty() {
            let (what, id) = match selection {
                Selection::Call(id) => ("call", id),
                Selection::Task(id) => ("change by task", id),
                Selection::Goal(id) => ("change by goal", id),
            };
            return Err(
                Error::new(Category::Validation, format!("there is no {what} `{id}`"))
                    .hint("`aios audit list` shows goals, tasks and calls"),
            );
        }
        let right = [Capability::new("ledger", "rollback")];
        let subject = Subject {
            role: &caller.role,
            agent: None,
        };
        if let Err(refusal) = authorise::check(&self.policy, &self.agents, subject, &right, true) {
            self.deny_rollback(caller, None, &refusal).map_err(fail)?;
            return Err(Error::new(Category::Auth, refusal.message).hint(refusal.hint));
        }
        if !dry_run {
            let chain = Handle::current().block_on(timeout(
                std::time::Duration::from_secs(60),
                self.chain_checked(),
            ));
            match chain {
                Ok(Chain::Intact) => {}
                Ok(Chain::Broken { seq, problem }) => return Err(broken_ledger(seq, &problem)),
                Ok(Chain::Checking) | Err(_) => {
                    return Err(Error::new(
                        Category::Timeout,
                        "the ledger is still being verified",
                    ));
                }
            }
        }
        let mut reply = RollbackReply {
            calls: Vec::with_capacity(chosen.len()),
            complete: true,
        };
        let mut stopped_by: Option<String> = None;
        for call in chosen {
            let undoing = match &stopped_by {
                Some(id) => Undoing::unrecorded(
                    "refused",
                    format!("not tried: the later call {id} could not be undone"),
                ),
                None => self.undo_one(caller, &call, dry_run).map_err(fail)?,
            };
            if !undoing.went_well() {
                reply.complete = false;
                stopped_by.get_or_insert_with(|| call.call_id.clone());
            }
            reply.calls.push(RolledBack {
                call_id: call.call_id,
                tool: call.tool,
                outcome: undoing.outcome.to_owned(),
                detail: undoing.detail,
                ledger_seq: undoing.seq,
            });
        }
        Ok(reply)
    }

    fn undo_one(
        &self,
        caller: &Caller,
        call: &Call,
        dry_run: bool,
    ) -> Result<Undoing, LedgerError> {
        if call.undo_state == "undone" {
            return Ok(Undoing::unrecorded(
                "nothing_to_undo",
                "it was undone already",
            ));
        }
        let Ok(entry) = self.catalogue.get(&call.tool) else {
            return Ok(Undoing::unrecorded(
                "failed",
                format!("there is no tool {} any more", call.tool),
            ));
        };
        let entry = Arc::clone(entry);
        let Some(pre_image) = &call.pre_image else {
            let changed = call.outcome == "ok" && call.risk != "low";
            return Ok(if changed && entry.spec.undo.is_none() {
                Undoing::unrecorded("refused", format!("{} cannot be undone", call.tool))
            } else {
                Undoing::unrecorded("nothing_to_undo", "the call changed nothing")
            });
        };
        if matches!(call.state, State::Intended | State::Acting) {
            return Ok(Undoing::unrecorded("refused", "the call is still running"));
        }
        let kept = serde_json::from_str::<Kept>(&call.args)
            .map_err(|error| LedgerError::Damaged(format!("call {}: {error}", call.call_id)))?;
        let prepared = match kept.restore(&self.blobs) {
            Ok(args) => Self::describe(&entry, args),
            Err(error) => {
                let why =
                    format!("what the call was given is no longer in the pre-image store: {error}");
                return Ok(Undoing::unrecorded("failed", why));
            }
        };
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return Ok(Undoing::unrecorded("failed", error.to_string())),
        };
        let subject = Subject {
            role: &caller.role,
            agent: None,
        };
        if let Err(refusal) = self.authorise(&prepared, subject) {
            let seq = self.deny_rollback(caller, Some(call), &refusal)?;
            let detail = format!("{} ({})", refusal.message, refusal.hint);
            return Ok(Undoing {
                seq,
                ..Undoing::unrecorded("refused", detail)
            });
        }
        if dry_run {
            let what = entry.spec.undo.unwrap_or("undo it").to_owned();
            return Ok(Undoing::unrecorded("would_undo", what));
        }
        let data = serde_json::from_str(pre_image)
            .map_err(|error| LedgerError::Damaged(format!("call {}: {error}", call.call_id)))?;
        self.undo_recorded(caller, call, &prepared, &PreImage { data })
    }

    fn undo_recorded(
        &self,
        caller: &Caller,
        call: &Call,
        prepared: &Prepared,
        pre_image: &PreImage,
    ) -> Result<Undoing, LedgerError> {
        let context = self.context(prepared.entry.spec.deadline);
        let lock = self.family(prepared.entry.family);
        let _family = match lock.map(|lock| {
            let wait = timeout(context.remaining(), lock.lock_owned());
            Handle::current().block_on(wait)
        }) {
            Some(Err(_)) => {
                let why = format!(
                    "another {} call is still running; try again",
                    prepared.entry.family
                );
                return Ok(Undoing::unrecorded("failed", why));
            }
            Some(Ok(guard)) => Some(guard),
            None => None,
        };
        // Somebody else may have undone it while this one waited.
        let now = self
            .ledger
            .read(|connection| calls::by_id(connection, &call.call_id))?;
        if now.is_some_and(|call| call.undo_state == "undone") {
            return Ok(Undoing::unrecorded(
                "nothing_to_undo",
                "it was undone already",
            ));
        }
        let intent = rollback_entry(caller, call, json!({ "phase": "intent" }));
        let id = call.call_id.clone();
        self.ledger.write_blocking(move |batch| {
            calls::set_undo_state(batch, &id, "undoing")?;
            batch.append(intent)
        })?;
        let output = call
            .result
            .as_deref()
            .filter(|_| call.outcome == "ok")
            .and_then(|text| serde_json::from_str(text).ok());
        let tool = &prepared.entry.tool;
        let undone = guarded(prepared.entry.spec.name, || {
            tool.undo(&prepared.args, pre_image, output.as_ref(), &context)
        });
        let (outcome, detail, state) = match undone {
            Ok(Undone::Undone(said)) => ("undone", said, "undone"),
            Ok(Undone::Nothing(said)) => ("nothing_to_undo", said, "undone"),
            Ok(Undone::Refused(said)) => ("refused", said, ""),
            Err(error) => ("failed", with_hint(&error), "undoing"),
        };
        let record = rollback_entry(
            caller,
            call,
            json!({ "phase": "outcome", "outcome": outcome, "detail": detail }),
        );
        let id = call.call_id.clone();
        let seq = self.ledger.write_blocking(move |batch| {
            calls::set_undo_state(batch, &id, state)?;
            batch.append(record)
        })?;
        Ok(Undoing {
            outcome,
            detail,
            seq,
        })
    }

    fn deny_rollback(
        &self,
        caller: &Caller,
        call: Option<&Call>,
        refusal: &Refusal,
    ) -> Result<u64, LedgerError> {
        let detail = json!({
            "method": "Rollback",
            "process": caller.process.to_string(),
            "role": caller.role,
            "missing": refusal.capability,
            "reason": refusal.message,
        });
        let mut entry = match call {
            Some(call) => rollback_entry(caller, call, detail),
            None => Entry::new(Kind::Denial, caller.principal.clone(), detail),
        };
        entry.kind = Kind::Denial;
        self.ledger.write_blocking(move |batch| batch.append(entry))
    }
}

fn with_hint(error: &aios_tool_api::ToolError) -> String {
    if error.hint.is_empty() {
        error.message.clone()
    } else {
        format!("{} ({})", error.message, error.hint)
    }
}

/// A record about undoing a call: of its goal and task, by whoever undoes it now.
fn rollback_entry(caller: &Caller, call: &Call, detail: serde_json::Value) -> Entry {
    let who = OnBehalf {
        principal: caller.principal.clone(),
        role: caller.role.clone(),
        agent: String::new(),
        goal_id: call.goal_id.clone(),
        task_id: call.task_id.clone(),
    };
    crate::prepare::entry_for(Kind::Rollback, &who, &call.call_id, &call.tool, detail)
}
