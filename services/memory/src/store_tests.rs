use std::collections::HashMap;

use aios_proto::v1::{
    Decision, GoalRecord, ListGoalRecordsRequest, ListPatternsRequest, Pattern, TaskRecord,
};
use proptest::prelude::*;

use super::*;

fn goal(id: &str, version: u64) -> GoalRecord {
    GoalRecord {
        id: id.into(),
        text: "how full are the disks?".into(),
        principal: "cert:anna".into(),
        role: "operator".into(),
        status: "received".into(),
        priority: 5,
        created_ms: 1,
        version,
        ..GoalRecord::default()
    }
}

fn task(id: &str, goal: &str, version: u64) -> TaskRecord {
    TaskRecord {
        id: id.into(),
        goal_id: goal.into(),
        tool: "monitor.disk".into(),
        status: "pending".into(),
        kind: "step".into(),
        depends_on: vec!["a".into(), "b".into()],
        version,
        ..TaskRecord::default()
    }
}

fn goals(goals: &[GoalRecord]) -> CommitRequest {
    CommitRequest {
        goals: goals.to_vec(),
        ..CommitRequest::default()
    }
}

fn tasks(tasks: &[TaskRecord]) -> CommitRequest {
    CommitRequest {
        tasks: tasks.to_vec(),
        ..CommitRequest::default()
    }
}

fn open() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path()).unwrap();
    (dir, store)
}

async fn all_goals(store: &Store) -> Vec<GoalRecord> {
    store
        .read(|query| query.goals(&ListGoalRecordsRequest::default()))
        .await
        .unwrap()
}

#[tokio::test]
async fn what_is_stored_comes_back_as_it_was() {
    let (dir, store) = open();
    let full = GoalRecord {
        deadline_ms: i64::MAX as u64,
        plan_json: "{\"steps\":[]}".into(),
        result: "'; DROP TABLE goals; --".into(),
        reason: "Größe\0nul".into(),
        idempotency_key: "key".into(),
        cancel_requested: true,
        ..goal("g1", 1)
    };
    let step = TaskRecord {
        call_ids: vec!["c1".into()],
        attempt: 2,
        ..task("t1", "g1", 1)
    };
    let request = CommitRequest {
        goals: vec![full.clone()],
        tasks: vec![step.clone()],
        decisions: vec![Decision {
            goal_id: "g1".into(),
            kind: "plan".into(),
            ..Default::default()
        }],
        ..CommitRequest::default()
    };
    assert_eq!(store.commit(request).await, Ok(1));
    let (again, _) = Store::open(dir.path()).unwrap();
    assert_eq!(again.start(), store.start() + 1);
    assert_eq!(again.read(|query| query.goal("g1")).await, Ok(full));
    assert_eq!(again.read(|query| query.tasks("g1")).await, Ok(vec![step]));
    assert_eq!(
        again.read(|query| query.decisions("g1")).await.unwrap()[0].seq,
        1
    );
    let missing = again.read(|query| query.goal("g2")).await.unwrap_err();
    assert_eq!(
        missing,
        StoreError::NotFound {
            kind: "goal",
            id: "g2".into()
        }
    );
}

#[tokio::test]
async fn a_wrong_version_fails_the_whole_commit() {
    let (_dir, store) = open();
    store.commit(goals(&[goal("g1", 1)])).await.unwrap();
    for wrong in [0, 1, 3, u64::MAX] {
        let request = goals(&[goal("g2", 1), goal("g1", wrong)]);
        let error = store.commit(request).await.unwrap_err();
        let expected = StoreError::Version {
            kind: "goal",
            id: "g1".into(),
            stored: 1,
            given: wrong,
        };
        assert_eq!(error, expected);
        assert_eq!(all_goals(&store).await.len(), 1, "g2 must not be there");
    }
    store
        .commit(goals(&[goal("g1", 2), goal("g1", 3)]))
        .await
        .unwrap();
    assert_eq!(all_goals(&store).await[0].version, 3);
}

