//! The ledger keeps what it was given, in order, and notices what was done to it.

use std::path::Path;

use proptest::prelude::*;
use rusqlite::Connection;
use serde_json::json;

use super::*;

/// A ledger with some records; waits for an earlier handle on it to be closed.
fn open(dir: &Path) -> Ledger {
    for _ in 0..500 {
        match Ledger::open(dir) {
            Err(error) if error.to_string().contains("another aios-tools") => {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            other => return other.unwrap(),
        }
    }
    panic!("the ledger stays locked");
}

fn entry(number: u64) -> Entry {
    let mut entry = Entry::new(
        Kind::Outcome,
        format!("cert:ann{number}"),
        json!({"n": number, "text": "päth"}),
    );
    "goal".clone_into(&mut entry.goal_id);
    entry
}

fn filled(dir: &Path, records: u64) -> String {
    let ledger = open(dir);
    for number in 1..records {
        let seq = ledger
            .write_blocking(move |batch| batch.append(entry(number)))
            .unwrap();
        assert_eq!(seq, number + 1);
    }
    assert!(ledger.verify().unwrap().ok());
    ledger.tail().hash
}

fn tamper(dir: &Path, sql: &str) {
    Connection::open(dir.join("ledger.db"))
        .unwrap()
        .execute_batch(sql)
        .unwrap();
}

fn verdict(dir: &Path) -> Verdict {
    let ledger = open(dir);
    let at_start = ledger.verify_as_opened().unwrap();
    assert_eq!(at_start, ledger.verify().unwrap());
    at_start
}

#[test]
fn records_survive_and_the_chain_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let head = filled(dir.path(), 5);
    let ledger = open(dir.path());
    assert_eq!(
        ledger.tail(),
        Tail {
            seq: 5,
            hash: head.clone()
        }
    );
    ledger
        .write_blocking(|batch| batch.append(entry(9)))
        .unwrap();
    let page = ledger
        .list(&Filter {
            goal_id: "goal".to_owned(),
            newest_first: true,
            limit: 2,
            ..Filter::default()
        })
        .unwrap();
    let seqs: Vec<u64> = page.records.iter().map(|record| record.seq).collect();
    assert_eq!((seqs, page.head_seq), (vec![6, 5], 6));
    assert_eq!(page.records[0].prev_hash, head);
    let older = ledger
        .list(&Filter {
            after_seq: 5,
            newest_first: true,
            ..Filter::default()
        })
        .unwrap();
    assert_eq!(older.records.first().unwrap().seq, 4);
    assert_eq!(older.records.last().unwrap().kind, "genesis");
    assert!(ledger.verify().unwrap().ok());
}

#[test]
fn many_writers_share_commits_and_a_failure_takes_nothing_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    std::thread::scope(|scope| {
        for writer in 0..16_u64 {
            let ledger = ledger.clone();
            scope.spawn(move || {
                for number in 0..20 {
                    let result = ledger.write_blocking(move |batch| {
                        batch.append(entry(number))?;
                        if (number + writer) % 3 == 0 {
                            return Err(LedgerError::Damaged("on purpose".to_owned()));
                        }
                        Ok(())
                    });
                    assert_eq!(result.is_err(), (number + writer) % 3 == 0);
                }
            });
        }
    });
    let verdict = ledger.verify().unwrap();
    assert!(verdict.ok(), "{verdict:?}");
    let kept = (0..16_u64)
        .flat_map(|w| (0..20_u64).map(move |n| (n + w) % 3))
        .filter(|rest| *rest != 0)
        .count();
    assert_eq!(verdict.records, 1 + kept as u64);
}

#[test]
fn a_second_daemon_cannot_open_it() {
    let dir = tempfile::tempdir().unwrap();
    let _ledger = open(dir.path());
    let error = Ledger::open(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("another aios-tools has this ledger open"),
        "{error}"
    );
}

