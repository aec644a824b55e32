//! A plan: steps with exact arguments and what must be done before them, post-conditions, and how
//! the answer is worded. This is what is stored with a goal, so everything that a resumed goal needs
//! is in it.
//!
//! Invariants: arguments are complete when the plan is made (no step computes another's), so that
//! what was checked and approved is byte for byte what runs.

use aios_proto::v1::{PlanGoalReply, PlanStep};
use petgraph::{algo::toposort, graph::DiGraph};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    catalogue::Catalogue,
    chain::Part,
    error::Error,
    expect::Expectation,
    policy::{Origin, Verdict},
    template::Answer,
};

/// Steps and post-conditions of one plan at most.
pub const MAX_STEPS: usize = 24;

/// Which planner made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlannedBy {
    /// A procedure of `/etc/aios/procedures`.
    Procedure,
    /// The local model.
    Model,
}

impl PlannedBy {
    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Procedure => "procedure",
            Self::Model => "model",
        }
    }

    /// How far the policy trusts it.
    #[must_use]
    pub fn origin(self) -> Origin {
        match self {
            Self::Procedure => Origin::Procedure,
            Self::Model => Origin::Model,
        }
    }
}

/// What a step is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It does what was asked.
    Step,
    /// It looks whether what was asked is now so.
    Postcondition,
}

impl Kind {
    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Postcondition => "postcondition",
        }
    }
}

/// One call of one tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Unique in the plan.
    pub id: String,
    /// The tool.
    pub tool: String,
    /// Its arguments; in the tool's canonical form once the step has been checked.
    pub args: Value,
    /// Ids of the steps that must have been completed.
    pub after: Vec<String>,
    /// Step or post-condition.
    pub kind: Kind,
    /// What a post-condition must find.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expect: Vec<Expectation>,
    /// Seconds that a post-condition may take to become true.
    #[serde(default)]
    pub within_s: u64,
    /// What the registry and the policy said; absent until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked: Option<Checked>,
}

/// The outcome of checking a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    /// `low` … `critical`, for these arguments.
    pub risk: String,
    /// Binds grants and approvals to this action.
    pub action_hash: String,
    /// What the policy says.
    pub policy: Verdict,
    /// The agent for which it was checked.
    pub agent: String,
    /// Capabilities that it needs.
    pub capabilities: Vec<String>,
    /// Longest that the call may take, in milliseconds.
    pub deadline_ms: u32,
    /// Why a person is asked.
    pub reason: String,
}

/// Everything that is to be done for a goal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Which planner made it.
    pub planner: PlannedBy,
    /// Name of the procedure or model.
    pub source: String,
    /// Steps, then post-conditions.
    pub steps: Vec<Step>,
    /// How the result is worded; without it, results are listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
    /// Parameters that were taken from the goal's words.
    #[serde(default)]
    pub parameters: serde_json::Map<String, Value>,
    /// What the plan was chained of, when a goal asked for several things.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
}

impl Plan {
    /// Reads a stored plan.
    ///
    /// # Errors
    /// [`Error::Stored`] when it is not one.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        serde_json::from_str(text).map_err(|error| Error::Stored(format!("a plan: {error}")))
    }

    /// The stored form.
    ///
    /// # Errors
    /// [`Error::Stored`] when it cannot be written as JSON.
    pub fn to_json(&self) -> Result<String, Error> {
        serde_json::to_string(self).map_err(|error| Error::Stored(format!("a plan: {error}")))
    }

    /// The form on the wire.
    #[must_use]
    pub fn reply(&self) -> PlanGoalReply {
        PlanGoalReply {
            planner: self.planner.name().to_owned(),
            source: self.source.clone(),
            steps: self.steps.iter().map(Step::reply).collect(),
            reason: String::new(),
        }
    }
}

impl Step {
    fn reply(&self) -> PlanStep {
        let checked = self.checked.as_ref();
        let text = |pick: fn(&Checked) -> String| checked.map(pick).unwrap_or_default();
        PlanStep {
            id: self.id.clone(),
            tool: self.tool.clone(),
            args_json: self.args.to_string(),
            depends_on: self.after.clone(),
            risk: text(|checked| checked.risk.clone()),
            policy: text(|checked| checked.policy.name().to_owned()),
            agent: text(|checked| checked.agent.clone()),
            reason: text(|checked| checked.reason.clone()),
            kind: self.kind.name().to_owned(),
        }
    }
}

/// Checks a plan's shape against the live catalogue: known tools, arguments that fit their schemas,
/// unique ids, references that exist, no cycle, not too long.
///
/// # Errors
/// [`Error::Plan`] that names the step and what is wrong with it.
pub fn validate(plan: &Plan, catalogue: &Catalogue) -> Result<(), Error> {
    let wrong = |text: String| Err(Error::Plan(text));
    if !plan.steps.iter().any(|step| step.kind == Kind::Step) {
        return wrong("the plan has no steps".to_owned());
    }
    if plan.steps.len() > MAX_STEPS {
        return wrong(format!(
            "the plan has {} steps, more than the {MAX_STEPS} that one may have",
            plan.steps.len()
        ));
    }
    order(&plan.steps)?;
    for step in &plan.steps {
        catalogue
            .check(&step.tool, &step.args)
            .map_err(|reason| Error::Plan(format!("step {}: {reason}", step.id)))?;
    }
    Ok(())
}

