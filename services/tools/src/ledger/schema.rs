//! The tables, made and brought up to date when the ledger is opened.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags};

use super::LedgerError;

/// Each entry takes the file from the version that is its index to the next one.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE records (
        seq       INTEGER PRIMARY KEY,
        time_ms   INTEGER NOT NULL,
        kind      TEXT NOT NULL,
        principal TEXT NOT NULL,
        agent     TEXT NOT NULL,
        goal_id   TEXT NOT NULL,
        task_id   TEXT NOT NULL,
        call_id   TEXT NOT NULL,
        tool      TEXT NOT NULL,
        detail    TEXT NOT NULL,
        prev_hash TEXT NOT NULL,
        hash      TEXT NOT NULL
    ) STRICT;
    CREATE INDEX records_goal ON records (goal_id, seq) WHERE goal_id <> '';
    CREATE INDEX records_call ON records (call_id, seq) WHERE call_id <> '';
    CREATE INDEX records_kind ON records (kind, seq) WHERE kind NOT IN ('intent', 'outcome');

    CREATE TABLE calls (
        call_id     TEXT PRIMARY KEY,
        idem_key    TEXT UNIQUE,
        tool        TEXT NOT NULL,
        asked_hash  TEXT NOT NULL,
        action_hash TEXT NOT NULL,
        process     TEXT NOT NULL,
        principal   TEXT NOT NULL,
        role        TEXT NOT NULL,
        agent       TEXT NOT NULL,
        goal_id     TEXT NOT NULL,
        task_id     TEXT NOT NULL,
        args        TEXT NOT NULL,
        risk        TEXT NOT NULL,
        state       TEXT NOT NULL,
        attempt     INTEGER NOT NULL,
        intent_seq  INTEGER NOT NULL,
        outcome_seq INTEGER NOT NULL DEFAULT 0,
        pre_image   TEXT,
        outcome     TEXT NOT NULL DEFAULT '',
        result      TEXT,
        error       TEXT,
        duration_us INTEGER NOT NULL DEFAULT 0,
        ended_ms    INTEGER NOT NULL DEFAULT 0,
        undo_state  TEXT NOT NULL DEFAULT ''
    ) STRICT;
    CREATE INDEX calls_open ON calls (state) WHERE state <> 'done';
    CREATE INDEX calls_goal ON calls (goal_id, intent_seq) WHERE goal_id <> '';
    CREATE INDEX calls_task ON calls (task_id, intent_seq) WHERE task_id <> '';

    CREATE TABLE grants (
        task_id     TEXT PRIMARY KEY,
        goal_id     TEXT NOT NULL,
        agent       TEXT NOT NULL,
        tool        TEXT NOT NULL,
        action_hash TEXT NOT NULL,
        principal   TEXT NOT NULL,
        role        TEXT NOT NULL,
        expires_ms  INTEGER NOT NULL,
        approval_id TEXT NOT NULL,
        closed      INTEGER NOT NULL DEFAULT 0
    ) STRICT;
"];

/// SQLite's number for `synchronous=FULL`: every commit is synced before it returns.
const FULL: i64 = 2;
/// Longest wait for SQLite's own locks; only a person with `sqlite3` could hold one.
const BUSY: Duration = Duration::from_secs(5);

/// Opens the file for the writing thread, makes it if need be, and brings its tables up to date.
pub fn open_writer(path: &Path) -> Result<Connection, LedgerError> {
    let fail = |error: rusqlite::Error| LedgerError::open(path, error);
    let mut connection = Connection::open(path).map_err(fail)?;
    connection.busy_timeout(BUSY).map_err(fail)?;
    connection
        .pragma_update(None, "journal_mode", "WAL")
        .and_then(|()| connection.pragma_update(None, "synchronous", "FULL"))
        .and_then(|()| connection.pragma_update(None, "temp_store", "MEMORY"))
        .map_err(fail)?;
    // A file system that cannot do it would leave SQLite in another mode without an error.
    let text = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, String>(0));
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let journal = text("journal_mode").map_err(fail)?;
    if journal != "wal" || number("synchronous").map_err(fail)? != FULL {
        return Err(LedgerError::open(
            path,
            format!("its file system does not allow a write-ahead log (journal mode {journal})"),
        ));
    }
    migrate(&mut connection, path)?;
    Ok(connection)
}

/// Opens the file for reading only.
pub fn open_reader(path: &Path) -> Result<Connection, LedgerError> {
    let fail = |error: rusqlite::Error| LedgerError::open(path, error);
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(fail)?;
    connection.busy_timeout(BUSY).map_err(fail)?;
    Ok(connection)
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), LedgerError> {
    let fail = |error: rusqlite::Error| LedgerError::open(path, error);
    let version: usize = connection
        .pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))
        .map_err(fail)?
        .try_into()
        .unwrap_or(usize::MAX);
    let Some(missing) = MIGRATIONS.get(version..) else {
        return Err(LedgerError::open(
            path,
            format!(
                "it has version {version}, this aios-tools knows only {}; start the newer release again",
                MIGRATIONS.len()
            ),
        ));
    };
    for (index, statements) in missing.iter().enumerate() {
        let transaction = connection.transaction().map_err(fail)?;
        transaction.execute_batch(statements).map_err(fail)?;
        let reached = i64::try_from(version + index + 1).unwrap_or(i64::MAX);
        transaction
            .pragma_update(None, "user_version", reached)
            .map_err(fail)?;
        transaction.commit().map_err(fail)?;
    }
    Ok(())
}
