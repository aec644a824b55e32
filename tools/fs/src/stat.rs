//! `fs.stat`: the facts about one path, without opening what it stands for.

use std::time::Duration;

use aios_tool_api::{
    Capability, Context, FileMode, Registry, Risk, Spec, Tool, ToolError, ToolErrorKind,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    facts::{self, Kind},
    root::{self, Last, Root},
};

/// Which file.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Args {
    /// Absolute path. A symbolic link in the last place is described itself, not what it leads to.
    #[schemars(extend("format" = "path"))]
    pub path: String,
}

/// The facts.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The path, with the links on the way to it resolved.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// Bytes of content (of a link: of its target's name).
    pub size: u64,
    /// Bytes that it takes on the disk.
    pub allocated: u64,
    /// Permissions in octal.
    pub mode: FileMode,
    /// Owner's name, or number when it has no name.
    pub owner: String,
    /// Group's name, or number when it has no name.
    pub group: String,
    /// Owner's number.
    pub uid: u32,
    /// Group's number.
    pub gid: u32,
    /// Hard links.
    pub links: u64,
    /// Last change of the content, in milliseconds since 1970.
    pub modified_ms: i64,
    /// Last change of content or attributes, in milliseconds since 1970.
    pub changed_ms: i64,
    /// Where a symbolic link leads, as it is written in the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

struct FsStat;

pub(crate) fn register(registry: &mut Registry) {
    registry.add(FsStat);
}

impl Tool for FsStat {
    type Args = Args;
    type Output = Output;

    fn spec(&self) -> Spec {
        Spec {
            name: "fs.stat",
            summary: "Tells kind, size, owner, permissions and times of one file, directory or \
                      symbolic link.",
            risk: Risk::Low,
            undo: None,
            idempotent: true,
            deadline: Duration::from_secs(10),
            capability: ("fs", "read"),
        }
    }

    fn normalise(&self, args: Args, context: &Context) -> Result<Args, ToolError> {
        let path = Root::open(context)?.canonical(&args.path, Last::Keep)?;
        Ok(Args { path })
    }

    fn capabilities(&self, args: &Args) -> Vec<Capability> {
        vec![Capability::new("fs", "read").on(&args.path)]
    }

    fn execute(&self, args: &Args, context: &Context) -> Result<Output, ToolError> {
        let root = Root::open(context)?;
        let path = args.path.as_str();
        let (dir, name) = match root::split(path) {
            Some(_) => root.parent(path)?,
            None => (root.directory("/")?, "."),
        };
        let stat = root::stat_at(&dir, name, path)?.ok_or_else(|| missing(path))?;
        let accounts = root.accounts();
        Ok(Output {
            path: path.to_owned(),
            kind: Kind::of(&stat),
            size: facts::size(&stat),
            allocated: u64::try_from(stat.st_blocks).unwrap_or(0) * 512,
            mode: FileMode::from_bits(stat.st_mode),
            owner: accounts.user(stat.st_uid),
            group: accounts.group(stat.st_gid),
            uid: stat.st_uid,
            gid: stat.st_gid,
            links: stat.st_nlink,
            modified_ms: facts::modified_ms(&stat),
            changed_ms: facts::milliseconds(stat.st_ctime, stat.st_ctime_nsec),
            target: facts::target(&dir, name),
        })
    }
}

/// That there is nothing of that name.
pub(crate) fn missing(path: &str) -> ToolError {
    ToolError::new(ToolErrorKind::NotFound, format!("{path} does not exist"))
        .hint("fs.list shows what is in a directory, fs.search finds files by name")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use aios_tool_api::ToolErrorKind;
    use serde_json::json;

    use crate::testing::Machine;

    #[test]
    fn files_links_and_the_root_are_described() {
        let machine = Machine::new();
        std::fs::write(machine.path("/f"), "12345").unwrap();
        symlink("/f", machine.path("/l")).unwrap();
        let file = machine.output("fs.stat", json!({"path": "/f"}));
        assert_eq!(file["kind"], "file");
        assert_eq!(file["size"], 5);
        let link = machine.output("fs.stat", json!({"path": "/l"}));
        assert_eq!(link["kind"], "symlink");
        assert_eq!(link["target"], "/f");
        assert_eq!(
            machine.output("fs.stat", json!({"path": "/"}))["kind"],
            "directory"
        );
    }

    #[test]
    fn owners_have_the_names_of_this_root() {
        let machine = Machine::new();
        std::fs::create_dir(machine.path("/etc")).unwrap();
        std::fs::write(machine.path("/etc/passwd"), "chief:x:0:0::/:/bin/sh\n").unwrap();
        assert_eq!(
            machine.output("fs.stat", json!({"path": "/etc"}))["owner"],
            "chief"
        );
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let machine = Machine::new();
        let stat = machine
            .run("fs.stat", json!({"path": "/none"}))
            .err()
            .unwrap();
        assert_eq!(stat.kind, ToolErrorKind::NotFound);
        for args in [
            json!({}),
            json!({"path": 1}),
            json!({"path": "/", "follow": true}),
            json!([]),
        ] {
            let error = machine.normalise("fs.stat", args).unwrap_err();
            assert_eq!(error.kind, ToolErrorKind::Invalid);
        }
    }
}
