//! Reads records. Every function runs one statement, so that it sees one state of the database.

use std::path::Path;

use aios_proto::v1::{
    AgentState, Decision, GoalRecord, ListGoalRecordsRequest, ListPatternsRequest, Pattern,
    TaskRecord, ToolCallRecord,
};
use prost::Message as _;
use rusqlite::{Connection, Params, Row, types::Type};

use crate::{apply::count, error::StoreError, pattern};

/// Records that a list has when the caller names no limit.
const USUAL_LIMIT: u32 = 100;
/// Records that a list has at most.
const MAX_LIMIT: u32 = 1000;
/// Bytes of goals in one answer, below the 4 MiB that a client takes by default. A list that
/// reaches it ends early; the caller goes on with `before_id`.
const MAX_GOALS_BYTES: usize = 3 << 20;

const GOAL: &str = "SELECT id, text, principal, role, status, priority, created_ms, updated_ms,
    deadline_ms, plan_json, result, reason, version, idempotency_key, cancel_requested FROM goals";

fn goal_row(row: &Row<'_>) -> rusqlite::Result<GoalRecord> {
    Ok(GoalRecord {
        id: row.get(0)?,
        text: row.get(1)?,
        principal: row.get(2)?,
        role: row.get(3)?,
        status: row.get(4)?,
        priority: row.get(5)?,
        created_ms: count(row.get(6)?),
        updated_ms: count(row.get(7)?),
        deadline_ms: count(row.get(8)?),
        plan_json: row.get(9)?,
        result: row.get(10)?,
        reason: row.get(11)?,
        version: count(row.get(12)?),
        idempotency_key: row.get(13)?,
        cancel_requested: row.get(14)?,
    })
}

/// The connection of a reader, and the file that its errors name.
#[derive(Debug)]
pub struct Query<'a> {
    connection: &'a Connection,
    path: &'a Path,
}

impl<'a> Query<'a> {
    /// Reads by `connection`, which is open on `path`.
    #[must_use]
    pub fn new(connection: &'a Connection, path: &'a Path) -> Self {
        Self { connection, path }
    }

