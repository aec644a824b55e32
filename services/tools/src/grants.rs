//! Grants: what lets one agent make one exact call for one task, until it expires or is closed.
//!
//! Invariants: a grant is durable before the orchestrator is told so; it is bound to the hash of the
//! canonical arguments; opening one for the same task again replaces it.

use rusqlite::{Connection, OptionalExtension as _, params};

use aios_proto::v1;

use crate::ledger::{Batch, LedgerError};

/// A grant as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// What was granted.
    pub terms: v1::Grant,
    /// Whether the task has ended.
    pub closed: bool,
}

impl Grant {
    /// Whether `agent` may make this call now.
    ///
    /// # Errors
    /// What does not fit.
    pub fn covers(
        &self,
        agent: &str,
        tool: &str,
        action_hash: &str,
        now_ms: u64,
    ) -> Result<(), String> {
        let task = &self.terms.task_id;
        if self.terms.agent != agent {
            return Err(format!(
                "task {task} was granted to the agent `{}`",
                self.terms.agent
            ));
        }
        if self.closed {
            return Err(format!("the grant of task {task} is closed"));
        }
        if self.terms.expires_ms <= now_ms {
            return Err(format!("the grant of task {task} has expired"));
        }
        if self.terms.tool != tool {
            return Err(format!(
                "task {task} was granted {}, not {tool}",
                self.terms.tool
            ));
        }
        if self.terms.action_hash != action_hash {
            return Err(format!(
                "the arguments are not those that were granted for task {task}"
            ));
        }
        Ok(())
    }
}

/// Stores a grant, in place of an earlier one of the same task.
///
/// # Errors
/// When SQLite refuses.
pub fn put(batch: &Batch<'_>, grant: &v1::Grant) -> Result<(), LedgerError> {
    batch
        .connection()
        .prepare_cached("INSERT OR REPLACE INTO grants VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0)")
        .and_then(|mut statement| {
            statement.execute(params![
                grant.task_id,
                grant.goal_id,
                grant.agent,
                grant.tool,
                grant.action_hash,
                grant.principal,
                grant.role,
                i64::try_from(grant.expires_ms).unwrap_or(i64::MAX),
                grant.approval_id,
            ])
        })
        .map_err(LedgerError::database("store a grant"))?;
    Ok(())
}

/// Closes a grant; closing one that is not open is harmless. Says whether it was open.
///
/// # Errors
/// When SQLite refuses.
pub fn close(batch: &Batch<'_>, task_id: &str) -> Result<bool, LedgerError> {
    batch
        .connection()
        .execute(
            "UPDATE grants SET closed = 1 WHERE task_id = ? AND closed = 0",
            [task_id],
        )
        .map(|changed| changed > 0)
        .map_err(LedgerError::database("close a grant"))
}

/// Removes grants that ended or expired before `before_ms`.
///
/// # Errors
/// When SQLite refuses.
pub fn prune(batch: &Batch<'_>, before_ms: u64) -> Result<(), LedgerError> {
    batch
        .connection()
        .execute(
            "DELETE FROM grants WHERE expires_ms < ?",
            [before_ms.cast_signed()],
        )
        .map(drop)
        .map_err(LedgerError::database("remove old grants"))
}

/// The grant of a task.
///
/// # Errors
/// When SQLite refuses.
pub fn find(connection: &Connection, task_id: &str) -> Result<Option<Grant>, LedgerError> {
    connection
        .prepare_cached(
            "SELECT task_id, goal_id, agent, tool, action_hash, principal, role, expires_ms, \
             approval_id, closed FROM grants WHERE task_id = ?",
        )
        .and_then(|mut statement| {
            statement
                .query_row([task_id], |row| {
                    Ok(Grant {
                        terms: v1::Grant {
                            task_id: row.get(0)?,
                            goal_id: row.get(1)?,
                            agent: row.get(2)?,
                            tool: row.get(3)?,
                            action_hash: row.get(4)?,
                            principal: row.get(5)?,
                            role: row.get(6)?,
                            expires_ms: row.get::<_, i64>(7)?.cast_unsigned(),
                            approval_id: row.get(8)?,
                        },
                        closed: row.get(9)?,
                    })
                })
                .optional()
        })
        .map_err(LedgerError::database("read a grant"))
}
