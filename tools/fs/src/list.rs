//! `fs.list`: what is in a directory.

use std::time::Duration;

use aios_tool_api::{Capability, Context, Registry, Risk, Spec, Tool, ToolError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    facts::{self, Entry},
    root::{Last, Root},
    walk::{Next, Skipped, Walk},
};

/// Which directory.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Args {
    /// Absolute path of the directory.
    #[schemars(extend("format" = "path"))]
    pub path: String,
    /// Also what is in the directories below it. Names are then paths below `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recursive: Option<bool>,
    /// Also names that begin with a dot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden: Option<bool>,
}

/// What is in it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The directory, with links resolved.
    pub path: String,
    /// The entries in the order of their names; a directory comes before what is in it.
    pub entries: Vec<Entry>,
    /// How many entries there are, those that were cut included.
    pub total: u64,
    /// How many names beginning with a dot were left out because `hidden` was not asked for.
    pub hidden_left_out: u64,
    /// Whether `entries` was cut because the result would be too large.
    pub truncated: bool,
    /// Directories below that could not be read, and why (the first of them).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<Skipped>,
}

struct FsList;

pub(crate) fn register(registry: &mut Registry) {
    registry.add(FsList);
}

impl Tool for FsList {
    type Args = Args;
    type Output = Output;

    fn spec(&self) -> Spec {
        Spec {
            name: "fs.list",
            summary: "Lists a directory with kind, size, owner and time of each entry. Leaves out \
                      names beginning with a dot unless `hidden`; does not follow symbolic links \
                      below the directory.",
            risk: Risk::Low,
            undo: None,
            idempotent: true,
            deadline: Duration::from_secs(30),
            capability: ("fs", "read"),
        }
    }

    fn normalise(&self, args: Args, context: &Context) -> Result<Args, ToolError> {
        let path = Root::open(context)?.canonical(&args.path, Last::Follow)?;
        Ok(Args { path, ..args })
    }

    fn capabilities(&self, args: &Args) -> Vec<Capability> {
        vec![Capability::new("fs", "read").on(&args.path)]
    }

    fn execute(&self, args: &Args, context: &Context) -> Result<Output, ToolError> {
        let root = Root::open(context)?;
        let accounts = root.accounts();
        let dir = root.directory(&args.path)?;
        let recursive = args.recursive.unwrap_or(false);
        let hidden = args.hidden.unwrap_or(false);
        let mut output = Output {
            path: args.path.clone(),
            entries: Vec::new(),
            total: 0,
            hidden_left_out: 0,
            truncated: false,
            skipped: Vec::new(),
        };
        let mut room = context.output_limit.saturating_sub(4096);
        let mut walk = Walk::new(context, &args.path);
        walk.run(dir, &mut |visit| {
            if !hidden && visit.name.to_bytes().starts_with(b".") {
                output.hidden_left_out += 1;
                return Ok(Next::Past);
            }
            output.total += 1;
            if !output.truncated {
                let target = facts::target(visit.dir, visit.name);
                let entry = Entry::new(visit.relative.to_owned(), visit.stat, &accounts, target);
                let needed = facts::json_size(&entry) + 1;
                output.truncated = needed > room;
                if !output.truncated {
                    room -= needed;
                    output.entries.push(entry);
                }
            }
            Ok(if recursive { Next::Into } else { Next::Past })
        })?;
        output.skipped = walk.skipped;
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use aios_tool_api::ToolErrorKind;
    use serde_json::{Value, json};

    use crate::testing::Machine;

    fn names(output: &Value) -> Vec<&str> {
        output["entries"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["name"].as_str().unwrap())
            .collect()
    }

    fn machine() -> Machine {
        let machine = Machine::new();
        std::fs::create_dir_all(machine.path("/d/sub/.git")).unwrap();
        std::fs::write(machine.path("/d/b"), "12").unwrap();
        std::fs::write(machine.path("/d/.env"), "x").unwrap();
        std::fs::write(machine.path("/d/sub/.git/config"), "x").unwrap();
        std::fs::write(machine.path("/d/sub/a"), "x").unwrap();
        symlink("/d", machine.path("/d/sub/again")).unwrap();
        machine
    }

    #[test]
    fn lists_one_level_without_hidden_names() {
        let output = machine().output("fs.list", json!({"path": "/d"}));
        assert_eq!(names(&output), ["b", "sub"]);
        assert_eq!(output["hidden_left_out"], 1);
        assert_eq!(output["entries"][0]["size"], 2);
        assert_eq!(output["total"], 2);
    }

    #[test]
    fn recursion_does_not_follow_links() {
        let machine = machine();
        let output = machine.output(
            "fs.list",
            json!({"path": "/d", "recursive": true, "hidden": true}),
        );
        assert_eq!(
            names(&output),
            [
                ".env",
                "b",
                "sub",
                "sub/.git",
                "sub/.git/config",
                "sub/a",
                "sub/again"
            ]
        );
        assert_eq!(output["entries"][6]["target"], "/d");
        let output = machine.output("fs.list", json!({"path": "/d", "recursive": true}));
        assert_eq!(names(&output), ["b", "sub", "sub/a", "sub/again"]);
    }

    #[test]
    fn a_large_directory_is_cut_and_says_so() {
        let mut machine = Machine::new();
        machine.context.output_limit = 8 << 10;
        for number in 0..200 {
            std::fs::write(machine.path(&format!("/{number:03}")), "").unwrap();
        }
        let output = machine.output("fs.list", json!({"path": "/"}));
        assert_eq!(output["truncated"], true);
        assert_eq!(output["total"], 200);
        assert!(names(&output).len() > 10 && names(&output).len() < 200);
        assert!(output.to_string().len() <= 8 << 10);
    }

    #[test]
    fn only_directories_have_lists() {
        let machine = machine();
        let kind = |args| machine.run("fs.list", args).err().unwrap().kind;
        assert_eq!(kind(json!({"path": "/d/b"})), ToolErrorKind::Invalid);
        assert_eq!(kind(json!({"path": "/none"})), ToolErrorKind::NotFound);
        assert_eq!(
            kind(json!({"path": "/d", "all": true})),
            ToolErrorKind::Invalid
        );
        assert_eq!(
            kind(json!({"path": "/d", "hidden": "yes"})),
            ToolErrorKind::Invalid
        );
    }

    #[test]
    fn a_cancelled_call_ends() {
        let machine = machine();
        machine
            .context
            .cancelled
            .store(true, std::sync::atomic::Ordering::Relaxed);
        let error = machine.run("fs.list", json!({"path": "/d"})).err().unwrap();
        assert_eq!(error.kind, ToolErrorKind::Cancelled);
    }
}
