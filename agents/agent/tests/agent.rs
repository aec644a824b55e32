//! The real agent over real sockets: registration, tasks, restarts of everything around it and of
//! itself, and who may tell it anything.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helper functions too"
)]

mod common;

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use aios_kit::{Category, Error};
use aios_proto::v1::{CancelTaskRequest, Empty};
use common::{ORCHESTRATOR, World, kill_fake, task, until};
use nix::sys::signal::Signal;
use tonic::Code;

fn calls(world: &World) -> usize {
    world.log.calls.lock().unwrap().len()
}

fn registrations(world: &World) -> usize {
    world.log.registered.lock().unwrap().len()
}

#[test]
fn it_is_ready_once_the_orchestrator_knows_it() {
    let mut world = World::empty();
    world.start_tools();
    world.start_agent();
    assert!(!world.ready_within(Duration::from_millis(200)));
    world.as_uid(ORCHESTRATOR, async |mut agent| {
        let health = agent.agent_health(Empty {}).await.unwrap().into_inner();
        assert_eq!(
            (health.name.as_str(), health.state.as_str()),
            ("network", "starting")
        );
        assert_eq!(health.health.unwrap().state, "degraded");
        let early = Error::from(agent.run_task(task("t", "quick")).await.unwrap_err());
        assert!(early.retryable(), "{early}");
    });
    world.start_orchestrator();
    world.wait_ready();
    let (uid, said) = world.log.registered.lock().unwrap()[0].clone();
    assert_eq!(uid, nix::unistd::geteuid().as_raw());
    assert_eq!(
        (said.capabilities, said.tool_families),
        (vec!["net:check_port".into()], vec!["net".into()])
    );
    assert_eq!((said.max_tasks, said.running_task_ids), (2, vec![]));
    until("three heartbeats", || {
        world.log.beats.lock().unwrap().len() >= 3
    });
    assert_eq!(registrations(&world), 1);
    assert_eq!(world.log.beats.lock().unwrap()[2].health, "ok");
}

#[test]
fn a_task_is_one_call_of_its_tool() {
    let world = World::running();
    world.as_uid(ORCHESTRATOR, async |mut agent| {
        let reply = agent
            .run_task(task("t", "quick"))
            .await
            .unwrap()
            .into_inner();
        let call = reply.call.unwrap();
        assert_eq!((reply.task_id.as_str(), call.outcome.as_str()), ("t", "ok"));
        assert_eq!((call.call_id.as_str(), call.replayed), ("call-1", false));
        // A second attempt has the same key, so the tools daemon can tell.
        let mut second = task("t", "quick");
        second.attempt = 2;
        let call = agent
            .run_task(second)
            .await
            .unwrap()
            .into_inner()
            .call
            .unwrap();
        assert_eq!((call.call_id.as_str(), call.replayed), ("call-1", true));
        let denied = Error::from(agent.run_task(task("u", "forbidden")).await.unwrap_err());
        assert_eq!(
            (denied.category(), denied.message()),
            (Category::Auth, "there is no grant")
        );
        let mut nameless = task("v", "quick");
        nameless.idempotency_key.clear();
        let invalid = agent.run_task(nameless).await.unwrap_err();
        assert_eq!(invalid.code(), Code::InvalidArgument);
    });
    let calls = world.log.calls.lock().unwrap();
    assert_eq!(calls.len(), 3);
    let first = &calls[0];
    assert_eq!(
        (first.tool.as_str(), first.task_id.as_str()),
        ("quick", "t")
    );
    assert_eq!(
        (first.args_json.as_str(), first.idempotency_key.as_str()),
        ("{\"port\":80}", "key of t")
    );
    assert!(
        (15_000..=20_000).contains(&first.deadline_ms),
        "{}",
        first.deadline_ms
    );
    until("a heartbeat tells the totals", || {
        let beats = world.log.beats.lock().unwrap();
        beats
            .last()
            .is_some_and(|beat| (beat.tasks_done, beat.tasks_failed) == (2, 1))
    });
}

