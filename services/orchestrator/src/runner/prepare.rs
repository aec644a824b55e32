//! Planning: from words to a plan that the registry and the policy have looked at, step by step.

use std::time::{Duration, Instant};

use aios_proto::v1::{CheckCallReply, CheckCallRequest, TaskRecord};
use aios_tool_api::{Capability, CapabilityPattern};
use serde_json::{Value, json};

use super::{Commands, Runner};
use crate::{
    catalogue::Catalogue,
    clients::Person,
    context::Context,
    error::Error,
    plan::{Checked, Plan, Step},
    planner::{self, Proposal},
    policy::{self, Verdict},
    state::{GoalStatus, TaskStatus},
};

/// How long planning waits for an agent that can do a step; after a boot they come one by one.
const AGENT_WAIT: Duration = Duration::from_secs(30);

/// What planning came to.
#[derive(Debug)]
pub enum Prepared {
    /// A plan that may run once what needs an approval has it.
    Plan {
        /// The plan, every step checked.
        plan: Box<Plan>,
        /// What else was considered.
        considered: Value,
    },
    /// It must not be done.
    Refused(String, Option<Box<Plan>>),
    /// It cannot be done.
    Failed(String, Option<Box<Plan>>),
}

/// Plans a goal for a person: plan, check every step, apply the policy. `goal_id` is empty when the
/// plan is only to be shown.
///
/// # Errors
/// When the tools daemon does not answer.
pub async fn prepare(
    ctx: &Context,
    text: &str,
    person: &Person,
    goal_id: &str,
) -> Result<Prepared, Error> {
    let catalogue = ctx.catalogue().await?;
    let (mut plan, considered) =
        match planner::plan(&ctx.planners, &ctx.library, text, &catalogue).await {
            Proposal::Plan { plan, considered } => (plan, considered),
            Proposal::Cannot(reason) | Proposal::Pass(reason) => {
                return Ok(Prepared::Failed(reason, None));
            }
            Proposal::Forbidden(reason) => return Ok(Prepared::Refused(reason, None)),
        };
    let origin = plan.planner.origin();
    for index in 0..plan.steps.len() {
        let Some(step) = plan.steps.get(index).cloned() else {
            continue;
        };
        let (agent, reply) = match check(ctx, &catalogue, &step, person, goal_id).await? {
            Ok(checked) => checked,
            Err(reason) => return Ok(Prepared::Failed(reason, Some(plan))),
        };
        match reply.verdict.as_str() {
            "ok" => {}
            "denied" => {
                let reason = format!(
                    "{} {} is not allowed: {}",
                    step.tool,
                    shown(&step.args),
                    reply.reason
                );
                if let Some(slot) = plan.steps.get_mut(index) {
                    slot.checked = Some(Checked {
                        risk: reply.risk,
                        action_hash: reply.action_hash,
                        policy: Verdict::Deny,
                        agent,
                        capabilities: reply.capabilities,
                        deadline_ms: reply.deadline_ms,
                        reason: reply.reason,
                    });
                }
                return Ok(Prepared::Refused(reason, Some(plan)));
            }
            _ => {
                let reason = format!(
                    "{} {} is not a valid call: {}",
                    step.tool,
                    shown(&step.args),
                    reply.reason
                );
                return Ok(Prepared::Failed(reason, Some(plan)));
            }
        }
        let level = ctx.config.system.autonomy_level;
        let verdict = policy::decide(level, origin, policy::risk(&reply.risk));
        let reason = match verdict {
            Verdict::Allow => String::new(),
            Verdict::Ask => format!(
                "the risk is {}, and at the level {} a person decides",
                reply.risk,
                level.name()
            ),
            Verdict::Deny => format!("the risk `{}` is not known", reply.risk),
        };
        let canonical =
            serde_json::from_str(&reply.canonical_args_json).unwrap_or_else(|_| step.args.clone());
        if let Some(slot) = plan.steps.get_mut(index) {
            slot.args = canonical;
            slot.checked = Some(Checked {
                risk: reply.risk,
                action_hash: reply.action_hash,
                policy: verdict,
                agent,
                capabilities: reply.capabilities,
                deadline_ms: if reply.deadline_ms == 0 {
                    60_000
                } else {
                    reply.deadline_ms
                },
                reason: reason.clone(),
            });
        }
        if verdict == Verdict::Deny {
            return Ok(Prepared::Refused(
                format!("{}: {reason}", step.tool),
                Some(plan),
            ));
        }
    }
    Ok(Prepared::Plan { plan, considered })
}

