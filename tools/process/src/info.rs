//! `process.info`: everything about one process that is no secret.

use std::{thread, time::Duration};

use aios_tool_api::{Capability, Context, Registry, Risk, Spec, Tool, ToolError, ToolErrorKind};
use procfs::process::{LimitValue, Process as ProcProcess};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::snapshot::{self, Process, Seen, Ticks};

/// How long processor use is measured.
const SAMPLE: Duration = Duration::from_millis(200);

/// Which process.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Args {
    /// Process id.
    pub pid: i32,
}

/// A limit that the kernel enforces on the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Limit {
    /// `open_files`, `processes`, `address_space_bytes`, `core_bytes`, `file_bytes`,
    /// `locked_memory_bytes` or `cpu_seconds`.
    pub name: String,
    /// In force now; absent when unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft: Option<u64>,
    /// The most that the process may set itself; absent when unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hard: Option<u64>,
}

/// The process.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// What `process.list` says of it.
    pub process: Process,
    /// Process id of its parent; 0 for none.
    pub parent: i32,
    /// Number of the user that it acts as.
    pub uid: u32,
    /// Number of the group that it acts as.
    pub gid: u32,
    /// Program file; absent for threads of the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// Working directory; absent for threads of the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// Its control group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// The unit that PID 1 runs it for: the last part of its control group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Threads.
    pub threads: u64,
    /// Open files, sockets included.
    pub open_files: u64,
    /// Most resident memory that it ever had, in bytes.
    pub memory_peak_bytes: u64,
    /// What of it is in swap, in bytes.
    pub swap_bytes: u64,
    /// Processor time since its start, in milliseconds.
    pub cpu_time_ms: u64,
    /// Nice value: -20 (first) to 19 (last).
    pub nice: i64,
    /// Effective capabilities as a hexadecimal mask.
    pub capabilities: String,
    /// Limits that the kernel enforces.
    pub limits: Vec<Limit>,
}

struct ProcessInfo;

pub(crate) fn register(registry: &mut Registry) {
    registry.add(ProcessInfo);
}

impl Tool for ProcessInfo {
    type Args = Args;
    type Output = Output;

    fn spec(&self) -> Spec {
        Spec {
            name: "process.info",
            summary: "Tells everything about one process: program, user, parent, unit, memory, \
                      threads, open files and limits. Never shows its environment.",
            risk: Risk::Low,
            undo: None,
            idempotent: true,
            deadline: Duration::from_secs(10),
            capability: ("process", "info"),
        }
    }

    fn normalise(&self, args: Args, _context: &Context) -> Result<Args, ToolError> {
        if args.pid < 1 {
            return Err(
                ToolError::invalid(format!("pid {} is no process id", args.pid))
                    .hint("process.list shows the ids"),
            );
        }
        Ok(args)
    }

    fn capabilities(&self, _args: &Args) -> Vec<Capability> {
        vec![Capability::new("process", "info")]
    }

    fn execute(&self, args: &Args, context: &Context) -> Result<Output, ToolError> {
        let gone = |error: &procfs::ProcError| match error {
            procfs::ProcError::NotFound(_) => ToolError::new(
                ToolErrorKind::NotFound,
                format!("there is no process {}", args.pid),
            )
            .hint("process.list shows the ids"),
            error => snapshot::proc_error(&format!("process {}", args.pid), error),
        };
        let process = ProcProcess::new(args.pid).map_err(|error| gone(&error))?;
        let before = Seen::read(&process).map_err(|error| gone(&error))?;
        let ticks = Ticks::of(std::iter::once(&before));
        thread::sleep(SAMPLE.min(context.remaining()));
        context.check_alive()?;
        let elapsed_s = ticks.elapsed_s();
        let now = Seen::read(&process).map_err(|error| gone(&error))?;
        let status = process.status().map_err(|error| gone(&error))?;
        let kib = |value: Option<u64>| value.unwrap_or(0).saturating_mul(1024);
        let cgroup = process
            .cgroups()
            .ok()
            .and_then(|groups| groups.0.into_iter().find(|group| group.hierarchy == 0))
            .map(|group| group.pathname);
        let path = |path: Result<std::path::PathBuf, procfs::ProcError>| {
            path.ok().map(|path| path.to_string_lossy().into_owned())
        };
        Ok(Output {
            parent: now.stat.ppid,
            uid: status.euid,
            gid: status.egid,
            program: path(process.exe()),
            directory: path(process.cwd()),
            unit: cgroup.as_deref().and_then(unit),
            cgroup,
            threads: status.threads,
            open_files: process.fd_count().unwrap_or(0) as u64,
            memory_peak_bytes: kib(status.vmhwm),
            swap_bytes: kib(status.vmswap),
            cpu_time_ms: now.ticks().saturating_mul(1000) / procfs::ticks_per_second().max(1),
            nice: now.stat.nice,
            capabilities: format!("{:016x}", status.capeff),
            limits: process
                .limits()
                .map(|limits| shown(&limits))
                .unwrap_or_default(),
            process: now.facts(
                &snapshot::accounts(),
                ticks.percent(&now, elapsed_s),
                snapshot::boot_secs()?,
            ),
        })
    }
}