#[test]
fn a_task_survives_a_restart_of_the_tools_daemon() {
    let mut world = World::running();
    std::thread::scope(|scope| {
        let (socket, log) = (world.socket(), world.log.clone());
        let running = scope.spawn(move || run_as_orchestrator(&socket, task("t", "slow")));
        until("the call has begun", || {
            log.calls.lock().unwrap().len() == 1
        });
        kill_fake(&mut world.tools);
        std::thread::sleep(Duration::from_millis(150));
        log.release.store(true, Ordering::SeqCst);
        world.start_tools();
        let call = running.join().unwrap().unwrap();
        assert_eq!((call.outcome.as_str(), call.replayed), ("ok", false));
    });
    let calls = world.log.calls.lock().unwrap();
    assert_eq!(calls.len(), 2);
    assert!(calls.iter().all(|call| call.idempotency_key == "key of t"));
    assert!(calls[1].deadline_ms < calls[0].deadline_ms);
}

/// Runs one task as the orchestrator.
fn run_as_orchestrator(
    socket: &std::path::Path,
    task: aios_proto::v1::RunTaskRequest,
) -> Result<aios_proto::v1::ExecuteReply, Error> {
    common::as_uid(socket, ORCHESTRATOR, async |mut agent| {
        let reply = agent.run_task(task).await.map_err(Error::from)?;
        Ok(reply.into_inner().call.unwrap())
    })
}

#[test]
fn a_restarted_orchestrator_finds_its_task_again() {
    let mut world = World::running();
    // The orchestrator begins a task and goes away without an answer.
    world.as_uid(ORCHESTRATOR, async |mut agent| {
        let begun = agent.run_task(task("t", "slow"));
        assert!(
            tokio::time::timeout(Duration::from_millis(300), begun)
                .await
                .is_err()
        );
    });
    kill_fake(&mut world.orchestrator);
    world.start_orchestrator();
    until("it registers again", || registrations(&world) == 2);
    let said = world.log.registered.lock().unwrap()[1].1.clone();
    assert_eq!(said.running_task_ids, ["t"]);
    assert_eq!(world.log.dropped.load(Ordering::SeqCst), 0);
    world.as_uid(ORCHESTRATOR, async |mut agent| {
        let health = agent.agent_health(Empty {}).await.unwrap().into_inner();
        assert_eq!(
            (health.state.as_str(), health.running_task_ids.len()),
            ("running", 1)
        );
        let mut next = task("t", "slow");
        next.attempt = 2;
        let refused = Error::from(agent.run_task(next).await.unwrap_err());
        assert!(
            refused.retryable() && refused.message().contains("attempt 1"),
            "{refused}"
        );
        world.log.release.store(true, Ordering::SeqCst);
        let call = agent
            .run_task(task("t", "slow"))
            .await
            .unwrap()
            .into_inner()
            .call
            .unwrap();
        assert_eq!(call.outcome, "ok");
    });
    assert!(calls(&world) <= 2, "joined, or answered from the record");
    assert!(
        !world.ready_within(Duration::from_millis(50)),
        "ready is said once"
    );
}

#[test]
fn an_orchestrator_that_forgot_the_session_is_told_again() {
    let mut world = World::running();
    // A new one on the same socket, while the old connection is still open.
    let old = world.orchestrator.take();
    world.start_orchestrator();
    until("it registers again", || registrations(&world) >= 2);
    if let Some(old) = old {
        old.shutdown_background();
    }
}

#[test]
fn cancelling_ends_the_call_at_the_tools_daemon() {
    let world = World::running();
    let socket = world.socket();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| run_as_orchestrator(&socket, task("t", "slow")));
        until("the call has begun", || calls(&world) == 1);
        let began = Instant::now();
        world.as_uid(ORCHESTRATOR, async |mut agent| {
            let request = CancelTaskRequest {
                task_id: "t".into(),
                reason: "enough".into(),
            };
            agent.cancel_task(request.clone()).await.unwrap();
            agent.cancel_task(request).await.unwrap();
        });
        until("the call is dropped", || {
            world.log.dropped.load(Ordering::SeqCst) == 1
        });
        assert!(began.elapsed() < Duration::from_secs(1));
        let ended = running.join().unwrap().unwrap_err();
        assert_eq!(ended.message(), "the task was cancelled: enough");
        assert_eq!(
            (ended.category(), ended.retryable()),
            (Category::Conflict, false)
        );
    });
    assert_eq!(calls(&world), 1);
}

