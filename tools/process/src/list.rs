//! `process.list`: the processes of the machine, filtered and sorted.

use std::{cmp::Reverse, thread, time::Duration};

use aios_tool_api::{Capability, Context, Registry, Risk, Spec, Tool, ToolError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::snapshot::{self, Process, Seen, Ticks};

/// How long processor use is measured.
const SAMPLE: Duration = Duration::from_millis(200);

/// The order of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum SortBy {
    /// Most processor time now first.
    Cpu,
    /// Most memory first.
    Memory,
    /// Smallest process id first.
    Pid,
    /// Latest start first.
    Start,
}

/// Which processes.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Args {
    /// Only processes whose program's name contains this, upper or lower case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only processes of this user (name or number).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The order; by process id when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sort_by: Option<SortBy>,
    /// Only the first so many of that order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// The processes.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The processes in the order that was asked for.
    pub processes: Vec<Process>,
    /// How many processes fit the filters, before `limit`.
    pub matched: u64,
    /// How many processes there are on the machine.
    pub total: u64,
    /// Whether `processes` was cut because the result would be too large.
    pub truncated: bool,
}

struct ProcessList;

pub(crate) fn register(registry: &mut Registry) {
    registry.add(ProcessList);
}

impl Tool for ProcessList {
    type Args = Args;
    type Output = Output;

    fn spec(&self) -> Spec {
        Spec {
            name: "process.list",
            summary: "Lists processes with user, state, memory, processor use over 200 ms, start \
                      time and command line; the most hungry first with sort_by cpu or memory.",
            risk: Risk::Low,
            undo: None,
            idempotent: true,
            deadline: Duration::from_secs(10),
            capability: ("process", "list"),
        }
    }

    fn normalise(&self, args: Args, _context: &Context) -> Result<Args, ToolError> {
        if args.limit == Some(0) {
            return Err(ToolError::invalid("limit is 0, which would list nothing")
                .hint("leave limit out to list everything"));
        }
        if args.name.as_ref().is_some_and(String::is_empty) {
            return Err(
                ToolError::invalid("name is empty").hint("leave name out to list everything")
            );
        }
        Ok(args)
    }

    fn capabilities(&self, _args: &Args) -> Vec<Capability> {
        vec![Capability::new("process", "list")]
    }

    fn execute(&self, args: &Args, context: &Context) -> Result<Output, ToolError> {
        let accounts = snapshot::accounts();
        let uid = args
            .user
            .as_ref()
            .map(|user| {
                accounts.uid(user).ok_or_else(|| {
                    ToolError::invalid(format!("there is no user `{user}` on this machine"))
                })
            })
            .transpose()?;
        let boot_secs = snapshot::boot_secs()?;
        let before = all()?;
        let ticks = Ticks::of(before.iter());
        thread::sleep(SAMPLE.min(context.remaining()));
        context.check_alive()?;
        let elapsed_s = ticks.elapsed_s();
        let now = all()?;
        let total = now.len() as u64;
        let mut processes: Vec<Process> = now
            .iter()
            .filter(|one| uid.is_none_or(|uid| one.uid == uid))
            .map(|one| one.facts(&accounts, ticks.percent(one, elapsed_s), boot_secs))
            .filter(|one| args.name.as_ref().is_none_or(|name| is_named(one, name)))
            .collect();
        sort(&mut processes, args.sort_by.unwrap_or(SortBy::Pid));
        let matched = processes.len() as u64;
        let limit = args.limit.map_or(usize::MAX, |limit| limit as usize);
        processes.truncate(limit);
        let truncated = fit(&mut processes, context.output_limit);
        Ok(Output {
            processes,
            matched,
            total,
            truncated,
        })
    }
}

/// Every process that can be read; one that ends meanwhile is left out.
fn all() -> Result<Vec<Seen>, ToolError> {
    let processes = procfs::process::all_processes()
        .map_err(|error| snapshot::proc_error("the list of processes", &error))?;
    Ok(processes
        .filter_map(|process| Seen::read(&process.ok()?).ok())
        .collect())
}

fn is_named(process: &Process, wanted: &str) -> bool {
    let wanted = wanted.to_lowercase();
    let program = process
        .command
        .first()
        .and_then(|word| word.rsplit('/').next())
        .unwrap_or_default();
    process.name.to_lowercase().contains(&wanted) || program.to_lowercase().contains(&wanted)
}

fn sort(processes: &mut [Process], by: SortBy) {
    match by {
        SortBy::Cpu => processes.sort_by(|one, two| two.cpu_percent.total_cmp(&one.cpu_percent)),
        SortBy::Memory => processes.sort_by_key(|one| Reverse(one.memory_bytes)),
        SortBy::Pid => processes.sort_by_key(|one| one.pid),
        SortBy::Start => processes.sort_by_key(|one| Reverse(one.started_ms)),
    }
}

