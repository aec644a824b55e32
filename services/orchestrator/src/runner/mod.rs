//! One goal from its first stored state to its end. A runner owns its goal: nothing else changes it.
//!
//! Invariants: `save` comes before the act that it describes; an error of the store ends the runner,
//! which then starts again from what is stored; a goal has ended only when nothing of it runs.

mod approve;
mod carry;
mod drive;
mod finish;
mod outcome;
mod prepare;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::Arc,
    time::Duration,
};

use aios_kit::{Category, Error as KitError};
use aios_proto::v1::{CommitRequest, Decision, GoalRecord, GoalUpdate, Pattern, TaskRecord};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

pub use prepare::{Prepared, prepare};

use crate::{
    approval::Approval,
    clients::Person,
    context::Context,
    error::Error,
    plan::{Plan, Step},
    state::{GoalStatus, TaskStatus},
    store::now_ms,
};

/// Answers a command.
pub type Reply<T> = oneshot::Sender<Result<T, KitError>>;

/// What a person may tell a running goal.
#[derive(Debug)]
pub enum Command {
    /// Stop, really.
    Cancel {
        /// Who says so.
        by: String,
        /// Why.
        reason: String,
        /// The goal as it is then.
        reply: Reply<GoalRecord>,
    },
    /// Begin nothing further.
    Pause(String, Reply<GoalRecord>),
    /// Go on.
    Resume(String, Reply<GoalRecord>),
    /// Decide an approval.
    Decide {
        /// Which.
        id: String,
        /// Who decides.
        by: Person,
        /// Yes or no.
        approve: bool,
        /// The hash that was shown.
        action_hash: String,
        /// Why.
        reason: String,
        /// The approval as it is then.
        reply: Reply<Approval>,
    },
}

/// Where commands come from.
pub type Commands = mpsc::Receiver<Command>;

/// A goal that is being worked on.
pub struct Runner {
    ctx: Arc<Context>,
    goal: GoalRecord,
    plan: Option<Plan>,
    tasks: Vec<TaskRecord>,
    approvals: BTreeMap<String, Approval>,
    decisions: u64,
    // What has changed since the last commit.
    goal_changed: bool,
    tasks_changed: BTreeSet<usize>,
    decided: Vec<Decision>,
    patterns: Vec<Pattern>,
    plan_is_new: bool,
}

impl Runner {
    /// Takes a goal over from what is stored; `None` when it has ended.
    ///
    /// # Errors
    /// When memory does not answer, or what it holds cannot be understood.
    pub async fn load(ctx: Arc<Context>, id: &str) -> Result<Option<Self>, Error> {
        let Some(goal) = ctx.store.goal(id).await? else {
            return Ok(None);
        };
        if GoalStatus::parse(&goal.status)?.is_terminal() {
            return Ok(None);
        }
        let plan = if goal.plan_json.is_empty() {
            None
        } else {
            Some(Plan::from_json(&goal.plan_json)?)
        };
        let tasks = ctx.store.tasks(id).await?;
        let stored = ctx.store.decisions(id).await?;
        let mut approvals = BTreeMap::new();
        for decision in stored.iter().filter(|decision| decision.kind == "approval") {
            let approval: Approval = serde_json::from_str(&decision.detail_json)
                .map_err(|error| Error::Stored(format!("an approval of goal {id}: {error}")))?;
            ctx.remember(&approval);
            approvals.insert(approval.id.clone(), approval);
        }
        Ok(Some(Self {
            ctx,
            goal,
            plan,
            tasks,
            approvals,
            decisions: stored.last().map_or(0, |decision| decision.seq),
            goal_changed: false,
            tasks_changed: BTreeSet::new(),
            decided: Vec::new(),
            patterns: Vec::new(),
            plan_is_new: false,
        }))
    }

