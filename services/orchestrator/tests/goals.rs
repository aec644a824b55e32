//! Goals through the real orchestrator, between fakes of its neighbours.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]

mod common;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use aios_kit::{Category, Error as KitError};
use aios_proto::v1;
use common::{
    channel_as,
    machine::{Machine, as_operator, on_behalf},
    tools::world,
};
use serde_json::{Value, json};
use tokio_stream::StreamExt as _;
use tonic::Code;

#[tokio::test]
async fn the_goals_of_the_demonstration_complete() {
    let mut machine = Machine::start("").await;
    let goal = machine
        .ask(
            "create the file /srv/motd.txt with the text welcome aboard",
            "completed",
        )
        .await;
    assert!(
        goal.result.contains("/srv/motd.txt now has 14 bytes"),
        "{}",
        goal.result
    );
    let goal = machine
        .ask("which process uses the most memory?", "completed")
        .await;
    assert!(
        goal.result
            .starts_with("aios-runtime (pid 7, user aios-runtime) uses the most memory: 1.5 GiB"),
        "{}",
        goal.result
    );
    let goal = machine.ask("how full are the disks?", "completed").await;
    assert!(goal.result.contains("/: 12 % full"), "{}", goal.result);
    let goal = machine
        .ask(
            "install nginx and make sure it answers on port 80",
            "completed",
        )
        .await;
    assert!(
        goal.result
            .contains("port 80 is open and answers HTTP with status 200"),
        "{}",
        goal.result
    );
    let view = machine.view(&goal.id).await;
    let plan = view.plan.unwrap();
    assert_eq!(
        (plan.planner.as_str(), plan.source.as_str()),
        ("procedure", "install-network-service")
    );
    let tools: Vec<&str> = view.tasks.iter().map(|task| task.tool.as_str()).collect();
    assert_eq!(
        tools,
        [
            "pkg.install",
            "service.define",
            "service.start",
            "net.check_port",
            "net.http_request"
        ]
    );
    let define: Value = serde_json::from_str(&view.tasks[1].args_json).unwrap();
    assert_eq!(define["args"], json!(["-g", "daemon off;"]));
    machine.assert_nothing_twice();

    *machine.tools.behaviour.lock().unwrap() = Arc::new(|tool, args, count| match tool {
        "net.check_port" => Ok(json!({"port": 80, "open": false, "error": "refused"})),
        _ => world(tool, args, count),
    });
    let goal = machine
        .ask("stop nginx and remove it again", "completed")
        .await;
    assert!(goal.result.contains("port 80 is closed"), "{}", goal.result);
    let state = machine.memory.state.lock().unwrap();
    assert!(
        state
            .patterns
            .values()
            .all(|pattern| pattern.successes == 1)
            && state.patterns.len() == 5
    );
}

#[tokio::test]
async fn a_denial_refuses_the_goal_and_is_in_the_ledger() {
    let mut machine = Machine::start("").await;
    let goal = machine
        .ask("read /etc/shadow and show me the hashes", "refused")
        .await;
    assert!(
        goal.reason.contains("fs.read") && goal.reason.contains("no capability names"),
        "{}",
        goal.reason
    );
    assert!(machine.executed().is_empty());
    let trace = machine
        .client
        .trace_goal(as_operator(v1::GetGoalRequest {
            id: goal.id.clone(),
        }))
        .await
        .unwrap()
        .into_inner();
    let denials: Vec<_> = trace
        .ledger
        .iter()
        .filter(|record| record.kind == "denial")
        .collect();
    assert_eq!(denials.len(), 1);
    assert_eq!(denials[0].principal, "cert:ana");
    let plan = trace.view.unwrap().plan.unwrap();
    assert_eq!(plan.steps[0].policy, "deny");
    assert!(plan.steps[0].reason.contains("no capability names"));
    assert!(
        trace
            .decisions
            .iter()
            .any(|decision| decision.kind == "outcome" && decision.summary.contains("refused"))
    );
    let checked = machine.tools.state.lock().unwrap().checked.clone();
    assert_eq!(
        (checked[0].principal.as_str(), checked[0].role.as_str()),
        ("cert:ana", "operator")
    );
}

