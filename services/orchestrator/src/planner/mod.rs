//! From a goal's words to a plan: the first planner that has an answer gives it. Procedures come
//! first, then the local model, then an honest refusal.
//!
//! Invariants: whatever a planner returns is validated here against the live catalogue before
//! anybody else sees it; a planner never makes a call on the machine.

pub mod model;

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::{Value, json};

use crate::{
    catalogue::Catalogue,
    plan::{self, Plan},
    procedure::{Library, Match},
};

/// What a planner makes of a goal.
#[derive(Debug, Clone)]
pub enum Proposal {
    /// A plan, and what else was considered, for the decision record.
    Plan {
        /// The plan.
        plan: Box<Plan>,
        /// Alternatives and inputs.
        considered: Value,
    },
    /// It cannot be done, with the reason.
    Cannot(String),
    /// It must not be done, with the reason.
    Forbidden(String),
    /// This planner has no answer; the reason is kept for the record.
    Pass(String),
}

/// One way to plan.
pub trait Planner: Send + Sync {
    /// A name for the decision record.
    fn name(&self) -> &'static str;
    /// What it makes of the goal.
    fn plan<'a>(&'a self, goal: &'a str, catalogue: &'a Catalogue) -> BoxFuture<'a, Proposal>;
}

/// Planning by procedures.
#[derive(Debug, Clone)]
pub struct Procedures(pub Arc<Library>);

impl Planner for Procedures {
    fn name(&self) -> &'static str {
        "procedure"
    }

    fn plan<'a>(&'a self, goal: &'a str, catalogue: &'a Catalogue) -> BoxFuture<'a, Proposal> {
        Box::pin(async move {
            match self.0.find(goal, catalogue) {
                Match::One { plan, alternatives } => Proposal::Plan {
                    plan,
                    considered: json!({ "procedures_that_fit_less": alternatives }),
                },
                Match::Ambiguous(names) => Proposal::Pass(format!(
                    "the procedures {} fit equally well",
                    names.join(" and ")
                )),
                Match::Unclear(reason) => Proposal::Pass(reason),
                Match::None => Proposal::Pass("no procedure fits".to_owned()),
            }
        })
    }
}

/// Asks the planners in turn.
pub async fn plan(
    planners: &[Arc<dyn Planner>],
    library: &Library,
    goal: &str,
    catalogue: &Catalogue,
) -> Proposal {
    let mut passed = Vec::new();
    for planner in planners {
        match planner.plan(goal, catalogue).await {
            Proposal::Plan { plan, considered } => match plan::validate(&plan, catalogue) {
                Ok(()) => {
                    return Proposal::Plan {
                        plan,
                        considered: json!({ "considered": considered, "passed": passed }),
                    };
                }
                Err(error) => passed.push(format!(
                    "{}: its plan was not accepted: {error}",
                    planner.name()
                )),
            },
            Proposal::Pass(reason) => passed.push(format!("{}: {reason}", planner.name())),
            answer @ (Proposal::Cannot(_) | Proposal::Forbidden(_)) => return answer,
        }
    }
    Proposal::Cannot(cannot(library, goal, &passed))
}

fn cannot(library: &Library, goal: &str, passed: &[String]) -> String {
    let mut text = format!("I cannot plan this: {}.", passed.join("; "));
    let near = library.nearest(goal, 3);
    if !near.is_empty() {
        text.push_str(" Nearest to it, I can: ");
        text.push_str(
            &near
                .iter()
                .map(|(name, summary)| format!("{summary} ({name})"))
                .collect::<Vec<_>>()
                .join("; "),
        );
        text.push('.');
    }
    text
}
