//! What a person does to a goal: decide, cancel, pause, set a deadline.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]

mod common;

use std::time::Duration;

use aios_proto::v1;
use common::machine::{Machine, as_operator, on_behalf};
use tonic::Code;

async fn pending(machine: &mut Machine) -> v1::Approval {
    machine
        .wait_for("an approval", async |machine| {
            let list = machine
                .client
                .clone()
                .list_approvals(as_operator(v1::ListApprovalsRequest::default()))
                .await;
            list.unwrap().into_inner().approvals.pop()
        })
        .await
}

fn decision(approval: &v1::Approval, approve: bool) -> v1::DecideApprovalRequest {
    v1::DecideApprovalRequest {
        id: approval.id.clone(),
        approve,
        action_hash: approval.action_hash.clone(),
        reason: "because".to_owned(),
    }
}

#[tokio::test]
async fn an_approval_is_of_one_exact_action_and_survives_a_restart() {
    let mut machine = Machine::start("[system]\nautonomy_level = \"supervised\"\n").await;
    let goal = machine.submit("rm /srv/old.txt").await.unwrap();
    machine.reaches(&goal.id, "awaiting_approval").await;
    machine.kill();
    machine.boot().await;
    let approval = pending(&mut machine).await;
    assert_eq!(
        (approval.tool.as_str(), approval.risk.as_str()),
        ("fs.delete", "high")
    );
    let wrong = v1::DecideApprovalRequest {
        action_hash: "0".repeat(64),
        ..decision(&approval, true)
    };
    let error = machine
        .client
        .decide_approval(as_operator(wrong))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    let reader = on_behalf(decision(&approval, true), "cert:eve", "reader");
    assert_eq!(
        machine
            .client
            .decide_approval(reader)
            .await
            .unwrap_err()
            .code(),
        Code::PermissionDenied
    );
    assert!(machine.executed().is_empty());
    let admin = on_behalf(decision(&approval, true), "cert:boss", "admin");
    let decided = machine
        .client
        .decide_approval(admin)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (decided.status.as_str(), decided.decided_by.as_str()),
        ("approved", "cert:boss")
    );
    machine.reaches(&goal.id, "completed").await;
    assert_eq!(machine.executed(), ["fs.delete"]);
    let again = machine
        .client
        .decide_approval(as_operator(decision(&approval, false)))
        .await
        .unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition);
    let state = machine.tools.state.lock().unwrap();
    let record = state
        .ledger
        .iter()
        .find(|record| record.kind == "approval")
        .unwrap();
    assert_eq!(
        (record.principal.as_str(), record.goal_id.as_str()),
        ("cert:boss", goal.id.as_str())
    );
    let (grant, open) = state.grants.values().next().unwrap();
    assert_eq!(
        (grant.approval_id.as_str(), *open),
        (approval.id.as_str(), false)
    );
}

#[tokio::test]
async fn a_denied_or_late_approval_ends_the_goal() {
    let mut machine =
        Machine::start("[system]\nautonomy_level = \"manual\"\n[goals]\napproval_timeout_s = 2\n")
            .await;
    let goal = machine
        .submit("create the file /srv/a with the text welcome aboard")
        .await
        .unwrap();
    let approval = pending(&mut machine).await;
    machine
        .client
        .decide_approval(as_operator(decision(&approval, false)))
        .await
        .unwrap();
    let goal = machine.reaches(&goal.id, "refused").await;
    assert!(
        goal.reason.contains("cert:ana denied fs.write: because"),
        "{}",
        goal.reason
    );
    let goal = machine
        .ask("create the file /srv/b with the text b", "expired")
        .await;
    assert!(goal.reason.contains("nobody decided"), "{}", goal.reason);
    assert!(machine.executed().is_empty());
}

