//! The real daemon over its real socket: who may call, what a restart keeps, what it refuses.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helper functions too"
)]

mod common;

use std::{
    fs,
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixDatagram, UnixListener},
    },
    time::{Duration, Instant},
};

use aios_kit::{Category, Error};
use aios_proto::v1::{
    CommitRequest, Empty, GetGoalRecordRequest, GoalRecord, ListEventsRequest,
    ListGoalRecordsRequest, ListTaskRecordsRequest, MemoryEvent, SearchMemoryRequest, TaskRecord,
    memory_client::MemoryClient,
};
use common::{AGENT, CONSOLE, Daemon, ORCHESTRATOR, STRANGER, as_uid};
use nix::sys::signal::Signal;
use prost::Message as _;
use tonic::{Code, Request, Status, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

const ROOT: u32 = 0;

fn goal(id: &str, version: u64) -> GoalRecord {
    GoalRecord {
        id: id.into(),
        text: format!("{id} at {version}"),
        status: "running".into(),
        version,
        ..GoalRecord::default()
    }
}

fn task(id: &str, goal: &str, version: u64) -> TaskRecord {
    TaskRecord {
        id: id.into(),
        goal_id: goal.into(),
        status: "running".into(),
        version,
        ..TaskRecord::default()
    }
}

fn event(kind: &str, summary: &str) -> MemoryEvent {
    MemoryEvent {
        kind: kind.into(),
        summary: summary.into(),
        source: "forged".into(),
        seq: 77,
        ..MemoryEvent::default()
    }
}

/// Calls a method by its path with an empty message.
async fn raw(client: Channel, path: &str) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(client);
    grpc.ready().await.unwrap();
    let path = PathAndQuery::try_from(path.to_owned()).unwrap();
    let codec: ProstCodec<Empty, Empty> = ProstCodec::default();
    grpc.server_streaming(Request::new(Empty {}), path, codec)
        .await?
        .into_inner()
        .message()
        .await?;
    Ok(())
}

fn methods() -> Vec<String> {
    let set = prost_types::FileDescriptorSet::decode(aios_proto::FILE_DESCRIPTOR_SET).unwrap();
    let services = set.file.iter().flat_map(|file| &file.service);
    services
        .filter(|service| service.name() == "Memory")
        .flat_map(|service| service.method.iter().map(|method| method.name().to_owned()))
        .collect()
}

#[test]
fn no_method_answers_a_wrong_uid() {
    let daemon = Daemon::started();
    let methods = methods();
    assert!(methods.len() >= 13);
    for uid in [STRANGER, AGENT] {
        as_uid(&daemon.socket(), uid, async |_| {
            let channel = aios_kit::client::channel(&daemon.socket());
            for method in methods.iter().map(String::as_str).chain(["NoSuchMethod"]) {
                if uid == AGENT && method == "PushEvent" {
                    continue;
                }
                let path = format!("/aios.v1.Memory/{method}");
                let status = raw(channel.clone(), &path).await.unwrap_err();
                assert_eq!(
                    status.code(),
                    Code::PermissionDenied,
                    "{method} by {uid}: {status:?}"
                );
            }
        });
    }
}

