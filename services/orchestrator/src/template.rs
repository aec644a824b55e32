//! Small templates: `{name}` is a parameter, `{name.member}` a member of a structured one,
//! `{steps.ID:/pointer}` a value from a step's result, `{item:/pointer}` one of the element at hand
//! in a list, each with an optional `|format`. `{{` and `}}` are braces.
//!
//! Invariants: a template only fills in; it has no conditions and runs nothing. A text that is
//! nothing but one placeholder keeps the type of its value.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Elements of a list in an answer at most; the rest is counted.
const MAX_LINES: usize = 50;
/// Characters of one value in an answer at most.
const MAX_VALUE: usize = 4_000;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A parameter and the members below it.
    Parameter(Vec<String>),
    /// A step's result.
    Step(String, String),
    /// The element at hand.
    Item(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Plain,
    Bytes,
    Percent,
    Count,
    Lines,
    YesNo,
    Json,
    Negative,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Value(Source, Format),
}

/// A parsed template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

/// The values that a template may name.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// Parameters.
    pub parameters: &'a Map<String, Value>,
    /// Results by step.
    pub steps: &'a BTreeMap<String, Value>,
    /// The element at hand.
    pub item: Option<&'a Value>,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(index) = rest.find(['{', '}']) {
            let (before, after) = rest.split_at(index);
            literal.push_str(before);
            if let Some(after) = after.strip_prefix("{{") {
                literal.push('{');
                rest = after;
            } else if let Some(after) = after.strip_prefix("}}") {
                literal.push('}');
                rest = after;
            } else if let Some((inner, after)) = after
                .strip_prefix('{')
                .and_then(|after| after.split_once('}'))
            {
                if !literal.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut literal)));
                }
                parts.push(placeholder(inner)?);
                rest = after;
            } else {
                return Err(format!(
                    "`{text}` has a brace without its partner; write {{{{ or }}}} for a brace"
                ));
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self(parts))
    }

    /// Everything that it names.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        self.0.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Value(source, _) => Some(source),
        })
    }

    /// The value: of the placeholder's own type when it stands alone, otherwise text. `None` when
    /// something that it names is not there.
    #[must_use]
    pub fn value(&self, scope: &Scope<'_>) -> Option<Value> {
        match self.0.as_slice() {
            [Part::Value(source, Format::Plain)] => return scope.find(source).cloned(),
            [Part::Value(source, Format::Negative)] => {
                return scope.find(source)?.as_i64()?.checked_neg().map(Value::from);
            }
            _ => {}
        }
        let mut out = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Value(source, format) => out.push_str(&format.apply(scope.find(source)?)),
            }
        }
        Some(Value::String(out))
    }

    /// The text; what is not there reads `unknown`.
    #[must_use]
    pub fn text(&self, scope: &Scope<'_>) -> String {
        self.0
            .iter()
            .map(|part| match part {
                Part::Text(text) => text.clone(),
                Part::Value(source, format) => scope
                    .find(source)
                    .filter(|value| !value.is_null())
                    .map_or_else(|| "unknown".to_owned(), |value| format.apply(value)),
            })
            .collect()
    }
}

fn placeholder(inner: &str) -> Result<Part, String> {
    let (source, format) = match inner.rsplit_once('|') {
        None => (inner, Format::Plain),
        Some((source, name)) => (source, Format::parse(name)?),
    };
    let source = if let Some(rest) = source.strip_prefix("steps.") {
        let (step, pointer) = rest.split_once(':').unwrap_or((rest, ""));
        check_pointer(pointer)?;
        Source::Step(step.to_owned(), pointer.to_owned())
    } else if let Some(pointer) = source.strip_prefix("item:") {
        check_pointer(pointer)?;
        Source::Item(pointer.to_owned())
    } else {
        let members: Vec<String> = source.split('.').map(str::to_owned).collect();
        if members.iter().any(|member| !is_name(member)) {
            return Err(format!(
                "{{{inner}}} names nothing: write a parameter, steps.ID:/pointer or item:/pointer"
            ));
        }
        Source::Parameter(members)
    };
    Ok(Part::Value(source, format))
}

/// Whether a text may name a parameter.
#[must_use]
pub fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// Checks that a text is a JSON pointer.
///
/// # Errors
/// When it is not.
pub fn check_pointer(pointer: &str) -> Result<(), String> {
    if pointer.is_empty() || pointer.starts_with('/') {
        Ok(())
    } else {
        Err(format!(
            "`{pointer}` is not a JSON pointer; it begins with /"
        ))
    }
}

