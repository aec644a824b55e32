//! All procedures of this machine, and which of them a goal asks for.

use std::{collections::BTreeMap, path::Path};

use aios_proto::v1::ProcedureInfo;
use serde_json::{Map, Value};

use super::{
    clauses,
    file::{self, Procedure},
    pattern::Fit,
    words,
};
use crate::{
    catalogue::Catalogue,
    chain::chain,
    plan::{Kind, Plan, PlannedBy},
    template::{Scope, fill},
};

/// Procedures by name.
#[derive(Debug, Clone, Default)]
pub struct Library {
    procedures: BTreeMap<String, Procedure>,
    /// Files that were left out, with the reason.
    pub problems: Vec<String>,
}

/// What a goal asks for.
#[derive(Debug, Clone)]
pub enum Match {
    /// Exactly one procedure, and the plan that it makes of the goal.
    One {
        /// The plan.
        plan: Box<Plan>,
        /// Other procedures that fit less well.
        alternatives: Vec<String>,
    },
    /// These fit equally well.
    Ambiguous(Vec<String>),
    /// It can be read in more than one way, with what would make it clear.
    Unclear(String),
    /// None fits.
    None,
}

/// What a text that is not cut asks for.
enum Found {
    One {
        /// Several when a parameter lists several values.
        plans: Vec<Plan>,
        alternatives: Vec<String>,
        open_text: bool,
    },
    Ambiguous(Vec<String>),
    None,
}

#[derive(Clone)]
struct Clause {
    plans: Vec<Plan>,
    open_text: bool,
}

impl Library {
    /// Reads a folder. Broken files are left out and named in [`Library::problems`].
    #[must_use]
    pub fn load(dir: &Path) -> Self {
        let mut library = Self::default();
        match aios_config::toml_files(dir) {
            Err(error) => library.problems.push(error.to_string()),
            Ok(files) => {
                for path in files {
                    match file::load(&path) {
                        Ok(procedure) => {
                            library.procedures.insert(procedure.name.clone(), procedure);
                        }
                        Err(error) => library.problems.push(error),
                    }
                }
            }
        }
        library
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.procedures.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.procedures.is_empty()
    }

    /// The procedures that name a tool or an argument that this machine does not have.
    #[must_use]
    pub fn unusable(&self, catalogue: &Catalogue) -> Vec<String> {
        self.procedures
            .values()
            .filter_map(|procedure| usable(procedure, catalogue).err())
            .collect()
    }

    /// What the goal asks for, among the procedures that the catalogue can carry out. A goal that no
    /// procedure fits as a whole is cut into clauses when each of them fits one by itself.
    #[must_use]
    pub fn find(&self, goal: &str, catalogue: &Catalogue) -> Match {
        let usable: Vec<&Procedure> = self
            .procedures
            .values()
            .filter(|procedure| usable(procedure, catalogue).is_ok())
            .collect();
        match self.lookup(goal, &usable) {
            Found::None => self.compose(goal, &usable, catalogue),
            Found::Ambiguous(names) => Match::Ambiguous(names),
            Found::One {
                plans,
                alternatives,
                ..
            } => one(plans, alternatives),
        }
    }

    /// The one procedure that fits a text as a whole.
    fn lookup(&self, text: &str, usable: &[&Procedure]) -> Found {
        let words = words::split(text);
        let mut fits: Vec<(&Procedure, Fit)> = usable
            .iter()
            .filter_map(|procedure| Some((*procedure, best_fit(procedure, text, &words)?)))
            .filter(|(_, fit)| !self.lists_a_verb(&fit.values))
            .collect();
        fits.sort_by(|(one, fit), (two, other)| {
            (other.score.cmp(&fit.score)).then_with(|| one.name.cmp(&two.name))
        });
        let Some((procedure, fit)) = fits.first() else {
            return Found::None;
        };
        let equal: Vec<String> = fits
            .iter()
            .filter(|(_, other)| other.score == fit.score)
            .map(|(procedure, _)| procedure.name.clone())
            .collect();
        if equal.len() > 1 {
            return Found::Ambiguous(equal);
        }
        let plans: Result<Vec<Plan>, String> = one_by_one(&fit.values)
            .iter()
            .map(|values| bind(procedure, values))
            .collect();
        match plans {
            Err(error) => {
                tracing::warn!(
                    procedure = procedure.name,
                    error,
                    "a procedure that fits could not be filled in"
                );
                Found::None
            }
            Ok(plans) => Found::One {
                plans,
                alternatives: fits
                    .iter()
                    .skip(1)
                    .map(|(procedure, _)| procedure.name.clone())
                    .collect(),
                open_text: fit.open_text,
            },
        }
    }