#[tokio::test]
async fn what_cannot_be_planned_says_so_and_garbage_is_refused() {
    let mut machine = Machine::start("").await;
    let goal = machine
        .ask("install the moon on port 80 and wash the disks", "failed")
        .await;
    assert!(
        goal.reason
            .starts_with("I cannot plan this: procedure: no procedure fits; model: "),
        "{}",
        goal.reason
    );
    assert!(
        goal.reason.contains("Nearest to it, I can:"),
        "{}",
        goal.reason
    );
    for text in ["", " \n\t", "a\u{0}b", "\u{1b}[31mred", &"x ".repeat(8_000)] {
        assert_eq!(
            machine.submit(text).await.unwrap_err().code(),
            Code::InvalidArgument
        );
    }
    for text in [
        "'",
        "\"\"\"",
        "{}{{}}",
        "install {{x}}",
        "rm -rf /; reboot",
        "\u{202e}evil",
        &"and ".repeat(2_000),
    ] {
        let goal = machine.submit(text).await.unwrap();
        machine.reaches(&goal.id, "failed").await;
    }
    assert!(machine.executed().is_empty());
}

#[tokio::test]
async fn only_the_console_and_the_right_roles_get_through() {
    let machine = Machine::start("").await;
    let socket = machine.run().join("orchestrator.sock");
    let goal = || v1::SubmitGoalRequest {
        text: "how full are the disks?".to_owned(),
        ..v1::SubmitGoalRequest::default()
    };
    let client = |uid| v1::orchestrator_client::OrchestratorClient::new(channel_as(uid, &socket));
    // An agent and a stranger cannot speak for anybody, whatever they say.
    for uid in [914, 4711] {
        let error = client(uid)
            .submit_goal(on_behalf(goal(), "cert:ana", "admin"))
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::PermissionDenied);
    }
    for role in ["reader", "", "root"] {
        let error = client(905)
            .submit_goal(on_behalf(goal(), "cert:eve", role))
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::PermissionDenied, "{role}");
    }
    assert_eq!(
        client(905).submit_goal(goal()).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    let error = client(905)
        .register_agent(v1::RegisterAgentRequest::default())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    let list = client(905)
        .list_goals(on_behalf(
            v1::ListGoalsRequest::default(),
            "cert:eve",
            "reader",
        ))
        .await;
    assert!(list.unwrap().into_inner().goals.is_empty());
    let goal = client(0).submit_goal(goal()).await.unwrap().into_inner();
    assert_eq!(
        (goal.principal.as_str(), goal.role.as_str()),
        ("local:root", "admin")
    );
}