#[tokio::test]
async fn a_record_must_make_sense() {
    let (_dir, store) = open();
    let wrong = [
        goals(&[goal("", 1)]),
        goals(&[GoalRecord {
            status: "done".into(),
            ..goal("g", 1)
        }]),
        goals(&[GoalRecord {
            priority: 10,
            ..goal("g", 1)
        }]),
        goals(&[GoalRecord {
            created_ms: u64::MAX,
            ..goal("g", 1)
        }]),
        goals(&[goal(&"x".repeat(300), 1)]),
    ];
    for request in wrong {
        let error = store.commit(request).await.unwrap_err();
        assert!(matches!(error, StoreError::Invalid(_)), "{error:?}");
    }
    let orphan = store
        .commit(tasks(&[task("t", "nowhere", 1)]))
        .await
        .unwrap_err();
    assert!(matches!(orphan, StoreError::Conflict(_)), "{orphan:?}");
    let key = |id: &str| GoalRecord {
        idempotency_key: "k".into(),
        ..goal(id, 1)
    };
    store.commit(goals(&[key("g1")])).await.unwrap();
    let twice = store.commit(goals(&[key("g2")])).await.unwrap_err();
    assert!(matches!(twice, StoreError::Conflict(_)), "{twice:?}");
}

#[tokio::test]
async fn lists_are_newest_first_filtered_and_paged() {
    let (_dir, store) = open();
    for number in 0..5 {
        let status = if number % 2 == 0 { "running" } else { "failed" };
        let goal = GoalRecord {
            status: status.into(),
            ..goal(&format!("g{number}"), 1)
        };
        store.commit(goals(&[goal])).await.unwrap();
    }
    let ids = async |request: ListGoalRecordsRequest| {
        let goals = store
            .read(move |query| query.goals(&request))
            .await
            .unwrap();
        goals.into_iter().map(|goal| goal.id).collect::<Vec<_>>()
    };
    assert_eq!(
        ids(ListGoalRecordsRequest::default()).await,
        ["g4", "g3", "g2", "g1", "g0"]
    );
    let running = ListGoalRecordsRequest {
        statuses: vec!["running".into()],
        ..Default::default()
    };
    assert_eq!(ids(running.clone()).await, ["g4", "g2", "g0"]);
    let page = ListGoalRecordsRequest {
        before_id: "g3".into(),
        limit: 1,
        ..running
    };
    assert_eq!(ids(page).await, ["g2"]);
}

#[tokio::test]
async fn decisions_are_numbered_and_never_changed() {
    let (_dir, store) = open();
    store.commit(goals(&[goal("g", 1)])).await.unwrap();
    let decide = |seq, summary: &str| CommitRequest {
        decisions: vec![Decision {
            goal_id: "g".into(),
            seq,
            summary: summary.into(),
            ..Decision::default()
        }],
        ..CommitRequest::default()
    };
    for (seq, summary) in [
        (0, "first"),
        (0, "second"),
        (2, "forged"),
        (9, "ninth"),
        (0, "tenth"),
    ] {
        store.commit(decide(seq, summary)).await.unwrap();
    }
    let found: Vec<(u64, String)> = store
        .read(|query| query.decisions("g"))
        .await
        .unwrap()
        .into_iter()
        .map(|decision| (decision.seq, decision.summary))
        .collect();
    let expected = [(1, "first"), (2, "second"), (9, "ninth"), (10, "tenth")];
    assert_eq!(
        found,
        expected.map(|(seq, summary)| (seq, summary.to_owned()))
    );
}