/// The positions of the steps in an order in which they can be done.
///
/// # Errors
/// [`Error::Plan`] when ids repeat, a reference has no step, or there is a cycle.
pub fn order(steps: &[Step]) -> Result<Vec<usize>, Error> {
    let mut graph = DiGraph::<usize, ()>::new();
    let mut nodes = Vec::with_capacity(steps.len());
    for (index, step) in steps.iter().enumerate() {
        if steps.iter().take(index).any(|other| other.id == step.id) {
            return Err(Error::Plan(format!("two steps have the id {}", step.id)));
        }
        nodes.push(graph.add_node(index));
    }
    for (step, node) in steps.iter().zip(&nodes) {
        for before in &step.after {
            let found = steps
                .iter()
                .zip(&nodes)
                .find(|(other, _)| other.id == *before);
            let Some((_, from)) = found else {
                return Err(Error::Plan(format!(
                    "step {} is to follow {before}, which does not exist",
                    step.id
                )));
            };
            if from == node {
                return Err(Error::Plan(format!("step {} is to follow itself", step.id)));
            }
            graph.add_edge(*from, *node, ());
        }
    }
    let place = |node| graph.node_weight(node).copied().unwrap_or_default();
    match toposort(&graph, None) {
        Ok(nodes) => Ok(nodes.into_iter().map(place).collect()),
        Err(cycle) => {
            let id = steps
                .get(place(cycle.node_id()))
                .map_or("?", |step| step.id.as_str());
            Err(Error::Plan(format!(
                "the steps wait for each other in a circle through {id}"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::catalogue::tests::sample;

    pub(crate) fn step(id: &str, after: &[&str]) -> Step {
        Step {
            id: id.to_owned(),
            tool: "fs.read".to_owned(),
            args: json!({"path": "/srv/x"}),
            after: after.iter().map(|&id| id.to_owned()).collect(),
            kind: Kind::Step,
            expect: Vec::new(),
            within_s: 0,
            checked: None,
        }
    }

    fn plan(steps: Vec<Step>) -> Plan {
        Plan {
            planner: PlannedBy::Model,
            source: "test".to_owned(),
            steps,
            answer: None,
            parameters: serde_json::Map::new(),
            parts: Vec::new(),
        }
    }

    fn reason(steps: Vec<Step>) -> String {
        validate(&plan(steps), &sample()).unwrap_err().to_string()
    }

    #[test]
    fn a_sound_plan_passes_and_survives_storage() {
        let plan = plan(vec![step("a", &[]), step("b", &["a"])]);
        validate(&plan, &sample()).unwrap();
        assert_eq!(Plan::from_json(&plan.to_json().unwrap()).unwrap(), plan);
    }

    #[test]
    fn each_fault_is_named() {
        assert!(reason(vec![]).contains("no steps"));
        assert!(reason(vec![step("a", &["b"]), step("b", &["a"])]).contains("circle"));
        assert!(reason(vec![step("a", &["a"])]).contains("itself"));
        assert!(reason(vec![step("a", &["x"])]).contains("which does not exist"));
        assert!(reason(vec![step("a", &[]), step("a", &[])]).contains("two steps"));
        let mut unknown = step("a", &[]);
        unknown.tool = "fs.raed".to_owned();
        let text = reason(vec![unknown]);
        assert!(
            text.contains("fs.raed") && text.contains("fs.read"),
            "{text}"
        );
        let mut untyped = step("a", &[]);
        untyped.args = json!({"path": 7});
        assert!(reason(vec![untyped]).contains("step a"));
        let many = (0..=MAX_STEPS)
            .map(|index| step(&index.to_string(), &[]))
            .collect();
        assert!(reason(many).contains("more than"));
    }

    proptest! {
        #[test]
        fn an_order_respects_every_edge(edges in prop::collection::vec((0usize..8, 0usize..8), 0..20)) {
            let mut steps: Vec<Step> = (0..8).map(|index| step(&index.to_string(), &[])).collect();
            for (from, to) in &edges {
                steps[*to].after.push(from.to_string());
            }
            match order(&steps) {
                Ok(order) => {
                    prop_assert_eq!(order.len(), 8);
                    let place = |index: usize| order.iter().position(|other| *other == index).unwrap();
                    for (from, to) in edges {
                        prop_assert!(place(from) < place(to));
                    }
                }
                // Edges that all go upwards cannot be a circle.
                Err(_) => prop_assert!(edges.iter().any(|(from, to)| from >= to)),
            }
        }
    }
}
