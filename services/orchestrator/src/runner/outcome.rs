//! What an attempt's end means for its task and its goal: done, again, or failed.
//!
//! Invariants: only a recorded failure that may pass leads to a new key; a lost answer never does;
//! what is not known is said to be not known.

use std::time::{Duration, Instant};

use aios_kit::{Category, Error as KitError, retry};
use aios_proto::v1::ExecuteReply;
use backon::BackoffBuilder as _;
use serde_json::Value;

use super::{
    Runner,
    carry::{Ended, error_json},
    drive::Drive,
    prepare::shown,
};
use crate::{
    error::Error,
    plan::Kind,
    state::{GoalStatus, TaskStatus},
    store::now_ms,
};

/// How long lost attempts of one task are asked for again.
const LOST: Duration = Duration::from_secs(120);
/// Pause before a lost attempt is asked for again, and before a post-condition is looked at again.
const AGAIN: Duration = Duration::from_millis(250);

impl Runner {
    pub(super) async fn ended(
        &mut self,
        drive: &mut Drive,
        index: usize,
        ended: Ended,
    ) -> Result<(), Error> {
        let stopping = drive
            .stop
            .as_ref()
            .is_some_and(|stop| matches!(stop.status, GoalStatus::Cancelled | GoalStatus::Expired));
        match ended {
            Ended::Called(call) => {
                drive.lost_since.remove(&index);
                self.called(drive, index, *call, stopping).await
            }
            Ended::NotBegun(error) => {
                let status = if stopping {
                    TaskStatus::Cancelled
                } else {
                    TaskStatus::Failed
                };
                let detail = error_json(Some(&error.detail()), "");
                self.fail(drive, index, status, &detail, error.to_string())
                    .await
            }
            Ended::Lost(reason) if drive.stop.is_some() => {
                self.decide(
                    "retry",
                    format!("the answer of task {index} was lost, it is looked up: {reason}"),
                    &Value::Null,
                );
                self.save().await?;
                self.settle(drive, index);
                Ok(())
            }
            Ended::Lost(reason) => {
                let since = *drive.lost_since.entry(index).or_insert_with(Instant::now);
                let gives_up = since.elapsed() > LOST;
                let next = if gives_up {
                    "it is looked up"
                } else {
                    "it is asked for again under the same key"
                };
                self.decide(
                    "retry",
                    format!("the answer of task {index} was lost, {next}: {reason}"),
                    &Value::Null,
                );
                self.save().await?;
                if gives_up {
                    self.settle(drive, index);
                } else {
                    // It stays `running`: it may be.
                    self.wait_for_agent(drive, index, AGAIN);
                }
                Ok(())
            }
        }
    }

