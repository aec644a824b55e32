//! The daemon is killed at any moment: nothing is done twice, nothing that was answered is lost, and
//! what nobody can know is said.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail as loudly as tests"
)]

mod support;

use std::{
    fs,
    io::Read as _,
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use aios_proto::v1;
use serde_json::json;
use support::{Machine, ROOT, call, message};

/// Appends numbered lines, each under its own key, and asks again whenever the daemon died.
async fn append_lines(machine: &Machine, name: &str, lines: usize, done: &AtomicUsize) {
    let path = machine.text(&format!("work/{name}"));
    let mut client = machine.client(ROOT);
    for line in 0..lines {
        let args = json!({"path": path, "content": format!("{line}\n"), "append": line > 0});
        let request = call("fs.write", &args, "", &format!("{name}-{line}"));
        loop {
            match client.execute(request.clone()).await {
                Ok(reply) => {
                    let reply = reply.into_inner();
                    assert_eq!(reply.outcome, "ok", "{name} {line}: {}", message(&reply));
                    break;
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_kills_loses_nothing_and_repeats_nothing() {
    const WRITERS: usize = 3;
    const LINES: usize = 12;
    let machine = Arc::new(Machine::new());
    let done = Arc::new(AtomicUsize::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let storm = {
        let (machine, over) = (Arc::clone(&machine), Arc::clone(&over));
        tokio::spawn(async move {
            let mut kills = 0_u32;
            while !over.load(Ordering::Relaxed) {
                let mut daemon = machine.start().await;
                // Some lives end while the first calls of the new process are being resolved.
                let nanos = std::time::SystemTime::UNIX_EPOCH
                    .elapsed()
                    .unwrap()
                    .subsec_nanos();
                tokio::time::sleep(Duration::from_millis(u64::from(nanos / 1000 % 120))).await;
                daemon.kill();
                kills += 1;
            }
            kills
        })
    };
    let names: Vec<String> = (0..WRITERS).map(|writer| format!("w{writer}")).collect();
    let writers: Vec<_> = names
        .iter()
        .map(|name| {
            let (machine, name, done) = (Arc::clone(&machine), name.clone(), Arc::clone(&done));
            tokio::spawn(async move { append_lines(&machine, &name, LINES, &done).await })
        })
        .collect();
    for writer in writers {
        tokio::time::timeout(Duration::from_secs(90), writer)
            .await
            .unwrap()
            .unwrap();
    }
    over.store(true, Ordering::Relaxed);
    let kills = storm.await.unwrap();
    assert!(
        kills >= 3,
        "only {kills} kills: the storm was over before it began"
    );

    let _daemon = machine.start().await;
    let expected: String = (0..LINES).map(|line| format!("{line}\n")).collect();
    for name in &names {
        let text = fs::read_to_string(machine.path(&format!("work/{name}"))).unwrap();
        assert_eq!(text, expected, "{name} after {kills} kills");
    }
    let verdict = machine.verify().await;
    assert!(verdict.ok, "{verdict:?}");
    let records = machine.ledger().await;
    // One successful outcome per call, whatever happened on the way.
    let succeeded = records
        .iter()
        .filter(|record| {
            record.kind == "outcome" && record.detail_json.contains(r#""outcome":"ok""#)
        })
        .count();
    assert!(succeeded >= WRITERS * LINES, "{succeeded}");
    let mut client = machine.client(ROOT);
    let health = client
        .tools_health(v1::Empty {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(health.calls_interrupted, 0);
}

#[tokio::test]
async fn what_nobody_can_know_is_said_and_not_tried_again() {
    let machine = Machine::new();
    let mut daemon = machine.start().await;
    // A server that takes a request and never answers.
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let requests = Arc::new(AtomicUsize::new(0));
    {
        let requests = Arc::clone(&requests);
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for stream in server.incoming() {
                let mut stream = stream.unwrap();
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer);
                requests.fetch_add(1, Ordering::SeqCst);
                kept.push(stream);
            }
        });
    }
    let args = json!({
        "url": format!("http://127.0.0.1:{port}/order"), "method": "POST", "body": "one nginx",
    });
    let request = call("net.http_request", &args, "", "order-1");
    let mut client = machine.client(ROOT);
    let pending = {
        let request = request.clone();
        tokio::spawn(async move { client.execute(request).await })
    };
    let started = Instant::now();
    while requests.load(Ordering::SeqCst) == 0 {
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "{:?}",
            pending.is_finished()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    daemon.kill();
    assert!(pending.await.unwrap().is_err());

    let _daemon = machine.start().await;
    let mut client = machine.client(ROOT);
    let health = client
        .tools_health(v1::Empty {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(health.calls_interrupted, 1);
    let reply = client.execute(request.clone()).await.unwrap().into_inner();
    assert_eq!(reply.outcome, "unknown", "{reply:?}");
    assert!(
        message(&reply).contains("aios audit list --call"),
        "{}",
        message(&reply)
    );
    let again = client.execute(request).await.unwrap().into_inner();
    assert_eq!((again.outcome.as_str(), again.replayed), ("unknown", true));
    assert_eq!(
        requests.load(Ordering::SeqCst),
        1,
        "the order was placed twice"
    );
    let health = client
        .tools_health(v1::Empty {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(health.calls_interrupted, 0);
    let interrupted = machine
        .ledger()
        .await
        .into_iter()
        .filter(|record| record.detail_json.contains(r#""interrupted":true"#))
        .count();
    assert_eq!(interrupted, 1);
}

#[tokio::test]
async fn a_ledger_that_was_changed_stops_changes_and_nothing_else() {
    let machine = Machine::new();
    let mut daemon = machine.start().await;
    let mut client = machine.client(ROOT);
    for name in ["a", "b"] {
        let args = json!({"path": machine.text(&format!("work/{name}")), "content": name});
        let reply = client
            .execute(call("fs.write", &args, "", name))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(reply.outcome, "ok", "{reply:?}");
    }
    daemon.kill();
    rusqlite::Connection::open(machine.path("state/ledger/ledger.db"))
        .unwrap()
        .execute(
            "UPDATE records SET principal = 'cert:mallory' WHERE seq = 3",
            [],
        )
        .unwrap();
    let _daemon = machine.start().await;
    let args = json!({"path": machine.text("work/c"), "content": "c"});
    let reply = client
        .execute(call("fs.write", &args, "", "c"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(reply.outcome, "failed");
    assert!(
        message(&reply).contains("from record 3 on"),
        "{}",
        message(&reply)
    );
    assert!(!fs::exists(machine.path("work/c")).unwrap());
    let undo = v1::RollbackRequest {
        task_id: String::new(),
        call_id: "x".to_owned(),
        ..Default::default()
    };
    assert!(client.rollback(undo).await.is_err());
    let args = json!({"path": machine.text("work/a")});
    let reply = client
        .execute(call("fs.read", &args, "", ""))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(reply.outcome, "ok", "{}", message(&reply));
    let health = client
        .tools_health(v1::Empty {})
        .await
        .unwrap()
        .into_inner()
        .health
        .unwrap();
    assert_eq!(health.state, "degraded");
    assert!(health.reason.contains("record 3"), "{}", health.reason);
    let verdict = machine.verify().await;
    assert_eq!((verdict.ok, verdict.bad_seq), (false, 3));
    assert!(machine.ledger().await.len() > 6);
}

#[tokio::test]
async fn a_wrong_configuration_ends_the_start_with_file_and_line() {
    for (file, text, said) in [
        (
            "etc/security/policy.toml",
            "[roles.admin]\ncapabilities = [\"x\"]\n",
            "policy.toml:2:",
        ),
        (
            "etc/agents/storage.toml",
            "name = \"storage\"\ncapabilites = []\n",
            "storage.toml:2:1",
        ),
        (
            "etc/identities.toml",
            "[deamons]\n",
            "did you mean `daemons`?",
        ),
    ] {
        let machine = Machine::new();
        machine.write(file, text);
        let output = machine.command().output().unwrap();
        assert!(!output.status.success());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains(said), "{stderr}");
    }
}
