//! The tools that this machine has right now, as the registry lists them, with their argument
//! schemas ready to check against.
//!
//! Invariants: a tool that the registry does not list does not exist; arguments that its schema does
//! not accept are never sent.

use std::{collections::BTreeMap, sync::Arc};

use aios_proto::v1::ToolInfo;
use jsonschema::Validator;
use serde_json::Value;

/// One tool.
#[derive(Clone)]
pub struct Entry {
    /// What the registry says of it.
    pub info: ToolInfo,
    /// Schema of its arguments.
    pub args_schema: Value,
    validator: Arc<Validator>,
}

/// All tools by name.
#[derive(Clone, Default)]
pub struct Catalogue {
    entries: BTreeMap<String, Entry>,
    /// Tools that were left out because their schema cannot be used, with the reason.
    pub problems: Vec<String>,
}

impl std::fmt::Debug for Catalogue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.entries.keys()).finish()
    }
}

impl Catalogue {
    /// Takes the registry's list. A tool whose schema is not one is left out and named in
    /// [`Catalogue::problems`].
    #[must_use]
    pub fn new(tools: Vec<ToolInfo>) -> Self {
        let mut catalogue = Self::default();
        for info in tools {
            let entry = serde_json::from_str::<Value>(&info.args_schema)
                .map_err(|error| error.to_string())
                .and_then(|schema| {
                    jsonschema::validator_for(&schema)
                        .map(|validator| (schema, validator))
                        .map_err(|error| error.to_string())
                });
            match entry {
                Ok((args_schema, validator)) => {
                    let name = info.name.clone();
                    let validator = Arc::new(validator);
                    catalogue.entries.insert(
                        name,
                        Entry {
                            info,
                            args_schema,
                            validator,
                        },
                    );
                }
                Err(error) => catalogue
                    .problems
                    .push(format!("the argument schema of {}: {error}", info.name)),
            }
        }
        catalogue
    }

    /// The tool of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// All tools in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Checks a call.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn check(&self, tool: &str, args: &Value) -> Result<(), String> {
        let entry = self.known(tool)?;
        match entry.validator.iter_errors(args).next() {
            None => Ok(()),
            Some(error) => {
                let place = error.instance_path().to_string();
                let place = if place.is_empty() {
                    "the arguments".to_owned()
                } else {
                    place
                };
                Err(format!(
                    "{tool}: {place}: {}",
                    shortened(&error.to_string())
                ))
            }
        }
    }

    /// The tool of that name, or a sentence that names the nearest one.
    ///
    /// # Errors
    /// When there is none.
    pub fn known(&self, tool: &str) -> Result<&Entry, String> {
        self.entries.get(tool).ok_or_else(|| {
            let near = aios_config::nearest(tool, self.entries.keys().map(String::as_str));
            let hint = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
            format!("this machine has no tool {}{hint}", shortened(tool))
        })
    }
}

fn shortened(text: &str) -> String {
    const MAX: usize = 300;
    if text.chars().count() <= MAX {
        return text.to_owned();
    }
    let mut out: String = text.chars().take(MAX).collect();
    out.push('…');
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    pub(crate) fn tool(name: &str, risk: &str, schema: &Value) -> ToolInfo {
        let (family, action) = name.split_once('.').unwrap();
        ToolInfo {
            name: name.to_owned(),
            summary: format!("{name} for tests"),
            args_schema: schema.to_string(),
            result_schema: "{}".to_owned(),
            risk: risk.to_owned(),
            deadline_ms: 5_000,
            capability: format!("{family}:{action}"),
            ..ToolInfo::default()
        }
    }

    pub(crate) fn sample() -> Catalogue {
        let path = json!({
            "type": "object",
            "properties": {"path": {"type": "string"}},
            "required": ["path"],
            "additionalProperties": false,
        });
        Catalogue::new(vec![
            tool("fs.read", "low", &path),
            tool("fs.delete", "high", &path),
        ])
    }

    #[test]
    fn calls_are_checked_against_the_schema() {
        let catalogue = sample();
        catalogue.check("fs.read", &json!({"path": "/x"})).unwrap();
        assert!(
            catalogue
                .check("fs.read", &json!({}))
                .unwrap_err()
                .contains("path")
        );
        assert!(
            catalogue
                .check("fs.read", &json!({"path": "/x", "y": 1}))
                .is_err()
        );
        assert!(
            catalogue
                .check("fs.reed", &json!({}))
                .unwrap_err()
                .contains("did you mean fs.read?")
        );
    }

    #[test]
    fn a_tool_with_a_broken_schema_is_left_out_and_named() {
        let catalogue = Catalogue::new(vec![tool("fs.read", "low", &json!({"type": 7}))]);
        assert!(catalogue.is_empty());
        assert!(catalogue.problems[0].contains("fs.read"));
    }
}