#[test]
fn only_the_orchestrator_commits_and_readers_read() {
    let daemon = Daemon::started();
    let request = CommitRequest {
        goals: vec![goal("g", 1)],
        ..CommitRequest::default()
    };
    for uid in [ROOT, CONSOLE, AGENT, STRANGER] {
        let code = as_uid(&daemon.socket(), uid, async |mut client| {
            client.commit(request.clone()).await.unwrap_err().code()
        });
        assert_eq!(code, Code::PermissionDenied, "{uid}");
    }
    as_uid(&daemon.socket(), ORCHESTRATOR, async |mut client| {
        assert_eq!(
            client
                .commit(request.clone())
                .await
                .unwrap()
                .into_inner()
                .transaction,
            1
        );
        let again = client.commit(request.clone()).await.unwrap_err();
        assert_eq!(again.code(), Code::Aborted);
        assert!(
            again.message().contains("goal g: the stored version is 1"),
            "{again}"
        );
        assert_eq!(Error::from(again).category(), Category::Conflict);
    });
    for uid in [ROOT, CONSOLE, ORCHESTRATOR] {
        as_uid(&daemon.socket(), uid, async |mut client| {
            let found = client
                .get_goal_record(GetGoalRecordRequest { id: "g".into() })
                .await;
            assert_eq!(found.unwrap().into_inner(), goal("g", 1));
            let missing = client
                .get_goal_record(GetGoalRecordRequest { id: "x".into() })
                .await;
            assert_eq!(missing.unwrap_err().code(), Code::NotFound);
            let health = client.memory_health(Empty {}).await.unwrap().into_inner();
            let process = health.health.unwrap();
            assert_eq!((process.state.as_str(), health.goals), ("ok", 1));
            assert!(process.resident_bytes > 1 << 20);
            let search = client
                .search_memory(SearchMemoryRequest::default())
                .await
                .unwrap_err();
            assert_eq!(search.code(), Code::Unimplemented);
            assert!(search.message().contains("long-term"), "{search}");
        });
    }
}

#[test]
fn an_event_bears_the_name_that_the_kernel_gives() {
    let daemon = Daemon::started();
    for uid in [AGENT, CONSOLE, ROOT] {
        as_uid(&daemon.socket(), uid, async |mut client| {
            client.push_event(event("agent", "hello")).await.unwrap();
            let odd = client
                .push_event(event("gossip", "hello"))
                .await
                .unwrap_err();
            assert_eq!(odd.code(), Code::InvalidArgument);
            let long = client
                .push_event(event("agent", &"x".repeat(70_000)))
                .await
                .unwrap_err();
            assert_eq!(long.code(), Code::InvalidArgument);
        });
    }
    as_uid(&daemon.socket(), CONSOLE, async |mut client| {
        let reply = client
            .list_events(ListEventsRequest::default())
            .await
            .unwrap()
            .into_inner();
        let seen: Vec<(u64, &str)> = reply
            .events
            .iter()
            .map(|event| (event.seq, event.source.as_str()))
            .collect();
        assert_eq!(seen, [(1, "network"), (2, "console"), (3, "root")]);
        assert!(reply.events.iter().all(|event| event.time_ms > 0));
    });
}

#[test]
fn a_watch_resumes_by_number_and_ends_in_order() {
    let mut daemon = Daemon::started();
    let socket = daemon.socket();
    let (watching, ready) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            as_uid(&socket, ORCHESTRATOR, async move |mut client| {
                for summary in ["one", "two", "three"] {
                    client.push_event(event("goal", summary)).await.unwrap();
                }
                let after = ListEventsRequest {
                    after_seq: 2,
                    ..ListEventsRequest::default()
                };
                let mut watch = client
                    .clone()
                    .watch_events(after)
                    .await
                    .unwrap()
                    .into_inner();
                assert_eq!(watch.message().await.unwrap().unwrap().summary, "three");
                client.push_event(event("goal", "four")).await.unwrap();
                let four = watch.message().await.unwrap().unwrap();
                assert_eq!((four.summary.as_str(), four.seq), ("four", 4));
                watching.send(()).unwrap();
                watch.message().await.unwrap_err().code()
            })
        });
        ready.recv_timeout(Duration::from_secs(10)).unwrap();
        // The open watch must not keep the daemon from stopping.
        let began = Instant::now();
        assert!(daemon.signal(Signal::SIGTERM).success());
        assert!(began.elapsed() < Duration::from_secs(2));
        assert_eq!(watcher.join().unwrap(), Code::Unavailable);
    });
    daemon.start();
    as_uid(&socket, ORCHESTRATOR, async |mut client| {
        client.push_event(event("goal", "five")).await.unwrap();
        let after = ListEventsRequest {
            after_seq: 4,
            ..ListEventsRequest::default()
        };
        let mut watch = client.watch_events(after).await.unwrap().into_inner();
        let five = watch.message().await.unwrap().unwrap();
        assert_eq!(five.summary, "five");
        assert!(five.seq > 4);
    });
}

