//! The tools that this daemon has, with everything about them that does not depend on a call worked
//! out once: schemas, validators, the entry in the catalogue.

use std::{collections::BTreeMap, sync::Arc};

use aios_proto::v1::ToolInfo;
use aios_tool_api::{DynTool, Registry, Risk, Spec, ToolError};
use jsonschema::{Validator, error::ValidationErrorKind};
use serde_json::Value;

/// A tool whose description cannot be used; a fault of the build, found at start.
#[derive(Debug, thiserror::Error)]
#[error("the tool {tool} cannot be offered: {problem}")]
pub struct BadTool {
    tool: String,
    problem: String,
}

/// One tool.
pub struct CatalogueEntry {
    /// What does the work.
    pub tool: Arc<dyn DynTool>,
    /// What is known of it.
    pub spec: Spec,
    /// The first part of its name; calls of one family that change things run one after another.
    pub family: &'static str,
    info: ToolInfo,
    known_args: Vec<String>,
    validator: Validator,
}

/// All tools by name.
#[derive(Default)]
pub struct Catalogue(BTreeMap<&'static str, Arc<CatalogueEntry>>);

impl Catalogue {
    /// Works out the catalogue of a registry.
    ///
    /// # Errors
    /// When a tool's name or schema cannot be used.
    pub fn new(registry: &Registry) -> Result<Self, BadTool> {
        registry
            .iter()
            .map(|tool| {
                let entry = CatalogueEntry::new(Arc::clone(tool))?;
                Ok((entry.spec.name, Arc::new(entry)))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The tool of that name.
    ///
    /// # Errors
    /// That there is none, with the nearest name.
    pub fn get(&self, name: &str) -> Result<&Arc<CatalogueEntry>, ToolError> {
        self.0.get(name).ok_or_else(|| {
            let hint = aios_config::nearest(name, self.0.keys().copied()).map_or_else(
                || "`aios tool list` shows every tool".to_owned(),
                |near| format!("did you mean `{near}`?"),
            );
            ToolError::invalid(format!("there is no tool `{name}`")).hint(hint)
        })
    }

    /// All tools in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<CatalogueEntry>> {
        self.0.values()
    }

    /// How many tools there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no tool.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl CatalogueEntry {
    fn new(tool: Arc<dyn DynTool>) -> Result<Self, BadTool> {
        let spec = tool.spec();
        let bad = |problem: String| BadTool {
            tool: spec.name.to_owned(),
            problem,
        };
        let family = match spec.name.split_once('.') {
            Some((family, action)) if !family.is_empty() && !action.is_empty() => family,
            _ => return Err(bad("its name is not `family.action`".to_owned())),
        };
        let args_schema = tool.args_schema();
        let validator = jsonschema::validator_for(&args_schema)
            .map_err(|error| bad(format!("its argument schema is not one: {error}")))?;
        let known_args = args_schema
            .get("properties")
            .and_then(Value::as_object)
            .map(|properties| properties.keys().cloned().collect())
            .unwrap_or_default();
        let info = ToolInfo {
            name: spec.name.to_owned(),
            summary: spec.summary.to_owned(),
            args_schema: args_schema.to_string(),
            result_schema: tool.output_schema().to_string(),
            risk: spec.risk.name().to_owned(),
            reversible: spec.undo.is_some(),
            idempotent: spec.idempotent,
            deadline_ms: u32::try_from(spec.deadline.as_millis()).unwrap_or(u32::MAX),
            undo: spec.undo.unwrap_or_default().to_owned(),
            capability: format!("{}:{}", spec.capability.0, spec.capability.1),
        };
        Ok(Self {
            tool,
            spec,
            family,
            info,
            known_args,
            validator,
        })
    }

    /// The entry as it goes over the wire.
    #[must_use]
    pub fn info(&self) -> ToolInfo {
        self.info.clone()
    }

    /// Checks arguments against the schema.
    ///
    /// # Errors
    /// Every mistake in one message: which argument, what is wrong, what would be right.
    pub fn validate(&self, args: &Value) -> Result<(), ToolError> {
        let name = self.spec.name;
        if !args.is_object() {
            return Err(ToolError::invalid(format!(
                "arguments of {name}: not a JSON object"
            )));
        }
        let mut unknown = Vec::new();
        let mut problems = Vec::new();
        for error in self.validator.iter_errors(args).take(8) {
            if let ValidationErrorKind::AdditionalProperties { unexpected } = error.kind() {
                for key in unexpected {
                    problems.push(format!("there is no argument `{key}`"));
                    unknown.push(key.clone());
                }
                continue;
            }
            let at = error.instance_path().to_string();
            problems.push(if at.is_empty() {
                error.to_string()
            } else {
                format!("{}: {error}", at.trim_start_matches('/'))
            });
        }
        if problems.is_empty() {
            return Ok(());
        }
        let known = || self.known_args.iter().map(String::as_str);
        let near: Vec<String> = unknown
            .iter()
            .filter_map(|key| aios_config::nearest(key, known()))
            .map(|near| format!("`{near}`"))
            .collect();
        let hint = if !near.is_empty() {
            format!("did you mean {}?", near.join(", "))
        } else if self.known_args.is_empty() {
            format!("{name} takes no arguments")
        } else {
            format!("{name} takes {}", self.known_args.join(", "))
        };
        Err(ToolError::invalid(format!("arguments of {name}: {}", problems.join("; "))).hint(hint))
    }

    /// Whether a call of this risk may change something.
    #[must_use]
    pub fn changes(risk: Risk) -> bool {
        risk > Risk::Low
    }
}