    /// The plan of a goal that asks for several things: the fewest clauses that all fit. After a text
    /// without quotation marks only looks may follow, since what follows may belong to the text.
    fn compose(&self, goal: &str, usable: &[&Procedure], catalogue: &Catalogue) -> Match {
        let pieces = clauses::pieces(goal);
        // For each piece, the best way to plan from it to the end of the goal.
        let mut from: Vec<Option<Vec<Clause>>> = vec![None; pieces.len() + 1];
        if let Some(end) = from.last_mut() {
            *end = Some(Vec::new());
        }
        for start in (0..pieces.len()).rev() {
            let mut best: Option<Vec<Clause>> = None;
            for end in start + 1..=pieces.len() {
                let Some(Some(rest)) = from.get(end) else {
                    continue;
                };
                if best
                    .as_ref()
                    .is_some_and(|best| best.len() <= rest.len() + 1)
                {
                    continue;
                }
                let text = clauses::clause(goal, pieces.get(start..end).unwrap_or_default());
                if let Found::One {
                    plans, open_text, ..
                } = self.lookup(text, usable)
                {
                    let clause = Clause { plans, open_text };
                    best = Some(std::iter::once(clause).chain(rest.clone()).collect());
                }
            }
            if let Some(place) = from.get_mut(start) {
                *place = best;
            }
        }
        let clauses = from.into_iter().next().flatten().unwrap_or_default();
        if clauses.len() < 2 {
            return Match::None;
        }
        let open = clauses.iter().position(|clause| clause.open_text);
        let changes = |clause: &Clause| {
            let risk = |tool: &str| catalogue.get(tool).map(|entry| entry.info.risk.clone());
            (clause.plans.iter().flat_map(|plan| &plan.steps))
                .any(|step| risk(&step.tool).as_deref() != Some("low"))
        };
        if let Some(open) = open
            && clauses.iter().skip(open + 1).any(changes)
        {
            return Match::Unclear(
                "it is not clear where the text ends and the next instruction begins: put the text in quotation marks"
                    .to_owned(),
            );
        }
        one(
            clauses
                .into_iter()
                .flat_map(|clause| clause.plans)
                .collect(),
            Vec::new(),
        )
    }

    /// Whether a listed value is a word with which goals begin: then it is an instruction of its own.
    fn lists_a_verb(&self, values: &Map<String, Value>) -> bool {
        values
            .values()
            .filter_map(Value::as_array)
            .flatten()
            .filter_map(Value::as_str)
            .any(|value| {
                let value = value.to_lowercase();
                self.procedures
                    .values()
                    .flat_map(|procedure| &procedure.patterns)
                    .any(|(pattern, _)| pattern.begins_with(&value))
            })
    }

    /// The procedures whose words come nearest to the goal's, as name and summary, nearest first.
    #[must_use]
    pub fn nearest(&self, goal: &str, count: usize) -> Vec<(&str, &str)> {
        let words = words::split(goal);
        let mut near: Vec<(usize, &Procedure)> = self
            .procedures
            .values()
            .map(|procedure| {
                let own = procedure.pattern_texts.join(" ").to_lowercase();
                let own: std::collections::BTreeSet<&str> = own
                    .split(|char: char| !char.is_alphanumeric())
                    .filter(|word| word.len() > 2)
                    .collect();
                let shared = words
                    .iter()
                    .filter(|word| !word.quoted && own.contains(word.folded.as_str()))
                    .count();
                (shared, procedure)
            })
            .filter(|(shared, _)| *shared > 0)
            .collect();
        near.sort_by(|one, two| two.0.cmp(&one.0).then_with(|| one.1.name.cmp(&two.1.name)));
        near.into_iter()
            .take(count)
            .map(|(_, procedure)| (procedure.name.as_str(), procedure.summary.as_str()))
            .collect()
    }

    /// All of them, for the operator.
    #[must_use]
    pub fn infos(&self) -> Vec<ProcedureInfo> {
        self.procedures
            .values()
            .map(|procedure| ProcedureInfo {
                name: procedure.name.clone(),
                summary: procedure.summary.clone(),
                patterns: procedure.pattern_texts.clone(),
                tools: procedure
                    .steps
                    .iter()
                    .map(|step| step.tool.clone())
                    .collect(),
            })
            .collect()
    }
}