#[test]
fn callers_wait_on_the_socket_of_pid_1_while_the_daemon_restarts() {
    let mut daemon = Daemon::prepare();
    fs::create_dir(daemon.root.path().join("run")).unwrap();
    let listener = UnixListener::bind(daemon.socket()).unwrap();
    fs::set_permissions(daemon.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    for version in 1..=3 {
        let socket = daemon.socket();
        std::thread::scope(|scope| {
            // This call is made before there is anybody who could answer it.
            let commit = scope.spawn(|| {
                as_uid(&socket, ORCHESTRATOR, async |mut client| {
                    let goals = vec![goal("g", version)];
                    client
                        .commit(CommitRequest {
                            goals,
                            ..CommitRequest::default()
                        })
                        .await
                })
            });
            std::thread::sleep(Duration::from_millis(100));
            daemon.start_on(&listener);
            assert!(commit.join().unwrap().is_ok());
        });
        daemon.signal(Signal::SIGKILL);
    }
}

#[test]
fn the_ring_has_the_configured_size() {
    let mut daemon = Daemon::prepare();
    fs::write(
        daemon.root.path().join("etc/config.toml"),
        "[memory]\noperational_max_entries = 3\n",
    )
    .unwrap();
    daemon.start();
    as_uid(&daemon.socket(), ORCHESTRATOR, async |mut client| {
        for _ in 0..5 {
            client.push_event(event("system", "x")).await.unwrap();
        }
        let reply = client
            .list_events(ListEventsRequest::default())
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            (reply.events.len(), reply.dropped, reply.events[0].seq),
            (3, 2, 3)
        );
    });
}

/// Commits one goal and its task again and again; the last version that was acknowledged.
async fn storm(mut client: MemoryClient<Channel>, id: String, from: u64) -> u64 {
    let mut acknowledged = from;
    loop {
        let version = acknowledged + 1;
        let request = CommitRequest {
            goals: vec![goal(&id, version)],
            tasks: vec![task(&format!("task of {id}"), &id, version)],
            ..CommitRequest::default()
        };
        match client.commit(request).await {
            Ok(_) => acknowledged = version,
            Err(_) => return acknowledged,
        }
    }
}

#[test]
fn what_was_acknowledged_survives_kill_nine_in_a_storm() {
    const GOALS: usize = 6;
    let mut daemon = Daemon::started();
    let socket = daemon.socket();
    let mut versions = [0_u64; GOALS];
    for round in 1..=4_u64 {
        let before = versions;
        let acknowledged = std::thread::scope(|scope| {
            let storms = scope.spawn(|| {
                as_uid(&socket, ORCHESTRATOR, async |client| {
                    let storms = before
                        .iter()
                        .enumerate()
                        .map(|(number, from)| storm(client.clone(), format!("g{number}"), *from));
                    futures::future::join_all(storms).await
                })
            });
            std::thread::sleep(Duration::from_millis(150 + 40 * round));
            daemon.signal(Signal::SIGKILL);
            storms.join().unwrap()
        });
        assert!(
            acknowledged
                .iter()
                .zip(&before)
                .all(|(after, before)| after > before)
        );
        daemon.start();
        as_uid(&socket, ORCHESTRATOR, async |mut client| {
            let list = ListGoalRecordsRequest::default();
            let goals = client
                .list_goal_records(list)
                .await
                .unwrap()
                .into_inner()
                .goals;
            assert_eq!(goals.len(), GOALS);
            for (number, acknowledged) in acknowledged.iter().enumerate() {
                let id = format!("g{number}");
                let stored = goals.iter().find(|goal| goal.id == id).unwrap();
                // The last commit of each may have been stored without its answer getting through.
                assert!(
                    (*acknowledged..=acknowledged + 1).contains(&stored.version),
                    "{id}: {acknowledged} acknowledged, {} stored",
                    stored.version
                );
                assert_eq!(*stored, goal(&id, stored.version));
                let list = ListTaskRecordsRequest {
                    goal_id: id.clone(),
                };
                let tasks = client
                    .list_task_records(list)
                    .await
                    .unwrap()
                    .into_inner()
                    .tasks;
                assert_eq!(tasks, [task(&format!("task of {id}"), &id, stored.version)]);
                let stale = CommitRequest {
                    goals: vec![goal(&id, stored.version)],
                    ..CommitRequest::default()
                };
                assert_eq!(
                    client.commit(stale).await.unwrap_err().code(),
                    Code::Aborted
                );
                versions[number] = stored.version;
            }
        });
    }
}

