//! A goal as one JSON object, the form that programs rely on: `goal`, `id`, `status`, `result`,
//! `reason`, `planner`, `source`, `steps[].{id,tool,args,status,kind,result,error}`.

use aios_proto::v1::{GoalRecord, GoalView, PlanStep, TaskRecord};
use serde_json::{Value, json};

use super::goal::plan_of;
use crate::{
    failure::{Exit, Failure},
    output,
};

/// A goal with its plan and steps. Steps that never became tasks (because the plan was refused) come
/// from the plan.
pub(crate) fn view(view: &GoalView) -> Value {
    let goal = view.goal.clone().unwrap_or_default();
    let plan = plan_of(view);
    let steps: Vec<Value> = if view.tasks.is_empty() {
        plan.steps.iter().map(|step| planned(step, &goal)).collect()
    } else {
        let mut tasks: Vec<&TaskRecord> = view.tasks.iter().collect();
        tasks.sort_by_key(|task| task.ordinal);
        tasks.into_iter().map(task).collect()
    };
    let mut object = record(&goal);
    if let Value::Object(fields) = &mut object {
        fields.insert("planner".to_owned(), json!(plan.planner));
        fields.insert("source".to_owned(), json!(plan.source));
        fields.insert("steps".to_owned(), Value::Array(steps));
    }
    object
}

/// A goal alone.
pub(crate) fn record(goal: &GoalRecord) -> Value {
    json!({
        "goal": goal.text,
        "id": goal.id,
        "status": goal.status,
        "result": goal.result,
        "reason": goal.reason,
        "principal": goal.principal,
        "role": goal.role,
        "priority": goal.priority,
        "created_ms": goal.created_ms,
        "updated_ms": goal.updated_ms,
        "planner": "",
        "source": "",
        "steps": [],
    })
}

/// A goal that could not be submitted or followed.
pub(crate) fn failure(text: &str, failure: &Failure) -> Value {
    let mut object = record(&GoalRecord {
        text: text.to_owned(),
        status: if failure.exit == Exit::Denied {
            "refused"
        } else {
            "failed"
        }
        .to_owned(),
        reason: failure.to_string(),
        ..GoalRecord::default()
    });
    if let Value::Object(fields) = &mut object {
        fields.insert("error".to_owned(), output::error_value(failure));
    }
    object
}

fn task(task: &TaskRecord) -> Value {
    json!({
        "id": task.step_id,
        "tool": task.tool,
        "args": arguments(&task.args_json),
        "status": task.status,
        "kind": kind(&task.kind),
        "result": output::value(&task.result_json),
        "error": output::value(&task.error_json),
        "task": task.id,
        "agent": task.agent,
        "attempt": task.attempt,
        "calls": task.call_ids,
        "depends_on": task.depends_on,
    })
}

fn planned(step: &PlanStep, goal: &GoalRecord) -> Value {
    let denied = step.policy == "deny";
    let status = match goal.status.as_str() {
        "refused" if denied => "refused",
        "refused" | "failed" | "cancelled" | "expired" => "skipped",
        _ => "pending",
    };
    json!({
        "id": step.id,
        "tool": step.tool,
        "args": arguments(&step.args_json),
        "status": status,
        "kind": kind(&step.kind),
        "result": null,
        "error": if denied { json!({ "category": "auth", "message": step.reason }) } else { Value::Null },
        "agent": step.agent,
        "depends_on": step.depends_on,
    })
}

fn kind(kind: &str) -> &str {
    if kind.is_empty() { "step" } else { kind }
}

/// Arguments are an object, even when there are none.
fn arguments(json: &str) -> Value {
    match output::value(json) {
        Value::Null => json!({}),
        value => value,
    }
}

#[cfg(test)]
mod tests {
    use aios_proto::v1::PlanGoalReply;

    use super::*;

    #[test]
    fn the_object_has_what_programs_rely_on() {
        let view = view(&GoalView {
            goal: Some(GoalRecord {
                id: "g".into(),
                text: "make it".into(),
                status: "completed".into(),
                ..GoalRecord::default()
            }),
            plan: Some(PlanGoalReply {
                planner: "procedure".into(),
                source: "file".into(),
                ..PlanGoalReply::default()
            }),
            tasks: vec![TaskRecord {
                step_id: "s1".into(),
                tool: "fs.write".into(),
                args_json: r#"{"path":"/x"}"#.into(),
                status: "completed".into(),
                result_json: r#"{"bytes":3}"#.into(),
                ..TaskRecord::default()
            }],
        });
        for field in [
            "goal", "id", "status", "result", "reason", "planner", "source", "steps",
        ] {
            assert!(view.get(field).is_some(), "{field}");
        }
        let step = &view["steps"][0];
        assert_eq!(step["args"]["path"], "/x");
        assert_eq!(step["kind"], "step");
        assert_eq!(step["result"]["bytes"], 3);
        assert_eq!(step["error"], Value::Null);
    }

    #[test]
    fn a_refused_plan_still_shows_its_steps() {
        let view = view(&GoalView {
            goal: Some(GoalRecord {
                status: "refused".into(),
                ..GoalRecord::default()
            }),
            plan: Some(PlanGoalReply {
                planner: "procedure".into(),
                steps: vec![
                    PlanStep {
                        tool: "fs.read".into(),
                        policy: "deny".into(),
                        reason: "no such right".into(),
                        ..PlanStep::default()
                    },
                    PlanStep::default(),
                ],
                ..PlanGoalReply::default()
            }),
            tasks: Vec::new(),
        });
        assert_eq!(view["steps"][0]["status"], "refused");
        assert_eq!(view["steps"][0]["error"]["message"], "no such right");
        assert_eq!(view["steps"][1]["status"], "skipped");
        assert_eq!(view["steps"][1]["args"], json!({}));
    }
}