/// The plans as one.
fn one(plans: Vec<Plan>, alternatives: Vec<String>) -> Match {
    chain(plans).map_or(Match::None, |plan| Match::One {
        plan: Box::new(plan),
        alternatives,
    })
}

/// Parameters that list several values, one set of parameters for each.
fn one_by_one(values: &Map<String, Value>) -> Vec<Map<String, Value>> {
    let listed = values
        .iter()
        .find_map(|(name, value)| Some((name, value.as_array()?)));
    let Some((name, items)) = listed else {
        return vec![values.clone()];
    };
    items
        .iter()
        .map(|item| {
            let mut one = values.clone();
            one.insert(name.clone(), item.clone());
            one
        })
        .collect()
}

fn best_fit(procedure: &Procedure, goal: &str, words: &[words::Word<'_>]) -> Option<Fit> {
    let mut best: Option<Fit> = None;
    for (pattern, set) in &procedure.patterns {
        let Some(mut fit) = pattern.fit(goal, words) else {
            continue;
        };
        if let Some(key) = &procedure.key {
            let known = fit
                .values
                .get(key)
                .and_then(Value::as_str)
                .is_some_and(|key| procedure.data.contains_key(key));
            if !known {
                continue;
            }
        }
        if best.as_ref().is_none_or(|best| fit.score > best.score) {
            for (name, value) in set {
                fit.values.insert(name.clone(), value.clone());
            }
            best = Some(fit);
        }
    }
    best
}

/// The plan that a procedure makes with these parameters.
fn bind(procedure: &Procedure, values: &Map<String, Value>) -> Result<Plan, String> {
    let mut parameters = values.clone();
    if let Some(data) = procedure
        .key
        .as_ref()
        .and_then(|key| values.get(key))
        .and_then(Value::as_str)
        .and_then(|key| procedure.data.get(key))
    {
        parameters.insert("data".to_owned(), Value::Object(data.clone()));
    }
    // A default may itself name what is known by now, such as `{data.port}`.
    let none = BTreeMap::new();
    for (name, value) in &procedure.defaults {
        if !parameters.contains_key(name) {
            let scope = Scope {
                parameters: &parameters,
                steps: &none,
                item: None,
            };
            let value = fill(value, &scope)?;
            parameters.insert(name.clone(), value);
        }
    }
    let scope = Scope {
        parameters: &parameters,
        steps: &none,
        item: None,
    };
    let mut steps = procedure.steps.clone();
    for step in &mut steps {
        step.args = fill(&step.args, &scope)?;
        step.expect = step
            .expect
            .iter()
            .map(|expectation| expectation.bind(&scope))
            .collect::<Result<_, _>>()?;
    }
    Ok(Plan {
        planner: PlannedBy::Procedure,
        source: procedure.name.clone(),
        steps,
        answer: procedure.answer.clone(),
        parameters,
        parts: Vec::new(),
    })
}

/// Whether every tool exists and has the arguments that are named.
fn usable(procedure: &Procedure, catalogue: &Catalogue) -> Result<(), String> {
    for step in &procedure.steps {
        let wrong = |error: String| {
            let what = if step.kind == Kind::Step {
                "step"
            } else {
                "post-condition"
            };
            format!("procedure {}: {what} {}: {error}", procedure.name, step.id)
        };
        let entry = catalogue.known(&step.tool).map_err(wrong)?;
        let named = step.args.as_object();
        let properties = entry
            .args_schema
            .get("properties")
            .and_then(Value::as_object);
        for name in named.into_iter().flat_map(Map::keys) {
            if properties.is_some_and(|properties| !properties.contains_key(name)) {
                let near = properties
                    .and_then(|p| aios_config::nearest(name, p.keys().map(String::as_str)));
                let hint =
                    near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
                return Err(wrong(format!(
                    "{} has no argument `{name}`{hint}",
                    step.tool
                )));
            }
        }
        for required in entry
            .args_schema
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let name = required.as_str().unwrap_or_default();
            if !named.is_some_and(|named| named.contains_key(name)) {
                return Err(wrong(format!("{} needs the argument `{name}`", step.tool)));
            }
        }
    }
    Ok(())
}
