//! `fs.disk_usage`: how much space a tree takes, and what in it takes the most.
//!
//! Counts allocated space, a file with several names once, and stays on the file system that it
//! begins on: what is mounted below is named but not counted.

use std::{collections::BTreeSet, time::Duration};

use aios_tool_api::{Capability, Context, Registry, Risk, Spec, Tool, ToolError};
use rustix::fs::Stat;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    facts::{self, Kind},
    root::{self, Last, Root},
    walk::{Next, Skipped, Walk},
};

/// Most entries that are kept before the largest are chosen.
const MAX_KEPT: usize = 200_000;

/// Of what.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Args {
    /// Absolute path of a directory (or file).
    #[schemars(extend("format" = "path"))]
    pub path: String,
    /// How many levels below it are listed; 1 (what is directly in it) when left out, 0 lists none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<u32>,
}

/// A part of the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Part {
    /// Its absolute path.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// Space that it takes with everything in it, in bytes.
    pub bytes: u64,
}

/// The space.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The path, with links resolved.
    pub path: String,
    /// Space that it takes on the disk with everything in it, in bytes.
    pub bytes: u64,
    /// Sum of the sizes of the files, in bytes: more than `bytes` where files have holes.
    pub apparent_bytes: u64,
    /// How many files and links there are.
    pub files: u64,
    /// How many directories there are, `path` itself included.
    pub directories: u64,
    /// The parts down to `depth`, the largest first.
    pub entries: Vec<Part>,
    /// Whether `entries` was cut because the result would be too large.
    pub truncated: bool,
    /// Other file systems mounted below, which are not counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounted_below: Vec<String>,
    /// How many places could not be looked at.
    pub skipped_count: u64,
    /// Places that could not be looked at, and why (the first of them).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<Skipped>,
}

struct FsDiskUsage;

pub(crate) fn register(registry: &mut Registry) {
    registry.add(FsDiskUsage);
}

impl Tool for FsDiskUsage {
    type Args = Args;
    type Output = Output;

    fn spec(&self) -> Spec {
        Spec {
            name: "fs.disk_usage",
            summary: "Tells how much disk space a directory takes with everything in it, and what \
                      in it takes the most. Does not count other file systems mounted below it; \
                      monitor.disk tells how full those are.",
            risk: Risk::Low,
            undo: None,
            idempotent: true,
            deadline: Duration::from_secs(60),
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
        let handle = root
            .open_path(&args.path, rustix::fs::OFlags::PATH)
            .map_err(|errno| match errno {
                rustix::io::Errno::NOENT => crate::stat::missing(&args.path),
                errno => root::path_error("cannot open", &args.path, errno),
            })?;
        let top = rustix::fs::fstat(&handle)
            .map_err(|errno| root::path_error("cannot stat", &args.path, errno))?;
        let mut sums = Sums::new(args.depth.unwrap_or(1) as usize);
        let mut mounted_below = Vec::new();
        let mut walk = Walk::new(context, &args.path);
        sums.enter(args.path.clone(), 0, &top);
        if Kind::of(&top) == Kind::Directory {
            let dir = root.directory(&args.path)?;
            walk.run(dir, &mut |visit| {
                // Only a directory says that a file system begins: the files of an overlay have the
                // device of the layer that they are in.
                if visit.stat.st_dev != top.st_dev && Kind::of(visit.stat) == Kind::Directory {
                    mounted_below.push(root::join(&args.path, visit.relative));
                    return Ok(Next::Past);
                }
                sums.enter(
                    root::join(&args.path, visit.relative),
                    visit.depth,
                    visit.stat,
                );
                Ok(Next::Into)
            })?;
        }
        let (total, mut entries) = sums.finish();
        entries.sort_by(|one, two| {
            two.bytes
                .cmp(&one.bytes)
                .then_with(|| one.path.cmp(&two.path))
        });
        let all = entries.len();
        let mut room = context.output_limit.saturating_sub(8192);
        entries.retain(|entry| {
            let needed = facts::json_size(entry) + 1;
            let fits = needed <= room;
            // Nothing smaller may take the place of something that did not fit.
            room = if fits { room - needed } else { 0 };
            fits
        });
        mounted_below.truncate(50);
        Ok(Output {
            path: args.path.clone(),
            bytes: total.bytes,
            apparent_bytes: total.apparent,
            files: total.files,
            directories: total.directories,
            truncated: entries.len() < all || total.lost,
            entries,
            mounted_below,
            skipped_count: walk.skipped_count,
            skipped: walk.skipped,
        })
    }
}

#[derive(Debug, Default)]
struct Total {
    bytes: u64,
    apparent: u64,
    files: u64,
    directories: u64,
    lost: bool,
}

/// Adds a walk up: what is entered at a depth belongs to the last entry of each smaller depth.
struct Sums {
    depth: usize,
    total: Total,
    /// The entry being counted at each depth below the top, outermost first.
    open: Vec<Part>,
    closed: Vec<Part>,
    /// Files with several names that were counted.
    counted: BTreeSet<(u64, u64)>,
}

impl Sums {
    fn new(depth: usize) -> Self {
        Self {
            depth,
            total: Total::default(),
            open: Vec::new(),
            closed: Vec::new(),
            counted: BTreeSet::new(),
        }
    }