    /// Works until the goal has ended.
    ///
    /// # Errors
    /// When something cannot be stored; nothing has then been done that is not stored.
    pub async fn run(mut self, commands: &mut Commands) -> Result<(), Error> {
        loop {
            let busy = self
                .tasks
                .iter()
                .any(|task| task.status == TaskStatus::Running.name());
            match self.status()? {
                GoalStatus::Received | GoalStatus::Planning => self.plan_phase(commands).await?,
                GoalStatus::AwaitingApproval => self.approval_phase(commands).await?,
                GoalStatus::Running => self.drive(commands).await?,
                GoalStatus::Paused if busy => self.drive(commands).await?,
                GoalStatus::Paused => {
                    self.until(commands, std::future::pending::<()>()).await?;
                }
                GoalStatus::Completed
                | GoalStatus::Failed
                | GoalStatus::Refused
                | GoalStatus::Cancelled
                | GoalStatus::Expired => return Ok(()),
            }
        }
    }

    fn status(&self) -> Result<GoalStatus, Error> {
        GoalStatus::parse(&self.goal.status)
    }

    fn person(&self) -> Person {
        Person {
            principal: self.goal.principal.clone(),
            role: self.goal.role.clone(),
        }
    }

    fn step(&self, task: &TaskRecord) -> Option<&Step> {
        self.plan
            .as_ref()?
            .steps
            .iter()
            .find(|step| step.id == task.step_id)
    }

    /// Changes the goal's state, if the table allows it.
    fn set_status(&mut self, next: GoalStatus) -> Result<(), Error> {
        let now = self.status()?;
        if now != next {
            now.to(next)?.name().clone_into(&mut self.goal.status);
            self.goal_changed = true;
            self.decide("state", format!("{now} → {next}"), &Value::Null);
        }
        Ok(())
    }

    /// Changes a task's state, if the table allows it.
    fn set_task(&mut self, index: usize, next: TaskStatus) -> Result<(), Error> {
        let Some(task) = self.tasks.get_mut(index) else {
            return Err(Error::Stored(format!(
                "goal {} has no task {index}",
                self.goal.id
            )));
        };
        let now = TaskStatus::parse(&task.status)?;
        if now == next {
            return Ok(());
        }
        now.to(next)?;
        next.name().clone_into(&mut task.status);
        if next.is_terminal() {
            task.finished_ms = now_ms();
        }
        self.tasks_changed.insert(index);
        Ok(())
    }

    fn decide(&mut self, kind: &str, summary: String, detail: &Value) {
        self.decisions += 1;
        self.decided.push(Decision {
            goal_id: self.goal.id.clone(),
            seq: self.decisions,
            time_ms: now_ms(),
            kind: kind.to_owned(),
            summary,
            detail_json: if detail.is_null() {
                "{}".to_owned()
            } else {
                detail.to_string()
            },
        });
    }

    /// Makes everything that has changed durable, in one transaction, and then tells those who follow.
    async fn save(&mut self) -> Result<(), Error> {
        if !self.goal_changed && self.tasks_changed.is_empty() && self.decided.is_empty() {
            return Ok(());
        }
        let now = now_ms();
        if self.goal_changed {
            self.goal.version += 1;
            self.goal.updated_ms = now;
        }
        let changed = std::mem::take(&mut self.tasks_changed);
        for index in &changed {
            if let Some(task) = self.tasks.get_mut(*index) {
                task.version += 1;
            }
        }
        let tasks: Vec<TaskRecord> = changed
            .iter()
            .filter_map(|index| self.tasks.get(*index).cloned())
            .collect();
        let request = CommitRequest {
            goals: self
                .goal_changed
                .then(|| self.goal.clone())
                .into_iter()
                .collect(),
            tasks: tasks.clone(),
            decisions: std::mem::take(&mut self.decided),
            patterns: std::mem::take(&mut self.patterns),
            ..CommitRequest::default()
        };
        self.ctx.store.commit(request).await?;
        let plan = std::mem::take(&mut self.plan_is_new)
            .then(|| self.plan.as_ref().map(Plan::reply))
            .flatten();
        let status = self.status()?;
        let goal_changed = std::mem::take(&mut self.goal_changed);
        let (id, goal) = (self.goal.id.clone(), self.goal.clone());
        for task in tasks {
            self.ctx.store.event(
                "task",
                &id,
                format!("task {} ({}) is {}", task.step_id, task.tool, task.status),
            );
            self.ctx.hub.tell(
                &id,
                GoalUpdate {
                    goal: Some(goal.clone()),
                    task: Some(task),
                    plan: None,
                    ended: false,
                },
            );
        }
        if goal_changed {
            self.ctx
                .store
                .event("goal", &id, format!("the goal is {status}"));
            self.ctx.hub.tell(
                &id,
                GoalUpdate {
                    goal: Some(goal),
                    task: None,
                    plan,
                    ended: status.is_terminal(),
                },
            );
        }
        Ok(())
    }