#[tokio::test]
async fn with_wrong_settings_every_change_is_asked_for() {
    let mut machine =
        Machine::start("[system]\nautonomy_level = \"full\"\n[goals]\nmax_runing = 2\n").await;
    let health = machine
        .client
        .orchestrator_health(v1::Empty {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(health.autonomy_level, "manual");
    let health = health.health.unwrap();
    assert_eq!(health.state, "degraded");
    for part in [
        "config.toml:4:1: ",
        "did you mean `max_running`?",
        "correct the file",
    ] {
        assert!(health.reason.contains(part), "{}", health.reason);
    }
    let goal = machine
        .submit("create the file /srv/a with the text welcome aboard")
        .await
        .unwrap();
    let approval = pending(&mut machine).await;
    assert!(machine.executed().is_empty(), "it was done unasked");
    machine
        .client
        .decide_approval(as_operator(decision(&approval, true)))
        .await
        .unwrap();
    machine.reaches(&goal.id, "completed").await;
    assert_eq!(machine.executed().first().unwrap(), "fs.write");
}

#[tokio::test]
async fn a_cancel_stops_what_runs_and_tells_what_was_done() {
    let mut machine = Machine::start("").await;
    machine
        .tools
        .slowness
        .lock()
        .unwrap()
        .insert("service.define".to_owned(), Duration::from_millis(700));
    let goal = machine
        .submit("install nginx and make sure it answers on port 80")
        .await
        .unwrap();
    machine
        .wait_for("the second step", async |machine| {
            (machine.tools.state.lock().unwrap().running == 1
                && machine.executed() == ["pkg.install"])
            .then_some(())
        })
        .await;
    let cancel = v1::CancelGoalRequest {
        id: goal.id.clone(),
        reason: "changed my mind".to_owned(),
    };
    let answer = machine
        .client
        .cancel_goal(as_operator(cancel.clone()))
        .await
        .unwrap()
        .into_inner();
    assert!(answer.cancel_requested);
    assert_eq!(answer.status, "running", "something of it still runs");
    let goal = machine.reaches(&goal.id, "cancelled").await;
    assert_eq!(machine.tools.state.lock().unwrap().running, 0);
    assert!(
        goal.reason
            .contains("cancelled by cert:ana: changed my mind"),
        "{}",
        goal.reason
    );
    assert!(
        goal.result.contains("pkg.install") && goal.result.contains("service.define"),
        "{}",
        goal.result
    );
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(machine.executed(), ["pkg.install", "service.define"]);
    let error = machine
        .client
        .cancel_goal(as_operator(cancel))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_cancel_survives_a_restart() {
    let mut machine = Machine::start("").await;
    machine
        .tools
        .slowness
        .lock()
        .unwrap()
        .insert("pkg.install".to_owned(), Duration::from_millis(800));
    let goal = machine
        .submit("install nginx and make sure it answers on port 80")
        .await
        .unwrap();
    machine
        .wait_for("the first step", async |machine| {
            (machine.tools.state.lock().unwrap().running == 1).then_some(())
        })
        .await;
    let cancel = v1::CancelGoalRequest {
        id: goal.id.clone(),
        reason: String::new(),
    };
    machine
        .client
        .cancel_goal(as_operator(cancel))
        .await
        .unwrap();
    machine.kill();
    machine.boot().await;
    machine.reaches(&goal.id, "cancelled").await;
    assert_eq!(machine.executed(), ["pkg.install"]);
    assert_eq!(machine.view(&goal.id).await.tasks[0].status, "completed");
    machine.assert_nothing_twice();
}

#[tokio::test]
async fn a_deadline_ends_a_goal() {
    let mut machine = Machine::start("").await;
    machine
        .tools
        .slowness
        .lock()
        .unwrap()
        .insert("pkg.install".to_owned(), Duration::from_millis(800));
    let request = v1::SubmitGoalRequest {
        text: "install nginx and make sure it answers on port 80".to_owned(),
        deadline_in_ms: 300,
        ..v1::SubmitGoalRequest::default()
    };
    let goal = machine.submit_with(request).await.unwrap();
    let goal = machine.reaches(&goal.id, "expired").await;
    assert!(goal.reason.contains("deadline"), "{}", goal.reason);
    assert_eq!(machine.executed(), ["pkg.install"]);
    assert_eq!(machine.tools.state.lock().unwrap().running, 0);
}

#[tokio::test]
async fn a_paused_goal_begins_nothing_until_it_is_resumed() {
    let mut machine = Machine::start("").await;
    machine
        .tools
        .slowness
        .lock()
        .unwrap()
        .insert("pkg.install".to_owned(), Duration::from_millis(300));
    let goal = machine
        .submit("install nginx and make sure it answers on port 80")
        .await
        .unwrap();
    machine
        .wait_for("the first step", async |machine| {
            (machine.tools.state.lock().unwrap().running == 1).then_some(())
        })
        .await;
    let id = || {
        as_operator(v1::GetGoalRequest {
            id: goal.id.clone(),
        })
    };
    assert_eq!(
        machine
            .client
            .pause_goal(id())
            .await
            .unwrap()
            .into_inner()
            .status,
        "paused"
    );
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(machine.executed(), ["pkg.install"]);
    machine.kill();
    machine.boot().await;
    machine.agents_running(2).await;
    assert_eq!(machine.status(&goal.id), "paused");
    machine
        .wait_for("resume", async |machine| {
            machine.client.clone().resume_goal(id()).await.ok()
        })
        .await;
    machine.reaches(&goal.id, "completed").await;
    machine.assert_nothing_twice();
    assert_eq!(
        machine.client.resume_goal(id()).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
}
