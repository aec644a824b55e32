//! The orchestrator is killed at every point where it asks something of somebody, one after the
//! other; each time the goal must end as if nothing had happened, and nothing may be done twice.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]

mod common;

use common::machine::Machine;

async fn survives(strike: i64) -> bool {
    let mut machine = Machine::start("").await;
    machine.chaos.strike_in(strike);
    let goal = "create the file /srv/motd.txt with the text welcome aboard";
    let id = match machine.submit(goal).await {
        Ok(record) => record.id,
        // Not acknowledged: it may be stored or not, and if it is, it must be carried out.
        Err(_) => String::new(),
    };
    let died = machine
        .wait_for("the strike or the end", async |machine| {
            let ended = machine
                .memory
                .state
                .lock()
                .unwrap()
                .goals
                .values()
                .any(|goal| goal.status == "completed");
            if machine.has_died() {
                Some(true)
            } else {
                ended.then_some(false)
            }
        })
        .await;
    if died {
        machine.kill();
        machine.boot().await;
    }
    let stored = machine
        .memory
        .state
        .lock()
        .unwrap()
        .goals
        .keys()
        .next()
        .cloned();
    let Some(stored) = stored else {
        assert!(id.is_empty(), "an acknowledged goal is lost");
        assert!(machine.executed().is_empty());
        return died;
    };
    assert!(id.is_empty() || id == stored);
    let goal = machine.reaches(&stored, "completed").await;
    assert!(
        goal.result.contains("/srv/motd.txt now has 14 bytes"),
        "{}",
        goal.result
    );
    machine.assert_nothing_twice();
    assert_eq!(
        machine.executed(),
        ["fs.write", "fs.read"],
        "strike {strike}"
    );
    let tasks = machine.view(&stored).await.tasks;
    assert!(
        tasks
            .iter()
            .all(|task| task.status == "completed" && task.attempt == 1),
        "strike {strike}"
    );
    let history: Vec<String> = machine
        .memory
        .state
        .lock()
        .unwrap()
        .history
        .iter()
        .map(|(_, status)| status.clone())
        .collect();
    assert_eq!(
        history
            .iter()
            .filter(|status| *status == "completed")
            .count(),
        1,
        "{history:?}"
    );
    died
}

#[tokio::test]
async fn killed_at_every_point_a_goal_ends_as_if_nothing_had_happened() {
    let mut strike = 1;
    while survives(strike).await {
        strike += 1;
        assert!(strike < 200, "the goal never got through");
    }
    // A goal of two tasks has at least: one commit to be received, planning, the plan, and for each task
    // ready, running, grant, run, close and done, each before and after.
    assert!(strike > 20, "only {strike} points were struck");
}