impl Scope<'_> {
    fn find(&self, source: &Source) -> Option<&Value> {
        match source {
            Source::Parameter(members) => {
                let (first, rest) = members.split_first()?;
                rest.iter()
                    .try_fold(self.parameters.get(first)?, |value, member| {
                        value.get(member)
                    })
            }
            Source::Step(step, pointer) => self.steps.get(step)?.pointer(pointer),
            Source::Item(pointer) => self.item?.pointer(pointer),
        }
    }
}

impl Format {
    fn parse(name: &str) -> Result<Self, String> {
        const KNOWN: [(&str, Format); 7] = [
            ("bytes", Format::Bytes),
            ("percent", Format::Percent),
            ("count", Format::Count),
            ("lines", Format::Lines),
            ("yes_no", Format::YesNo),
            ("json", Format::Json),
            ("negative", Format::Negative),
        ];
        KNOWN
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, format)| *format)
            .ok_or_else(|| {
                let near = aios_config::nearest(name, KNOWN.iter().map(|(known, _)| *known));
                let hint =
                    near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
                format!("`{name}` is not a format{hint}")
            })
    }

    fn apply(self, value: &Value) -> String {
        let text = match (self, value) {
            (Self::Bytes, Value::Number(number)) => bytes(number.as_f64().unwrap_or(f64::NAN)),
            (Self::Percent, Value::Number(number)) => {
                format!("{:.0} %", number.as_f64().unwrap_or(f64::NAN))
            }
            (Self::Count, Value::Array(items)) => items.len().to_string(),
            (Self::Count, Value::Object(members)) => members.len().to_string(),
            (Self::YesNo, Value::Bool(value)) => if *value { "yes" } else { "no" }.to_owned(),
            (Self::Lines, Value::Array(items)) => {
                items.iter().map(plain).collect::<Vec<_>>().join("\n")
            }
            (Self::Json, value) => value.to_string(),
            (Self::Negative, value) => value
                .as_i64()
                .map_or_else(|| plain(value), |number| format!("-{number}")),
            (_, value) => plain(value),
        };
        shorten(text)
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

fn shorten(text: String) -> String {
    match text.char_indices().nth(MAX_VALUE) {
        None => text,
        Some((index, _)) => {
            let rest = text.chars().count() - MAX_VALUE;
            format!(
                "{}… ({rest} more characters)",
                text.get(..index).unwrap_or_default()
            )
        }
    }
}

/// A number of bytes for a person, in binary units.
#[must_use]
pub fn bytes(count: f64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = count;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or("B");
    if unit == 0 {
        format!("{value:.0} {name}")
    } else {
        format!("{value:.1} {name}")
    }
}

/// Fills every text in a value. A member whose text names a parameter that is not there is left
/// out, so that an optional argument that the goal does not mention is not sent.
///
/// # Errors
/// When a text is no template, or names something that is not there outside of an object's member.
pub fn fill(value: &Value, scope: &Scope<'_>) -> Result<Value, String> {
    Ok(match value {
        Value::String(text) => Template::parse(text)?
            .value(scope)
            .ok_or_else(|| format!("`{text}` names something that is not there"))?,
        Value::Array(items) => Value::Array(
            items
                .iter()
                .map(|item| fill(item, scope))
                .collect::<Result<_, _>>()?,
        ),
        Value::Object(members) => {
            let mut out = Map::new();
            for (name, member) in members {
                let filled = match member {
                    Value::String(text) => Template::parse(text)?.value(scope),
                    other => Some(fill(other, scope)?),
                };
                if let Some(filled) = filled {
                    out.insert(name.clone(), filled);
                }
            }
            Value::Object(out)
        }
        other => other.clone(),
    })
}

/// How a result is worded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// The text; with a list, what stands above it.
    pub text: String,
    /// A list: `steps.ID:/pointer` to an array.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub each: String,
    /// One line for each of its elements (`{item:/pointer}`).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub line: String,
    /// Instead of the lines, when the list is empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub empty: String,
}

