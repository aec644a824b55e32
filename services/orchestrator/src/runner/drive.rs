//! Carrying a plan out: ready tasks get agents, attempts run beside each other, and every answer is
//! stored before the next thing is begun.

use std::{collections::BTreeMap, time::Duration, time::Instant};

use aios_kit::{Category, Error as KitError};
use serde_json::{Value, json};
use tokio::task::{AbortHandle, JoinSet};

use super::{
    Command, Commands, Runner, cancelled_by,
    carry::{Attempt, Ended, error_json, tell_to_stop},
};
use crate::{
    agents::Lease,
    approval::Status,
    error::Error,
    schedule,
    state::{GoalStatus, TaskStatus},
    store::now_ms,
};

/// How long a task may wait for an agent before its goal fails.
const AGENT_WAIT: Duration = Duration::from_secs(120);

enum Event {
    Leased(usize, Box<Lease>),
    NoAgent(usize, String),
    Ended(usize, Ended),
    Broken(Error),
}

enum Job {
    Waiting(AbortHandle),
    Running,
}

/// Why nothing further is begun.
pub(super) struct Stop {
    pub(super) status: GoalStatus,
    pub(super) reason: String,
}

/// What of a goal is under way.
#[derive(Default)]
pub(super) struct Drive {
    jobs: JoinSet<Event>,
    open: BTreeMap<usize, Job>,
    pub(super) stop: Option<Stop>,
    pub(super) lost_since: BTreeMap<usize, Instant>,
}