#[test]
fn bad_databases_and_settings_are_refused_with_what_to_do() {
    let mut daemon = Daemon::started();
    assert!(daemon.signal(Signal::SIGTERM).success());
    let database = rusqlite::Connection::open(daemon.database()).unwrap();
    database.pragma_update(None, "user_version", 99).unwrap();
    drop(database);
    let (status, said) = daemon.failing();
    assert!(!status.success());
    assert!(said.contains("working.db has schema version 99"), "{said}");
    assert!(said.contains("start the newer aiOS again"), "{said}");

    fs::write(daemon.database(), "nonsense ".repeat(1000)).unwrap();
    let (status, said) = daemon.failing();
    assert!(!status.success());
    assert!(said.contains("working.db is damaged"), "{said}");
    assert!(said.contains("restore"), "{said}");
    assert_eq!(
        fs::read_to_string(daemon.database()).unwrap(),
        "nonsense ".repeat(1000)
    );

    let identities = daemon.root.path().join("etc/identities.toml");
    fs::write(&identities, "[deamons]\nmemory = 902\n").unwrap();
    let notify = UnixDatagram::bind(daemon.root.path().join("notify")).unwrap();
    let (status, said) = daemon.failing();
    assert!(!status.success());
    assert!(said.contains("identities.toml:1:2"), "{said}");
    assert!(said.contains("did you mean `daemons`"), "{said}");
    // PID 1 hears it too, for the boot report.
    let told = hear(&notify);
    assert!(told.starts_with("STATUS=cannot start: "), "{told}");
    assert!(told.contains("identities.toml:1:2"), "{told}");
}

fn hear(notify: &UnixDatagram) -> String {
    notify
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut buffer = [0; 4096];
    let length = notify.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

#[test]
fn wrong_settings_degrade_it_and_everything_still_answers() {
    let mut daemon = Daemon::prepare();
    fs::write(
        daemon.root.path().join("etc/config.toml"),
        "[memory]\noperational_max_entrys = 3\n",
    )
    .unwrap();
    let notify = UnixDatagram::bind(daemon.root.path().join("notify")).unwrap();
    daemon.start();
    as_uid(&daemon.socket(), CONSOLE, async |mut client| {
        let reply = client.memory_health(Empty {}).await.unwrap().into_inner();
        let health = reply.health.unwrap();
        assert_eq!(health.state, "degraded", "{health:?}");
        for part in [
            "config.toml:2:1: ",
            "did you mean `operational_max_entries`?",
            "correct the file",
        ] {
            assert!(health.reason.contains(part), "{}", health.reason);
        }
        assert_eq!(reply.operational_max, 10_000);
    });
    let told = hear(&notify);
    let status = told
        .lines()
        .find_map(|line| line.strip_prefix("STATUS="))
        .unwrap();
    assert!(status.starts_with("degraded: "), "{told}");
    assert!(status.contains("config.toml:2:1: "), "{told}");
    assert!(told.lines().any(|line| line == "READY=1"), "{told}");
}
