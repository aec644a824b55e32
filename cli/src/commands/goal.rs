//! Goals: stating, seeing and steering them.

use std::time::Duration;

use aios_proto::v1::{
    CancelGoalRequest, GetGoalRequest, GoalRecord, GoalTrace, ListGoalsRequest, PlanGoalReply,
    PlanGoalRequest, SubmitGoalRequest,
};

use super::{connect, follow, goal_json};
use crate::{
    cli::{Global, GoalCommand, GoalRun},
    connect::{Machine, repeatable},
    failure::{Exit, Failure},
    output, texts,
};

/// Words that open a goal subcommand, for the nearest one to a mistyped word.
const SUBCOMMANDS: [&str; 9] = [
    "run", "plan", "list", "show", "follow", "trace", "cancel", "pause", "resume",
];

pub(crate) async fn run(global: &Global, command: GoalCommand) -> Result<Exit, Failure> {
    match command {
        GoalCommand::Run(goal) => submit(global, goal).await,
        GoalCommand::Plan { text } => plan(global, text.join(" ")).await,
        GoalCommand::List { status, limit } => list(global, status, limit).await,
        GoalCommand::Show { id } => show(global, id).await,
        GoalCommand::Follow { id, timeout } => {
            let machine = connect(global).await?;
            let view = follow::follow(&machine, global.json, &id, timeout).await;
            report(global, "", view)
        }
        GoalCommand::Trace { id } => trace(global, id).await,
        GoalCommand::Cancel { id, reason } => {
            let mut client = connect(global).await?.orchestrator();
            let record = client.cancel_goal(CancelGoalRequest { id, reason }).await?;
            changed(global, &record.into_inner())
        }
        GoalCommand::Pause { id } => {
            let mut client = connect(global).await?.orchestrator();
            let record = client.pause_goal(GetGoalRequest { id }).await?;
            changed(global, &record.into_inner())
        }
        GoalCommand::Resume { id } => {
            let mut client = connect(global).await?.orchestrator();
            let record = client.resume_goal(GetGoalRequest { id }).await?;
            changed(global, &record.into_inner())
        }
    }
}

/// The text of a goal. One lonely word is more likely a mistyped subcommand.
fn goal_text(words: &[String]) -> Result<String, Failure> {
    let text = words.join(" ").trim().to_owned();
    if text.is_empty() {
        return Err(Failure::usage("the goal is empty"));
    }
    if !text.contains(char::is_whitespace) {
        let nearest = SUBCOMMANDS
            .iter()
            .find(|name| name.starts_with(text.chars().next().unwrap_or(' ')));
        return Err(Failure::usage(format!(
            "`{text}` is one word, which is neither a goal nor a subcommand of `aios goal`"
        ))
        .hint(nearest.map_or_else(
            || "say the goal in a few words".to_owned(),
            |name| {
                format!("did you mean `aios goal {name}`? Otherwise say the goal in a few words")
            },
        )));
    }
    Ok(text)
}

async fn submit(global: &Global, goal: GoalRun) -> Result<Exit, Failure> {
    let text = goal.text.join(" ").trim().to_owned();
    let submitted = async {
        goal_text(&goal.text)?;
        if goal.deadline.is_some_and(|time| time.is_zero()) {
            return Err(
                Failure::usage("the deadline is over before the goal is stated")
                    .hint("give it a time, such as --deadline 10m"),
            );
        }
        let machine = connect(global).await?;
        let request = SubmitGoalRequest {
            text: text.clone(),
            priority: goal.priority.unwrap_or(0),
            deadline_in_ms: goal.deadline.map_or(0, |time| {
                u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
            }),
            // The same goal, however often it has to be sent.
            idempotency_key: uuid::Uuid::now_v7().to_string(),
        };
        let record = repeatable(|| {
            let mut client = machine.orchestrator();
            let request = request.clone();
            async move { client.submit_goal(request).await }
        })
        .await?;
        Ok((machine, record))
    }
    .await;
    let (machine, record): (Machine, GoalRecord) = match submitted {
        Ok(submitted) => submitted,
        Err(failure) => return report(global, &text, Err(failure)),
    };
    if goal.no_wait {
        if global.json {
            output::json(&goal_json::record(&record));
        } else {
            output::line(format!("goal {} is {}", record.id, record.status));
        }
        return Ok(Exit::Ok);
    }
    if !global.json {
        output::line(format!("goal {}", record.id));
    }
    let view = follow::follow(&machine, global.json, &record.id, goal.timeout).await;
    report(global, &text, view)
}