/// Cuts the list to what fits a result; whether anything was cut.
fn fit(processes: &mut Vec<Process>, limit: usize) -> bool {
    let mut room = limit.saturating_sub(1024);
    let fitting = processes
        .iter()
        .take_while(|one| {
            let needed = serde_json::to_vec(one).map_or(usize::MAX, |text| text.len() + 1);
            let fits = needed <= room;
            room = room.saturating_sub(needed);
            fits
        })
        .count();
    let cut = fitting < processes.len();
    processes.truncate(fitting);
    cut
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use aios_tool_api::{BlobStore, ToolErrorKind};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn run(args: Value) -> Result<Value, ToolError> {
        run_within(args, 256 << 10)
    }

    fn run_within(args: Value, output_limit: usize) -> Result<Value, ToolError> {
        let mut registry = Registry::default();
        crate::register(&mut registry);
        let mut context = Context::new(BlobStore::new("/nonexistent"), Duration::from_secs(10));
        context.output_limit = output_limit;
        let tool = registry.get("process.list").unwrap();
        let args = tool.normalise(&args, &context)?;
        assert_eq!(tool.capabilities(&args)?[0].to_string(), "process:list");
        tool.execute(&args, &context)
    }

    /// A child that ends with its test.
    struct Running(Child);

    impl Drop for Running {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    fn find(output: &Value, pid: u32) -> Option<&Value> {
        let processes = output["processes"].as_array().unwrap();
        processes.iter().find(|one| one["pid"] == pid)
    }

    #[test]
    fn this_process_is_listed_with_true_facts() {
        let output = run(json!({})).unwrap();
        let own = find(&output, std::process::id()).unwrap();
        assert!(own["memory_bytes"].as_u64().unwrap() > 100_000);
        assert!(!own["command"].as_array().unwrap().is_empty());
        let now_ms = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_millis() as u64;
        let started = own["started_ms"].as_u64().unwrap();
        assert!(
            started <= now_ms + 2000 && started > now_ms - 3_600_000,
            "{started} {now_ms}"
        );
        assert!(output["total"].as_u64().unwrap() >= output["matched"].as_u64().unwrap());
    }

    #[test]
    fn filters_by_name_and_user() {
        let child = Running(Command::new("sleep").arg("61.5").spawn().unwrap());
        let output = run(json!({"name": "SLEEP"})).unwrap();
        let found = find(&output, child.0.id()).unwrap();
        assert_eq!(found["command"], json!(["sleep", "61.5"]));
        assert_eq!(found["name"], "sleep");
        let user = found["user"].as_str().unwrap();
        assert!(
            find(
                &run(json!({"name": "sleep", "user": user})).unwrap(),
                child.0.id()
            )
            .is_some()
        );
        let nothing = run(json!({"name": "no such program"})).unwrap();
        assert_eq!(nothing["matched"], 0);
    }

    #[test]
    fn the_busy_process_comes_first() {
        let busy = Running(
            Command::new("sh")
                .args(["-c", "while :; do :; done"])
                .spawn()
                .unwrap(),
        );
        // On a machine with much else to do, its turn may not come in every sample.
        let output = (0..20)
            .map(|_| run(json!({"sort_by": "cpu"})).unwrap())
            .find(|output| {
                find(output, busy.0.id()).is_some_and(|one| one["cpu_percent"].as_f64() > Some(1.0))
            })
            .expect("a process that never waits uses the processor");
        let percents: Vec<f64> = output["processes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["cpu_percent"].as_f64().unwrap())
            .collect();
        assert!(percents.is_sorted_by(|one, two| one >= two));
    }

    #[test]
    fn limits_and_cuts_are_said() {
        let output = run(json!({"sort_by": "memory", "limit": 1})).unwrap();
        assert_eq!(output["processes"].as_array().unwrap().len(), 1);
        assert_eq!(output["truncated"], false);
        assert!(output["matched"].as_u64().unwrap() > 1);
        let output = run_within(json!({}), 1500).unwrap();
        assert_eq!(output["truncated"], true);
        assert!(output.to_string().len() <= 1500);
    }

    #[test]
    fn arguments_that_do_not_fit_are_refused() {
        for args in [
            json!({"sort_by": "size"}),
            json!({"limit": 0}),
            json!({"limit": -1}),
            json!({"name": ""}),
            json!({"user": "nobody-of-that-name"}),
            json!({"pid": 1}),
        ] {
            assert_eq!(
                run(args.clone()).unwrap_err().kind,
                ToolErrorKind::Invalid,
                "{args}"
            );
        }
    }

    proptest! {
        #[test]
        fn every_order_is_an_order(numbers in proptest::collection::vec((0_i32..9, 0_u64..9, 0_u64..9, 0.0_f64..9.0), 0..9)) {
            let mut processes: Vec<Process> = numbers.iter().map(|(pid, memory, start, cpu)| Process {
                pid: *pid, name: String::new(), user: String::new(), state: String::new(),
                memory_bytes: *memory, cpu_percent: *cpu, started_ms: *start, command: Vec::new(),
            }).collect();
            sort(&mut processes, SortBy::Memory);
            prop_assert!(processes.is_sorted_by_key(|one| Reverse(one.memory_bytes)));
            sort(&mut processes, SortBy::Start);
            prop_assert!(processes.is_sorted_by_key(|one| Reverse(one.started_ms)));
            sort(&mut processes, SortBy::Pid);
            prop_assert!(processes.is_sorted_by_key(|one| one.pid));
        }
    }
}