    /// A call has an outcome.
    async fn called(
        &mut self,
        drive: &mut Drive,
        index: usize,
        call: ExecuteReply,
        stopping: bool,
    ) -> Result<(), Error> {
        let Some(task) = self.tasks.get_mut(index) else {
            return Ok(());
        };
        if !call.call_id.is_empty() && !task.call_ids.contains(&call.call_id) {
            task.call_ids.push(call.call_id.clone());
        }
        task.result_json.clone_from(&call.result_json);
        task.error_json = String::new();
        let (tool, attempt, started, agent) = (
            task.tool.clone(),
            task.attempt,
            task.started_ms,
            task.agent.clone(),
        );
        let step = self.step(&self.tasks[index]).cloned();
        self.tasks_changed.insert(index);
        let message = call.error.as_ref().map_or_else(
            || "no reason was given".to_owned(),
            |error| {
                if error.hint.is_empty() {
                    error.message.clone()
                } else {
                    format!("{} ({})", error.message, error.hint)
                }
            },
        );
        let error = error_json(
            call.error.as_ref(),
            &format!("{tool} ended as {}", call.outcome),
        );
        match call.outcome.as_str() {
            "ok" => {
                self.ctx.agents.ended(&agent, true);
                let unmet = step
                    .as_ref()
                    .filter(|step| step.kind == Kind::Postcondition)
                    .and_then(|step| {
                        let result: Value =
                            serde_json::from_str(&call.result_json).unwrap_or_default();
                        step.expect
                            .iter()
                            .find_map(|expectation| expectation.check(&result).err())
                            .map(|text| (step.within_s, text))
                    });
                match unmet {
                    None => {
                        self.set_task(index, TaskStatus::Completed)?;
                        self.save().await
                    }
                    Some((within_s, _))
                        if !stopping
                            && now_ms()
                                < started.saturating_add(within_s.saturating_mul(1_000)) =>
                    {
                        self.again(drive, index, AGAIN, "the post-condition does not hold yet")
                            .await
                    }
                    Some((_, text)) => {
                        let detail = error_json(
                            Some(&KitError::new(Category::Conflict, text.clone()).detail()),
                            "",
                        );
                        let reason = format!("a post-condition does not hold: {tool}: {text}");
                        self.fail_with(drive, index, TaskStatus::Failed, &detail, reason)
                            .await
                    }
                }
            }
            "denied" => {
                self.fail(drive, index, TaskStatus::Refused, &error, message)
                    .await
            }
            "unknown" => {
                let reason = format!(
                    "it is not known whether {tool} was carried out (call {}): look at the machine and at `aios audit list`, \
                     put it right by hand or with `aios rollback`, then submit the goal again",
                    call.call_id
                );
                self.fail_with(drive, index, TaskStatus::Failed, &error, reason)
                    .await
            }
            _ if stopping => {
                self.fail(drive, index, TaskStatus::Cancelled, &error, message)
                    .await
            }
            "failed" | "timeout"
                if call.error.as_ref().is_some_and(|error| error.retryable)
                    && drive.stop.is_none() =>
            {
                if attempt >= self.ctx.config.goals.max_attempts {
                    self.ctx.agents.ended(&agent, false);
                    return self
                        .fail(
                            drive,
                            index,
                            TaskStatus::Failed,
                            &error,
                            format!("{message} (tried {attempt} times)"),
                        )
                        .await;
                }
                let asked = call.error.as_ref().map_or(0, |error| error.retry_after_ms);
                let usual = retry::backoff()
                    .build()
                    .nth(usize::try_from(attempt.saturating_sub(1)).unwrap_or(0))
                    .unwrap_or(Duration::from_secs(60));
                self.again(
                    drive,
                    index,
                    usual.max(Duration::from_millis(asked)),
                    &message,
                )
                .await
            }
            _ => {
                self.ctx.agents.ended(&agent, false);
                self.fail(drive, index, TaskStatus::Failed, &error, message)
                    .await
            }
        }
    }

    /// A further attempt, under a key of its own since the last one has a recorded outcome.
    async fn again(
        &mut self,
        drive: &mut Drive,
        index: usize,
        pause: Duration,
        why: &str,
    ) -> Result<(), Error> {
        self.set_task(index, TaskStatus::Ready)?;
        if let Some(task) = self.tasks.get_mut(index) {
            task.attempt = task.attempt.saturating_add(1);
            let summary = format!(
                "{} again in {} ms, attempt {}: {why}",
                task.tool,
                pause.as_millis(),
                task.attempt
            );
            self.decide("retry", summary, &Value::Null);
        }
        self.save().await?;
        if drive.stop.is_none() && self.status()? != GoalStatus::Paused {
            self.wait_for_agent(drive, index, pause);
        }
        Ok(())
    }

    pub(super) async fn fail(
        &mut self,
        drive: &mut Drive,
        index: usize,
        status: TaskStatus,
        error: &str,
        message: String,
    ) -> Result<(), Error> {
        let reason = self.tasks.get(index).map_or_else(String::new, |task| {
            let args: Value = serde_json::from_str(&task.args_json).unwrap_or_default();
            let verb = if status == TaskStatus::Refused {
                "was refused"
            } else {
                "failed"
            };
            format!("{} {} {verb}: {message}", task.tool, shown(&args))
        });
        self.fail_with(drive, index, status, error, reason).await
    }

    async fn fail_with(
        &mut self,
        drive: &mut Drive,
        index: usize,
        status: TaskStatus,
        error: &str,
        reason: String,
    ) -> Result<(), Error> {
        // A task that never ran cannot have been refused by a call.
        let now = self
            .tasks
            .get(index)
            .map(|task| TaskStatus::parse(&task.status))
            .transpose()?;
        let status = if now == Some(TaskStatus::Ready) && status == TaskStatus::Refused {
            TaskStatus::Failed
        } else {
            status
        };
        self.set_task(index, status)?;
        if let Some(task) = self.tasks.get_mut(index) {
            error.clone_into(&mut task.error_json);
        }
        self.decide("outcome", reason.clone(), &Value::Null);
        self.save().await?;
        let goal = match status {
            TaskStatus::Refused => GoalStatus::Refused,
            TaskStatus::Cancelled => return Ok(()),
            _ => GoalStatus::Failed,
        };
        self.stop(drive, goal, reason).await;
        Ok(())
    }
}
