//! One procedure file. Unknown keys are errors with file, line and nearest key; everything that a
//! template, a pattern or an expectation names is checked when the file is read.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{pattern::Pattern, value::Type};
use crate::{
    expect::Expectation,
    plan::{self, Kind, Step},
    template::{Answer, Source, Template},
};

/// Post-conditions may take this long to become true at most, in seconds.
const MAX_WITHIN_S: u64 = 300;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    summary: String,
    #[serde(default)]
    patterns: Vec<String>,
    #[serde(default)]
    pattern: Vec<SettingPattern>,
    #[serde(default)]
    defaults: Map<String, Value>,
    #[serde(default)]
    data: BTreeMap<String, Map<String, Value>>,
    step: Vec<StepEntry>,
    #[serde(default)]
    post: Vec<PostEntry>,
    answer: Option<Answer>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SettingPattern {
    text: String,
    #[serde(default)]
    set: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StepEntry {
    id: String,
    tool: String,
    #[serde(default)]
    args: Map<String, Value>,
    after: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PostEntry {
    tool: String,
    #[serde(default)]
    args: Map<String, Value>,
    expect: Vec<Expectation>,
    #[serde(default)]
    within_s: u64,
}

/// A procedure, ready to be matched.
#[derive(Debug, Clone)]
pub struct Procedure {
    /// Its name, which is also its file's.
    pub name: String,
    /// One sentence for people.
    pub summary: String,
    /// The patterns as written.
    pub pattern_texts: Vec<String>,
    /// Each pattern with the parameters that it sets.
    pub patterns: Vec<(Pattern, Map<String, Value>)>,
    /// Values of parameters that the goal does not mention.
    pub defaults: Map<String, Value>,
    /// What is known about the values of the `key` parameter.
    pub data: BTreeMap<String, Map<String, Value>>,
    /// Name of the `key` parameter.
    pub key: Option<String>,
    /// Steps and post-conditions with their templates.
    pub steps: Vec<Step>,
    /// How the result is worded.
    pub answer: Option<Answer>,
}

/// Reads and checks a procedure file.
///
/// # Errors
/// What is wrong with it and where.
pub fn load(path: &Path) -> Result<Procedure, String> {
    let file: File = aios_config::load(path).map_err(|error| error.to_string())?;
    let stem = path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    if file.name != stem {
        return Err(format!(
            "{}: the name is `{}`; it must be that of the file, `{stem}`",
            path.display(),
            file.name
        ));
    }
    check(file).map_err(|error| format!("{}: {error}", path.display()))
}

fn check(file: File) -> Result<Procedure, String> {
    let mut patterns = Vec::new();
    let mut pattern_texts = Vec::new();
    for text in file.patterns {
        patterns.push((Pattern::parse(&text)?, Map::new()));
        pattern_texts.push(text);
    }
    for entry in file.pattern {
        patterns.push((Pattern::parse(&entry.text)?, entry.set));
        pattern_texts.push(entry.text);
    }
    if patterns.is_empty() {
        return Err("it has no patterns, so nothing can ask for it".to_owned());
    }
    let mut types = BTreeMap::<String, Type>::new();
    for (name, kind) in patterns
        .iter()
        .flat_map(|(pattern, _)| pattern.parameters())
    {
        if let Some(other) = types.insert(name.to_owned(), kind)
            && other.is_number() != kind.is_number()
        {
            return Err(format!(
                "{{{name}}} is a number in one pattern and a text in another"
            ));
        }
    }
    let mut keys = types
        .iter()
        .filter(|(_, kind)| **kind == Type::Key)
        .map(|(name, _)| name.clone());
    let key = keys.next();
    if keys.next().is_some() {
        return Err("it has more than one parameter of type key".to_owned());
    }
    if key.is_some() == file.data.is_empty() {
        return Err("a parameter of type key and [data.…] tables go together".to_owned());
    }

    let mut known: BTreeSet<String> = types.into_keys().collect();
    known.extend(file.defaults.keys().cloned());
    known.extend(patterns.iter().flat_map(|(_, set)| set.keys().cloned()));
    if key.is_some() {
        known.insert("data".to_owned());
    }
    let steps = steps(file.step, file.post)?;
    plan::order(&steps).map_err(|error| error.to_string())?;
    let ids: BTreeSet<&str> = steps.iter().map(|step| step.id.as_str()).collect();
    for step in &steps {
        names_known(&step.args, &known).map_err(|error| format!("step {}: {error}", step.id))?;
        for expectation in &step.expect {
            expectation
                .validate()
                .map_err(|error| format!("post-condition {}: {error}", step.id))?;
            let values = serde_json::to_value(expectation).map_err(|error| error.to_string())?;
            names_known(&values, &known)
                .map_err(|error| format!("post-condition {}: {error}", step.id))?;
        }
    }
    if let Some(answer) = &file.answer {
        for source in answer
            .sources()
            .map_err(|error| format!("answer: {error}"))?
        {
            named(&source, &known, Some(&ids)).map_err(|error| format!("answer: {error}"))?;
        }
    }
    Ok(Procedure {
        name: file.name,
        summary: file.summary,
        pattern_texts,
        patterns,
        defaults: file.defaults,
        data: file.data,
        key,
        steps,
        answer: file.answer,
    })
}

/// Steps follow each other unless they say otherwise; post-conditions follow every step.
fn steps(entries: Vec<StepEntry>, posts: Vec<PostEntry>) -> Result<Vec<Step>, String> {
    let mut steps: Vec<Step> = Vec::new();
    for entry in entries {
        let after = entry.after.unwrap_or_else(|| {
            steps
                .last()
                .map(|step| step.id.clone())
                .into_iter()
                .collect()
        });
        steps.push(Step {
            id: entry.id,
            tool: entry.tool,
            args: Value::Object(entry.args),
            after,
            kind: Kind::Step,
            expect: Vec::new(),
            within_s: 0,
            checked: None,
        });
    }
    let all: Vec<String> = steps.iter().map(|step| step.id.clone()).collect();
    for (index, post) in posts.into_iter().enumerate() {
        if post.expect.is_empty() {
            return Err("a post-condition expects nothing".to_owned());
        }
        if post.within_s > MAX_WITHIN_S {
            return Err(format!(
                "within_s is {}, more than {MAX_WITHIN_S}",
                post.within_s
            ));
        }
        steps.push(Step {
            id: format!("post{}", index + 1),
            tool: post.tool,
            args: Value::Object(post.args),
            after: all.clone(),
            kind: Kind::Postcondition,
            expect: post.expect,
            within_s: post.within_s,
            checked: None,
        });
    }
    Ok(steps)
}

fn names_known(value: &Value, known: &BTreeSet<String>) -> Result<(), String> {
    match value {
        Value::String(text) => Template::parse(text)?
            .sources()
            .try_for_each(|source| named(source, known, None)),
        Value::Array(items) => items.iter().try_for_each(|item| names_known(item, known)),
        Value::Object(members) => members
            .values()
            .try_for_each(|member| names_known(member, known)),
        _ => Ok(()),
    }
}

fn named(
    source: &Source,
    known: &BTreeSet<String>,
    steps: Option<&BTreeSet<&str>>,
) -> Result<(), String> {
    match (source, steps) {
        (Source::Parameter(members), _) => {
            let first = members.first().map(String::as_str).unwrap_or_default();
            if known.contains(first) {
                return Ok(());
            }
            let near = aios_config::nearest(first, known.iter().map(String::as_str));
            let hint = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            Err(format!("{{{first}}} is not a parameter{hint}"))
        }
        (Source::Step(step, _), Some(steps)) if steps.contains(step.as_str()) => Ok(()),
        (Source::Step(step, _), Some(_)) => Err(format!("there is no step {step}")),
        (Source::Item(_), Some(_)) => Ok(()),
        (Source::Step(..) | Source::Item(_), None) => Err(
            "an argument cannot come from a result: what is approved must be what runs".to_owned(),
        ),
    }
}