/// The last part of a control group's path, which is how PID 1 names the groups of its units.
fn unit(cgroup: &str) -> Option<String> {
    cgroup
        .rsplit('/')
        .next()
        .filter(|name| !name.is_empty())
        .map(|name| name.strip_suffix(".service").unwrap_or(name).to_owned())
}

fn shown(limits: &procfs::process::Limits) -> Vec<Limit> {
    let value = |value: LimitValue| match value {
        LimitValue::Unlimited => None,
        LimitValue::Value(value) => Some(value),
    };
    [
        ("open_files", limits.max_open_files),
        ("processes", limits.max_processes),
        ("address_space_bytes", limits.max_address_space),
        ("core_bytes", limits.max_core_file_size),
        ("file_bytes", limits.max_file_size),
        ("locked_memory_bytes", limits.max_locked_memory),
        ("cpu_seconds", limits.max_cpu_time),
    ]
    .into_iter()
    .map(|(name, limit)| Limit {
        name: name.to_owned(),
        soft: value(limit.soft_limit),
        hard: value(limit.hard_limit),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use aios_tool_api::BlobStore;
    use serde_json::{Value, json};

    use super::*;

    fn run(args: Value) -> Result<Value, ToolError> {
        let mut registry = Registry::default();
        crate::register(&mut registry);
        let context = Context::new(BlobStore::new("/nonexistent"), Duration::from_secs(10));
        let tool = registry.get("process.info").unwrap();
        let args = tool.normalise(&args, &context)?;
        let output = tool.execute(&args, &context)?;
        tool.check(&args, &output, &context)?;
        Ok(output)
    }

    #[test]
    fn this_process_is_described_truly() {
        let output = run(json!({"pid": std::process::id()})).unwrap();
        assert_eq!(output["process"]["pid"], std::process::id());
        assert_eq!(output["parent"], std::os::unix::process::parent_id());
        assert_eq!(
            output["program"],
            std::env::current_exe().unwrap().to_str().unwrap()
        );
        assert!(output["threads"].as_u64().unwrap() >= 1);
        assert!(output["open_files"].as_u64().unwrap() >= 3);
        assert!(
            output["memory_peak_bytes"].as_u64()
                >= output["process"]["memory_bytes"]
                    .as_u64()
                    .map(|bytes| bytes / 2)
        );
        assert!(
            output["limits"]
                .as_array()
                .unwrap()
                .iter()
                .any(|limit| limit["name"] == "open_files")
        );
        assert!(output.get("environment").is_none());
    }

    #[test]
    fn a_process_that_is_gone_is_not_found() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert_eq!(
            run(json!({"pid": child.id()})).unwrap_err().kind,
            ToolErrorKind::NotFound
        );
    }

    #[test]
    fn arguments_that_do_not_fit_are_refused() {
        for args in [
            json!({}),
            json!({"pid": 0}),
            json!({"pid": -1}),
            json!({"pid": "1"}),
            json!({"pid": 99_999_999_999_i64}),
            json!({"pid": 1, "tree": true}),
        ] {
            assert_eq!(
                run(args.clone()).unwrap_err().kind,
                ToolErrorKind::Invalid,
                "{args}"
            );
        }
    }

    #[test]
    fn units_are_the_last_part_of_the_group() {
        assert_eq!(unit("/aios/nginx").as_deref(), Some("nginx"));
        assert_eq!(unit("/system.slice/ssh.service").as_deref(), Some("ssh"));
        assert_eq!(unit("/"), None);
    }
}
