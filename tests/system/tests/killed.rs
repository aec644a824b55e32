//! Each daemon, and the agent at work, killed in the middle of a goal: the goal ends rightly, and
//! nothing is done twice.

use std::{collections::BTreeMap, fs, time::Duration};

use aios_proto::v1::LedgerRecord;
use aios_tests_system::{Machine, Operator};
use anyhow::{Context as _, ensure};

const LIMIT: Duration = Duration::from_secs(60);
/// When the blow falls, in milliseconds after the goal was taken: before, while and after it acts.
const MOMENTS: [u64; 8] = [0, 4, 8, 12, 16, 24, 40, 80];

/// The records of the calls that wrote, by call.
fn writes(records: &[LedgerRecord]) -> BTreeMap<&str, Vec<&LedgerRecord>> {
    let mut calls: BTreeMap<&str, Vec<&LedgerRecord>> = BTreeMap::new();
    // A grant is a record of the tool, too, but of no call yet.
    let made = |record: &&LedgerRecord| record.tool == "fs.write" && !record.call_id.is_empty();
    for record in records.iter().filter(made) {
        calls.entry(&record.call_id).or_default().push(record);
    }
    calls
}

/// An appended line stands there as often as it was appended, whatever the ledger says.
async fn append(
    machine: &Machine,
    operator: &Operator,
    victim: &str,
    round: usize,
    moment: u64,
) -> anyhow::Result<()> {
    let file = machine.work().join(format!("{victim}.log"));
    let line = format!("round {round} of {victim};");
    let text = format!("append the text \"{line}\" to {}", file.display());
    let starts = machine.starts(victim)?;
    let goal = operator.submit(&text, &format!("{victim}-{round}")).await?;
    tokio::time::sleep(Duration::from_millis(moment)).await;
    machine.kill(victim)?;
    let view = operator.wait(&goal.id, LIMIT).await.with_context(|| {
        format!(
            "{victim} killed after {moment} ms; the orchestrator's log:\n{}",
            machine.log("orchestrator")
        )
    })?;
    machine.wait_restarted(victim, starts + 1)?;
    let record = view.goal.clone().context("a goal")?;
    ensure!(
        record.status == "completed",
        "{victim} killed after {moment} ms: {} {}\n{:#?}\n{:#?}",
        record.status,
        record.reason,
        view.tasks,
        operator.ledger(&goal.id).await?
    );
    let content = fs::read_to_string(&file).context("the file")?;
    ensure!(
        content.matches(&line).count() == 1,
        "{victim} killed after {moment} ms: {content:?}\n{:#?}",
        operator.ledger(&goal.id).await?
    );
    let ledger = operator.ledger(&goal.id).await?;
    let calls = writes(&ledger);
    ensure!(calls.len() == 1, "one task is one call: {calls:#?}");
    for records in calls.values() {
        let outcomes = records.iter().filter(|record| record.kind == "outcome");
        let ok = outcomes
            .filter(|record| record.detail_json.contains("\"outcome\":\"ok\""))
            .count();
        ensure!(ok == 1, "one call has one successful outcome: {records:#?}");
    }
    Ok(())
}

async fn survive(victim: &str) -> anyhow::Result<()> {
    let machine = Machine::start()?;
    let operator = machine.operator();
    fs::write(machine.work().join(format!("{victim}.log")), "")?;
    for (round, moment) in MOMENTS.into_iter().enumerate() {
        append(&machine, &operator, victim, round, moment).await?;
    }
    let verified = operator.verify_ledger().await?;
    ensure!(verified.ok, "{}", verified.problem);
    Ok(())
}

#[tokio::test]
async fn a_goal_survives_the_orchestrator() -> anyhow::Result<()> {
    survive("orchestrator").await
}

#[tokio::test]
async fn a_goal_survives_the_tools() -> anyhow::Result<()> {
    survive("tools").await
}

#[tokio::test]
async fn a_goal_survives_the_memory() -> anyhow::Result<()> {
    survive("memory").await
}

#[tokio::test]
async fn a_goal_survives_the_console() -> anyhow::Result<()> {
    survive("console").await
}

#[tokio::test]
async fn a_goal_survives_its_agent() -> anyhow::Result<()> {
    survive("agent-storage").await
}

#[tokio::test]
async fn everything_killed_at_once_comes_back() -> anyhow::Result<()> {
    let machine = Machine::start()?;
    let operator = machine.operator();
    let file = machine.work().join("all.txt");
    let text = format!(
        "create the file {} with the text still here",
        file.display()
    );
    let goal = operator.submit(&text, "all").await?;
    let mut starts = Vec::new();
    for part in machine.parts() {
        starts.push((part.clone(), machine.starts(&part)?));
        machine.kill(&part)?;
    }
    for (part, starts) in starts {
        machine.wait_restarted(&part, starts + 1)?;
    }
    let record = operator
        .wait(&goal.id, LIMIT)
        .await?
        .goal
        .context("a goal")?;
    ensure!(
        record.status == "completed",
        "{} {}",
        record.status,
        record.reason
    );
    ensure!(fs::read_to_string(&file)?.trim_end() == "still here");
    Ok(())
}