/// Prints how a goal ended. With `--json` even a goal that could not be followed is one object.
fn report(
    global: &Global,
    text: &str,
    result: Result<follow::Ended, Failure>,
) -> Result<Exit, Failure> {
    match result {
        Ok(ended) => {
            if global.json {
                output::json(&goal_json::view(&ended.view));
            } else {
                output::line(follow::ending(&ended.view));
            }
            Ok(if ended.in_time {
                exit_of(ended.view.goal.as_ref())
            } else {
                Exit::Timeout
            })
        }
        Err(failure) if global.json => {
            output::json(&goal_json::failure(text, &failure));
            // The object says it all; the message is for the person at the terminal.
            output::problem(&failure, false);
            Ok(failure.exit)
        }
        Err(failure) => Err(failure),
    }
}

fn exit_of(goal: Option<&GoalRecord>) -> Exit {
    match goal.map(|goal| goal.status.as_str()) {
        Some("completed") => Exit::Ok,
        Some("refused") => Exit::Denied,
        _ => Exit::Failed,
    }
}

fn changed(global: &Global, record: &GoalRecord) -> Result<Exit, Failure> {
    if global.json {
        output::json(&goal_json::record(record));
    } else {
        output::line(format!("goal {} is {}", record.id, record.status));
    }
    Ok(Exit::Ok)
}

async fn plan(global: &Global, text: String) -> Result<Exit, Failure> {
    let machine = connect(global).await?;
    let plan = repeatable(|| {
        let mut client = machine.orchestrator();
        let text = text.clone();
        async move { client.plan_goal(PlanGoalRequest { text }).await }
    })
    .await?;
    if global.json {
        output::json(&plan);
    } else {
        output::line(follow::plan_text(&plan));
    }
    Ok(if plan.planner == "none" {
        Exit::Failed
    } else {
        Exit::Ok
    })
}

async fn list(global: &Global, statuses: Vec<String>, limit: u32) -> Result<Exit, Failure> {
    let machine = connect(global).await?;
    let reply = repeatable(|| {
        let mut client = machine.orchestrator();
        let request = ListGoalsRequest {
            statuses: statuses.clone(),
            limit,
        };
        async move { client.list_goals(request).await }
    })
    .await?;
    if global.json {
        output::json(&reply);
        return Ok(Exit::Ok);
    }
    let rows: Vec<Vec<String>> = reply
        .goals
        .iter()
        .map(|goal| {
            vec![
                goal.id.clone(),
                goal.status.clone(),
                goal.principal.clone(),
                texts::time(goal.created_ms),
                texts::shortened(&goal.text, 60),
            ]
        })
        .collect();
    output::line(texts::table(
        &["ID", "STATUS", "BY", "CREATED", "GOAL"],
        &rows,
    ));
    Ok(Exit::Ok)
}

async fn show(global: &Global, id: String) -> Result<Exit, Failure> {
    let machine = connect(global).await?;
    let view = repeatable(|| {
        let mut client = machine.orchestrator();
        let id = id.clone();
        async move { client.get_goal(GetGoalRequest { id }).await }
    })
    .await?;
    if global.json {
        output::json(&goal_json::view(&view));
    } else {
        output::line(follow::view_text(&view));
    }
    Ok(Exit::Ok)
}

async fn trace(global: &Global, id: String) -> Result<Exit, Failure> {
    let machine = connect(global).await?;
    let trace = repeatable(|| {
        let mut client = machine.orchestrator();
        let id = id.clone();
        async move { client.trace_goal(GetGoalRequest { id }).await }
    })
    .await?;
    if global.json {
        output::json(&trace);
    } else {
        output::line(trace_text(&trace));
    }
    Ok(Exit::Ok)
}

fn trace_text(trace: &GoalTrace) -> String {
    let mut text = trace
        .view
        .as_ref()
        .map_or_else(|| "no such goal".to_owned(), follow::view_text);
    text.push_str("\n\ndecisions");
    for decision in &trace.decisions {
        text.push_str(&format!(
            "\n  {}  {:<9} {}",
            texts::time(decision.time_ms),
            decision.kind,
            texts::shortened(&decision.summary, 160)
        ));
    }
    text.push_str("\n\nledger");
    for record in &trace.ledger {
        text.push_str("\n  ");
        text.push_str(&super::audit::record_line(record));
    }
    text
}

/// A plan that is in no message of its own, from the goal's record.
pub(crate) fn plan_of(view: &aios_proto::v1::GoalView) -> PlanGoalReply {
    view.plan.clone().unwrap_or_default()
}

/// How long a lost connection is waited for.
pub(crate) const LOST_CONTACT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_has_several_words() {
        let words = |text: &[&str]| {
            text.iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(goal_text(&words(&["stop", "nginx"])).unwrap(), "stop nginx");
        assert_eq!(goal_text(&words(&["stop nginx"])).unwrap(), "stop nginx");
        let error = goal_text(&words(&["lst"])).unwrap_err();
        assert!(error.to_string().contains("aios goal list"), "{error}");
        assert!(goal_text(&words(&["  "])).is_err());
    }
}
