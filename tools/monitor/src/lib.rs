//! The `monitor` family: load and usage now, and what is wrong.
//!
//! Invariants: numbers come from the kernel at the time of the call; percentages are 0 to 100 with
//! one decimal; a part that cannot be measured is absent, never zero; a file system or a PID 1 that
//! does not answer costs a bounded wait and is reported.

mod cpu;
mod disk;
mod health;
mod memory;
mod pressure;

pub use disk::FileSystem;
pub use pressure::Pressure;

use aios_tool_api::{ToolError, ToolErrorKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Adds the tools of this family.
pub fn register(registry: &mut aios_tool_api::Registry) {
    cpu::register(registry);
    disk::register(registry);
    health::register(registry);
    memory::register(registry);
}

/// These tools have no arguments.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoArgs {}

/// `part` of `whole` in percent with one decimal; 0 when there is no whole.
pub(crate) fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    (1000.0 * part as f64 / whole as f64).round() / 10.0
}

/// A failure of `/proc` as a failure of the call.
pub(crate) fn proc_error(what: &str, error: &procfs::ProcError) -> ToolError {
    ToolError::new(
        ToolErrorKind::Filesystem,
        format!("cannot read {what}: {error}"),
    )
}

#[cfg(test)]
pub(crate) mod testing {
    use std::{path::Path, time::Duration};

    use aios_tool_api::{BlobStore, Context, Registry, ToolError};
    use serde_json::Value;

    /// A call of a tool of this family that goes the way of the registry.
    pub(crate) fn run(tool: &str, args: &Value, init_socket: &Path) -> Result<Value, ToolError> {
        let mut registry = Registry::default();
        crate::register(&mut registry);
        let mut context = Context::new(BlobStore::new("/nonexistent"), Duration::from_secs(10));
        context.init_socket = init_socket.to_owned();
        let found = registry.get(tool).unwrap();
        let args = found.normalise(args, &context)?;
        assert_eq!(
            found.capabilities(&args)?[0].to_string(),
            tool.replace('.', ":")
        );
        let output = found.execute(&args, &context)?;
        found.check(&args, &output, &context)?;
        Ok(output)
    }

    /// A call without arguments on a machine without PID 1.
    pub(crate) fn output(tool: &str) -> Value {
        run(
            tool,
            &serde_json::json!({}),
            Path::new("/nonexistent/init.sock"),
        )
        .unwrap()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use aios_tool_api::ToolErrorKind;
    use serde_json::json;

    use super::*;

    #[test]
    fn percentages_have_one_decimal_and_no_division_by_zero() {
        assert_eq!(percent(1, 3), 33.3);
        assert_eq!(percent(2, 3), 66.7);
        assert_eq!(percent(0, 0), 0.0);
        assert_eq!(percent(u64::MAX, u64::MAX), 100.0);
    }

    #[test]
    fn arguments_that_do_not_exist_are_refused() {
        for tool in [
            "monitor.cpu",
            "monitor.memory",
            "monitor.disk",
            "monitor.health",
        ] {
            for args in [json!({"verbose": true}), json!([]), json!("x")] {
                let error = testing::run(tool, &args, Path::new("/nonexistent")).unwrap_err();
                assert_eq!(error.kind, ToolErrorKind::Invalid, "{tool} {args}");
            }
        }
    }
}
