//! Calls over the real socket: what is asked for is done, recorded, replayed and undone; what must
//! not be done is not.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail as loudly as tests"
)]

mod support;

use std::{fs, time::Duration};

use aios_proto::v1;
use serde_json::json;
use support::{
    CONSOLE, Machine, NETWORK, NOBODY, ORCHESTRATOR, ROOT, STORAGE, call, message, on_behalf, tools,
};

#[tokio::test]
async fn an_agent_writes_under_a_grant_and_an_operator_takes_it_back() {
    let machine = Machine::new();
    let _daemon = machine.start().await;
    let motd = machine.text("work/motd.txt");
    let args = json!({"path": motd, "content": "welcome aboard"});
    machine.grant("task-1", "storage", "fs.write", &args).await;
    let mut agent = machine.client(STORAGE);
    let request = call("fs.write", &args, "task-1", "task-1");
    let first = agent.execute(request.clone()).await.unwrap().into_inner();
    assert_eq!(first.outcome, "ok", "{}", message(&first));
    assert!(first.reversible && !first.replayed && first.intent_seq < first.outcome_seq);
    assert_eq!(fs::read_to_string(&motd).unwrap(), "welcome aboard");

    let again = agent.execute(request).await.unwrap().into_inner();
    assert!(again.replayed);
    assert_eq!(
        (again.call_id, again.result_json),
        (first.call_id.clone(), first.result_json)
    );

    let kinds: Vec<String> = machine
        .ledger()
        .await
        .into_iter()
        .filter(|record| record.goal_id == "goal-1")
        .map(|record| record.kind)
        .collect();
    assert_eq!(kinds, ["grant", "intent", "pre_image", "outcome"]);

    let goal = v1::RollbackRequest {
        goal_id: "goal-1".to_owned(),
        ..Default::default()
    };
    let mut console = machine.client(CONSOLE);
    let denied = console
        .rollback(on_behalf(goal.clone(), "cert:rob", "reader"))
        .await
        .unwrap_err();
    assert_eq!(denied.code(), tonic::Code::PermissionDenied);
    assert!(denied.message().contains("ledger:rollback"), "{denied}");
    let preview = v1::RollbackRequest {
        dry_run: true,
        ..goal.clone()
    };
    let preview = console
        .rollback(on_behalf(preview, "cert:ann", "operator"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(preview.calls[0].outcome, "would_undo");
    assert!(fs::exists(&motd).unwrap());
    let done = console
        .rollback(on_behalf(goal.clone(), "cert:ann", "operator"))
        .await
        .unwrap()
        .into_inner();
    assert!(done.complete, "{done:?}");
    assert_eq!(done.calls[0].outcome, "undone", "{done:?}");
    assert!(!fs::exists(&motd).unwrap());
    let twice = console
        .rollback(on_behalf(goal, "cert:ann", "operator"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(twice.calls[0].outcome, "nothing_to_undo");
    assert!(twice.calls[0].detail.contains("already"), "{twice:?}");
    assert!(machine.verify().await.ok);
}

#[tokio::test]
async fn a_grant_is_of_one_agent_one_call_and_one_time() {
    let machine = Machine::new();
    let mut daemon = machine.start().await;
    let path = machine.text("work/x");
    let args = json!({"path": path, "content": "x"});
    let grant = machine.grant("task-1", "storage", "fs.write", &args).await;
    let refused = async |uid: u32, request: v1::ExecuteRequest| {
        let reply = machine
            .client(uid)
            .execute(request)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(reply.outcome, "denied", "{reply:?}");
        assert!(!fs::exists(&path).unwrap());
        let records = machine.ledger().await;
        let last = records.last().unwrap();
        assert_eq!(
            (last.kind.as_str(), last.seq),
            ("denial", reply.outcome_seq)
        );
        message(&reply)
    };
    let said = refused(NETWORK, call("fs.write", &args, "task-1", "")).await;
    assert!(said.contains("granted to the agent `storage`"), "{said}");
    let other = json!({"path": path, "content": "y"});
    let said = refused(STORAGE, call("fs.write", &other, "task-1", "k1")).await;
    assert!(said.contains("not those that were granted"), "{said}");
    let said = refused(
        STORAGE,
        call("fs.mkdir", &json!({"path": path}), "task-1", "k2"),
    )
    .await;
    assert!(said.contains("was granted fs.write"), "{said}");
    let said = refused(STORAGE, call("fs.write", &args, "", "k3")).await;
    assert!(said.contains("names none"), "{said}");
    let said = refused(STORAGE, call("fs.write", &args, "task-9", "")).await;
    assert!(said.contains("nothing was granted"), "{said}");

    let mut orchestrator = machine.client(ORCHESTRATOR);
    let brief = v1::Grant {
        task_id: "task-2".to_owned(),
        expires_ms: aios_tools::ledger::now_ms() + 30,
        ..grant.clone()
    };
    orchestrator.open_grant(brief).await.unwrap();
    tokio::time::sleep(Duration::from_millis(60)).await;
    let said = refused(STORAGE, call("fs.write", &args, "task-2", "")).await;
    assert!(said.contains("has expired"), "{said}");

    // A grant outlives the daemon; closing it does too.
    daemon.kill();
    let mut daemon = machine.start().await;
    let closing = v1::CloseGrantRequest {
        task_id: "task-1".to_owned(),
    };
    let mut orchestrator = machine.client(ORCHESTRATOR);
    let probe = v1::ExecuteRequest {
        dry_run: true,
        ..call("fs.write", &args, "task-1", "")
    };
    let reply = machine
        .client(STORAGE)
        .execute(probe)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(reply.outcome, "ok", "{}", message(&reply));
    orchestrator.close_grant(closing).await.unwrap();
    daemon.kill();
    let _daemon = machine.start().await;
    let said = refused(STORAGE, call("fs.write", &args, "task-1", "")).await;
    assert!(said.contains("is closed"), "{said}");

    // An agent's own capabilities bound it even with a grant.
    let grant = v1::Grant {
        task_id: "task-3".to_owned(),
        agent: "network".to_owned(),
        ..grant
    };
    machine
        .client(ORCHESTRATOR)
        .open_grant(grant)
        .await
        .unwrap();
    let said = refused(NETWORK, call("fs.write", &args, "task-3", "")).await;
    assert!(
        said.contains("agent `network` does not hold fs:write"),
        "{said}"
    );
}

#[tokio::test]
async fn secrets_are_refused_by_every_way_to_them() {
    let machine = Machine::new();
    let _daemon = machine.start().await;
    let link = machine.path("work/link");
    std::os::unix::fs::symlink("/etc/shadow", &link).unwrap();
    let dir_link = machine.path("work/etc");
    std::os::unix::fs::symlink("/etc", &dir_link).unwrap();
    let ways = [
        "/etc/shadow".to_owned(),
        "/etc/../etc/./shadow".to_owned(),
        machine.text("work/link"),
        machine.text("work/etc/shadow"),
        "/proc/self/root/etc/shadow".to_owned(),
        "/proc/1/environ".to_owned(),
        "/dev/mem".to_owned(),
        machine.text("state/ledger/ledger.db"),
        machine.text("state/ledger"),
    ];
    let mut console = machine.client(CONSOLE);
    for path in &ways {
        for role in ["admin", "operator", "reader"] {
            let request = call("fs.read", &json!({"path": path}), "", "");
            let reply = console
                .execute(on_behalf(request, "cert:ann", role))
                .await
                .unwrap()
                .into_inner();
            // `..` and magic links are no arguments at all, whoever asks.
            let expected = if path.contains("..") || path.contains("/proc/self/root") {
                "invalid"
            } else {
                "denied"
            };
            assert_eq!(reply.outcome, expected, "{path} {role} {reply:?}");
            assert!(reply.result_json.is_empty());
        }
    }
    // The orchestrator asks before it plans: refused there, with the capability that is missing.
    let check = v1::CheckCallRequest {
        tool: "fs.read".to_owned(),
        args_json: json!({"path": machine.text("work/link")}).to_string(),
        principal: "cert:ann".to_owned(),
        role: "operator".to_owned(),
        agent: "storage".to_owned(),
        goal_id: "goal-7".to_owned(),
    };
    let reply = machine
        .client(ORCHESTRATOR)
        .check_call(check)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(reply.verdict, "denied");
    assert!(
        reply.reason.contains("fs:read:/etc/shadow"),
        "{}",
        reply.reason
    );
    let record = machine.ledger().await.pop().unwrap();
    assert_eq!(
        (record.kind.as_str(), record.goal_id.as_str()),
        ("denial", "goal-7")
    );
    assert_eq!(
        (record.principal.as_str(), record.agent.as_str()),
        ("cert:ann", "storage")
    );
    assert!(
        record
            .detail_json
            .contains(r#""missing":"fs:read:/etc/shadow""#),
        "{}",
        record.detail_json
    );
    // What aiOS decides by is read but not changed.
    for (tool, args) in [
        (
            "fs.write",
            json!({"path": machine.text("etc/security/policy.toml"), "content": ""}),
        ),
        ("fs.write", json!({"path": "/etc/passwd", "content": ""})),
        ("fs.mkdir", json!({"path": "/boot/x"})),
        (
            "fs.write",
            json!({"path": "/root/.ssh/authorized_keys", "content": ""}),
        ),
    ] {
        let request = call(tool, &args, "", "");
        let reply = console
            .execute(on_behalf(request, "cert:root", "admin"))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(reply.outcome, "denied", "{args} {reply:?}");
    }
    // One exact capability is the way.
    let request = call(
        "fs.read",
        &json!({"path": machine.text("etc/identities.toml")}),
        "",
        "",
    );
    let reply = console
        .execute(on_behalf(request, "cert:ann", "reader"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(reply.outcome, "ok", "{}", message(&reply));
}

#[tokio::test]
async fn the_wrong_uid_gets_nowhere_and_headers_do_not_help() {
    let machine = Machine::new();
    let _daemon = machine.start().await;
    let mut nobody = machine.client(NOBODY);
    let request = call("fs.stat", &json!({"path": "/"}), "", "");
    let error = nobody
        .execute(on_behalf(request.clone(), "cert:ann", "admin"))
        .await
        .unwrap_err();
    assert_eq!(error.code(), tonic::Code::PermissionDenied);
    assert!(
        nobody
            .list_ledger(v1::ListLedgerRequest::default())
            .await
            .is_err()
    );
    assert!(nobody.tools_health(v1::Empty {}).await.is_err());
    assert!(
        machine
            .client(STORAGE)
            .rollback(v1::RollbackRequest::default())
            .await
            .is_err()
    );
    assert!(
        machine
            .client(ROOT)
            .open_grant(v1::Grant::default())
            .await
            .is_err()
    );
    // An agent that says it acts for an administrator is still an agent without a grant.
    let reply = machine
        .client(STORAGE)
        .execute(on_behalf(request, "cert:ann", "admin"))
        .await
        .unwrap();
    assert_eq!(reply.into_inner().outcome, "denied");
    // The console for nobody has no rights.
    let request = call("fs.stat", &json!({"path": "/"}), "", "");
    let reply = machine
        .client(CONSOLE)
        .execute(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(reply.outcome, "denied");
    assert!(message(&reply).contains("nobody"), "{}", message(&reply));
}

#[tokio::test]
async fn mistakes_are_named_and_answered_with_what_would_be_right() {
    let machine = Machine::new();
    let _daemon = machine.start().await;
    let mut root = machine.client(ROOT);
    for (tool, args, said) in [
        ("fs.reed", json!({}), "did you mean `fs.read`?"),
        (
            "fs.read",
            json!({"pth": "/etc/hostname"}),
            "did you mean `path`?",
        ),
        ("fs.read", json!({}), "path"),
        ("fs.read", json!({"path": 7}), "path: 7 is not of type"),
        ("fs.read", json!({"path": "etc"}), "etc"),
        ("fs.read", json!([1]), "not a JSON object"),
    ] {
        let reply = root
            .execute(call(tool, &args, "", ""))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(reply.outcome, "invalid", "{reply:?}");
        assert!(
            message(&reply).contains(said),
            "{tool} {args}: {}",
            message(&reply)
        );
    }
    let broken = v1::ExecuteRequest {
        args_json: "{".to_owned(),
        ..call("fs.read", &json!({}), "", "")
    };
    let reply = root.execute(broken).await.unwrap().into_inner();
    assert!(message(&reply).contains("not JSON"), "{reply:?}");
}

#[tokio::test]
async fn one_key_is_one_call_also_when_asked_for_at_once() {
    let machine = Machine::new().with_test_tools();
    let server = machine.serve(tools::registry()).await;
    let path = machine.text("work/lines");
    let args = json!({"path": path, "line": "once", "wait_ms": 150, "password": "hunter2"});
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let mut client = machine.client(ROOT);
            let request = call("test.append", &args, "", "key-1");
            tokio::spawn(async move { client.execute(request).await.unwrap().into_inner() })
        })
        .collect();
    let mut replayed = 0;
    for reply in calls {
        let reply = reply.await.unwrap();
        assert_eq!(reply.outcome, "ok", "{reply:?}");
        replayed += usize::from(reply.replayed);
    }
    assert_eq!(replayed, 7);
    assert_eq!(fs::read_to_string(&path).unwrap(), "once\n");
    let mut root = machine.client(ROOT);
    let other = json!({"path": path, "line": "twice"});
    let reply = root
        .execute(call("test.append", &other, "", "key-1"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(reply.outcome, "invalid");
    assert!(message(&reply).contains("already used"), "{reply:?}");
    let ledger = format!("{:?}", machine.ledger().await);
    assert!(!ledger.contains("hunter2"));
    let on_disk = fs::read(machine.path("state/ledger/ledger.db")).unwrap();
    let wal = fs::read(machine.path("state/ledger/ledger.db-wal")).unwrap_or_default();
    for bytes in [on_disk, wal] {
        assert!(!bytes.windows(7).any(|window| window == b"hunter2"));
    }
    server.abort();
}

#[tokio::test]
async fn a_failure_that_may_pass_is_tried_again_under_the_same_key() {
    let machine = Machine::new().with_test_tools();
    let server = machine.serve(tools::registry()).await;
    let path = machine.text("work/flag");
    let request = call("test.flaky", &json!({"path": path}), "", "flaky");
    let mut root = machine.client(ROOT);
    let reply = root.execute(request.clone()).await.unwrap().into_inner();
    assert_eq!(reply.outcome, "failed");
    fs::write(&path, "").unwrap();
    let reply = root.execute(request.clone()).await.unwrap().into_inner();
    assert_eq!((reply.outcome.as_str(), reply.replayed), ("ok", false));
    fs::remove_file(&path).unwrap();
    let reply = root.execute(request).await.unwrap().into_inner();
    assert_eq!((reply.outcome.as_str(), reply.replayed), ("ok", true));
    server.abort();
}

#[tokio::test]
async fn time_runs_out_callers_leave_and_tools_panic_without_harm_to_others() {
    let machine = Machine::new().with_test_tools();
    let server = machine.serve(tools::registry()).await;
    let mut root = machine.client(ROOT);
    for heeds in [true, false] {
        let request = v1::ExecuteRequest {
            deadline_ms: 50,
            ..call("test.sleep", &json!({"ms": 3000, "heeds": heeds}), "", "")
        };
        let started = std::time::Instant::now();
        let reply = root.execute(request).await.unwrap().into_inner();
        assert_eq!(reply.outcome, "timeout", "{reply:?}");
        assert!(reply.outcome_seq > 0, "a timeout is recorded");
        assert!(started.elapsed() < Duration::from_millis(2900));
        assert_eq!(message(&reply).contains("may still be acting"), !heeds);
    }
    // The caller goes away: the call is told, and its end is recorded all the same.
    let request = call(
        "test.sleep",
        &json!({"ms": 4000, "heeds": true}),
        "",
        "gone",
    );
    let mut client = machine.client(ROOT);
    let gone = tokio::time::timeout(Duration::from_millis(100), client.execute(request)).await;
    assert!(gone.is_err());
    drop(client);
    let cancelled = async {
        loop {
            let records = machine.ledger().await;
            if records
                .iter()
                .any(|record| record.detail_json.contains("cancelled"))
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(3), cancelled)
        .await
        .unwrap();

    let reply = root
        .execute(call("test.panic", &json!({}), "", "p"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(reply.outcome, "failed");
    assert!(message(&reply).contains("half way"), "{reply:?}");
    let undo = v1::RollbackRequest {
        call_id: reply.call_id,
        ..Default::default()
    };
    let undone = root.rollback(undo).await.unwrap().into_inner();
    assert_eq!(undone.calls[0].outcome, "undone");
    let health = root.tools_health(v1::Empty {}).await.unwrap().into_inner();
    assert_eq!(health.health.unwrap().state, "ok");
    assert!(machine.verify().await.ok);
    server.abort();
}

#[tokio::test]
async fn searching_above_a_secret_does_not_show_it() {
    let machine = Machine::new();
    let _daemon = machine.start().await;
    machine.write("work/plain", "format of the genesis\n");
    let mut console = machine.client(CONSOLE);
    // The ledger's own file holds the word too, and lies below the same directory.
    let holds = fs::read(machine.path("state/ledger/ledger.db-wal")).unwrap();
    assert!(holds.windows(7).any(|window| window == b"genesis"));
    let args = json!({"path": machine.text(""), "contains": "genesis"});
    let request = call("fs.search", &args, "", "");
    let reply = console
        .execute(on_behalf(request, "cert:ann", "admin"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(reply.outcome, "ok", "{}", message(&reply));
    let result: serde_json::Value = serde_json::from_str(&reply.result_json).unwrap();
    let found: Vec<&str> = result["matches"]
        .as_array()
        .unwrap()
        .iter()
        .map(|found| found["path"].as_str().unwrap())
        .collect();
    assert_eq!(found, [machine.text("work/plain")], "{result}");
    // Nor can the whole be removed with it.
    let args = json!({"path": machine.text("state/.."), "recursive": true});
    let reply = console
        .execute(on_behalf(
            call("fs.delete", &args, "", ""),
            "cert:ann",
            "admin",
        ))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(reply.outcome, "invalid", "{reply:?}");
    let whole = machine.text("").trim_end_matches('/').to_owned();
    let args = json!({"path": whole, "recursive": true});
    let reply = console
        .execute(on_behalf(
            call("fs.delete", &args, "", ""),
            "cert:ann",
            "admin",
        ))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(reply.outcome, "denied", "{reply:?}");
    assert!(
        message(&reply).contains("is sensitive"),
        "{}",
        message(&reply)
    );
}

#[tokio::test]
async fn a_goal_is_undone_backwards_after_a_restart_and_stops_at_what_moved_on() {
    let machine = Machine::new();
    let mut daemon = machine.start().await;
    let (dir, page, other) = (
        machine.text("work/site"),
        machine.text("work/site/page"),
        machine.text("work/other"),
    );
    fs::write(&other, "before").unwrap();
    let long = "x".repeat(50_000);
    for (task, tool, args) in [
        ("t1", "fs.write", json!({"path": other, "content": long})),
        ("t2", "fs.mkdir", json!({"path": dir})),
        ("t3", "fs.write", json!({"path": page, "content": "first"})),
    ] {
        machine.grant(task, "storage", tool, &args).await;
        let mut agent = machine.client(STORAGE);
        let reply = agent
            .execute(call(tool, &args, task, ""))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(reply.outcome, "ok", "{}", message(&reply));
    }
    daemon.kill();
    let _daemon = machine.start().await;
    fs::write(&page, "somebody else's").unwrap();
    let goal = v1::RollbackRequest {
        goal_id: "goal-1".to_owned(),
        ..Default::default()
    };
    let mut root = machine.client(ROOT);
    let reply = root.rollback(goal.clone()).await.unwrap().into_inner();
    let outcomes: Vec<(&str, &str)> = reply
        .calls
        .iter()
        .map(|call| (call.tool.as_str(), call.outcome.as_str()))
        .collect();
    let expected = [
        ("fs.write", "refused"),
        ("fs.mkdir", "refused"),
        ("fs.write", "refused"),
    ];
    assert_eq!(outcomes, expected, "{reply:?}");
    assert!(!reply.complete && reply.calls[1].detail.contains("not tried"));
    assert_eq!(fs::read_to_string(&page).unwrap(), "somebody else's");
    assert_eq!(fs::read_to_string(&other).unwrap(), long);

    fs::write(&page, "first").unwrap();
    let reply = root.rollback(goal).await.unwrap().into_inner();
    assert!(reply.complete, "{reply:?}");
    assert!(!fs::exists(&dir).unwrap());
    assert_eq!(fs::read_to_string(&other).unwrap(), "before");
    // Neither the long text nor its pre-image stands in the ledger.
    for record in machine.ledger().await {
        assert!(record.detail_json.len() < 4096, "{record:?}");
    }
    assert!(machine.verify().await.ok);
}