    /// How long until the goal's deadline.
    async fn deadline(deadline_ms: u64) {
        if deadline_ms == 0 {
            return std::future::pending().await;
        }
        tokio::time::sleep(Duration::from_millis(deadline_ms.saturating_sub(now_ms()))).await;
    }

    /// Does `work` while nothing of the goal runs, and listens to commands meanwhile. `None` when a
    /// command or the deadline has changed the goal's state.
    async fn until<T>(
        &mut self,
        commands: &mut Commands,
        work: impl Future<Output = T>,
    ) -> Result<Option<T>, Error> {
        tokio::pin!(work);
        let deadline = Self::deadline(self.goal.deadline_ms);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => if self.at_rest(command).await? { return Ok(None) },
                    // The daemon is stopping; what is stored is where the next one goes on.
                    None => return std::future::pending().await,
                },
                () = &mut deadline => {
                    self.finish(GoalStatus::Expired, "its deadline passed").await?;
                    return Ok(None);
                }
                done = &mut work => return Ok(Some(done)),
            }
        }
    }

    /// Obeys a command while nothing of the goal runs; says whether the goal's state has changed.
    async fn at_rest(&mut self, command: Command) -> Result<bool, Error> {
        let before = self.status()?;
        match command {
            Command::Cancel { by, reason, reply } => {
                self.goal.cancel_requested = true;
                self.goal_changed = true;
                let why = cancelled_by(&by, &reason);
                self.finish(GoalStatus::Cancelled, &why).await?;
                drop(reply.send(Ok(self.goal.clone())));
            }
            Command::Pause(by, reply) => {
                let answer = self.pause(&by).await?;
                drop(reply.send(answer));
            }
            Command::Resume(by, reply) => {
                let answer = self.resume(&by).await?;
                drop(reply.send(answer));
            }
            Command::Decide {
                id,
                by,
                approve,
                action_hash,
                reason,
                reply,
            } => {
                let answer = self
                    .decide_approval(&id, &by, approve, &action_hash, &reason)
                    .await?;
                drop(reply.send(answer));
            }
        }
        Ok(self.status()? != before)
    }

    async fn pause(&mut self, by: &str) -> Result<Result<GoalRecord, KitError>, Error> {
        if self.status()? != GoalStatus::Paused {
            self.decide("state", format!("paused by {by}"), &Value::Null);
            self.set_status(GoalStatus::Paused)?;
            self.save().await?;
        }
        Ok(Ok(self.goal.clone()))
    }

    async fn resume(&mut self, by: &str) -> Result<Result<GoalRecord, KitError>, Error> {
        if self.status()? != GoalStatus::Paused {
            let message = format!("goal {} is {}, not paused", self.goal.id, self.goal.status);
            return Ok(Err(KitError::new(Category::Conflict, message)));
        }
        let waits = self
            .tasks
            .iter()
            .any(|task| task.status == TaskStatus::AwaitingApproval.name());
        let next = match (&self.plan, waits) {
            (None, _) => GoalStatus::Planning,
            (Some(_), true) => GoalStatus::AwaitingApproval,
            (Some(_), false) => GoalStatus::Running,
        };
        self.decide("state", format!("resumed by {by}"), &Value::Null);
        self.set_status(next)?;
        self.save().await?;
        Ok(Ok(self.goal.clone()))
    }
}

fn cancelled_by(by: &str, reason: &str) -> String {
    if reason.is_empty() {
        format!("cancelled by {by}")
    } else {
        format!("cancelled by {by}: {reason}")
    }
}
