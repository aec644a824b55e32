//! The table of calls: what is needed to answer a repeated call, to see after a crash which calls
//! were cut short, and to undo a call. Derived from what happened; the ledger's records beside it
//! are what counts as evidence.

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::ledger::{Batch, LedgerError};

/// Where a call stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The intent is recorded and what was there is being saved: it has not acted.
    Intended,
    /// It may be acting.
    Acting,
    /// It was acting when the daemon ended.
    Interrupted,
    /// Its outcome is recorded.
    Done,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Intended => "intended",
            Self::Acting => "acting",
            Self::Interrupted => "interrupted",
            Self::Done => "done",
        }
    }

    fn from_name(name: &str) -> Self {
        match name {
            "intended" => Self::Intended,
            "acting" => Self::Acting,
            "done" => Self::Done,
            _ => Self::Interrupted,
        }
    }
}

/// One call.
#[derive(Debug, Clone)]
pub struct Call {
    /// Its id.
    pub call_id: String,
    /// The idempotency key with the scope that it is unique in.
    pub key: Option<String>,
    /// The tool.
    pub tool: String,
    /// Hash of the arguments as they were asked for, before they were made canonical.
    pub asked_hash: String,
    /// Hash of the tool and its canonical arguments.
    pub action_hash: String,
    /// The calling process.
    pub process: String,
    /// The person.
    pub principal: String,
    /// Their role.
    pub role: String,
    /// The agent, or empty.
    pub agent: String,
    /// The goal, or empty.
    pub goal_id: String,
    /// The task, or empty.
    pub task_id: String,
    /// [`crate::redact::Kept`] as JSON.
    pub args: String,
    /// The risk of the call.
    pub risk: String,
    /// Where it stands.
    pub state: State,
    /// How many times it was begun.
    pub attempt: u32,
    /// The record of its latest intent.
    pub intent_seq: u64,
    /// The record of its latest outcome, or 0.
    pub outcome_seq: u64,
    /// What it can be undone from, as JSON.
    pub pre_image: Option<String>,
    /// `ok`, `failed`, `timeout`, `unknown`, or empty.
    pub outcome: String,
    /// The result as JSON.
    pub result: Option<String>,
    /// The error as JSON.
    pub error: Option<String>,
    /// How long it took.
    pub duration_us: u64,
    /// When it ended.
    pub ended_ms: u64,
    /// `undone` when it was undone, `undoing` when that was begun, or empty.
    pub undo_state: String,
}

const COLUMNS: &str = "call_id, idem_key, tool, asked_hash, action_hash, process, principal, role, \
                       agent, goal_id, task_id, args, risk, state, attempt, intent_seq, \
                       outcome_seq, pre_image, outcome, result, error, duration_us, ended_ms, \
                       undo_state";

fn call(row: &Row<'_>) -> rusqlite::Result<Call> {
    Ok(Call {
        call_id: row.get(0)?,
        key: row.get(1)?,
        tool: row.get(2)?,
        asked_hash: row.get(3)?,
        action_hash: row.get(4)?,
        process: row.get(5)?,
        principal: row.get(6)?,
        role: row.get(7)?,
        agent: row.get(8)?,
        goal_id: row.get(9)?,
        task_id: row.get(10)?,
        args: row.get(11)?,
        risk: row.get(12)?,
        state: State::from_name(&row.get::<_, String>(13)?),
        attempt: row.get(14)?,
        intent_seq: row.get::<_, i64>(15)?.cast_unsigned(),
        outcome_seq: row.get::<_, i64>(16)?.cast_unsigned(),
        pre_image: row.get(17)?,
        outcome: row.get(18)?,
        result: row.get(19)?,
        error: row.get(20)?,
        duration_us: row.get::<_, i64>(21)?.cast_unsigned(),
        ended_ms: row.get::<_, i64>(22)?.cast_unsigned(),
        undo_state: row.get(23)?,
    })
}

