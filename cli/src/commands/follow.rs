//! Following a goal to its end: the plan, each step as it goes, and the result. A daemon that is
//! restarted on the way, or a connection that breaks, is only a pause.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::IsTerminal as _,
    time::Duration,
};

use aios_proto::v1::{
    ErrorDetail, GetGoalRequest, GoalRecord, GoalUpdate, GoalView, PlanGoalReply, TaskRecord,
};
use tokio::time::Instant;

use super::{approve, goal::LOST_CONTACT, goal::plan_of};
use crate::{
    connect::{Machine, repeatable},
    failure::{Failure, interrupted},
    output, texts,
};

/// A goal that was followed.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) view: GoalView,
    /// False when the time to wait was over first.
    pub(crate) in_time: bool,
}

/// Follows a goal until it has ended or the time is over. Prints unless `quiet`.
pub(crate) async fn follow(
    machine: &Machine,
    quiet: bool,
    id: &str,
    limit: Option<Duration>,
) -> Result<Ended, Failure> {
    let mut printer = Printer {
        quiet,
        ..Printer::default()
    };
    let watching = watch(machine, id, &mut printer);
    let in_time = match limit {
        Some(limit) => match tokio::time::timeout(limit, watching).await {
            Ok(ended) => ended.map(|()| true)?,
            Err(_) => false,
        },
        None => watching.await.map(|()| true)?,
    };
    let view = fetch(machine, id).await?;
    if in_time {
        printer.view(&view);
    }
    Ok(Ended { view, in_time })
}

async fn fetch(machine: &Machine, id: &str) -> Result<GoalView, Failure> {
    repeatable(|| {
        let mut client = machine.orchestrator();
        let id = id.to_owned();
        async move { client.get_goal(GetGoalRequest { id }).await }
    })
    .await
}

