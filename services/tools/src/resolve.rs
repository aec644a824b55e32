//! A repeated call whose first attempt was cut short when the daemon ended.

use std::sync::atomic::Ordering;

use aios_kit::{Category, Error};
use aios_proto::v1::ExecuteReply;
use aios_tool_api::{PreImage, Undone};
use serde_json::json;

use crate::{
    act::Act,
    calls::{self, Call, State},
    ledger::{Kind, LedgerError},
    outcome::Outcome,
    prepare::{Prepared, guarded},
};

impl Act {
    /// What to do with a call that was cut short when the daemon ended: make it again if that is
    /// harmless or it never acted, else undo it first, else say that nobody knows. `None` means: go on and make it.
    pub(crate) fn resolve_cut_short(
        &self,
        prepared: &Prepared,
        call: &mut Call,
    ) -> Result<Option<ExecuteReply>, LedgerError> {
        if call.state == State::Intended || prepared.idempotent {
            return Ok(None);
        }
        let mut why = "it cannot be undone".to_owned();
        if let Some(text) = call.pre_image.take() {
            let data = serde_json::from_str(&text)
                .map_err(|error| LedgerError::Damaged(format!("call {}: {error}", call.call_id)))?;
            let tool = &prepared.entry.tool;
            let undone = guarded(prepared.entry.spec.name, || {
                tool.undo(&prepared.args, &PreImage { data }, None, &self.context)
            });
            let (word, said) = match &undone {
                Ok(Undone::Undone(said)) => ("undone", said.clone()),
                Ok(Undone::Nothing(said)) => ("nothing_to_undo", said.clone()),
                Ok(Undone::Refused(said)) => ("refused", said.clone()),
                Err(error) => ("failed", error.to_string()),
            };
            let detail = json!({ "phase": "recovery", "outcome": word, "detail": said });
            let record = call.entry(Kind::Rollback, detail);
            self.engine
                .ledger
                .write_blocking(move |batch| batch.append(record))?;
            if matches!(undone, Ok(Undone::Undone(_) | Undone::Nothing(_))) {
                return Ok(None);
            }
            call.pre_image = Some(text);
            why = format!("undoing it was not possible: {said}");
        }
        let error = Error::new(
            Category::Conflict,
            format!(
                "{} was cut short when aios-tools ended, and nobody knows whether it was done; {why}",
                call.tool
            ),
        )
        .hint(format!(
            "look at the machine and at `aios audit list --call {}`; then ask again with a new key if it was not done",
            call.call_id
        ));
        let outcome = Outcome::error("unknown", error);
        call.finish(&outcome, 0);
        let detail = outcome.detail(true, 0);
        let mut row = call.clone();
        let row = self.engine.ledger.write_blocking(move |batch| {
            row.outcome_seq = batch.append(row.entry(Kind::Outcome, detail))?;
            calls::put(batch, &row)?;
            Ok(row)
        })?;
        self.engine.interrupted.fetch_sub(1, Ordering::Relaxed);
        Ok(Some(row.reply(false)))
    }
}