#[tokio::test]
async fn tool_calls_follow_their_tasks() {
    let (_dir, store) = open();
    store.commit(goals(&[goal("g", 1)])).await.unwrap();
    let record = |version, status: &str, calls: &[&str]| TaskRecord {
        status: status.into(),
        call_ids: calls.iter().map(|call| (*call).to_owned()).collect(),
        started_ms: 10 * version,
        finished_ms: if status == "completed" { 99 } else { 0 },
        ..task("t", "g", version)
    };
    for record in [
        record(1, "pending", &[]),
        record(2, "running", &["c1"]),
        record(3, "failed", &["c1"]),
        record(4, "running", &["c1", "c2"]),
        record(5, "running", &["c1", "c2", "c3"]),
        record(6, "completed", &["c1", "c2", "c3"]),
    ] {
        store.commit(tasks(&[record])).await.unwrap();
    }
    let calls = store.read(|query| query.tool_calls("g")).await.unwrap();
    let seen: Vec<(&str, &str, u64)> = calls
        .iter()
        .map(|call| {
            (
                call.call_id.as_str(),
                call.outcome.as_str(),
                call.finished_ms,
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("c1", "failed", 0),
            ("c2", "superseded", 0),
            ("c3", "completed", 99)
        ]
    );
}

#[tokio::test]
async fn patterns_are_found_by_their_words() {
    let (_dir, store) = open();
    let pattern = |id: &str, text: &str, successes| Pattern {
        id: id.into(),
        goal_text: text.into(),
        successes,
        ..Pattern::default()
    };
    let patterns = vec![
        pattern("a", "How full are the disks?", 1),
        pattern("b", "how full  are the disks", 5),
        pattern("c", "stop nginx", 9),
    ];
    store
        .commit(CommitRequest {
            patterns,
            ..CommitRequest::default()
        })
        .await
        .unwrap();
    let again = CommitRequest {
        patterns: vec![Pattern {
            failures: 2,
            ..pattern("a", "How full are the disks?", 7)
        }],
        ..CommitRequest::default()
    };
    store.commit(again).await.unwrap();
    let find = async |text: &str| {
        let request = ListPatternsRequest {
            goal_text: text.into(),
            limit: 0,
        };
        let found = store
            .read(move |query| query.patterns(&request))
            .await
            .unwrap();
        found
            .into_iter()
            .map(|pattern| (pattern.id, pattern.successes))
            .collect::<Vec<_>>()
    };
    let pair = |id: &str, successes| (id.to_owned(), successes);
    assert_eq!(
        find("HOW full are the disks ").await,
        [pair("a", 7), pair("b", 5)]
    );
    assert_eq!(find("").await.len(), 3);
    assert_eq!(find("?").await, []);
}

#[tokio::test]
async fn a_full_disk_refuses_commits_and_still_answers_reads() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open(dir.path()).unwrap());
    let path = dir.path().join("working.db");
    let writer = connect(&path).unwrap();
    // SQLite answers SQLITE_FULL at this limit, exactly as it does when the volume has no room.
    writer.pragma_update(None, "max_page_count", 1).unwrap();
    let (jobs, waiting) = mpsc::channel(4);
    let trouble = Trouble::default();
    let (at, seen) = (path.clone(), trouble.clone());
    thread::spawn(move || writer::run(writer, at, waiting, seen));
    let store = Store {
        path: Arc::new(path.clone()),
        jobs,
        readers: Arc::new(Mutex::new(Vec::new())),
        permits: Arc::new(Semaphore::new(1)),
        trouble,
        start: 1,
    };
    let small = store.commit(goals(&[goal("small", 1)])).await;
    let large = GoalRecord {
        result: "x".repeat(1 << 20),
        ..goal("large", 1)
    };
    let error = store.commit(goals(&[large])).await.unwrap_err();
    assert_eq!(error, StoreError::Full { path });
    assert_eq!(store.trouble(), Some(error));
    let found = all_goals(&store).await;
    assert_eq!(found.len(), usize::from(small.is_ok()));
}

#[test]
fn a_damaged_file_is_reported_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("working.db");
    let garbage = b"this is no database at all, but long enough to be one ".repeat(100);
    fs::write(&path, &garbage).unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(
        matches!(&error, StoreError::Corrupt { path: named, .. } if *named == path),
        "{error}"
    );
    assert!(error.hint().contains("nothing is deleted"));
    assert_eq!(fs::read(&path).unwrap(), garbage);
}

#[tokio::test]
async fn damage_inside_the_file_is_found_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let (store, writer) = Store::open(dir.path()).unwrap();
    for number in 0..200 {
        let goal = GoalRecord {
            text: "x".repeat(500),
            ..goal(&format!("g{number}"), 1)
        };
        store.commit(goals(&[goal])).await.unwrap();
    }
    drop(store);
    writer.join().unwrap();
    let path = dir.path().join("working.db");
    let mut bytes = fs::read(&path).unwrap();
    assert!(
        bytes.len() > 60_000,
        "the log was folded in: {}",
        bytes.len()
    );
    let middle = bytes.len() / 2;
    bytes[middle..middle + 8192].fill(0x5a);
    fs::write(&path, &bytes).unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The store against a model: a map from id to version.
    #[test]
    fn versions_follow_the_rule(commits in prop::collection::vec(
        prop::collection::vec((0_u8..4, 0_u64..5), 1..4), 1..20
    )) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_dir, store) = open();
            let mut model: HashMap<String, u64> = HashMap::new();
            for commit in commits {
                let records: Vec<GoalRecord> = commit
                    .iter()
                    .map(|(id, version)| goal(&format!("g{id}"), *version))
                    .collect();
                let mut next = model.clone();
                let fits = records.iter().all(|record| {
                    let stored = next.entry(record.id.clone()).or_insert(0);
                    *stored += 1;
                    *stored == record.version
                });
                let result = store.commit(goals(&records)).await;
                prop_assert_eq!(result.is_ok(), fits, "{:?}", result);
                if fits {
                    model = next;
                }
                let stored: HashMap<String, u64> = all_goals(&store)
                    .await
                    .into_iter()
                    .map(|goal| (goal.id, goal.version))
                    .collect();
                prop_assert_eq!(&stored, &model);
            }
            Ok(())
        })?;
    }
}