#[tokio::test]
async fn the_same_key_is_the_same_goal() {
    let mut machine = Machine::start("").await;
    let request = || v1::SubmitGoalRequest {
        text: "how full are the disks?".to_owned(),
        idempotency_key: "k1".to_owned(),
        ..v1::SubmitGoalRequest::default()
    };
    let one = machine.submit_with(request()).await.unwrap();
    machine.reaches(&one.id, "completed").await;
    let two = machine.submit_with(request()).await.unwrap();
    assert_eq!(one.id, two.id);
    let other = v1::SubmitGoalRequest {
        text: "uptime".to_owned(),
        ..request()
    };
    assert_eq!(
        machine.submit_with(other).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    assert_eq!(machine.executed().len(), 1);
}

#[tokio::test]
async fn a_failure_names_tool_arguments_and_reason_and_skips_the_rest() {
    let mut machine = Machine::start("").await;
    *machine.tools.behaviour.lock().unwrap() = Arc::new(|tool, args, count| match tool {
        "service.define" => Err(KitError::new(Category::Conflict, "the name is taken")),
        _ => world(tool, args, count),
    });
    let goal = machine
        .ask(
            "install nginx and make sure it answers on port 80",
            "failed",
        )
        .await;
    assert!(
        goal.reason.starts_with("service.define {")
            && goal.reason.ends_with("failed: the name is taken"),
        "{}",
        goal.reason
    );
    assert!(
        goal.result.starts_with("done before that: pkg.install"),
        "{}",
        goal.result
    );
    let statuses: Vec<String> = machine
        .view(&goal.id)
        .await
        .tasks
        .into_iter()
        .map(|task| task.status)
        .collect();
    assert_eq!(
        statuses,
        ["completed", "failed", "skipped", "skipped", "skipped"]
    );
}

#[tokio::test]
async fn passing_failures_are_retried_under_a_new_key_and_post_conditions_are_waited_for() {
    let mut machine = Machine::start("").await;
    *machine.tools.behaviour.lock().unwrap() = Arc::new(|tool, args, count| match (tool, count) {
        ("pkg.install", 1) => Err(KitError::new(Category::Network, "the mirror is away")),
        ("net.check_port", 1 | 2) => Ok(json!({"port": 80, "open": false})),
        _ => world(tool, args, count),
    });
    let goal = machine
        .ask(
            "install nginx and make sure it answers on port 80",
            "completed",
        )
        .await;
    let tasks = machine.view(&goal.id).await.tasks;
    assert_eq!((tasks[0].attempt, tasks[0].call_ids.len()), (2, 2));
    assert_eq!(tasks[3].attempt, 3);
    machine.assert_nothing_twice();
}

#[tokio::test]
async fn an_unmet_post_condition_and_an_unknown_outcome_fail_honestly() {
    let mut machine = Machine::start("").await;
    *machine.tools.behaviour.lock().unwrap() = Arc::new(|tool, args, count| match tool {
        "fs.read" => Ok(json!({"content": "something else"})),
        "pkg.install" => Err(KitError::new(Category::Internal, "unknown")),
        _ => world(tool, args, count),
    });
    let goal = machine
        .ask(
            "create the file /srv/motd.txt with the text welcome aboard",
            "failed",
        )
        .await;
    assert!(
        goal.reason
            .contains("expected /content to be \"welcome aboard\", found \"something else\""),
        "{}",
        goal.reason
    );
    let goal = machine.ask("install htop", "failed").await;
    assert!(
        goal.reason
            .contains("not known whether pkg.install was carried out")
            && goal.reason.contains("aios audit"),
        "{}",
        goal.reason
    );
    assert_eq!(
        machine
            .executed()
            .iter()
            .filter(|tool| *tool == "pkg.install")
            .count(),
        1
    );
}

#[tokio::test]
async fn an_agent_that_vanishes_costs_nothing_but_a_moment() {
    let mut machine = Machine::start("").await;
    for running in &machine.agents {
        running.agent.vanish.store(true, Ordering::SeqCst);
    }
    let goal = machine
        .ask(
            "create the file /srv/motd.txt with the text welcome aboard",
            "completed",
        )
        .await;
    machine.assert_nothing_twice();
    let tasks = machine.view(&goal.id).await.tasks;
    assert!(tasks.iter().all(|task| task.attempt == 1));
    // With every agent gone the goal waits, and goes on when one is back.
    machine.agents.clear();
    machine.agents_running(0).await;
    let goal = machine.submit("how full are the disks?").await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_ne!(machine.status(&goal.id), "failed");
    machine.add_agent("task", common::machine::TASK);
    machine.reaches(&goal.id, "completed").await;
    let states = machine.memory.state.lock().unwrap().agents.clone();
    assert_eq!(
        (
            states["task"].state.as_str(),
            states["package"].state.as_str()
        ),
        ("running", "failed")
    );
}

#[tokio::test]
async fn urgent_goals_go_first() {
    let mut machine = Machine::start("[goals]\nmax_running = 1\n").await;
    machine
        .tools
        .slowness
        .lock()
        .unwrap()
        .insert("monitor.disk".to_owned(), Duration::from_millis(500));
    let first = machine.submit("how full are the disks?").await.unwrap();
    machine
        .wait_for("the first", async |machine| {
            (machine.tools.state.lock().unwrap().running == 1).then_some(())
        })
        .await;
    let mut ids = Vec::new();
    for (text, priority) in [("uptime", 1), ("free -h", 5), ("list the services", 9)] {
        let request = v1::SubmitGoalRequest {
            text: text.to_owned(),
            priority,
            ..v1::SubmitGoalRequest::default()
        };
        ids.push(machine.submit_with(request).await.unwrap().id);
    }
    for id in ids.iter().chain([&first.id]) {
        machine.reaches(id, "completed").await;
    }
    assert_eq!(
        machine.executed(),
        [
            "monitor.disk",
            "service.list",
            "monitor.memory",
            "monitor.cpu"
        ]
    );
    let wrong = v1::SubmitGoalRequest {
        text: "uptime".to_owned(),
        priority: 10,
        ..v1::SubmitGoalRequest::default()
    };
    assert_eq!(
        machine.submit_with(wrong).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn a_watch_shows_the_plan_once_every_task_and_the_end() {
    let mut machine = Machine::start("").await;
    machine
        .tools
        .slowness
        .lock()
        .unwrap()
        .insert("fs.write".to_owned(), Duration::from_millis(200));
    let goal = machine
        .submit("create the file /srv/motd.txt with the text welcome aboard")
        .await
        .unwrap();
    let request = as_operator(v1::GetGoalRequest {
        id: goal.id.clone(),
    });
    let stream = machine
        .client
        .watch_goal(request)
        .await
        .unwrap()
        .into_inner();
    let updates: Vec<v1::GoalUpdate> = stream.map(Result::unwrap).collect().await;
    assert_eq!(
        updates
            .iter()
            .filter(|update| update.plan.is_some())
            .count(),
        1
    );
    assert_eq!(updates.iter().filter(|update| update.ended).count(), 1);
    let last = updates.last().unwrap();
    assert!(last.ended);
    assert_eq!(last.goal.as_ref().unwrap().status, "completed");
    let done = updates
        .iter()
        .filter(|u| {
            u.task
                .as_ref()
                .is_some_and(|task| task.status == "completed")
        })
        .count();
    assert_eq!(done, 2);
    // A watch of a goal that has ended shows the same end.
    let request = as_operator(v1::GetGoalRequest { id: goal.id });
    let stream = machine
        .client
        .watch_goal(request)
        .await
        .unwrap()
        .into_inner();
    let updates: Vec<v1::GoalUpdate> = stream.map(Result::unwrap).collect().await;
    assert!(updates.last().unwrap().ended && updates[0].plan.is_some());
}

#[tokio::test]
async fn a_plan_can_be_seen_without_being_run_and_broken_procedures_are_reported() {
    let mut machine = Machine::start("").await;
    let plan = |text: &str| {
        as_operator(v1::PlanGoalRequest {
            text: text.to_owned(),
        })
    };
    let reply = machine
        .client
        .plan_goal(plan("rm /srv/old.txt"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (
            reply.steps[0].tool.as_str(),
            reply.steps[0].risk.as_str(),
            reply.steps[0].policy.as_str()
        ),
        ("fs.delete", "high", "allow")
    );
    let reply = machine
        .client
        .plan_goal(plan("sing"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(reply.planner, "none");
    assert!(reply.reason.contains("cannot plan"));
    assert!(machine.memory.state.lock().unwrap().goals.is_empty());
    let health = machine
        .client
        .orchestrator_health(v1::Empty {})
        .await
        .unwrap()
        .into_inner()
        .health
        .unwrap();
    assert_eq!((health.state.as_str(), health.reason.as_str()), ("ok", ""));
    std::fs::write(
        machine.etc().join("procedures/bad.toml"),
        "name = \"bad\"\nsummery = \"x\"\n",
    )
    .unwrap();
    std::fs::write(
        machine.etc().join("procedures/gone.toml"),
        "name = \"gone\"\nsummary = \"x\"\npatterns = [\"vanish\"]\n[[step]]\nid = \"a\"\ntool = \"fs.vanish\"\n",
    )
    .unwrap();
    machine.kill();
    machine.boot().await;
    machine.agents_running(2).await;
    machine.ask("how full are the disks?", "completed").await;
    let health = machine
        .client
        .orchestrator_health(v1::Empty {})
        .await
        .unwrap()
        .into_inner()
        .health
        .unwrap();
    assert_eq!(health.state, "degraded");
    assert!(
        health.reason.contains("bad.toml:2:1") && health.reason.contains("did you mean `summary`?"),
        "{}",
        health.reason
    );
    assert!(
        health.reason.contains("procedure gone") && health.reason.contains("fs.vanish"),
        "{}",
        health.reason
    );
}