#[test]
fn a_cut_tail_is_noticed_by_the_stored_head() {
    for cut in ["DELETE FROM records WHERE seq > 7", "DELETE FROM records"] {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path(), 10);
        tamper(dir.path(), cut);
        let verdict = verdict(dir.path());
        let (seq, problem) = verdict.bad.unwrap();
        assert_eq!(seq, verdict.records + 1);
        assert!(problem.contains("the tail is cut off"), "{problem}");
    }
}

#[test]
fn a_rewritten_tail_is_noticed_by_the_stored_head() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 5);
    // Somebody replaces the last record by one that fits the chain.
    let connection = Connection::open(dir.path().join("ledger.db")).unwrap();
    let prev: String = connection
        .query_row("SELECT hash FROM records WHERE seq = 4", [], |row| {
            row.get(0)
        })
        .unwrap();
    let forged = Record::chained(entry(99), 5, 1, &prev);
    connection
        .execute(
            "UPDATE records SET time_ms = 1, principal = ?, detail = ?, hash = ? WHERE seq = 5",
            rusqlite::params![forged.principal, forged.detail_json, forged.hash],
        )
        .unwrap();
    drop(connection);
    let (seq, problem) = verdict(dir.path()).bad.unwrap();
    assert_eq!(seq, 5);
    assert!(problem.contains("head.json"), "{problem}");
}

#[test]
fn a_missing_or_garbled_head_is_said() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 3);
    assert!(!open(dir.path()).opened_without_head());
    std::fs::write(dir.path().join("head.json"), "{\"seq\":").unwrap();
    assert!(open(dir.path()).opened_without_head());
    std::fs::remove_file(dir.path().join("head.json")).unwrap();
    let ledger = open(dir.path());
    assert!(ledger.opened_without_head());
    assert!(ledger.verify().unwrap().ok());
}

#[test]
fn a_newer_file_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 2);
    tamper(dir.path(), "PRAGMA user_version = 99");
    let error = loop {
        let error = Ledger::open(dir.path()).unwrap_err().to_string();
        if !error.contains("another aios-tools") {
            break error;
        }
    };
    assert!(error.contains("version 99"), "{error}");
}

const COLUMNS: [&str; 9] = [
    "kind",
    "principal",
    "agent",
    "goal_id",
    "task_id",
    "call_id",
    "tool",
    "detail",
    "prev_hash",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_changed_field_is_found_where_it_is(
        seq in 1_u64..9, column in 0_usize..COLUMNS.len() + 3, at in 0_usize..64, flip in 1_u8..8,
    ) {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path(), 9);
        let connection = Connection::open(dir.path().join("ledger.db")).unwrap();
        let bump = |column: &str| {
            connection
                .execute(&format!("UPDATE records SET {column} = {column} + {flip} WHERE seq = {seq}"), [])
                .unwrap();
        };
        let flip_text = |column: &str| {
            let text: String = connection
                .query_row(&format!("SELECT {column} FROM records WHERE seq = {seq}"), [], |row| row.get(0))
                .unwrap();
            let mut letters: Vec<char> = text.chars().collect();
            if letters.is_empty() {
                letters.push('x');
            } else {
                let at = at % letters.len();
                letters[at] = char::from_u32(u32::from(letters[at]) ^ u32::from(flip)).unwrap();
            }
            let changed: String = letters.into_iter().collect();
            connection
                .execute(&format!("UPDATE records SET {column} = ? WHERE seq = {seq}"), [&changed])
                .unwrap();
        };
        match column.checked_sub(COLUMNS.len()) {
            None => flip_text(COLUMNS[column]),
            Some(0) => bump("time_ms"),
            Some(1) => flip_text("hash"),
            Some(_) => {
                connection.execute(&format!("DELETE FROM records WHERE seq = {seq}"), []).unwrap();
            }
        }
        drop(connection);
        let verdict = verdict(dir.path());
        prop_assert_eq!(verdict.bad.as_ref().map(|(seq, _)| *seq), Some(seq), "{:?}", verdict);
        prop_assert_eq!(verdict.records, seq - 1);
    }
}
