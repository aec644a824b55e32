//! How a call's row, record and reply follow from its outcome.

use aios_proto::v1::ExecuteReply;
use serde_json::Value;

use crate::{
    calls::{Call, State},
    catalogue::CatalogueEntry,
    ledger::{Entry, Kind, now_ms},
    outcome::{Outcome, store_error, stored_error},
    prepare::{OnBehalf, entry_for},
};

impl Call {
    /// Whether its outcome is what every repetition gets. A failure that may pass is tried again,
    /// if trying again cannot do anything twice.
    #[must_use]
    pub fn is_final(&self, entry: &CatalogueEntry) -> bool {
        if self.state != State::Done {
            return false;
        }
        let may_pass = self
            .error
            .as_deref()
            .and_then(stored_error)
            .is_some_and(|error| error.retryable);
        self.outcome == "ok" || !may_pass || !(self.risk == "low" || entry.spec.idempotent)
    }

    /// Takes in how it ended.
    pub fn finish(&mut self, outcome: &Outcome, duration_us: u64) {
        self.state = State::Done;
        self.outcome = outcome.name.to_owned();
        self.result = outcome.result.as_ref().map(ToString::to_string);
        self.error = outcome.error.as_ref().map(store_error);
        self.duration_us = duration_us;
        self.ended_ms = now_ms();
    }

    /// A record about this call.
    #[must_use]
    pub fn entry(&self, kind: Kind, detail: Value) -> Entry {
        let who = OnBehalf {
            principal: self.principal.clone(),
            role: self.role.clone(),
            agent: self.agent.clone(),
            goal_id: self.goal_id.clone(),
            task_id: self.task_id.clone(),
        };
        entry_for(kind, &who, &self.call_id, &self.tool, detail)
    }

    /// The reply that its outcome is.
    #[must_use]
    pub fn reply(&self, replayed: bool) -> ExecuteReply {
        ExecuteReply {
            call_id: self.call_id.clone(),
            outcome: self.outcome.clone(),
            result_json: self.result.clone().unwrap_or_default(),
            error: self.error.as_deref().and_then(stored_error),
            intent_seq: self.intent_seq,
            outcome_seq: self.outcome_seq,
            replayed,
            reversible: self.outcome == "ok" && self.pre_image.is_some(),
            risk: self.risk.clone(),
            duration_us: self.duration_us,
        }
    }
}