    fn enter(&mut self, path: String, depth: usize, stat: &Stat) {
        let kind = Kind::of(stat);
        while self.open.len() >= depth.max(1) {
            let Some(part) = self.open.pop() else { break };
            self.close(part);
        }
        let again = kind != Kind::Directory
            && stat.st_nlink > 1
            && !self.counted.insert((stat.st_dev, stat.st_ino));
        let bytes = if again {
            0
        } else {
            u64::try_from(stat.st_blocks).unwrap_or(0) * 512
        };
        self.total.bytes += bytes;
        if kind == Kind::Directory {
            self.total.directories += 1;
        } else {
            self.total.files += 1;
            self.total.apparent += if again { 0 } else { facts::size(stat) };
        }
        for part in &mut self.open {
            part.bytes += bytes;
        }
        if depth > 0 && depth <= self.depth {
            self.open.push(Part { path, kind, bytes });
        }
    }

    fn close(&mut self, part: Part) {
        if self.closed.len() < MAX_KEPT {
            self.closed.push(part);
        } else {
            self.total.lost = true;
        }
    }

    fn finish(mut self) -> (Total, Vec<Part>) {
        while let Some(part) = self.open.pop() {
            self.close(part);
        }
        (self.total, self.closed)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use aios_tool_api::ToolErrorKind;
    use serde_json::json;

    use crate::testing::Machine;

    fn machine() -> Machine {
        let machine = Machine::new();
        fs::create_dir_all(machine.path("/d/large/deep")).unwrap();
        fs::create_dir_all(machine.path("/d/small")).unwrap();
        fs::write(machine.path("/d/large/deep/file"), vec![1; 300_000]).unwrap();
        fs::write(machine.path("/d/small/file"), vec![1; 10_000]).unwrap();
        fs::write(machine.path("/d/middle"), vec![1; 100_000]).unwrap();
        machine
    }

    #[test]
    fn parts_are_summed_and_the_largest_comes_first() {
        let output = machine().output("fs.disk_usage", json!({"path": "/d"}));
        let paths: Vec<_> = output["entries"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["path"].as_str().unwrap())
            .collect();
        assert_eq!(paths, ["/d/large", "/d/middle", "/d/small"]);
        let bytes = |value: &serde_json::Value| value["bytes"].as_u64().unwrap();
        assert!(bytes(&output["entries"][0]) >= 300_000);
        let parts: u64 = output["entries"]
            .as_array()
            .unwrap()
            .iter()
            .map(bytes)
            .sum();
        // What is left is the directory itself.
        assert!(bytes(&output) >= parts && bytes(&output) - parts < 100_000);
        assert_eq!(output["apparent_bytes"], 410_000);
        assert_eq!(output["files"], 3);
        assert_eq!(output["directories"], 4);
    }

    #[test]
    fn depth_chooses_what_is_listed_not_what_is_counted() {
        let machine = machine();
        let one = machine.output("fs.disk_usage", json!({"path": "/d"}));
        let none = machine.output("fs.disk_usage", json!({"path": "/d", "depth": 0}));
        let three = machine.output("fs.disk_usage", json!({"path": "/d", "depth": 3}));
        assert_eq!(none["entries"], json!([]));
        assert_eq!(three["entries"].as_array().unwrap().len(), 6);
        assert_eq!(one["bytes"], none["bytes"]);
        assert_eq!(one["bytes"], three["bytes"]);
    }

    #[test]
    fn names_of_one_file_count_once_and_a_file_can_be_asked() {
        let machine = machine();
        let before = machine.output("fs.disk_usage", json!({"path": "/d", "depth": 0}));
        fs::hard_link(machine.path("/d/middle"), machine.path("/d/again")).unwrap();
        let after = machine.output("fs.disk_usage", json!({"path": "/d", "depth": 0}));
        assert_eq!(before["apparent_bytes"], after["apparent_bytes"]);
        let file = machine.output("fs.disk_usage", json!({"path": "/d/middle"}));
        assert_eq!(file["apparent_bytes"], 100_000);
        assert_eq!(file["directories"], 0);
    }

    #[test]
    fn other_file_systems_are_named_not_counted() {
        let mut machine = machine();
        machine.context = machine.context_at("/");
        machine.context.deadline += std::time::Duration::from_secs(60);
        let output = machine.output("fs.disk_usage", json!({"path": "/sys/fs", "depth": 0}));
        assert!(output["bytes"].as_u64().is_some());
        for mount in output["mounted_below"].as_array().into_iter().flatten() {
            assert!(mount.as_str().unwrap().starts_with("/sys/fs/"));
        }
    }

    #[test]
    fn arguments_that_do_not_fit_are_refused() {
        let machine = machine();
        for args in [
            json!({}),
            json!({"path": "/d", "depth": -1}),
            json!({"path": "/d", "all": true}),
            json!({"path": "d"}),
        ] {
            assert_eq!(
                machine.run("fs.disk_usage", args).err().unwrap().kind,
                ToolErrorKind::Invalid
            );
        }
        let error = machine
            .run("fs.disk_usage", json!({"path": "/none"}))
            .err()
            .unwrap();
        assert_eq!(error.kind, ToolErrorKind::NotFound);
    }
}
