//! Writes the records of one commit into the open transaction.
//!
//! Invariants: a goal or task is stored only if its version is one more than the stored one; what a
//! caller gave is bound as a parameter, never part of a statement; nothing that was refused leaves a
//! trace (the caller rolls back to the savepoint).

use std::path::Path;

use aios_proto::v1::{AgentState, CommitRequest, Decision, GoalRecord, Pattern, TaskRecord};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::{error::StoreError, pattern};

/// Longest id in bytes.
const MAX_ID_BYTES: usize = 256;

const GOAL_STATUSES: [&str; 10] = [
    "received",
    "planning",
    "awaiting_approval",
    "running",
    "paused",
    "completed",
    "failed",
    "refused",
    "cancelled",
    "expired",
];
const TASK_STATUSES: [&str; 9] = [
    "pending",
    "awaiting_approval",
    "ready",
    "running",
    "completed",
    "failed",
    "refused",
    "cancelled",
    "skipped",
];
/// Statuses of a task that has ended.
const ENDED: [&str; 5] = ["completed", "failed", "refused", "cancelled", "skipped"];
const AGENT_STATES: [&str; 6] = [
    "starting", "running", "paused", "stopping", "stopped", "failed",
];

/// Stores everything in `request`.
///
/// # Errors
/// The first record that cannot be stored; the transaction is then half done and must be rolled
/// back to where it was.
pub fn apply(
    connection: &Connection,
    path: &Path,
    request: &CommitRequest,
) -> Result<(), StoreError> {
    let writer = Apply { connection, path };
    request
        .goals
        .iter()
        .try_for_each(|goal| writer.goal(goal))?;
    request
        .tasks
        .iter()
        .try_for_each(|task| writer.task(task))?;
    request
        .decisions
        .iter()
        .try_for_each(|decision| writer.decision(decision))?;
    request
        .agents
        .iter()
        .try_for_each(|agent| writer.agent(agent))?;
    request
        .patterns
        .iter()
        .try_for_each(|pattern| writer.pattern(pattern))
}

struct Apply<'a> {
    connection: &'a Connection,
    path: &'a Path,
}

