//! Goals through every daemon and agent, as an operator states them.

use std::{fs, time::Duration};

use aios_proto::v1::LedgerRecord;
use aios_tests_system::Machine;
use anyhow::{Context as _, ensure};

const LIMIT: Duration = Duration::from_secs(30);

fn of_kind<'a>(records: &'a [LedgerRecord], kind: &str) -> Vec<&'a LedgerRecord> {
    records
        .iter()
        .filter(|record| record.kind == kind)
        .collect()
}

#[tokio::test]
async fn a_file_is_created_traced_and_rolled_back() -> anyhow::Result<()> {
    let machine = Machine::start()?;
    let operator = machine.operator();
    let file = machine.work().join("motd.txt");
    let text = format!(
        "create the file {} with the text welcome aboard",
        file.display()
    );

    let goal = operator.submit(&text, "motd").await?;
    let again = operator.submit(&text, "motd").await?;
    assert_eq!(goal.id, again.id, "the same key is the same goal");
    let ended = operator.wait(&goal.id, LIMIT).await?;
    let record = ended.goal.context("a goal")?;
    assert_eq!(
        record.status,
        "completed",
        "{}: {}",
        record.reason,
        machine.log("orchestrator")
    );
    assert!(
        record.result.contains(&file.display().to_string()),
        "{}",
        record.result
    );
    assert_eq!(fs::read_to_string(&file)?.trim_end(), "welcome aboard");

    let trace = operator.trace(&goal.id).await?;
    let plan = trace.view.and_then(|view| view.plan).context("a plan")?;
    assert_eq!(
        (plan.planner.as_str(), plan.source.as_str()),
        ("procedure", "create-file")
    );
    assert!(!trace.decisions.is_empty());
    let writes: Vec<LedgerRecord> = trace
        .ledger
        .into_iter()
        .filter(|record| record.tool == "fs.write")
        .collect();
    let (intents, outcomes) = (of_kind(&writes, "intent"), of_kind(&writes, "outcome"));
    assert_eq!((intents.len(), outcomes.len()), (1, 1), "{writes:#?}");
    assert!(intents[0].seq < outcomes[0].seq);
    assert_eq!(intents[0].principal, "local:root");
    assert_eq!(intents[0].agent, "storage");

    let rollback = operator.rollback(&goal.id).await?;
    ensure!(rollback.complete, "{rollback:#?}");
    assert!(!file.exists(), "the file was not there before the goal");
    let verified = operator.verify_ledger().await?;
    assert!(verified.ok, "{}", verified.problem);
    Ok(())
}

#[tokio::test]
async fn a_rollback_brings_the_previous_content_back_and_refuses_when_somebody_changed_it()
-> anyhow::Result<()> {
    let machine = Machine::start()?;
    let operator = machine.operator();
    let file = machine.work().join("motd.txt");
    fs::write(&file, "as it was\n")?;
    let text = format!("create the file {} with the text as it is", file.display());
    let goal = operator.submit(&text, "one").await?;
    operator.wait(&goal.id, LIMIT).await?;
    assert_eq!(fs::read_to_string(&file)?.trim_end(), "as it is");

    fs::write(&file, "by hand\n")?;
    let refused = operator.rollback(&goal.id).await?;
    assert!(!refused.complete, "{refused:#?}");
    assert_eq!(fs::read_to_string(&file)?, "by hand\n");

    fs::write(&file, "as it is")?;
    let rollback = operator.rollback(&goal.id).await?;
    assert!(rollback.complete, "{rollback:#?}");
    assert_eq!(fs::read_to_string(&file)?, "as it was\n");
    Ok(())
}

#[tokio::test]
async fn questions_are_answered_from_the_machine() -> anyhow::Result<()> {
    let machine = Machine::start()?;
    let operator = machine.operator();
    for (text, tool) in [
        ("which process uses the most memory?", "process.list"),
        ("how full are the disks?", "monitor.disk"),
        ("is port 1 open", "net.check_port"),
        ("show the network interfaces", "net.interfaces"),
    ] {
        let goal = operator.submit(text, text).await?;
        let view = operator.wait(&goal.id, LIMIT).await?;
        let record = view.goal.context("a goal")?;
        assert_eq!(record.status, "completed", "{text}: {}", record.reason);
        assert!(!record.result.is_empty(), "{text}");
        let tools: Vec<&str> = view.tasks.iter().map(|task| task.tool.as_str()).collect();
        assert!(tools.contains(&tool), "{text}: {tools:?}");
    }
    Ok(())
}

#[tokio::test]
async fn what_must_not_be_done_is_refused_and_in_the_ledger() -> anyhow::Result<()> {
    let machine = Machine::start()?;
    let operator = machine.operator();
    let goal = operator
        .submit("read /etc/shadow and show me the hashes", "shadow")
        .await?;
    let view = operator.wait(&goal.id, LIMIT).await?;
    let record = view.goal.context("a goal")?;
    assert_eq!(record.status, "refused", "{record:#?}");
    let root = fs::read_to_string("/etc/shadow").unwrap_or_default();
    let first = root.lines().next().unwrap_or("root:*");
    assert!(
        !format!("{record:?} {:?}", view.tasks).contains(first),
        "no line of it is shown"
    );
    let ledger = operator.ledger(&goal.id).await?;
    assert!(
        ledger
            .iter()
            .any(|record| record.kind == "denial" || record.kind == "refusal"),
        "{ledger:#?}"
    );
    assert!(of_kind(&ledger, "intent").is_empty());
    Ok(())
}

#[tokio::test]
async fn what_nobody_can_plan_is_said_honestly() -> anyhow::Result<()> {
    let machine = Machine::start()?;
    let operator = machine.operator();
    let goal = operator
        .submit("paint the shed in a cheerful colour", "shed")
        .await?;
    let record = operator
        .wait(&goal.id, LIMIT)
        .await?
        .goal
        .context("a goal")?;
    assert!(
        ["failed", "refused"].contains(&record.status.as_str()),
        "{record:#?}"
    );
    assert!(!record.reason.is_empty());
    assert!(
        operator
            .ledger(&goal.id)
            .await?
            .iter()
            .all(|record| record.kind != "intent")
    );
    Ok(())
}
