//! Tools by name, with their types erased to JSON. Validation against the types happens here, so
//! that nothing behind this border sees arguments that do not fit.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

use crate::{
    capability::Capability,
    context::Context,
    error::{ToolError, ToolErrorKind},
    tool::{PreImage, Risk, Spec, Tool, Undone},
};

/// A [`Tool`] behind JSON.
pub trait DynTool: Send + Sync {
    /// What is known of the tool before any call.
    fn spec(&self) -> Spec;
    /// JSON Schema of the arguments.
    fn args_schema(&self) -> Value;
    /// JSON Schema of the result.
    fn output_schema(&self) -> Value;
    /// Arguments in canonical form.
    ///
    /// # Errors
    /// When they do not fit the type or the tool.
    fn normalise(&self, args: &Value, context: &Context) -> Result<Value, ToolError>;
    /// The risk of a call with canonical arguments.
    ///
    /// # Errors
    /// When they do not fit the type.
    fn risk(&self, args: &Value) -> Result<Risk, ToolError>;
    /// See [`Tool::idempotent`].
    ///
    /// # Errors
    /// When the arguments do not fit the type.
    fn idempotent(&self, args: &Value) -> Result<bool, ToolError>;
    /// The capabilities that a call needs.
    ///
    /// # Errors
    /// When the arguments do not fit the type.
    fn capabilities(&self, args: &Value) -> Result<Vec<Capability>, ToolError>;
    /// See [`Tool::pre_image`].
    ///
    /// # Errors
    /// As the tool's.
    fn pre_image(&self, args: &Value, context: &Context) -> Result<Option<PreImage>, ToolError>;
    /// See [`Tool::execute`].
    ///
    /// # Errors
    /// As the tool's.
    fn execute(&self, args: &Value, context: &Context) -> Result<Value, ToolError>;
    /// See [`Tool::check`].
    ///
    /// # Errors
    /// As the tool's.
    fn check(&self, args: &Value, output: &Value, context: &Context) -> Result<(), ToolError>;
    /// See [`Tool::undo`].
    ///
    /// # Errors
    /// As the tool's.
    fn undo(
        &self,
        args: &Value,
        pre_image: &PreImage,
        output: Option<&Value>,
        context: &Context,
    ) -> Result<Undone, ToolError>;
    /// See [`Tool::redacted`].
    fn redacted(&self) -> &'static [&'static str];
}

struct Erased<T>(T);

impl<T: Tool> Erased<T> {
    fn args(&self, args: &Value) -> Result<T::Args, ToolError> {
        // serde also reads a struct from an array of its fields, which no schema here allows.
        if !args.is_object() {
            return Err(ToolError::invalid(format!(
                "arguments of {} are not a JSON object",
                self.0.spec().name
            )));
        }
        serde_json::from_value(args.clone()).map_err(|error| {
            ToolError::invalid(format!("arguments of {}: {error}", self.0.spec().name))
        })
    }

    fn to_json(&self, value: &impl serde::Serialize) -> Result<Value, ToolError> {
        serde_json::to_value(value).map_err(|error| {
            ToolError::new(
                ToolErrorKind::Internal,
                format!(
                    "{} has a result that is not JSON: {error}",
                    self.0.spec().name
                ),
            )
        })
    }

    fn output(&self, output: &Value) -> Result<T::Output, ToolError> {
        serde_json::from_value(output.clone()).map_err(|error| {
            ToolError::new(
                ToolErrorKind::Internal,
                format!("recorded result of {}: {error}", self.0.spec().name),
            )
        })
    }
}

impl<T: Tool> DynTool for Erased<T> {
    fn spec(&self) -> Spec {
        self.0.spec()
    }

    fn args_schema(&self) -> Value {
        schemars::schema_for!(T::Args).to_value()
    }

    fn output_schema(&self) -> Value {
        schemars::schema_for!(T::Output).to_value()
    }

    fn normalise(&self, args: &Value, context: &Context) -> Result<Value, ToolError> {
        let args = self.0.normalise(self.args(args)?, context)?;
        self.to_json(&args)
    }

    fn risk(&self, args: &Value) -> Result<Risk, ToolError> {
        Ok(self.0.risk(&self.args(args)?))
    }

    fn idempotent(&self, args: &Value) -> Result<bool, ToolError> {
        Ok(self.0.idempotent(&self.args(args)?))
    }

    fn capabilities(&self, args: &Value) -> Result<Vec<Capability>, ToolError> {
        Ok(self.0.capabilities(&self.args(args)?))
    }

    fn pre_image(&self, args: &Value, context: &Context) -> Result<Option<PreImage>, ToolError> {
        self.0.pre_image(&self.args(args)?, context)
    }

    fn execute(&self, args: &Value, context: &Context) -> Result<Value, ToolError> {
        let output = self.0.execute(&self.args(args)?, context)?;
        self.to_json(&output)
    }

    fn check(&self, args: &Value, output: &Value, context: &Context) -> Result<(), ToolError> {
        self.0
            .check(&self.args(args)?, &self.output(output)?, context)
    }

    fn undo(
        &self,
        args: &Value,
        pre_image: &PreImage,
        output: Option<&Value>,
        context: &Context,
    ) -> Result<Undone, ToolError> {
        let output = output.map(|output| self.output(output)).transpose()?;
        self.0
            .undo(&self.args(args)?, pre_image, output.as_ref(), context)
    }

    fn redacted(&self) -> &'static [&'static str] {
        self.0.redacted()
    }
}

/// All tools, by name.
#[derive(Default, Clone)]
pub struct Registry {
    tools: BTreeMap<&'static str, Arc<dyn DynTool>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.tools.keys()).finish()
    }
}

impl Registry {
    /// Adds a tool; a later one of the same name replaces the earlier.
    pub fn add(&mut self, tool: impl Tool) {
        self.tools.insert(tool.spec().name, Arc::new(Erased(tool)));
    }

    /// The tool of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<dyn DynTool>> {
        self.tools.get(name).cloned()
    }

    /// All tools in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn DynTool>> {
        self.tools.values()
    }
}
