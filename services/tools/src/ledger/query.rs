//! Reading records.

use rusqlite::{Connection, Row, ToSql};

use super::{LedgerError, record::Record};

/// The columns in the order that [`record`] reads them.
pub const SELECT: &str = "SELECT seq, time_ms, kind, principal, agent, goal_id, task_id, call_id, \
                          tool, detail, prev_hash, hash FROM records";

/// Most records of one page.
const MAX_RECORDS: u32 = 1000;
/// Records of a page when nobody said how many.
const DEFAULT_RECORDS: u32 = 100;
/// Most bytes of one page, below what one message may have.
const MAX_BYTES: usize = 3 << 20;

/// Which records are wanted; empty means any.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only records after this one, or before it when the newest come first; 0: from the end that
    /// the order begins with.
    pub after_seq: u64,
    /// At most so many; 0: 100; never more than 1000.
    pub limit: u32,
    /// Of this goal.
    pub goal_id: String,
    /// Of this call.
    pub call_id: String,
    /// Of this tool.
    pub tool: String,
    /// Of this kind.
    pub kind: String,
    /// Of this principal.
    pub principal: String,
    /// The newest first.
    pub newest_first: bool,
}

/// Some records, and where the ledger stood.
#[derive(Debug, Clone)]
pub struct Page {
    /// The records.
    pub records: Vec<Record>,
    /// Number of the newest record of all.
    pub head_seq: u64,
    /// Its hash.
    pub head_hash: String,
}

/// Reads a row of [`SELECT`].
pub fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    Ok(Record {
        seq: row.get::<_, i64>(0)?.cast_unsigned(),
        time_ms: row.get::<_, i64>(1)?.cast_unsigned(),
        kind: row.get(2)?,
        principal: row.get(3)?,
        agent: row.get(4)?,
        goal_id: row.get(5)?,
        task_id: row.get(6)?,
        call_id: row.get(7)?,
        tool: row.get(8)?,
        detail_json: row.get(9)?,
        prev_hash: row.get(10)?,
        hash: row.get(11)?,
    })
}

/// Lists records.
pub fn list(connection: &Connection, filter: &Filter) -> Result<Page, LedgerError> {
    let fail = || LedgerError::database("be read");
    let after = i64::try_from(filter.after_seq).unwrap_or(i64::MAX);
    let limit = match filter.limit {
        0 => DEFAULT_RECORDS,
        some => some.min(MAX_RECORDS),
    };
    let mut conditions = Vec::new();
    let mut values: Vec<&dyn ToSql> = Vec::new();
    if after > 0 {
        conditions.push(if filter.newest_first {
            "seq < ?"
        } else {
            "seq > ?"
        });
        values.push(&after);
    }
    for (column, value) in [
        ("goal_id <> '' AND goal_id = ?", &filter.goal_id),
        ("call_id <> '' AND call_id = ?", &filter.call_id),
        ("tool = ?", &filter.tool),
        ("kind = ?", &filter.kind),
        ("principal = ?", &filter.principal),
    ] {
        if !value.is_empty() {
            conditions.push(column);
            values.push(value);
        }
    }
    let condition = if conditions.is_empty() {
        String::new()
    } else {
        format!(" WHERE {}", conditions.join(" AND "))
    };
    let order = if filter.newest_first { "DESC" } else { "ASC" };
    values.push(&limit);
    let sql = format!("{SELECT}{condition} ORDER BY seq {order} LIMIT ?");
    let mut statement = connection.prepare_cached(&sql).map_err(fail())?;
    let mut rows = statement.query(values.as_slice()).map_err(fail())?;
    let mut records = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next().map_err(fail())? {
        let record = record(row).map_err(fail())?;
        bytes += record.detail_json.len() + 512;
        if bytes > MAX_BYTES && !records.is_empty() {
            break;
        }
        records.push(record);
    }
    let (head_seq, head_hash) = tail(connection)?;
    Ok(Page {
        records,
        head_seq,
        head_hash,
    })
}

/// Number and hash of the newest record; 0 when there is none.
pub fn tail(connection: &Connection) -> Result<(u64, String), LedgerError> {
    let mut statement = connection
        .prepare_cached("SELECT seq, hash FROM records ORDER BY seq DESC LIMIT 1")
        .map_err(LedgerError::database("be read"))?;
    let mut rows = statement
        .query([])
        .map_err(LedgerError::database("be read"))?;
    match rows.next().map_err(LedgerError::database("be read"))? {
        None => Ok((0, super::record::NO_HASH.to_owned())),
        Some(row) => Ok((
            row.get::<_, i64>(0)
                .map_err(LedgerError::database("be read"))?
                .cast_unsigned(),
            row.get(1).map_err(LedgerError::database("be read"))?,
        )),
    }
}
