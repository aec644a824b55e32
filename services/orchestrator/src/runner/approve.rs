//! Waiting for a person's word. What is decided is recorded in the ledger first, then stored with
//! the goal, and only then acted on.

use std::time::Duration;

use aios_kit::{Category, Error as KitError};
use aios_proto::v1::RecordEventRequest;
use serde_json::json;

use super::{Commands, Runner};
use crate::{
    approval::{Approval, Status},
    clients::Person,
    error::Error,
    plan::{Checked, Step},
    state::{GoalStatus, TaskStatus},
    store::now_ms,
};

impl Runner {
    /// Asks for one step.
    pub(super) fn ask_for(
        &mut self,
        index: usize,
        step: &Step,
        checked: &Checked,
    ) -> Result<(), Error> {
        let now = now_ms();
        let task_id = format!("{}-{index}", self.goal.id);
        let approval = Approval {
            id: format!("approval-{task_id}"),
            goal_id: self.goal.id.clone(),
            task_id,
            tool: step.tool.clone(),
            args_json: step.args.to_string(),
            risk: checked.risk.clone(),
            action_hash: checked.action_hash.clone(),
            requested_by: self.goal.principal.clone(),
            created_ms: now,
            expires_ms: now.saturating_add(
                self.ctx
                    .config
                    .goals
                    .approval_timeout_s
                    .saturating_mul(1_000),
            ),
            status: Status::Pending,
            decided_by: String::new(),
            reason: checked.reason.clone(),
        };
        self.note(format!("asked for {}", step.id), approval)
    }

    fn note(&mut self, summary: String, approval: Approval) -> Result<(), Error> {
        let detail =
            serde_json::to_value(&approval).map_err(|error| Error::Stored(error.to_string()))?;
        self.decide("approval", summary, &detail);
        self.approvals.insert(approval.id.clone(), approval);
        Ok(())
    }

    pub(super) async fn approval_phase(&mut self, commands: &mut Commands) -> Result<(), Error> {
        if self.goal.cancel_requested {
            return self.finish(GoalStatus::Cancelled, "it was cancelled").await;
        }
        let waiting = self
            .tasks
            .iter()
            .any(|task| task.status == TaskStatus::AwaitingApproval.name());
        if !waiting {
            self.set_status(GoalStatus::Running)?;
            return self.save().await;
        }
        let first_end = self
            .approvals
            .values()
            .filter(|approval| approval.status == Status::Pending)
            .map(|approval| approval.expires_ms)
            .min();
        let end = async {
            match first_end {
                Some(end) => {
                    tokio::time::sleep(Duration::from_millis(end.saturating_sub(now_ms()))).await
                }
                None => std::future::pending().await,
            }
        };
        if self.until(commands, end).await?.is_some() {
            self.expire_approvals().await?;
        }
        Ok(())
    }

    async fn expire_approvals(&mut self) -> Result<(), Error> {
        let now = now_ms();
        let over: Vec<Approval> = self
            .approvals
            .values()
            .filter(|approval| approval.status == Status::Pending && approval.expires_ms <= now)
            .cloned()
            .collect();
        if over.is_empty() {
            return Ok(());
        }
        for approval in over {
            let approval = Approval {
                status: Status::Expired,
                ..approval
            };
            self.ctx.remember(&approval);
            self.note(
                format!("nobody decided about {} in time", approval.tool),
                approval,
            )?;
        }
        self.finish(
            GoalStatus::Expired,
            "nobody decided about its approvals in time",
        )
        .await
    }

    /// A person decides. An inner error is the person's; an outer one is the store's.
    pub(super) async fn decide_approval(
        &mut self,
        id: &str,
        by: &Person,
        approve: bool,
        action_hash: &str,
        reason: &str,
    ) -> Result<Result<Approval, KitError>, Error> {
        let Some(approval) = self.approvals.get(id).cloned() else {
            return Ok(Err(KitError::new(
                Category::Validation,
                format!("there is no approval {id}"),
            )));
        };
        if let Err(error) = approval.may_decide(action_hash, now_ms()) {
            return Ok(Err(error));
        }
        let status = if approve {
            Status::Approved
        } else {
            Status::Denied
        };
        let approval = Approval {
            status,
            decided_by: by.principal.clone(),
            reason: reason.to_owned(),
            ..approval
        };
        let event = RecordEventRequest {
            kind: "approval".to_owned(),
            summary: format!("{} by {}: {}", status.name(), by.principal, approval.tool),
            detail_json: json!({
                "approval_id": approval.id,
                "action_hash": approval.action_hash,
                "tool": approval.tool,
                "risk": approval.risk,
                "decision": status.name(),
                "role": by.role,
                "reason": reason,
            })
            .to_string(),
            principal: by.principal.clone(),
            goal_id: approval.goal_id.clone(),
            task_id: approval.task_id.clone(),
        };
        if let Err(error) = self.ctx.tools.record(by, event).await {
            return Ok(Err(error.to_kit()));
        }
        let index = self
            .tasks
            .iter()
            .position(|task| task.id == approval.task_id);
        self.note(
            format!("{} by {}", status.name(), by.principal),
            approval.clone(),
        )?;
        if approve {
            if let Some(index) = index {
                self.set_task(index, TaskStatus::Pending)?;
            }
            let waits = self
                .tasks
                .iter()
                .any(|task| task.status == TaskStatus::AwaitingApproval.name());
            if !waits && self.status()? == GoalStatus::AwaitingApproval {
                self.set_status(GoalStatus::Running)?;
            }
            self.save().await?;
        } else {
            if let Some(index) = index {
                self.set_task(index, TaskStatus::Refused)?;
            }
            let why = if reason.is_empty() {
                String::new()
            } else {
                format!(": {reason}")
            };
            self.finish(
                GoalStatus::Refused,
                &format!("{} denied {}{why}", by.principal, approval.tool),
            )
            .await?;
        }
        self.ctx.remember(&approval);
        Ok(Ok(approval))
    }
}