impl Answer {
    /// Everything that it names.
    ///
    /// # Errors
    /// When one of its texts is no template.
    pub fn sources(&self) -> Result<Vec<Source>, String> {
        let mut sources = Vec::new();
        for text in [&self.text, &self.line, &self.empty] {
            sources.extend(Template::parse(text)?.sources().cloned());
        }
        if !self.each.is_empty() {
            sources.push(self.list()?);
        } else if !self.line.is_empty() {
            return Err("`line` has no list: name one in `each`".to_owned());
        }
        Ok(sources)
    }

    fn list(&self) -> Result<Source, String> {
        match placeholder(&self.each)? {
            Part::Value(source @ Source::Step(..), Format::Plain) => Ok(source),
            _ => Err(format!(
                "`{}` is not a list; write steps.ID:/pointer",
                self.each
            )),
        }
    }

    /// The text of the result.
    ///
    /// # Errors
    /// When one of its texts is no template.
    pub fn render(&self, scope: &Scope<'_>) -> Result<String, String> {
        let mut out = Template::parse(&self.text)?.text(scope);
        if self.each.is_empty() {
            return Ok(out);
        }
        let line = Template::parse(&self.line)?;
        let items = scope
            .find(&self.list()?)
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice);
        if items.is_empty() {
            let empty = Template::parse(&self.empty)?.text(scope);
            return Ok(if empty.is_empty() { out } else { empty });
        }
        for item in items.iter().take(MAX_LINES) {
            out.push('\n');
            out.push_str(&line.text(&Scope {
                item: Some(item),
                ..*scope
            }));
        }
        if items.len() > MAX_LINES {
            out.push_str(&format!("\n… and {} more", items.len() - MAX_LINES));
        }
        Ok(out.trim_start_matches('\n').to_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn with<T>(run: impl FnOnce(&Scope<'_>) -> T) -> T {
        let parameters = json!({"port": 80, "name": "nginx", "data": {"args": ["-g"]}});
        let steps = BTreeMap::from([(
            "list".to_owned(),
            json!({"disks": [{"at": "/", "used": 12.4}, {"at": "/var", "used": 99.0}], "size": 1536, "none": []}),
        )]);
        run(&Scope {
            parameters: parameters.as_object().unwrap(),
            steps: &steps,
            item: None,
        })
    }

    #[test]
    fn a_placeholder_alone_keeps_its_type() {
        with(|scope| {
            let args = json!({"port": "{port}", "url": "http://[::1]:{port}/", "args": "{data.args}", "mode": "{mode}"});
            assert_eq!(
                fill(&args, scope).unwrap(),
                json!({"port": 80, "url": "http://[::1]:80/", "args": ["-g"]})
            );
        });
    }

    #[test]
    fn answers_have_formats_and_lists() {
        with(|scope| {
            let text = |text: &str| Template::parse(text).unwrap().text(scope);
            assert_eq!(
                text("{steps.list:/size|bytes} of {{x}}, {steps.list:/gone}"),
                "1.5 KiB of {x}, unknown"
            );
            let answer = Answer {
                text: "Disks:".to_owned(),
                each: "steps.list:/disks".to_owned(),
                line: "{item:/at} {item:/used|percent}".to_owned(),
                empty: "none".to_owned(),
            };
            assert_eq!(answer.render(scope).unwrap(), "Disks:\n/ 12 %\n/var 99 %");
            let none = Answer {
                each: "steps.list:/none".to_owned(),
                ..answer
            };
            assert_eq!(none.render(scope).unwrap(), "none");
        });
    }

    #[test]
    fn faults_are_named() {
        assert!(Template::parse("a {b").unwrap_err().contains("partner"));
        assert!(
            Template::parse("{x|byte}")
                .unwrap_err()
                .contains("did you mean `bytes`?")
        );
        assert!(
            Template::parse("{steps.a:b}")
                .unwrap_err()
                .contains("pointer")
        );
        assert!(Template::parse("{A b}").is_err());
    }

    proptest! {
        #[test]
        fn no_text_breaks_it_and_values_are_never_read_as_templates(text in ".{0,60}") {
            if let Ok(template) = Template::parse(&text) {
                with(|scope| template.text(scope));
            }
            let parameters = json!({"content": text});
            let steps = BTreeMap::new();
            let scope = Scope { parameters: parameters.as_object().unwrap(), steps: &steps, item: None };
            prop_assert_eq!(fill(&json!("{content}"), &scope).unwrap(), json!(text));
        }
    }
}
