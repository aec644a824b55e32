//! Tools that exist only in tests, with one bad habit each.

use std::{fs, io::Write as _, time::Duration};

use aios_tool_api::{
    Capability, Context, PreImage, Registry, Risk, Spec, Tool, ToolError, ToolErrorKind, Undone,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub fn registry() -> Registry {
    let mut registry = aios_tools::families::registry();
    registry.add(Append);
    registry.add(Sleep);
    registry.add(Panic);
    registry.add(Flaky);
    registry
}

fn spec(name: &'static str, risk: Risk) -> Spec {
    Spec {
        name,
        summary: "Exists only in tests.",
        risk,
        undo: None,
        idempotent: false,
        deadline: Duration::from_secs(5),
        capability: ("test", "any"),
    }
}

fn needs() -> Vec<Capability> {
    vec![Capability::new("test", "any")]
}

/// Appends a line and cannot be undone; waits first.
struct Append;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AppendArgs {
    path: String,
    line: String,
    #[serde(default)]
    wait_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    password: Option<String>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Done {
    done: bool,
}

impl Tool for Append {
    type Args = AppendArgs;
    type Output = Done;

    fn spec(&self) -> Spec {
        spec("test.append", Risk::Medium)
    }

    fn capabilities(&self, _: &AppendArgs) -> Vec<Capability> {
        needs()
    }

    fn execute(&self, args: &AppendArgs, _: &Context) -> Result<Done, ToolError> {
        std::thread::sleep(Duration::from_millis(args.wait_ms));
        let mut file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&args.path)
            .unwrap();
        writeln!(file, "{}", args.line).unwrap();
        Ok(Done { done: true })
    }

    fn redacted(&self) -> &'static [&'static str] {
        &["/password"]
    }
}

/// Sleeps; heeds its deadline or not.
struct Sleep;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SleepArgs {
    ms: u64,
    heeds: bool,
}

impl Tool for Sleep {
    type Args = SleepArgs;
    type Output = Done;

    fn spec(&self) -> Spec {
        spec("test.sleep", Risk::Low)
    }

    fn capabilities(&self, _: &SleepArgs) -> Vec<Capability> {
        needs()
    }

    fn execute(&self, args: &SleepArgs, context: &Context) -> Result<Done, ToolError> {
        let started = std::time::Instant::now();
        while started.elapsed() < Duration::from_millis(args.ms) {
            if args.heeds {
                context.check_alive()?;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Done { done: true })
    }
}

/// Panics half way through a change that it had a pre-image for.
struct Panic;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NoArgs {}

impl Tool for Panic {
    type Args = NoArgs;
    type Output = Done;

    fn spec(&self) -> Spec {
        Spec {
            undo: Some("says that it was undone"),
            ..spec("test.panic", Risk::Medium)
        }
    }

    fn capabilities(&self, _: &NoArgs) -> Vec<Capability> {
        needs()
    }

    fn pre_image(&self, _: &NoArgs, _: &Context) -> Result<Option<PreImage>, ToolError> {
        Ok(Some(PreImage {
            data: serde_json::json!({}),
        }))
    }

    fn execute(&self, _: &NoArgs, _: &Context) -> Result<Done, ToolError> {
        panic!("half way");
    }

    fn undo(
        &self,
        _: &NoArgs,
        _: &PreImage,
        output: Option<&Done>,
        _: &Context,
    ) -> Result<Undone, ToolError> {
        assert!(output.is_none());
        Ok(Undone::Undone("put back".to_owned()))
    }
}

/// Fails in a way that may pass, until its file is there.
struct Flaky;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FlakyArgs {
    path: String,
}

impl Tool for Flaky {
    type Args = FlakyArgs;
    type Output = Done;

    fn spec(&self) -> Spec {
        spec("test.flaky", Risk::Low)
    }

    fn capabilities(&self, _: &FlakyArgs) -> Vec<Capability> {
        needs()
    }

    fn execute(&self, args: &FlakyArgs, _: &Context) -> Result<Done, ToolError> {
        if fs::exists(&args.path).unwrap() {
            Ok(Done { done: true })
        } else {
            Err(ToolError::new(ToolErrorKind::Network, "not there yet"))
        }
    }
}
