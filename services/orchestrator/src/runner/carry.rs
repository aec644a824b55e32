//! One attempt of one task: grant, call, close. Runs beside its goal's runner and owns nothing of it.
//!
//! Invariants: a grant is for exactly this action, agent and time, and is closed when the attempt
//! ends; an attempt whose answer was lost is reported as lost and never as failed, since the key lets
//! it be asked again.

use std::{sync::Arc, time::Duration};

use aios_kit::{Category, Error as KitError};
use aios_proto::v1::{
    CancelTaskRequest, ErrorDetail, ExecuteReply, Grant, LedgerRecord, RunTaskRequest,
    agent_client::AgentClient,
};
use serde_json::Value;

use crate::{
    agents::Lease, clients::Person, context::Context, error::Error, plan::Checked, store::now_ms,
};

/// What an agent may take beyond the tool's own deadline.
const GRACE: Duration = Duration::from_secs(5);
/// How often the ledger is looked at while a lost call settles.
const LOOK: Duration = Duration::from_millis(200);

/// One attempt.
#[derive(Debug, Clone)]
pub(super) struct Attempt {
    pub(super) task_id: String,
    pub(super) goal_id: String,
    pub(super) tool: String,
    pub(super) args_json: String,
    pub(super) attempt: u32,
    pub(super) approval_id: String,
    pub(super) checked: Checked,
    pub(super) person: Person,
}

/// How it ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The call has an outcome.
    Called(Box<ExecuteReply>),
    /// It is not known whether it was done; the same key finds out.
    Lost(String),
    /// It was not begun, and will not be.
    NotBegun(KitError),
}

impl Attempt {
    /// The key of this attempt. The first is the task's id; a further one follows only a recorded
    /// failure, which the same key would only return again.
    fn key(&self) -> String {
        if self.attempt <= 1 {
            self.task_id.clone()
        } else {
            format!("{}#{}", self.task_id, self.attempt)
        }
    }

    /// Has it carried out by the agent of this lease.
    pub(super) async fn run(&self, ctx: &Arc<Context>, lease: &Lease) -> Ended {
        let deadline = Duration::from_millis(u64::from(self.checked.deadline_ms)) + GRACE;
        let lifetime = u64::try_from((deadline + GRACE).as_millis()).unwrap_or(u64::MAX);
        let grant = Grant {
            task_id: self.task_id.clone(),
            goal_id: self.goal_id.clone(),
            agent: lease.agent.clone(),
            tool: self.tool.clone(),
            action_hash: self.checked.action_hash.clone(),
            principal: self.person.principal.clone(),
            role: self.person.role.clone(),
            expires_ms: now_ms().saturating_add(lifetime),
            approval_id: self.approval_id.clone(),
        };
        if let Err(error) = ctx.tools.open_grant(&self.person, grant).await {
            let error = error.to_kit();
            return if error.retryable() {
                Ended::Lost(error.to_string())
            } else {
                Ended::NotBegun(error)
            };
        }
        let mut client = AgentClient::new(aios_kit::client::channel(
            &ctx.paths.agent_socket(&lease.agent),
        ))
        .max_decoding_message_size(16 << 20);
        let request = RunTaskRequest {
            task_id: self.task_id.clone(),
            goal_id: self.goal_id.clone(),
            tool: self.tool.clone(),
            args_json: self.args_json.clone(),
            attempt: self.attempt,
            idempotency_key: self.key(),
            deadline_ms: self.checked.deadline_ms,
        };
        let ended = match tokio::time::timeout(deadline, client.run_task(request)).await {
            Ok(Ok(reply)) => match reply.into_inner().call {
                Some(call) => Ended::Called(Box::new(call)),
                None => Ended::Lost("the agent answered without an outcome".to_owned()),
            },
            Ok(Err(status)) => {
                let error = KitError::from(status);
                match error.category() {
                    // The agent says that the request can never be right, or that it may not.
                    Category::Validation | Category::Auth => Ended::NotBegun(error),
                    _ => Ended::Lost(error.to_string()),
                }
            }
            Err(_) => Ended::Lost(format!(
                "agent {} did not answer in {} s",
                lease.agent,
                deadline.as_secs()
            )),
        };
        if matches!(ended, Ended::Lost(_)) {
            ctx.agents.suspect(&lease.agent);
        }
        if let Err(error) = ctx.tools.close_grant(&self.person, &self.task_id).await {
            tracing::warn!(task = self.task_id, %error, "a grant could not be closed; it ends by itself");
        }
        ended
    }