/// Asks the registry about one step, for the agent that would get it.
async fn check(
    ctx: &Context,
    catalogue: &Catalogue,
    step: &Step,
    person: &Person,
    goal_id: &str,
) -> Result<Result<(String, CheckCallReply), String>, Error> {
    let capability = catalogue
        .get(&step.tool)
        .map(|entry| entry.info.capability.clone())
        .unwrap_or_default();
    let begun = Instant::now();
    let candidates = loop {
        let candidates = ctx.agents.candidates(&capability);
        if !candidates.is_empty() {
            break candidates;
        }
        if begun.elapsed() > AGENT_WAIT {
            return Ok(Err(format!(
                "no agent that may do {capability} has registered, so nobody can call {}",
                step.tool
            )));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let ask = |agent: String| {
        let request = CheckCallRequest {
            tool: step.tool.clone(),
            args_json: step.args.to_string(),
            principal: person.principal.clone(),
            role: person.role.clone(),
            agent,
            goal_id: goal_id.to_owned(),
        };
        ctx.tools.check(person, request)
    };
    let Some(first) = candidates.first().cloned() else {
        return Ok(Err(format!("nobody can call {}", step.tool)));
    };
    let reply = ask(first.clone()).await?;
    if reply.verdict != "denied" {
        return Ok(Ok((first, reply)));
    }
    // It may be the agent that lacks the right, not the person: another one may hold it on this
    // very resource. If the first holds it too, asking again would only be a second denial.
    let needed: Vec<Capability> = reply
        .capabilities
        .iter()
        .filter_map(|text| capability_of(text))
        .collect();
    let holds = |name: &String| {
        ctx.agents
            .infos()
            .iter()
            .find(|info| info.name == *name)
            .is_some_and(|info| {
                let patterns: Vec<_> = info
                    .capabilities
                    .iter()
                    .filter_map(|text| CapabilityPattern::parse(text).ok())
                    .collect();
                needed
                    .iter()
                    .all(|need| patterns.iter().any(|pattern| pattern.gives(need, false)))
            })
    };
    if needed.is_empty() || holds(&first) {
        return Ok(Ok((first, reply)));
    }
    // Right after a start the agent that holds it may be about to come back.
    loop {
        let settled = ctx.agents.are_settled();
        let others = ctx.agents.candidates(&capability);
        if let Some(other) = others.iter().find(|name| **name != first && holds(name)) {
            let second = ask(other.clone()).await?;
            return Ok(Ok((other.clone(), second)));
        }
        if settled {
            return Ok(Ok((first, reply)));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn capability_of(text: &str) -> Option<Capability> {
    let mut parts = text.splitn(3, ':');
    let capability = Capability::new(parts.next()?, parts.next()?);
    Some(match parts.next() {
        Some(resource) => capability.on(resource),
        None => capability,
    })
}

/// Arguments for a person, without long contents.
pub(super) fn shown(args: &Value) -> String {
    const MAX: usize = 200;
    let text = args.to_string();
    if text.chars().count() <= MAX {
        text
    } else {
        text.chars().take(MAX).chain(['…']).collect()
    }
}

impl Runner {
    pub(super) async fn plan_phase(&mut self, commands: &mut Commands) -> Result<(), Error> {
        let ctx = self.ctx.clone();
        let (priority, created, id) = (
            self.goal.priority,
            self.goal.created_ms,
            self.goal.id.clone(),
        );
        if self.goal.cancel_requested {
            return self.finish(GoalStatus::Cancelled, "it was cancelled").await;
        }
        let Some(_slot) = self
            .until(commands, ctx.slots.acquire(priority, created, &id))
            .await?
        else {
            return Ok(());
        };
        self.set_status(GoalStatus::Planning)?;
        self.save().await?;
        let (text, person) = (self.goal.text.clone(), self.person());
        let Some(prepared) = self
            .until(commands, prepare(&ctx, &text, &person, &id))
            .await?
        else {
            return Ok(());
        };
        match prepared? {
            Prepared::Plan { plan, considered } => self.adopt(*plan, &considered).await,
            Prepared::Refused(reason, plan) => {
                self.keep_plan(plan.map(|plan| *plan))?;
                self.finish(GoalStatus::Refused, &reason).await
            }
            Prepared::Failed(reason, plan) => {
                self.keep_plan(plan.map(|plan| *plan))?;
                self.finish(GoalStatus::Failed, &reason).await
            }
        }
    }

    fn keep_plan(&mut self, plan: Option<Plan>) -> Result<(), Error> {
        if let Some(plan) = plan {
            self.goal.plan_json = plan.to_json()?;
            self.goal_changed = true;
            self.plan_is_new = true;
            self.plan = Some(plan);
        }
        Ok(())
    }

    /// Takes the plan: tasks are made of its steps, and approvals where the policy asks for them.
    async fn adopt(&mut self, plan: Plan, considered: &Value) -> Result<(), Error> {
        let summary = format!(
            "{} {}: {}",
            plan.planner.name(),
            plan.source,
            tools_of(&plan)
        );
        self.decide(
            "plan",
            summary,
            &json!({ "parameters": plan.parameters, "why": considered }),
        );
        for (index, step) in plan.steps.iter().enumerate() {
            let checked = step.checked.as_ref();
            let asks = checked.is_some_and(|checked| checked.policy == Verdict::Ask);
            self.tasks.push(TaskRecord {
                id: format!("{}-{index}", self.goal.id),
                goal_id: self.goal.id.clone(),
                ordinal: u32::try_from(index).unwrap_or(u32::MAX),
                step_id: step.id.clone(),
                tool: step.tool.clone(),
                args_json: step.args.to_string(),
                depends_on: step.after.clone(),
                agent: checked
                    .map(|checked| checked.agent.clone())
                    .unwrap_or_default(),
                status: if asks {
                    TaskStatus::AwaitingApproval
                } else {
                    TaskStatus::Pending
                }
                .name()
                .to_owned(),
                kind: step.kind.name().to_owned(),
                ..TaskRecord::default()
            });
            self.tasks_changed.insert(index);
            if let Some(checked) = checked {
                self.decide(
                    "policy",
                    format!(
                        "{}: {} ({} risk)",
                        step.id,
                        checked.policy.name(),
                        checked.risk
                    ),
                    &json!({
                        "tool": step.tool,
                        "risk": checked.risk,
                        "level": self.ctx.config.system.autonomy_level.name(),
                        "planner": plan.planner.name(),
                        "agent": checked.agent,
                        "capabilities": checked.capabilities,
                    }),
                );
                if asks {
                    self.ask_for(index, step, checked)?;
                }
            }
        }
        let asks = self
            .tasks
            .iter()
            .any(|task| task.status == TaskStatus::AwaitingApproval.name());
        self.keep_plan(Some(plan))?;
        self.set_status(if asks {
            GoalStatus::AwaitingApproval
        } else {
            GoalStatus::Running
        })?;
        self.save().await?;
        for approval in self.approvals.values() {
            self.ctx.remember(approval);
        }
        Ok(())
    }
}

fn tools_of(plan: &Plan) -> String {
    plan.steps
        .iter()
        .map(|step| step.tool.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}