#[test]
fn a_paused_agent_keeps_its_tasks_and_takes_no_new_ones() {
    let world = World::running();
    let socket = world.socket();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| run_as_orchestrator(&socket, task("t", "slow")));
        until("the call has begun", || calls(&world) == 1);
        world.as_uid(ORCHESTRATOR, async |mut agent| {
            agent.pause_agent(Empty {}).await.unwrap();
            let health = agent.agent_health(Empty {}).await.unwrap().into_inner();
            assert_eq!(
                (health.state.as_str(), health.running_task_ids.len()),
                ("paused", 1)
            );
            let refused = Error::from(agent.run_task(task("u", "quick")).await.unwrap_err());
            assert!(
                refused.retryable() && refused.message().contains("is paused"),
                "{refused}"
            );
            world.log.release.store(true, Ordering::SeqCst);
        });
        assert_eq!(running.join().unwrap().unwrap().outcome, "ok");
    });
    world.as_uid(ORCHESTRATOR, async |mut agent| {
        agent.resume_agent(Empty {}).await.unwrap();
        assert!(agent.run_task(task("u", "quick")).await.is_ok());
    });
}

#[test]
fn no_more_tasks_than_its_file_says() {
    let world = World::running();
    let socket = world.socket();
    std::thread::scope(|scope| {
        let both =
            ["a", "b"].map(|id| scope.spawn(|| run_as_orchestrator(&socket, task(id, "slow"))));
        until("both have begun", || calls(&world) == 2);
        let full = run_as_orchestrator(&socket, task("c", "quick")).unwrap_err();
        assert_eq!(
            (full.category(), full.retryable()),
            (Category::RateLimit, true)
        );
        world.log.release.store(true, Ordering::SeqCst);
        for one in both {
            assert!(one.join().unwrap().is_ok());
        }
    });
    assert!(run_as_orchestrator(&socket, task("c", "quick")).is_ok());
}

#[test]
fn nobody_but_the_orchestrator_is_heard() {
    let world = World::running();
    for uid in [0, 918, 4711] {
        world.as_uid(uid, async |mut agent| {
            let cancel = CancelTaskRequest {
                task_id: "t".into(),
                reason: String::new(),
            };
            let answers = [
                agent.run_task(task("t", "quick")).await.err(),
                agent.cancel_task(cancel).await.err(),
                agent.pause_agent(Empty {}).await.err(),
                agent.resume_agent(Empty {}).await.err(),
                agent.agent_health(Empty {}).await.err(),
            ];
            for status in answers {
                assert_eq!(status.unwrap().code(), Code::PermissionDenied, "uid {uid}");
            }
        });
    }
    assert_eq!(calls(&world), 0);
}

#[test]
fn killed_and_started_again_it_registers_again() {
    let mut world = World::running();
    for round in 2..5 {
        world.signal(Signal::SIGKILL);
        assert!(!world.ended().success());
        let began = Instant::now();
        world.start_agent();
        world.wait_ready();
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "{:?}",
            began.elapsed()
        );
        assert_eq!(registrations(&world), round);
    }
    assert!(run_as_orchestrator(&world.socket(), task("t", "quick")).is_ok());
}

#[test]
fn asked_to_stop_it_ends_what_it_has() {
    let mut world = World::running();
    let socket = world.socket();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| run_as_orchestrator(&socket, task("t", "slow")));
        until("the call has begun", || calls(&world) == 1);
        world.signal(Signal::SIGTERM);
        until("it says that it is stopping", || {
            let beats = world.log.beats.lock().unwrap();
            beats
                .last()
                .is_some_and(|beat| beat.detail.contains("stopping"))
        });
        let refused = run_as_orchestrator(&socket, task("u", "quick")).unwrap_err();
        assert!(refused.retryable(), "{refused}");
        world.log.release.store(true, Ordering::SeqCst);
        assert_eq!(running.join().unwrap().unwrap().outcome, "ok");
    });
    assert!(world.ended().success());
}

#[test]
fn it_does_not_start_as_somebody_else_or_with_a_wrong_file() {
    let world = World::empty();
    let agents = world.root.path().join("etc/agents");
    std::fs::write(
        agents.join("dev.toml"),
        "name = \"dev\"\ndescription = \"d\"\ncapabilities = []\n",
    )
    .unwrap();
    let (status, said) = world.failing("dev");
    assert!(!status.success());
    assert!(said.contains("cannot be the agent `dev`"), "{said}");
    std::fs::write(
        agents.join("network.toml"),
        "name = \"network\"\nmax_task = 3\n",
    )
    .unwrap();
    let (status, said) = world.failing("network");
    assert!(!status.success());
    assert!(
        said.contains("network.toml:2:1") && said.contains("`max_tasks`"),
        "{said}"
    );
    let (status, said) = world.failing("nobody");
    assert!(!status.success());
    assert!(said.contains("nobody.toml"), "{said}");
}
