//! The tables of working memory and how they came to be.
//!
//! Invariants: the number of a database's last migration is its `user_version`; a migration and its
//! number are written in one transaction; a migration that has been released is never edited, only
//! followed by another; a database that this program does not fully understand is refused.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use crate::error::StoreError;

/// `AIOM`: marks a file as this program's.
pub const APPLICATION_ID: i32 = 0x4149_4F4D;

/// Migrations in order; the first makes version 1.
pub const MIGRATIONS: &[&str] = &[V1];

const V1: &str = "
CREATE TABLE store (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    transactions INTEGER NOT NULL,
    starts INTEGER NOT NULL
) STRICT;
INSERT INTO store VALUES (1, 0, 0);

CREATE TABLE goals (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    text TEXT NOT NULL,
    principal TEXT NOT NULL,
    role TEXT NOT NULL,
    status TEXT NOT NULL,
    priority INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL,
    deadline_ms INTEGER NOT NULL,
    plan_json TEXT NOT NULL,
    result TEXT NOT NULL,
    reason TEXT NOT NULL,
    version INTEGER NOT NULL,
    idempotency_key TEXT NOT NULL,
    cancel_requested INTEGER NOT NULL CHECK (cancel_requested IN (0, 1))
) STRICT;
CREATE INDEX goals_by_status ON goals (status, seq);
CREATE UNIQUE INDEX goals_by_key ON goals (principal, idempotency_key)
    WHERE idempotency_key <> '';

CREATE TABLE tasks (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    goal_id TEXT NOT NULL REFERENCES goals (id),
    ordinal INTEGER NOT NULL,
    step_id TEXT NOT NULL,
    tool TEXT NOT NULL,
    args_json TEXT NOT NULL,
    depends_on TEXT NOT NULL,
    agent TEXT NOT NULL,
    status TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    result_json TEXT NOT NULL,
    error_json TEXT NOT NULL,
    call_ids TEXT NOT NULL,
    kind TEXT NOT NULL,
    started_ms INTEGER NOT NULL,
    finished_ms INTEGER NOT NULL,
    version INTEGER NOT NULL
) STRICT;
CREATE INDEX tasks_by_goal ON tasks (goal_id, ordinal, seq);

CREATE TABLE tool_calls (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    call_id TEXT NOT NULL,
    task_id TEXT NOT NULL REFERENCES tasks (id),
    goal_id TEXT NOT NULL REFERENCES goals (id),
    tool TEXT NOT NULL,
    agent TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    started_ms INTEGER NOT NULL,
    finished_ms INTEGER NOT NULL,
    UNIQUE (task_id, call_id)
) STRICT;
CREATE INDEX tool_calls_by_goal ON tool_calls (goal_id, seq);

