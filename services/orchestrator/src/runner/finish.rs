//! The end of a goal: what was done, in words, and the pattern that is kept of a plan that worked.

use std::collections::BTreeMap;

use aios_proto::v1::Pattern;
use serde_json::Value;

use super::{Runner, prepare::shown};
use crate::{
    error::Error,
    plan::{Kind, Plan, PlannedBy},
    state::{GoalStatus, TaskStatus},
    store::now_ms,
};

impl Runner {
    /// Nothing runs and nothing is ready: the goal is done.
    pub(super) async fn conclude(&mut self) -> Result<(), Error> {
        let open = self
            .tasks
            .iter()
            .find(|task| task.status != TaskStatus::Completed.name());
        if let Some(task) = open {
            let reason = format!(
                "task {} is {} and nothing can bring it on",
                task.step_id, task.status
            );
            return self.finish(GoalStatus::Failed, &reason).await;
        }
        self.finish(GoalStatus::Completed, "").await
    }

    /// Ends the goal. What was never begun is marked so; what was done is told.
    pub(super) async fn finish(&mut self, status: GoalStatus, reason: &str) -> Result<(), Error> {
        let left = match status {
            GoalStatus::Cancelled | GoalStatus::Expired => TaskStatus::Cancelled,
            _ => TaskStatus::Skipped,
        };
        for index in 0..self.tasks.len() {
            let now = self
                .tasks
                .get(index)
                .map(|task| TaskStatus::parse(&task.status))
                .transpose()?;
            if now.is_some_and(|now| !now.is_terminal()) {
                self.set_task(index, left)?;
            }
        }
        self.goal.result = if status == GoalStatus::Completed {
            self.answer()
        } else {
            self.done_so_far()
        };
        reason.clone_into(&mut self.goal.reason);
        self.set_status(status)?;
        let summary = if reason.is_empty() {
            status.name().to_owned()
        } else {
            format!("{status}: {reason}")
        };
        self.decide("outcome", summary, &Value::Null);
        match self.pattern(status).await {
            Ok(pattern) => self.patterns.extend(pattern),
            Err(error) => {
                tracing::warn!(goal = self.goal.id, %error, "the pattern of a goal could not be kept")
            }
        }
        self.save().await?;
        self.withdraw_approvals();
        Ok(())
    }

    /// Approvals of a goal that has ended cannot be decided any more.
    fn withdraw_approvals(&self) {
        for approval in self.approvals.values() {
            let mut approval = approval.clone();
            if approval.status == crate::approval::Status::Pending {
                approval.status = crate::approval::Status::Expired;
                approval.reason = format!("the goal is {}", self.goal.status);
            }
            self.ctx.remember(&approval);
        }
    }

    /// The result of a goal that is completed.
    fn answer(&self) -> String {
        let Some(plan) = &self.plan else {
            return String::new();
        };
        let results = self.results();
        match plan.worded(&results) {
            Ok(Some(text)) => return text,
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(plan = plan.source, error, "the answer could not be worded")
            }
        }
        self.tasks
            .iter()
            .filter(|task| task.kind == Kind::Step.name())
            .map(|task| match results.get(&task.step_id) {
                Some(result) => format!("{}: {}", task.tool, shown(result)),
                None => format!("{}: done", task.tool),
            })
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn results(&self) -> BTreeMap<String, Value> {
        self.tasks
            .iter()
            .filter_map(|task| {
                Some((
                    task.step_id.clone(),
                    serde_json::from_str(&task.result_json).ok()?,
                ))
            })
            .collect()
    }

    /// What a goal that did not come to its end has done, so that nobody has to guess.
    fn done_so_far(&self) -> String {
        let steps: Vec<_> = self
            .tasks
            .iter()
            .filter(|task| task.kind == Kind::Step.name())
            .collect();
        let done: Vec<String> = steps
            .iter()
            .filter(|task| task.status == TaskStatus::Completed.name())
            .map(|task| {
                let args: Value = serde_json::from_str(&task.args_json).unwrap_or_default();
                format!("{} {}", task.tool, shown(&args))
            })
            .collect();
        match (done.is_empty(), steps.is_empty()) {
            (_, true) => String::new(),
            (true, false) => "nothing was done".to_owned(),
            (false, false) => format!("done before that: {}", done.join("; ")),
        }
    }

    /// The pattern of a plan with one more success or failure; stored together with the goal's end.
    async fn pattern(&self, status: GoalStatus) -> Result<Option<Pattern>, Error> {
        let Some(plan) = self
            .plan
            .as_ref()
            .filter(|_| matches!(status, GoalStatus::Completed | GoalStatus::Failed))
        else {
            return Ok(None);
        };
        let id = pattern_id(plan, &self.goal.text);
        let known = self
            .ctx
            .store
            .patterns(&self.goal.text)
            .await?
            .into_iter()
            .find(|pattern| pattern.id == id);
        let mut pattern = known.unwrap_or_else(|| Pattern {
            id,
            goal_text: self.goal.text.clone(),
            procedure: if plan.planner == PlannedBy::Procedure {
                plan.source.clone()
            } else {
                String::new()
            },
            ..Pattern::default()
        });
        let counter = if status == GoalStatus::Completed {
            &mut pattern.successes
        } else {
            &mut pattern.failures
        };
        *counter = counter.saturating_add(1);
        pattern.last_used_ms = now_ms();
        pattern.plan_json = plan.to_json()?;
        Ok(Some(pattern))
    }
}

/// The same words with the same plan are the same pattern.
fn pattern_id(plan: &Plan, goal_text: &str) -> String {
    let words = goal_text
        .split_whitespace()
        .map(str::to_lowercase)
        .collect::<Vec<_>>()
        .join(" ");
    let words = words.trim_end_matches(['.', '!', '?', ' ']);
    let text = format!("{}\n{}\n{words}", plan.planner.name(), plan.source);
    format!(
        "pattern-{}",
        aios_tool_api::canonical::sha256_hex(text.as_bytes())
    )
}