async fn watch(machine: &Machine, id: &str, printer: &mut Printer) -> Result<(), Failure> {
    let mut contact = Instant::now();
    let mut pause = Duration::from_millis(100);
    loop {
        let mut client = machine.orchestrator();
        let problem = match client
            .watch_goal(GetGoalRequest { id: id.to_owned() })
            .await
        {
            Ok(stream) => {
                let mut stream = stream.into_inner();
                loop {
                    match stream.message().await {
                        Ok(Some(update)) => {
                            contact = Instant::now();
                            pause = Duration::from_millis(100);
                            printer.update(&update);
                            approve::offer(machine, id, printer).await?;
                            if update.ended || update.goal.as_ref().is_some_and(has_ended) {
                                return Ok(());
                            }
                        }
                        Ok(None) => break None,
                        Err(status) => break Some(status),
                    }
                }
            }
            Err(status) => Some(status),
        };
        match problem {
            Some(status) if !interrupted(&status) => return Err(status.into()),
            Some(status) if contact.elapsed() > LOST_CONTACT => return Err(status.into()),
            _ => {}
        }
        // The end may have come while nobody was listening.
        if let Ok(view) = fetch(machine, id).await {
            contact = Instant::now();
            printer.view(&view);
            if view.goal.as_ref().is_some_and(has_ended) {
                return Ok(());
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

/// Whether nothing will happen to a goal any more.
pub(crate) fn has_ended(goal: &GoalRecord) -> bool {
    matches!(
        goal.status.as_str(),
        "completed" | "failed" | "refused" | "cancelled" | "expired"
    )
}

/// Prints what is new, and only that, however often it is told.
#[derive(Debug, Default)]
pub(crate) struct Printer {
    quiet: bool,
    plan_shown: bool,
    goal: String,
    tasks: BTreeMap<String, String>,
    /// Approvals that were shown or decided.
    pub(crate) offered: BTreeSet<String>,
}

impl Printer {
    /// Whether a person is there to be asked.
    pub(crate) fn interactive(&self) -> bool {
        !self.quiet && std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
    }

    pub(crate) fn quiet(&self) -> bool {
        self.quiet
    }

    /// Whether something of the goal waits for a person.
    pub(crate) fn waits_for_approval(&self) -> bool {
        self.goal == "awaiting_approval"
            || self
                .tasks
                .values()
                .any(|status| status == "awaiting_approval")
    }

    fn say(&self, text: &str) {
        if !self.quiet {
            output::line(text);
        }
    }

    fn update(&mut self, update: &GoalUpdate) {
        if let Some(plan) = &update.plan {
            self.plan(plan);
        }
        if let Some(task) = &update.task {
            self.task(task);
        }
        if let Some(goal) = &update.goal {
            self.goal(goal);
        }
    }

    fn view(&mut self, view: &GoalView) {
        if view.plan.is_some() {
            self.plan(&plan_of(view));
        }
        for task in &view.tasks {
            self.task(task);
        }
        if let Some(goal) = &view.goal {
            self.goal(goal);
        }
    }

    fn plan(&mut self, plan: &PlanGoalReply) {
        if !self.plan_shown && !plan.planner.is_empty() {
            self.plan_shown = true;
            self.say(&plan_text(plan));
        }
    }

    fn goal(&mut self, goal: &GoalRecord) {
        if self.goal != goal.status {
            self.goal.clone_from(&goal.status);
            if matches!(
                goal.status.as_str(),
                "planning" | "paused" | "awaiting_approval"
            ) {
                self.say(&format!("  … {}", goal.status.replace('_', " ")));
            }
        }
    }

    fn task(&mut self, task: &TaskRecord) {
        let key = format!("{} {}", task.status, task.attempt);
        let shown = self.tasks.insert(task.id.clone(), task.status.clone());
        let seen = self.tasks.insert(format!("{} shown", task.id), key.clone());
        if seen.as_ref() == Some(&key) || (shown.is_none() && task.status == "pending") {
            return;
        }
        if let Some(text) = task_line(task) {
            self.say(&text);
        }
    }
}

fn task_line(task: &TaskRecord) -> Option<String> {
    let what = format!("{} {}", task.step_id, task.tool);
    Some(match task.status.as_str() {
        "running" => {
            let again = if task.attempt > 1 {
                format!(", attempt {}", task.attempt)
            } else {
                String::new()
            };
            format!("  [ run] {what} (agent {}{again})", task.agent)
        }
        "completed" => format!("  [done] {what} {}", texts::outcome(&task.result_json)),
        "failed" => format!("  [FAIL] {what}: {}", error_text(&task.error_json)),
        "refused" => format!("  [ NO ] {what}: {}", error_text(&task.error_json)),
        "skipped" | "cancelled" => format!("  [skip] {what}"),
        "awaiting_approval" => format!("  [wait] {what} waits for approval"),
        _ => return None,
    })
}

/// The message in an error that travels as JSON.
pub(crate) fn error_text(json: &str) -> String {
    #[derive(serde::Deserialize)]
    struct Message {
        message: String,
    }
    serde_json::from_str::<Message>(json).map_or_else(
        |_| {
            if json.is_empty() {
                "no reason given".to_owned()
            } else {
                texts::shortened(json, 200)
            }
        },
        |error| error.message,
    )
}

/// The last lines about a goal: how it ended and what came of it.
pub(crate) fn ending(view: &GoalView) -> String {
    let Some(goal) = &view.goal else {
        return "no such goal".to_owned();
    };
    // Of a goal that did not succeed, first why, then what was done before.
    let mut text = goal.status.clone();
    let mut mark = ": ";
    for words in [&goal.reason, &goal.result] {
        if !words.is_empty() {
            text.push_str(mark);
            text.push_str(words);
            mark = "\n";
        }
    }
    if !has_ended(goal) {
        text.push_str(&format!(
            "\nit goes on; `aios goal follow {}` shows how",
            goal.id
        ));
    } else if goal.status == "refused" || goal.status == "failed" {
        text.push_str(&format!(
            "\n`aios goal trace {}` shows everything about it",
            goal.id
        ));
    }
    text
}

/// A plan as a person reads it.
pub(crate) fn plan_text(plan: &PlanGoalReply) -> String {
    if plan.planner == "none" || plan.steps.is_empty() {
        return format!("no plan: {}", plan.reason);
    }
    let mut text = format!("plan by {} {}", plan.planner, plan.source);
    for step in &plan.steps {
        let check = if step.kind == "postcondition" {
            "check "
        } else {
            ""
        };
        let mut notes = Vec::new();
        if step.policy != "deny" && step.risk.is_empty() {
            notes.push("not checked".to_owned());
        } else if !step.risk.is_empty() {
            notes.push(format!("risk {}", step.risk));
        }
        if !step.policy.is_empty() && step.policy != "allow" {
            notes.push(
                match step.policy.as_str() {
                    "deny" => "denied",
                    "ask" => "needs approval",
                    other => other,
                }
                .to_owned(),
            );
        }
        if !step.depends_on.is_empty() {
            notes.push(format!("after {}", step.depends_on.join(", ")));
        }
        text.push_str(&format!(
            "\n  {}  {}  ({})",
            step.id,
            format!("{check}{} {}", step.tool, texts::arguments(&step.args_json)).trim_end(),
            notes.join("; ")
        ));
        if !step.reason.is_empty() && step.policy == "deny" {
            text.push_str(&format!("\n      {}", step.reason));
        }
    }
    text
}

/// A goal with its plan and steps.
pub(crate) fn view_text(view: &GoalView) -> String {
    let Some(goal) = &view.goal else {
        return "no such goal".to_owned();
    };
    let mut text = format!(
        "goal {}\n  {}\n  by {} ({}), {}, priority {}",
        goal.id,
        goal.text,
        goal.principal,
        goal.role,
        texts::time(goal.created_ms),
        goal.priority
    );
    if let Some(plan) = &view.plan {
        text.push('\n');
        text.push_str(&plan_text(plan));
    }
    for task in &view.tasks {
        text.push('\n');
        text.push_str(
            &task_line(task).unwrap_or_else(|| {
                format!("  [    ] {} {} {}", task.step_id, task.tool, task.status)
            }),
        );
    }
    text.push('\n');
    text.push_str(&ending(view));
    text
}

/// The error of a task, as it is.
pub(crate) fn error_of(detail: Option<&ErrorDetail>) -> String {
    detail.map_or_else(String::new, |error| {
        if error.hint.is_empty() {
            error.message.clone()
        } else {
            format!("{} ({})", error.message, error.hint)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(status: &str) -> TaskRecord {
        TaskRecord {
            id: "t1".into(),
            step_id: "s1".into(),
            tool: "fs.write".into(),
            status: status.into(),
            attempt: 1,
            agent: "storage".into(),
            error_json: r#"{"message":"disk full","hint":"x"}"#.into(),
            ..TaskRecord::default()
        }
    }

    #[test]
    fn every_state_of_a_task_has_its_line() {
        assert_eq!(
            task_line(&task("failed")).unwrap(),
            "  [FAIL] s1 fs.write: disk full"
        );
        assert_eq!(
            task_line(&task("running")).unwrap(),
            "  [ run] s1 fs.write (agent storage)"
        );
        assert_eq!(task_line(&task("pending")), None);
        assert_eq!(error_text(""), "no reason given");
    }

    #[test]
    fn a_failure_says_why_before_what_was_done() {
        let goal = GoalRecord {
            id: "g".into(),
            status: "failed".into(),
            reason: "the disk is full".into(),
            result: "nothing was done".into(),
            ..GoalRecord::default()
        };
        let text = ending(&GoalView {
            goal: Some(goal),
            ..GoalView::default()
        });
        assert!(
            text.starts_with("failed: the disk is full\nnothing was done\n`aios goal trace g`"),
            "{text}"
        );
    }

    #[test]
    fn a_plan_says_what_was_not_checked_and_what_was_denied() {
        let step = |id: &str, risk: &str, policy: &str| aios_proto::v1::PlanStep {
            id: id.into(),
            tool: "hw.info".into(),
            args_json: "{}".into(),
            risk: risk.into(),
            policy: policy.into(),
            ..aios_proto::v1::PlanStep::default()
        };
        let text = plan_text(&PlanGoalReply {
            planner: "procedure".into(),
            source: "x".into(),
            steps: vec![
                step("a", "low", "allow"),
                step("b", "high", "ask"),
                step("c", "", "deny"),
                step("d", "", ""),
            ],
            ..PlanGoalReply::default()
        });
        assert_eq!(
            text,
            "plan by procedure x\n  a  hw.info  (risk low)\n  b  hw.info  (risk high; needs approval)\n  \
             c  hw.info  (denied)\n  d  hw.info  (not checked)"
        );
    }

    #[test]
    fn only_five_states_are_the_end() {
        let ended = |status: &str| {
            has_ended(&GoalRecord {
                status: status.into(),
                ..GoalRecord::default()
            })
        };
        for status in ["completed", "failed", "refused", "cancelled", "expired"] {
            assert!(ended(status), "{status}");
        }
        for status in [
            "received",
            "planning",
            "awaiting_approval",
            "running",
            "paused",
            "",
        ] {
            assert!(!ended(status), "{status}");
        }
    }
}
