//! Several plans as one: each part follows the part before it, keeps its own parameters, and words
//! its own part of the answer.
//!
//! Invariants: no step of a part begins before every step and every post-condition of the part
//! before it is completed; ids are unique, since each carries the number of its part.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    plan::{Plan, PlannedBy},
    template::{Answer, Scope},
};

/// What is left of a plan that became a part of another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Before the id of each of its steps.
    pub prefix: String,
    /// How its part of the answer is worded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
    /// Parameters that were taken from its words.
    #[serde(default)]
    pub parameters: Map<String, Value>,
}

/// Chains plans in their order. One plan stays as it is.
#[must_use]
pub fn chain(mut plans: Vec<Plan>) -> Option<Plan> {
    if plans.len() < 2 {
        return plans.pop();
    }
    let mut whole = Plan {
        planner: PlannedBy::Procedure,
        source: String::new(),
        steps: Vec::new(),
        answer: None,
        parameters: Map::new(),
        parts: Vec::new(),
    };
    let mut sources: Vec<String> = Vec::new();
    let mut before: Vec<String> = Vec::new();
    for (index, plan) in plans.into_iter().enumerate() {
        let number = (index + 1).to_string();
        let prefix = format!("{number}-");
        let mut own = Vec::new();
        for mut step in plan.steps {
            step.id.insert_str(0, &prefix);
            if step.after.is_empty() {
                step.after.clone_from(&before);
            } else {
                step.after
                    .iter_mut()
                    .for_each(|id| id.insert_str(0, &prefix));
            }
            own.push(step.id.clone());
            whole.steps.push(step);
        }
        before = own;
        whole
            .parameters
            .insert(number, Value::Object(plan.parameters.clone()));
        whole.parts.push(Part {
            prefix,
            answer: plan.answer,
            parameters: plan.parameters,
        });
        if sources.last() != Some(&plan.source) {
            sources.push(plan.source);
        }
    }
    whole.source = sources.join(" + ");
    Some(whole)
}

impl Plan {
    /// The answer in the words of the procedure, or of each part's; `None` when there are none.
    ///
    /// # Errors
    /// When a template cannot be filled in.
    pub fn worded(&self, results: &BTreeMap<String, Value>) -> Result<Option<String>, String> {
        if let Some(answer) = &self.answer {
            return rendered(answer, &self.parameters, results).map(Some);
        }
        let mut texts = Vec::new();
        for part in &self.parts {
            let Some(answer) = &part.answer else {
                return Ok(None);
            };
            let own: BTreeMap<String, Value> = results
                .iter()
                .filter_map(|(id, result)| {
                    Some((id.strip_prefix(&part.prefix)?.to_owned(), result.clone()))
                })
                .collect();
            texts.push(rendered(answer, &part.parameters, &own)?);
        }
        Ok((!texts.is_empty()).then(|| texts.join("\n")))
    }
}

fn rendered(
    answer: &Answer,
    parameters: &Map<String, Value>,
    steps: &BTreeMap<String, Value>,
) -> Result<String, String> {
    answer.render(&Scope {
        parameters,
        steps,
        item: None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        catalogue::tests::sample,
        plan::{Kind, Step, validate},
    };

    fn plan(source: &str, path: &str) -> Plan {
        let step = |id: &str, after: &[&str], kind| Step {
            id: id.to_owned(),
            tool: "fs.read".to_owned(),
            args: json!({ "path": path }),
            after: after.iter().map(|&id| id.to_owned()).collect(),
            kind,
            expect: Vec::new(),
            within_s: 0,
            checked: None,
        };
        Plan {
            planner: PlannedBy::Procedure,
            source: source.to_owned(),
            steps: vec![
                step("read", &[], Kind::Step),
                step("post1", &["read"], Kind::Postcondition),
            ],
            answer: Some(Answer {
                text: "{path}: {steps.read:/content}".to_owned(),
                ..Answer::default()
            }),
            parameters: json!({ "path": path }).as_object().unwrap().clone(),
            parts: Vec::new(),
        }
    }

    #[test]
    fn a_part_waits_for_all_of_the_part_before_it() {
        let whole = chain(vec![plan("a", "/a"), plan("b", "/b"), plan("b", "/c")]).unwrap();
        validate(&whole, &sample()).unwrap();
        let after: Vec<(&str, Vec<&str>)> = whole
            .steps
            .iter()
            .map(|step| {
                let after = step.after.iter().map(String::as_str).collect();
                (step.id.as_str(), after)
            })
            .collect();
        assert_eq!(
            after,
            [
                ("1-read", vec![]),
                ("1-post1", vec!["1-read"]),
                ("2-read", vec!["1-read", "1-post1"]),
                ("2-post1", vec!["2-read"]),
                ("3-read", vec!["2-read", "2-post1"]),
                ("3-post1", vec!["3-read"]),
            ]
        );
        assert_eq!(whole.source, "a + b");
        assert_eq!(Plan::from_json(&whole.to_json().unwrap()).unwrap(), whole);
    }

    #[test]
    fn each_part_words_its_own_answer() {
        let results = BTreeMap::from([
            ("1-read".to_owned(), json!({"content": "one"})),
            ("2-read".to_owned(), json!({"content": "two"})),
        ]);
        let whole = chain(vec![plan("a", "/a"), plan("b", "/b")]).unwrap();
        assert_eq!(
            whole.worded(&results).unwrap().as_deref(),
            Some("/a: one\n/b: two")
        );
        let single = chain(vec![plan("a", "/a")]).unwrap();
        assert_eq!(single, plan("a", "/a"));
        let mut wordless = plan("a", "/a");
        wordless.answer = None;
        let whole = chain(vec![plan("b", "/b"), wordless]).unwrap();
        assert_eq!(whole.worded(&results), Ok(None));
        assert_eq!(chain(Vec::new()), None);
    }
}