    /// Finds out what became of a call that must not be begun any more: the grant is closed, so what
    /// the ledger has is all there will be.
    pub(super) async fn settle(&self, ctx: &Arc<Context>, agent: &str) -> Result<Ended, Error> {
        ctx.tools.close_grant(&self.person, &self.task_id).await?;
        tell_to_stop(ctx, agent, &self.task_id, "the goal was stopped").await;
        let limit = Duration::from_millis(u64::from(self.checked.deadline_ms)) + GRACE;
        let end = tokio::time::Instant::now() + limit;
        loop {
            let records: Vec<LedgerRecord> = ctx
                .tools
                .ledger(&self.person, &self.goal_id)
                .await?
                .into_iter()
                .filter(|record| record.task_id == self.task_id)
                .collect();
            let Some(intent) = records.iter().rev().find(|record| record.kind == "intent") else {
                let error = KitError::new(Category::Conflict, "it was stopped before it was begun");
                return Ok(Ended::NotBegun(error));
            };
            let outcome = records
                .iter()
                .find(|record| record.kind == "outcome" && record.call_id == intent.call_id);
            if let Some(outcome) = outcome {
                return Ok(Ended::Called(Box::new(from_ledger(intent, outcome))));
            }
            if tokio::time::Instant::now() >= end {
                return Ok(Ended::Called(Box::new(ExecuteReply {
                    call_id: intent.call_id.clone(),
                    outcome: "unknown".to_owned(),
                    intent_seq: intent.seq,
                    ..ExecuteReply::default()
                })));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn from_ledger(intent: &LedgerRecord, outcome: &LedgerRecord) -> ExecuteReply {
    let detail: Value = serde_json::from_str(&outcome.detail_json).unwrap_or_default();
    let word = detail
        .get("outcome")
        .and_then(Value::as_str)
        .unwrap_or("unknown")
        .to_owned();
    let message = format!("its outcome is in the ledger, record {}", outcome.seq);
    ExecuteReply {
        call_id: intent.call_id.clone(),
        result_json: detail
            .get("result")
            .map(ToString::to_string)
            .unwrap_or_default(),
        error: (word != "ok").then(|| KitError::new(Category::Conflict, message).detail()),
        outcome: word,
        intent_seq: intent.seq,
        outcome_seq: outcome.seq,
        replayed: true,
        ..ExecuteReply::default()
    }
}

/// Asks an agent to stop a task. It is only asked: what became of the task is seen from its answer.
pub(super) async fn tell_to_stop(ctx: &Context, agent: &str, task_id: &str, reason: &str) {
    if agent.is_empty() {
        return;
    }
    let mut client = AgentClient::new(aios_kit::client::channel(&ctx.paths.agent_socket(agent)));
    let request = CancelTaskRequest {
        task_id: task_id.to_owned(),
        reason: reason.to_owned(),
    };
    match tokio::time::timeout(Duration::from_secs(2), client.cancel_task(request)).await {
        Ok(Ok(_)) => {}
        Ok(Err(status)) => {
            tracing::warn!(agent, task_id, %status, "the agent could not be told to stop a task")
        }
        Err(_) => tracing::warn!(
            agent,
            task_id,
            "the agent did not answer when told to stop a task"
        ),
    }
}

/// An error for a task's record.
pub(super) fn error_json(detail: Option<&ErrorDetail>, fallback: &str) -> String {
    let detail = detail
        .cloned()
        .unwrap_or_else(|| KitError::new(Category::Internal, fallback).detail());
    serde_json::to_string(&detail).unwrap_or_default()
}