    fn rows<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let rows = || -> rusqlite::Result<Vec<T>> {
            self.connection
                .prepare_cached(sql)?
                .query_map(params, read)?
                .collect()
        };
        rows().map_err(|error| StoreError::sqlite(self.path, &error))
    }

    /// One goal.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or when the database cannot be read.
    pub fn goal(&self, id: &str) -> Result<GoalRecord, StoreError> {
        self.rows(&format!("{GOAL} WHERE id = ?1"), [id], goal_row)?
            .pop()
            .ok_or_else(|| StoreError::NotFound {
                kind: "goal",
                id: id.to_owned(),
            })
    }

    /// Goals, newest first.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when `before_id` names no goal, or when the database cannot be read.
    pub fn goals(&self, request: &ListGoalRecordsRequest) -> Result<Vec<GoalRecord>, StoreError> {
        if !request.before_id.is_empty() {
            self.goal(&request.before_id)?;
        }
        let statuses = serde_json::to_string(&request.statuses)
            .map_err(|error| StoreError::Invalid(error.to_string()))?;
        let mut goals = self.rows(
            &format!(
                "{GOAL} WHERE (?1 = '[]' OR status IN (SELECT value FROM json_each(?1)))
                   AND (?2 = '' OR idempotency_key = ?2)
                   AND (?3 = '' OR seq < (SELECT seq FROM goals WHERE id = ?3))
                 ORDER BY seq DESC LIMIT ?4"
            ),
            (
                &statuses,
                &request.idempotency_key,
                &request.before_id,
                limit(request.limit),
            ),
            goal_row,
        )?;
        let mut bytes = 0;
        let fits = goals
            .iter()
            .take_while(|goal| {
                bytes += goal.encoded_len();
                bytes <= MAX_GOALS_BYTES
            })
            .count();
        goals.truncate(fits.max(1));
        Ok(goals)
    }

    /// The tasks of a goal in the order of its plan.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn tasks(&self, goal_id: &str) -> Result<Vec<TaskRecord>, StoreError> {
        self.rows(
            "SELECT id, goal_id, ordinal, step_id, tool, args_json, depends_on, agent, status,
                 attempt, result_json, error_json, call_ids, kind, started_ms, finished_ms, version
             FROM tasks WHERE goal_id = ?1 ORDER BY ordinal, seq",
            [goal_id],
            |row| {
                Ok(TaskRecord {
                    id: row.get(0)?,
                    goal_id: row.get(1)?,
                    ordinal: row.get(2)?,
                    step_id: row.get(3)?,
                    tool: row.get(4)?,
                    args_json: row.get(5)?,
                    depends_on: list(row, 6)?,
                    agent: row.get(7)?,
                    status: row.get(8)?,
                    attempt: row.get(9)?,
                    result_json: row.get(10)?,
                    error_json: row.get(11)?,
                    call_ids: list(row, 12)?,
                    kind: row.get(13)?,
                    started_ms: count(row.get(14)?),
                    finished_ms: count(row.get(15)?),
                    version: count(row.get(16)?),
                })
            },
        )
    }

    /// The tool calls of a goal's tasks.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn tool_calls(&self, goal_id: &str) -> Result<Vec<ToolCallRecord>, StoreError> {
        self.rows(
            "SELECT call_id, task_id, goal_id, tool, agent, attempt, outcome, started_ms,
                 finished_ms
             FROM tool_calls WHERE goal_id = ?1 ORDER BY seq",
            [goal_id],
            |row| {
                Ok(ToolCallRecord {
                    call_id: row.get(0)?,
                    task_id: row.get(1)?,
                    goal_id: row.get(2)?,
                    tool: row.get(3)?,
                    agent: row.get(4)?,
                    attempt: row.get(5)?,
                    outcome: row.get(6)?,
                    started_ms: count(row.get(7)?),
                    finished_ms: count(row.get(8)?),
                })
            },
        )
    }

    /// The decisions on a goal in their order; those on no goal for an empty id.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn decisions(&self, goal_id: &str) -> Result<Vec<Decision>, StoreError> {
        self.rows(
            "SELECT goal_id, seq, time_ms, kind, summary, detail_json FROM decisions
             WHERE goal_id = ?1 ORDER BY seq",
            [goal_id],
            |row| {
                Ok(Decision {
                    goal_id: row.get(0)?,
                    seq: count(row.get(1)?),
                    time_ms: count(row.get(2)?),
                    kind: row.get(3)?,
                    summary: row.get(4)?,
                    detail_json: row.get(5)?,
                })
            },
        )
    }

    /// The last known state of every agent.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn agents(&self) -> Result<Vec<AgentState>, StoreError> {
        self.rows(
            "SELECT name, state, detail, updated_ms, tasks_done, tasks_failed
             FROM agent_states ORDER BY name",
            [],
            |row| {
                Ok(AgentState {
                    name: row.get(0)?,
                    state: row.get(1)?,
                    detail: row.get(2)?,
                    updated_ms: count(row.get(3)?),
                    tasks_done: count(row.get(4)?),
                    tasks_failed: count(row.get(5)?),
                })
            },
        )
    }

    /// Patterns of goals with the same words, or all of them: what worked most often first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn patterns(&self, request: &ListPatternsRequest) -> Result<Vec<Pattern>, StoreError> {
        self.rows(
            "SELECT id, goal_text, plan_json, procedure, successes, failures, last_used_ms
             FROM patterns WHERE ?1 OR goal_key = ?2
             ORDER BY successes DESC, failures, last_used_ms DESC, id LIMIT ?3",
            (
                request.goal_text.is_empty(),
                pattern::normalise(&request.goal_text),
                limit(request.limit),
            ),
            |row| {
                Ok(Pattern {
                    id: row.get(0)?,
                    goal_text: row.get(1)?,
                    plan_json: row.get(2)?,
                    procedure: row.get(3)?,
                    successes: count(row.get(4)?),
                    failures: count(row.get(5)?),
                    last_used_ms: count(row.get(6)?),
                })
            },
        )
    }

    /// How many goals, tasks and decisions there are.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn totals(&self) -> Result<(u64, u64, u64), StoreError> {
        let rows = self.rows(
            "SELECT (SELECT count(*) FROM goals), (SELECT count(*) FROM tasks),
                 (SELECT count(*) FROM decisions)",
            [],
            |row| Ok((count(row.get(0)?), count(row.get(1)?), count(row.get(2)?))),
        )?;
        Ok(rows.into_iter().next().unwrap_or_default())
    }
}

fn limit(wanted: u32) -> u32 {
    if wanted == 0 {
        USUAL_LIMIT
    } else {
        wanted.min(MAX_LIMIT)
    }
}

fn list(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<String>> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
    })
}