impl Apply<'_> {
    fn execute(
        &self,
        what: &str,
        sql: &str,
        params: impl rusqlite::Params,
    ) -> Result<usize, StoreError> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(params))
            .map_err(|error| match StoreError::sqlite(self.path, &error) {
                StoreError::Conflict(reason) => StoreError::Conflict(format!("{what}: {reason}")),
                other => other,
            })
    }

    fn stored(&self, sql: &str, id: &str) -> Result<u64, StoreError> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_row([id], |row| row.get(0)).optional())
            .map(|version: Option<i64>| version.map_or(0, count))
            .map_err(|error| StoreError::sqlite(self.path, &error))
    }

    fn goal(&self, goal: &GoalRecord) -> Result<(), StoreError> {
        check_id("goal", &goal.id)?;
        check_word("status of a goal", &goal.status, &GOAL_STATUSES)?;
        if goal.priority > 9 {
            return Err(StoreError::Invalid(format!(
                "goal {}: priority {} is not from 0 to 9",
                goal.id, goal.priority
            )));
        }
        let stored = self.stored("SELECT version FROM goals WHERE id = ?1", &goal.id)?;
        check_version("goal", &goal.id, stored, goal.version)?;
        self.execute(
            &format!("goal {}", goal.id),
            "INSERT INTO goals (id, text, principal, role, status, priority, created_ms,
                 updated_ms, deadline_ms, plan_json, result, reason, version, idempotency_key,
                 cancel_requested)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
             ON CONFLICT (id) DO UPDATE SET text = ?2, principal = ?3, role = ?4, status = ?5,
                 priority = ?6, created_ms = ?7, updated_ms = ?8, deadline_ms = ?9,
                 plan_json = ?10, result = ?11, reason = ?12, version = ?13,
                 idempotency_key = ?14, cancel_requested = ?15",
            params![
                goal.id,
                goal.text,
                goal.principal,
                goal.role,
                goal.status,
                goal.priority,
                integer("created_ms", goal.created_ms)?,
                integer("updated_ms", goal.updated_ms)?,
                integer("deadline_ms", goal.deadline_ms)?,
                goal.plan_json,
                goal.result,
                goal.reason,
                integer("version", goal.version)?,
                goal.idempotency_key,
                goal.cancel_requested,
            ],
        )?;
        Ok(())
    }

    fn task(&self, task: &TaskRecord) -> Result<(), StoreError> {
        check_id("task", &task.id)?;
        check_word("status of a task", &task.status, &TASK_STATUSES)?;
        let stored = self.stored("SELECT version FROM tasks WHERE id = ?1", &task.id)?;
        check_version("task", &task.id, stored, task.version)?;
        let what = format!("task {} of goal {}", task.id, task.goal_id);
        self.execute(
            &what,
            "INSERT INTO tasks (id, goal_id, ordinal, step_id, tool, args_json, depends_on, agent,
                 status, attempt, result_json, error_json, call_ids, kind, started_ms,
                 finished_ms, version)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)
             ON CONFLICT (id) DO UPDATE SET goal_id = ?2, ordinal = ?3, step_id = ?4, tool = ?5,
                 args_json = ?6, depends_on = ?7, agent = ?8, status = ?9, attempt = ?10,
                 result_json = ?11, error_json = ?12, call_ids = ?13, kind = ?14,
                 started_ms = ?15, finished_ms = ?16, version = ?17",
            params![
                task.id,
                task.goal_id,
                task.ordinal,
                task.step_id,
                task.tool,
                task.args_json,
                list(&task.depends_on)?,
                task.agent,
                task.status,
                task.attempt,
                task.result_json,
                task.error_json,
                list(&task.call_ids)?,
                task.kind,
                integer("started_ms", task.started_ms)?,
                integer("finished_ms", task.finished_ms)?,
                integer("version", task.version)?,
            ],
        )?;
        self.tool_calls(task, &what)
    }

    /// Keeps one row per tool call that the task has made. The task's last call shares its status.
    fn tool_calls(&self, task: &TaskRecord, what: &str) -> Result<(), StoreError> {
        let Some((latest, earlier)) = task.call_ids.split_last() else {
            return Ok(());
        };
        let started = integer("started_ms", task.started_ms)?;
        for call in earlier.iter().filter(|call| *call != latest) {
            self.execute(
                what,
                "INSERT INTO tool_calls (call_id, task_id, goal_id, tool, agent, attempt, outcome,
                     started_ms, finished_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'superseded', ?7, 0)
                 ON CONFLICT (task_id, call_id) DO UPDATE SET outcome = 'superseded'
                     WHERE outcome NOT IN (SELECT value FROM json_each(?8))",
                params![
                    call,
                    task.id,
                    task.goal_id,
                    task.tool,
                    task.agent,
                    task.attempt,
                    started,
                    list(&ENDED)?
                ],
            )?;
        }
        let finished = if ENDED.contains(&task.status.as_str()) {
            integer("finished_ms", task.finished_ms)?
        } else {
            0
        };
        self.execute(
            what,
            "INSERT INTO tool_calls (call_id, task_id, goal_id, tool, agent, attempt, outcome,
                 started_ms, finished_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
             ON CONFLICT (task_id, call_id) DO UPDATE SET agent = ?5, attempt = ?6, outcome = ?7,
                 started_ms = ?8, finished_ms = ?9",
            params![
                latest,
                task.id,
                task.goal_id,
                task.tool,
                task.agent,
                task.attempt,
                task.status,
                started,
                finished
            ],
        )?;
        Ok(())
    }

    fn decision(&self, decision: &Decision) -> Result<(), StoreError> {
        let seq = match decision.seq {
            0 => self
                .connection
                .prepare_cached(
                    "SELECT coalesce(max(seq), 0) + 1 FROM decisions WHERE goal_id = ?1",
                )
                .and_then(|mut statement| {
                    statement.query_row([&decision.goal_id], |row| row.get(0))
                })
                .map_err(|error| StoreError::sqlite(self.path, &error))?,
            seq => integer("seq", seq)?,
        };
        self.execute(
            &format!("decision {seq} of goal {}", decision.goal_id),
            "INSERT INTO decisions (goal_id, seq, time_ms, kind, summary, detail_json)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (goal_id, seq) DO NOTHING",
            params![
                decision.goal_id,
                seq,
                integer("time_ms", decision.time_ms)?,
                decision.kind,
                decision.summary,
                decision.detail_json
            ],
        )?;
        Ok(())
    }

    fn agent(&self, agent: &AgentState) -> Result<(), StoreError> {
        check_id("agent", &agent.name)?;
        check_word("state of an agent", &agent.state, &AGENT_STATES)?;
        self.execute(
            &format!("agent {}", agent.name),
            "INSERT INTO agent_states (name, state, detail, updated_ms, tasks_done, tasks_failed)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (name) DO UPDATE SET state = ?2, detail = ?3, updated_ms = ?4,
                 tasks_done = ?5, tasks_failed = ?6",
            params![
                agent.name,
                agent.state,
                agent.detail,
                integer("updated_ms", agent.updated_ms)?,
                integer("tasks_done", agent.tasks_done)?,
                integer("tasks_failed", agent.tasks_failed)?,
            ],
        )?;
        Ok(())
    }

    fn pattern(&self, pattern: &Pattern) -> Result<(), StoreError> {
        check_id("pattern", &pattern.id)?;
        self.execute(
            &format!("pattern {}", pattern.id),
            "INSERT INTO patterns (id, goal_text, goal_key, plan_json, procedure, successes,
                 failures, last_used_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (id) DO UPDATE SET goal_text = ?2, goal_key = ?3, plan_json = ?4,
                 procedure = ?5, successes = ?6, failures = ?7, last_used_ms = ?8",
            params![
                pattern.id,
                pattern.goal_text,
                pattern::normalise(&pattern.goal_text),
                pattern.plan_json,
                pattern.procedure,
                integer("successes", pattern.successes)?,
                integer("failures", pattern.failures)?,
                integer("last_used_ms", pattern.last_used_ms)?,
            ],
        )?;
        Ok(())
    }
}

