//! All procedures of this machine, and which of them a goal asks for.

use std::{collections::BTreeMap, path::Path};

use aios_proto::v1::ProcedureInfo;
use serde_json::{Map, Value};

use super::{
    file::{self, Procedure},
    pattern::{Fit, Score},
    words,
};
use crate::{
    catalogue::Catalogue,
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
    /// None fits.
    None,
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

    /// What the goal asks for, among the procedures that the catalogue can carry out.
    #[must_use]
    pub fn find(&self, goal: &str, catalogue: &Catalogue) -> Match {
        let words = words::split(goal);
        let mut fits: Vec<(Score, &Procedure, Map<String, Value>)> = self
            .procedures
            .values()
            .filter(|procedure| usable(procedure, catalogue).is_ok())
            .filter_map(|procedure| {
                best_fit(procedure, goal, &words).map(|fit| (fit.score, procedure, fit.values))
            })
            .collect();
        fits.sort_by(|one, two| two.0.cmp(&one.0).then_with(|| one.1.name.cmp(&two.1.name)));
        let Some((score, procedure, values)) = fits.first() else {
            return Match::None;
        };
        let equal: Vec<String> = fits
            .iter()
            .filter(|(other, ..)| other == score)
            .map(|(_, procedure, _)| procedure.name.clone())
            .collect();
        if equal.len() > 1 {
            return Match::Ambiguous(equal);
        }
        match bind(procedure, values) {
            Err(error) => {
                tracing::warn!(
                    procedure = procedure.name,
                    error,
                    "a procedure that fits could not be filled in"
                );
                Match::None
            }
            Ok(plan) => Match::One {
                plan: Box::new(plan),
                alternatives: fits
                    .iter()
                    .skip(1)
                    .map(|(_, procedure, _)| procedure.name.clone())
                    .collect(),
            },
        }
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
