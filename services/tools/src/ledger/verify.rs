//! Recomputing the chain: one pass in the order of the records, in memory that does not grow.

use rusqlite::Connection;

use super::{
    LedgerError,
    head::{Head, Stored},
    query,
    record::NO_HASH,
};

/// What a check of the whole chain found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Records that were looked at and fit.
    pub records: u64,
    /// The hash of the last record that fits.
    pub head_hash: String,
    /// The first record that does not fit, and why.
    pub bad: Option<(u64, String)>,
}

impl Verdict {
    /// Whether everything fits.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.bad.is_none()
    }
}

/// Checks every record and the tail against the stored head.
pub fn chain(connection: &Connection, head: &Stored) -> Result<Verdict, LedgerError> {
    let fail = || LedgerError::database("be read");
    let mut statement = connection
        .prepare(&format!("{} ORDER BY seq", query::SELECT))
        .map_err(fail())?;
    let mut rows = statement.query([]).map_err(fail())?;
    let mut verdict = Verdict {
        records: 0,
        head_hash: NO_HASH.to_owned(),
        bad: None,
    };
    loop {
        let expected = verdict.records + 1;
        let record = match rows
            .next()
            .and_then(|row| row.map(query::record).transpose())
        {
            Ok(Some(record)) => record,
            Ok(None) => break,
            Err(error) => {
                verdict.bad = Some((expected, format!("the record cannot be read: {error}")));
                return Ok(verdict);
            }
        };
        let problem = if record.seq != expected {
            Some(format!(
                "record {expected} is missing: the next one is {}",
                record.seq
            ))
        } else if record.prev_hash != verdict.head_hash {
            Some(format!(
                "record {expected} does not follow from the record before it: that was changed or replaced"
            ))
        } else if record.expected_hash() != record.hash {
            Some(format!(
                "record {expected} was changed after it was written"
            ))
        } else {
            None
        };
        if let Some(problem) = problem {
            verdict.bad = Some((expected, problem));
            return Ok(verdict);
        }
        if let Stored::Head(Head { seq, hash }) = head
            && *seq == record.seq
            && *hash != record.hash
        {
            let problem = format!("record {seq} is not the one that head.json names");
            verdict.bad = Some((*seq, problem));
            return Ok(verdict);
        }
        verdict.records = expected;
        verdict.head_hash = record.hash;
    }
    if let Stored::Head(Head { seq, .. }) = head
        && *seq > verdict.records
    {
        verdict.bad = Some((
            verdict.records + 1,
            format!(
                "the tail is cut off: head.json names record {seq}, the last one here is {}",
                verdict.records
            ),
        ));
    }
    Ok(verdict)
}