/// A stored count: never negative.
pub fn count(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or(0)
}

fn integer(what: &str, value: u64) -> Result<i64, StoreError> {
    i64::try_from(value)
        .map_err(|_| StoreError::Invalid(format!("{what}: {value} is larger than {}", i64::MAX)))
}

fn list(items: &[impl serde::Serialize]) -> Result<String, StoreError> {
    serde_json::to_string(items).map_err(|error| StoreError::Invalid(error.to_string()))
}

fn check_id(kind: &str, id: &str) -> Result<(), StoreError> {
    if id.is_empty() {
        return Err(StoreError::Invalid(format!("a {kind} without an id")));
    }
    if id.len() > MAX_ID_BYTES {
        return Err(StoreError::Invalid(format!(
            "the id of a {kind} has {} bytes, but may have {MAX_ID_BYTES}",
            id.len()
        )));
    }
    Ok(())
}

fn check_word(what: &str, word: &str, known: &[&str]) -> Result<(), StoreError> {
    if known.contains(&word) {
        return Ok(());
    }
    Err(StoreError::Invalid(format!(
        "`{word}` is no {what}: it is one of {}",
        known.join(", ")
    )))
}

fn check_version(kind: &'static str, id: &str, stored: u64, given: u64) -> Result<(), StoreError> {
    if stored.checked_add(1) == Some(given) {
        return Ok(());
    }
    Err(StoreError::Version {
        kind,
        id: id.to_owned(),
        stored,
        given,
    })
}