-- A decision that belongs to no goal has an empty goal_id.
CREATE TABLE decisions (
    goal_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    time_ms INTEGER NOT NULL,
    kind TEXT NOT NULL,
    summary TEXT NOT NULL,
    detail_json TEXT NOT NULL,
    goal_ref TEXT GENERATED ALWAYS AS (NULLIF(goal_id, '')) STORED REFERENCES goals (id),
    PRIMARY KEY (goal_id, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE agent_states (
    name TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    detail TEXT NOT NULL,
    updated_ms INTEGER NOT NULL,
    tasks_done INTEGER NOT NULL,
    tasks_failed INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE patterns (
    id TEXT PRIMARY KEY,
    goal_text TEXT NOT NULL,
    goal_key TEXT NOT NULL,
    plan_json TEXT NOT NULL,
    procedure TEXT NOT NULL,
    successes INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    last_used_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX patterns_by_goal ON patterns (goal_key, successes);
";

/// Brings the database up to date.
///
/// # Errors
/// When it is newer than this program, belongs to another one, or cannot be changed.
pub fn migrate(
    connection: &mut Connection,
    path: &Path,
    migrations: &[&str],
) -> Result<u32, StoreError> {
    let fail = |error: rusqlite::Error| StoreError::sqlite(path, &error);
    let known = u32::try_from(migrations.len()).unwrap_or(u32::MAX);
    let found: u32 = pragma(connection, "user_version").map_err(fail)?;
    let application: i32 = pragma(connection, "application_id").map_err(fail)?;
    if found == 0 {
        let objects: i64 = connection
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
            .map_err(fail)?;
        if objects > 0 || application != 0 {
            return Err(StoreError::Foreign {
                path: path.to_owned(),
            });
        }
    } else if application != APPLICATION_ID {
        return Err(StoreError::Foreign {
            path: path.to_owned(),
        });
    }
    if found > known {
        return Err(StoreError::Newer {
            path: path.to_owned(),
            found,
            known,
        });
    }
    for (version, sql) in (1_u32..)
        .zip(migrations)
        .skip(usize::try_from(found).unwrap_or(0))
    {
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(fail)?;
        transaction.execute_batch(sql).map_err(fail)?;
        transaction
            .pragma_update(None, "application_id", APPLICATION_ID)
            .map_err(fail)?;
        transaction
            .pragma_update(None, "user_version", version)
            .map_err(fail)?;
        transaction.commit().map_err(fail)?;
        tracing::info!(version, database = %path.display(), "schema migrated");
    }
    Ok(known)
}

fn pragma<T: rusqlite::types::FromSql>(connection: &Connection, name: &str) -> rusqlite::Result<T> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> &'static Path {
        Path::new("working.db")
    }

    fn version(connection: &Connection) -> u32 {
        pragma(connection, "user_version").unwrap()
    }

    #[test]
    fn an_empty_database_gets_every_migration_and_then_none() {
        let mut connection = Connection::open_in_memory().unwrap();
        assert_eq!(migrate(&mut connection, path(), MIGRATIONS), Ok(1));
        assert_eq!(version(&connection), 1);
        assert_eq!(migrate(&mut connection, path(), MIGRATIONS), Ok(1));
    }

    #[test]
    fn a_later_migration_is_added_to_what_is_there() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, path(), MIGRATIONS).unwrap();
        let more = [MIGRATIONS, &["CREATE TABLE extra (x INTEGER) STRICT"]].concat();
        assert_eq!(migrate(&mut connection, path(), &more), Ok(2));
        assert!(
            connection
                .execute("INSERT INTO extra VALUES (1)", [])
                .is_ok()
        );
    }

    #[test]
    fn a_migration_that_fails_leaves_nothing_behind() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, path(), MIGRATIONS).unwrap();
        let broken = [
            MIGRATIONS,
            &["CREATE TABLE half (x INTEGER); SELECT nonsense"],
        ]
        .concat();
        assert!(migrate(&mut connection, path(), &broken).is_err());
        assert_eq!(version(&connection), 1);
        assert!(
            connection
                .execute("INSERT INTO half VALUES (1)", [])
                .is_err()
        );
    }

    #[test]
    fn a_newer_database_is_refused_with_both_versions() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, path(), MIGRATIONS).unwrap();
        connection.pragma_update(None, "user_version", 7).unwrap();
        let error = migrate(&mut connection, path(), MIGRATIONS).unwrap_err();
        assert_eq!(
            error,
            StoreError::Newer {
                path: path().to_owned(),
                found: 7,
                known: 1
            }
        );
    }

    #[test]
    fn a_database_of_another_program_is_left_alone() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE theirs (x)").unwrap();
        let error = migrate(&mut connection, path(), MIGRATIONS).unwrap_err();
        assert_eq!(
            error,
            StoreError::Foreign {
                path: path().to_owned()
            }
        );
        connection.pragma_update(None, "user_version", 1).unwrap();
        assert!(migrate(&mut connection, path(), MIGRATIONS).is_err());
    }
}