impl Runner {
    /// Runs until the goal has ended, or is paused and nothing of it runs.
    pub(super) async fn drive(&mut self, commands: &mut Commands) -> Result<(), Error> {
        let mut drive = Drive::default();
        // What was running when the last orchestrator died is asked for again under its key, or, if
        // the goal is to stop, looked up.
        let running: Vec<usize> = self.positions(TaskStatus::Running);
        if self.goal.cancel_requested {
            let reason = "it was cancelled before the orchestrator restarted".to_owned();
            drive.stop = Some(Stop {
                status: GoalStatus::Cancelled,
                reason,
            });
            for index in &running {
                self.settle(&mut drive, *index);
            }
        }
        let ctx = self.ctx.clone();
        let (priority, created, id) = (
            self.goal.priority,
            self.goal.created_ms,
            self.goal.id.clone(),
        );
        let _slot = if running.is_empty() && drive.stop.is_none() {
            match self
                .until(commands, ctx.slots.acquire(priority, created, &id))
                .await?
            {
                Some(slot) => Some(slot),
                None => return Ok(()),
            }
        } else {
            None
        };
        if drive.stop.is_none() {
            for index in running {
                self.decide(
                    "retry",
                    format!("task {index} is asked for again after a restart"),
                    &Value::Null,
                );
                self.save().await?;
                self.wait_for_agent(&mut drive, index, Duration::ZERO);
            }
        }
        let deadline = Self::deadline(self.goal.deadline_ms);
        tokio::pin!(deadline);
        let mut expired = false;
        loop {
            let paused = self.status()? == GoalStatus::Paused;
            if drive.stop.is_none() && !paused {
                self.begin_ready(&mut drive).await?;
            }
            if drive.open.is_empty() {
                if let Some(stop) = drive.stop.take() {
                    return self.finish(stop.status, &stop.reason).await;
                }
                if paused {
                    return Ok(());
                }
                return self.conclude().await;
            }
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => self.at_work(&mut drive, command).await?,
                    None => return std::future::pending().await,
                },
                () = &mut deadline, if !expired => {
                    expired = true;
                    self.stop(&mut drive, GoalStatus::Expired, "its deadline passed".to_owned()).await;
                }
                event = drive.jobs.join_next() => match event {
                    Some(Ok(event)) => self.happened(&mut drive, event).await?,
                    // A wait that was aborted.
                    Some(Err(error)) if error.is_cancelled() => {}
                    Some(Err(error)) => return Err(Error::Stored(format!("an attempt broke: {error}"))),
                    None => return Err(Error::Stored("attempts are open, but none runs".to_owned())),
                },
            }
        }
    }

    pub(super) fn positions(&self, status: TaskStatus) -> Vec<usize> {
        let is = |(index, task): (usize, &aios_proto::v1::TaskRecord)| {
            (task.status == status.name()).then_some(index)
        };
        self.tasks.iter().enumerate().filter_map(is).collect()
    }

    async fn begin_ready(&mut self, drive: &mut Drive) -> Result<(), Error> {
        for index in schedule::ready(&self.tasks) {
            self.set_task(index, TaskStatus::Ready)?;
        }
        self.save().await?;
        for index in self.positions(TaskStatus::Ready) {
            if !drive.open.contains_key(&index) {
                self.wait_for_agent(drive, index, Duration::ZERO);
            }
        }
        Ok(())
    }

    pub(super) fn wait_for_agent(&self, drive: &mut Drive, index: usize, pause: Duration) {
        let Some(task) = self.tasks.get(index) else {
            return;
        };
        let ctx = self.ctx.clone();
        let (priority, since, tool, prefer) = (
            self.goal.priority,
            self.goal.created_ms,
            task.tool.clone(),
            task.agent.clone(),
        );
        let checked = self
            .step(task)
            .and_then(|step| step.checked.as_ref())
            .map(|checked| checked.capabilities.clone())
            .unwrap_or_default();
        let handle = drive.jobs.spawn(async move {
            tokio::time::sleep(pause).await;
            let catalogue = match ctx.catalogue().await {
                Ok(catalogue) => catalogue,
                Err(error) => return Event::Broken(error),
            };
            let Some(entry) = catalogue.get(&tool) else {
                return Event::NoAgent(
                    index,
                    format!("this machine no longer has the tool {tool}"),
                );
            };
            let needed = if checked.is_empty() {
                vec![entry.info.capability.clone()]
            } else {
                checked
            };
            match tokio::time::timeout(
                AGENT_WAIT,
                ctx.agents.lease(priority, since, &needed, &prefer),
            )
            .await
            {
                Ok(lease) => Event::Leased(index, Box::new(lease)),
                Err(_) => Event::NoAgent(
                    index,
                    format!(
                        "no agent that may do {} was free within {} s",
                        needed.join(" and "),
                        AGENT_WAIT.as_secs()
                    ),
                ),
            }
        });
        drive.open.insert(index, Job::Waiting(handle));
    }

    fn attempt(&self, index: usize) -> Option<Attempt> {
        let task = self.tasks.get(index)?;
        let checked = self.step(task)?.checked.clone()?;
        let approved = self.approvals.values().find(|approval| {
            approval.task_id == task.id
                && approval.status == Status::Approved
                && approval.action_hash == checked.action_hash
        });
        Some(Attempt {
            task_id: task.id.clone(),
            goal_id: task.goal_id.clone(),
            tool: task.tool.clone(),
            args_json: task.args_json.clone(),
            attempt: task.attempt,
            approval_id: approved
                .map(|approval| approval.id.clone())
                .unwrap_or_default(),
            checked,
            person: self.person(),
        })
    }

    /// Looks up what became of a task that must not be begun any more.
    pub(super) fn settle(&self, drive: &mut Drive, index: usize) {
        let (Some(attempt), Some(task)) = (self.attempt(index), self.tasks.get(index)) else {
            return;
        };
        let (ctx, agent) = (self.ctx.clone(), task.agent.clone());
        drive.jobs.spawn(async move {
            match attempt.settle(&ctx, &agent).await {
                Ok(ended) => Event::Ended(index, ended),
                Err(error) => Event::Broken(error),
            }
        });
        drive.open.insert(index, Job::Running);
    }

    /// Begins nothing further; what runs is told to stop if the goal is to be stopped.
    pub(super) async fn stop(&mut self, drive: &mut Drive, status: GoalStatus, reason: String) {
        if drive.stop.is_some() {
            return;
        }
        drive.stop = Some(Stop {
            status,
            reason: reason.clone(),
        });
        self.begin_nothing(drive);
        // A task that runs but waits for an agent has lost its answer: what became of it is looked up.
        for index in self.positions(TaskStatus::Running) {
            if let Some(Job::Waiting(handle)) = drive.open.get(&index) {
                handle.abort();
                self.settle(drive, index);
            }
        }
        if status != GoalStatus::Failed && status != GoalStatus::Refused {
            for index in drive.open.keys() {
                if let Some(task) = self.tasks.get(*index) {
                    let (ctx, agent, id, reason) = (
                        self.ctx.clone(),
                        task.agent.clone(),
                        task.id.clone(),
                        reason.clone(),
                    );
                    tokio::spawn(async move { tell_to_stop(&ctx, &agent, &id, &reason).await });
                }
            }
        }
    }

    /// Ends the waits of tasks that have not begun.
    fn begin_nothing(&self, drive: &mut Drive) {
        let running = self.positions(TaskStatus::Running);
        drive.open.retain(|index, job| match job {
            Job::Waiting(handle) if !running.contains(index) => {
                handle.abort();
                false
            }
            Job::Waiting(_) | Job::Running => true,
        });
    }

    async fn at_work(&mut self, drive: &mut Drive, command: Command) -> Result<(), Error> {
        match command {
            Command::Cancel { by, reason, reply } => {
                if !self.goal.cancel_requested {
                    self.goal.cancel_requested = true;
                    self.goal_changed = true;
                    self.decide("state", cancelled_by(&by, &reason), &Value::Null);
                    self.save().await?;
                }
                drop(reply.send(Ok(self.goal.clone())));
                self.stop(drive, GoalStatus::Cancelled, cancelled_by(&by, &reason))
                    .await;
            }
            Command::Pause(by, reply) => {
                let answer = if drive.stop.is_some() {
                    Err(KitError::new(
                        Category::Conflict,
                        format!("goal {} is ending", self.goal.id),
                    ))
                } else {
                    let answer = self.pause(&by).await?;
                    self.begin_nothing(drive);
                    answer
                };
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
        Ok(())
    }

    async fn happened(&mut self, drive: &mut Drive, event: Event) -> Result<(), Error> {
        match event {
            Event::Broken(error) => Err(error),
            Event::NoAgent(index, reason) => {
                if !matches!(drive.open.get(&index), Some(Job::Waiting(_))) {
                    return Ok(());
                }
                drive.open.remove(&index);
                if self.positions(TaskStatus::Running).contains(&index) {
                    self.settle(drive, index);
                    return Ok(());
                }
                self.fail(
                    drive,
                    index,
                    TaskStatus::Failed,
                    &error_json(None, &reason),
                    reason,
                )
                .await
            }
            Event::Leased(index, lease) => {
                if !matches!(drive.open.get(&index), Some(Job::Waiting(_))) {
                    return Ok(());
                }
                self.begin(drive, index, *lease).await
            }
            Event::Ended(index, ended) => {
                drive.open.remove(&index);
                self.ended(drive, index, ended).await
            }
        }
    }

    /// Stores that the task runs and with whom, then has it run.
    async fn begin(&mut self, drive: &mut Drive, index: usize, lease: Lease) -> Result<(), Error> {
        self.set_task(index, TaskStatus::Running)?;
        if let Some(task) = self.tasks.get_mut(index) {
            if task.attempt == 0 {
                task.attempt = 1;
                task.started_ms = now_ms();
            }
            task.agent.clone_from(&lease.agent);
            let summary = format!(
                "{} to agent {}, attempt {}",
                task.tool, lease.agent, task.attempt
            );
            let detail = json!({ "task": task.id, "agent": lease.agent, "attempt": task.attempt });
            self.tasks_changed.insert(index);
            self.decide("route", summary, &detail);
        }
        self.save().await?;
        let Some(attempt) = self.attempt(index) else {
            return Err(Error::Stored(format!(
                "task {index} of goal {} was never checked",
                self.goal.id
            )));
        };
        let ctx = self.ctx.clone();
        drive.jobs.spawn(async move {
            let ended = attempt.run(&ctx, &lease).await;
            Event::Ended(index, ended)
        });
        drive.open.insert(index, Job::Running);
        Ok(())
    }
}