/// Stores a call, in place of an earlier state of the same one.
///
/// # Errors
/// When SQLite refuses, or another call has the same key.
pub fn put(batch: &Batch<'_>, call: &Call) -> Result<(), LedgerError> {
    let marks = vec!["?"; COLUMNS.split(',').count()].join(", ");
    batch
        .connection()
        .prepare_cached(&format!(
            "INSERT INTO calls ({COLUMNS}) VALUES ({marks}) ON CONFLICT (call_id) DO UPDATE SET \
             action_hash = excluded.action_hash, args = excluded.args, risk = excluded.risk, \
             process = excluded.process, agent = excluded.agent, state = excluded.state, \
             attempt = excluded.attempt, intent_seq = excluded.intent_seq, \
             outcome_seq = excluded.outcome_seq, pre_image = excluded.pre_image, \
             outcome = excluded.outcome, result = excluded.result, error = excluded.error, \
             duration_us = excluded.duration_us, ended_ms = excluded.ended_ms, \
             undo_state = excluded.undo_state"
        ))
        .and_then(|mut statement| {
            statement.execute(params![
                call.call_id,
                call.key,
                call.tool,
                call.asked_hash,
                call.action_hash,
                call.process,
                call.principal,
                call.role,
                call.agent,
                call.goal_id,
                call.task_id,
                call.args,
                call.risk,
                call.state.name(),
                call.attempt,
                call.intent_seq.cast_signed(),
                call.outcome_seq.cast_signed(),
                call.pre_image,
                call.outcome,
                call.result,
                call.error,
                call.duration_us.cast_signed(),
                call.ended_ms.cast_signed(),
                call.undo_state,
            ])
        })
        .map(drop)
        .map_err(LedgerError::database("store a call"))
}

/// Marks how far the undoing of a call is.
///
/// # Errors
/// When SQLite refuses.
pub fn set_undo_state(batch: &Batch<'_>, call_id: &str, state: &str) -> Result<(), LedgerError> {
    batch
        .connection()
        .execute(
            "UPDATE calls SET undo_state = ? WHERE call_id = ?",
            params![state, call_id],
        )
        .map(drop)
        .map_err(LedgerError::database("store the undoing of a call"))
}

/// Removes calls that only read and ended before `before_ms`: nobody will repeat or undo them.
///
/// # Errors
/// When SQLite refuses.
pub fn prune(batch: &Batch<'_>, before_ms: u64) -> Result<(), LedgerError> {
    batch
        .connection()
        .execute(
            "DELETE FROM calls WHERE state = 'done' AND pre_image IS NULL AND ended_ms < ?",
            [before_ms.cast_signed()],
        )
        .map(drop)
        .map_err(LedgerError::database("remove old calls"))
}

/// The call with a key.
///
/// # Errors
/// When SQLite refuses.
pub fn by_key(connection: &Connection, key: &str) -> Result<Option<Call>, LedgerError> {
    one(connection, "idem_key = ?", key)
}

/// The call with an id.
///
/// # Errors
/// When SQLite refuses.
pub fn by_id(connection: &Connection, call_id: &str) -> Result<Option<Call>, LedgerError> {
    one(connection, "call_id = ?", call_id)
}

fn one(connection: &Connection, condition: &str, value: &str) -> Result<Option<Call>, LedgerError> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM calls WHERE {condition}"))
        .and_then(|mut statement| statement.query_row([value], call).optional())
        .map_err(LedgerError::database("read a call"))
}

/// What calls are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// One call.
    Call(String),
    /// Those of a task.
    Task(String),
    /// Those of a goal.
    Goal(String),
}

/// The calls of a selection that changed something or may have, the latest first.
///
/// # Errors
/// When SQLite refuses.
pub fn to_undo(connection: &Connection, selection: &Selection) -> Result<Vec<Call>, LedgerError> {
    let (condition, value) = match selection {
        Selection::Call(id) => return Ok(by_id(connection, id)?.into_iter().collect()),
        Selection::Task(id) => ("task_id <> '' AND task_id = ?", id),
        Selection::Goal(id) => ("goal_id <> '' AND goal_id = ?", id),
    };
    many(
        connection,
        &format!("{condition} AND (pre_image IS NOT NULL OR (outcome = 'ok' AND risk <> 'low'))"),
        &[value],
    )
}

/// The calls that were intended or acting when an earlier process ended.
///
/// # Errors
/// When SQLite refuses.
pub fn cut_short(connection: &Connection) -> Result<Vec<Call>, LedgerError> {
    let condition =
        "state <> 'done' AND (state = 'acting' OR (state = 'intended' AND outcome = ''))";
    many(connection, condition, &[])
}

/// How many calls were cut short and never resolved since.
///
/// # Errors
/// When SQLite refuses.
pub fn count_interrupted(connection: &Connection) -> Result<u64, LedgerError> {
    connection
        .query_row(
            "SELECT count(*) FROM calls WHERE state = 'interrupted'",
            [],
            |row| row.get::<_, i64>(0).map(i64::cast_unsigned),
        )
        .map_err(LedgerError::database("count calls"))
}

fn many(
    connection: &Connection,
    condition: &str,
    values: &[&String],
) -> Result<Vec<Call>, LedgerError> {
    let sql = format!("SELECT {COLUMNS} FROM calls WHERE {condition} ORDER BY intent_seq DESC");
    connection
        .prepare_cached(&sql)
        .and_then(|mut statement| {
            let rows = statement.query_map(rusqlite::params_from_iter(values), call)?;
            rows.collect()
        })
        .map_err(LedgerError::database("read calls"))
}
