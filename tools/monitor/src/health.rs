//! `monitor.health`: whether something is wrong, and what.
//!
//! A measure above its first threshold is a warning, above its second critical: processors 70/90,
//! memory 75/90, disks (space and number of files) 85/95 percent. A service that PID 1 has given up is
//! critical, one that keeps ending a warning.

use std::time::Duration;

use aios_init_protocol::{Client, Reply, Request, UnitReport, UnitState};
use aios_tool_api::{Capability, Context, Registry, Risk, Spec, Tool, ToolError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{NoArgs, cpu, disk, memory};

/// How long processor use is measured: longer than for `monitor.cpu`, since a verdict hangs on it.
const SAMPLE: Duration = Duration::from_millis(500);
/// How long PID 1 may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Warning and critical thresholds in percent.
const CPU: (f64, f64) = (70.0, 90.0);
const MEMORY: (f64, f64) = (75.0, 90.0);
const DISK: (f64, f64) = (85.0, 95.0);

/// How bad it is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Nothing is wrong.
    Ok,
    /// Something needs attention.
    Warning,
    /// Something has failed or is about to.
    Critical,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Reason {
    /// What it is about: `cpu`, `memory`, `disk /var`, `inodes /var`, `service nginx`, `services`.
    pub subject: String,
    /// How bad it is.
    pub status: Status,
    /// What is wrong, for a person.
    pub message: String,
}

/// The health of the machine.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The worst of the reasons; `ok` when there are none.
    pub status: Status,
    /// What is wrong, the worst first; empty when nothing is.
    pub reasons: Vec<Reason>,
    /// Processor use over half a second, in percent.
    pub cpu_percent: f64,
    /// Memory in use, in percent.
    pub memory_percent: f64,
    /// The fullest file system that can be written to, in percent.
    pub disk_percent: f64,
    /// Services that PID 1 has given up.
    pub failed_services: Vec<String>,
    /// How many services are ready; absent when PID 1 could not be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services_ready: Option<u64>,
}

struct MonitorHealth;

pub(crate) fn register(registry: &mut Registry) {
    registry.add(MonitorHealth);
}

impl Tool for MonitorHealth {
    type Args = NoArgs;
    type Output = Output;

    fn spec(&self) -> Spec {
        Spec {
            name: "monitor.health",
            summary: "Says whether the machine is ok, and if not what is wrong: processors, memory, \
                      disks and services against their thresholds.",
            risk: Risk::Low,
            undo: None,
            idempotent: true,
            deadline: Duration::from_secs(15),
            capability: ("monitor", "health"),
        }
    }

    fn capabilities(&self, _args: &NoArgs) -> Vec<Capability> {
        vec![Capability::new("monitor", "health")]
    }

    fn execute(&self, _args: &NoArgs, context: &Context) -> Result<Output, ToolError> {
        let cpu = cpu::measure(SAMPLE, context)?;
        let memory = memory::measure()?;
        let disks = disk::measure(context)?;
        context.check_alive()?;
        let units = units(context);
        Ok(judge(&cpu, &memory, &disks, units))
    }
}

/// The units of PID 1, or why they are not known.
fn units(context: &Context) -> Result<Vec<UnitReport>, String> {
    let client = Client::new(&context.init_socket, PATIENCE.min(context.remaining()));
    match client.call(&Request::List) {
        Ok(Reply::Units { units }) => Ok(units),
        Ok(_) => Err("PID 1 answered something else than was asked".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn judge(
    cpu: &cpu::Output,
    memory: &memory::Output,
    disks: &disk::Output,
    units: Result<Vec<UnitReport>, String>,
) -> Output {
    let mut reasons = Vec::new();
    let mut above = |subject: String, value: f64, (warning, critical): (f64, f64), what: &str| {
        let (status, threshold) = if value >= critical {
            (Status::Critical, critical)
        } else if value >= warning {
            (Status::Warning, warning)
        } else {
            return;
        };
        let message = format!("{what} at {value} %, threshold {threshold} %");
        reasons.push(Reason {
            subject,
            status,
            message,
        });
    };
    above("cpu".into(), cpu.busy_percent, CPU, "processors are");
    above(
        "memory".into(),
        memory.used_percent,
        MEMORY,
        "memory in use is",
    );
    let writable = || disks.filesystems.iter().filter(|one| !one.read_only);
    for one in writable() {
        let place = &one.mount_point;
        above(
            format!("disk {place}"),
            one.used_percent,
            DISK,
            &format!("space used on {place} is"),
        );
        above(
            format!("inodes {place}"),
            one.inodes_used_percent,
            DISK,
            &format!("file numbers used on {place} are"),
        );
    }
    for one in &disks.silent {
        reasons.push(Reason {
            subject: format!("disk {}", one.mount_point),
            status: Status::Warning,
            message: format!(
                "the file system at {} cannot be asked: {}",
                one.mount_point, one.reason
            ),
        });
    }
    let mut failed_services = Vec::new();
    let mut services_ready = None;
    match units {
        Ok(units) => {
            services_ready = Some(
                units
                    .iter()
                    .filter(|unit| unit.state == UnitState::Ready)
                    .count() as u64,
            );
            for unit in &units {
                reasons.extend(unit_reason(unit));
                if unit.state == UnitState::Failed {
                    failed_services.push(unit.name.clone());
                }
            }
        }
        Err(why) => reasons.push(Reason {
            subject: "services".to_owned(),
            status: Status::Warning,
            message: format!("the state of the services is not known: {why}"),
        }),
    }
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason.status));
    Output {
        status: reasons.first().map_or(Status::Ok, |worst| worst.status),
        cpu_percent: cpu.busy_percent,
        memory_percent: memory.used_percent,
        disk_percent: writable().map(|one| one.used_percent).fold(0.0, f64::max),
        failed_services,
        services_ready,
        reasons,
    }
}

fn unit_reason(unit: &UnitReport) -> Option<Reason> {
    let last = if unit.last_exit.is_empty() {
        String::new()
    } else {
        format!(" (last: {})", unit.last_exit)
    };
    let (status, message) = match unit.state {
        UnitState::Failed => (
            Status::Critical,
            format!("{} has failed and is not started again{last}", unit.name),
        ),
        UnitState::Backoff => (
            Status::Warning,
            format!(
                "{} ended by itself {} times and is about to be started again{last}",
                unit.name, unit.restarts
            ),
        ),
        _ => return None,
    };
    Some(Reason {
        subject: format!("service {}", unit.name),
        status,
        message,
    })
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        os::unix::net::UnixListener,
        path::Path,
    };

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::testing;

    fn unit(name: &str, state: UnitState) -> UnitReport {
        UnitReport {
            name: name.into(),
            description: String::new(),
            state,
            phase: "services".into(),
            pid: 0,
            restarts: 3,
            since_us: 1,
            status_text: String::new(),
            last_exit: "exit 1".into(),
            memory_bytes: 0,
            machine_defined: true,
        }
    }

    fn judged(
        cpu_percent: f64,
        memory_percent: f64,
        disk_percent: f64,
        units: Vec<UnitReport>,
    ) -> Output {
        let cpu = serde_json::from_value(json!({
            "busy_percent": cpu_percent, "core_count": 1, "cores": [], "io_wait_percent": 0, "steal_percent": 0,
            "load": {"one": 0, "five": 0, "fifteen": 0}, "sampled_ms": 500
        }))
        .unwrap();
        let memory = serde_json::from_value(json!({
            "total_bytes": 1, "used_bytes": 0, "available_bytes": 1, "free_bytes": 1, "cached_bytes": 0,
            "used_percent": memory_percent, "swap_total_bytes": 0, "swap_used_bytes": 0, "swap_used_percent": 0
        }))
        .unwrap();
        let disk = |place: &str, percent: f64, read_only: bool| {
            json!({
                "mount_point": place, "device": "d", "kind": "ext4", "size_bytes": 1, "used_bytes": 1,
                "available_bytes": 0, "used_percent": percent, "inodes": 0, "inodes_used": 0,
                "inodes_used_percent": 0, "read_only": read_only
            })
        };
        let disks = serde_json::from_value(json!({
            "filesystems": [disk("/image", 100.0, true), disk("/", disk_percent, false)]
        }))
        .unwrap();
        judge(&cpu, &memory, &disks, Ok(units))
    }

    #[test]
    fn thresholds_are_where_they_were_promised() {
        assert_eq!(judged(69.9, 74.9, 84.9, vec![]).status, Status::Ok);
        for (cpu, memory, disk) in [(70.0, 0.0, 0.0), (0.0, 75.0, 0.0), (0.0, 0.0, 85.0)] {
            assert_eq!(judged(cpu, memory, disk, vec![]).status, Status::Warning);
        }
        for (cpu, memory, disk) in [(90.0, 0.0, 0.0), (0.0, 90.0, 0.0), (0.0, 0.0, 95.0)] {
            assert_eq!(judged(cpu, memory, disk, vec![]).status, Status::Critical);
        }
    }

    #[test]
    fn services_count_and_the_worst_comes_first() {
        let units = vec![
            unit("a", UnitState::Ready),
            unit("b", UnitState::Backoff),
            unit("c", UnitState::Failed),
            unit("d", UnitState::Stopped),
        ];
        let output = judged(75.0, 0.0, 0.0, units);
        assert_eq!(output.status, Status::Critical);
        assert_eq!(output.failed_services, ["c"]);
        assert_eq!(output.services_ready, Some(1));
        assert_eq!(output.reasons[0].subject, "service c");
        assert_eq!(output.reasons.len(), 3);
    }

    #[test]
    fn pid_1_is_asked_over_its_socket() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("init.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap())
                .read_line(&mut line)
                .unwrap();
            assert_eq!(
                serde_json::from_str::<Request>(&line).unwrap(),
                Request::List
            );
            let reply = Reply::Units {
                units: vec![unit("nginx", UnitState::Failed)],
            };
            writeln!(stream, "{}", serde_json::to_string(&reply).unwrap()).unwrap();
        });
        let output = testing::run("monitor.health", &json!({}), &socket).unwrap();
        server.join().unwrap();
        assert_eq!(output["failed_services"], json!(["nginx"]));
        assert_eq!(output["status"], "critical");
    }

    #[test]
    fn a_missing_or_silent_pid_1_is_a_warning_not_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("init.sock");
        let _never_answers = UnixListener::bind(&socket).unwrap();
        for path in [socket.as_path(), Path::new("/nonexistent/init.sock")] {
            let output = testing::run("monitor.health", &json!({}), path).unwrap();
            let reasons = output["reasons"].as_array().unwrap();
            assert!(
                reasons.iter().any(|reason| reason["subject"] == "services"),
                "{output}"
            );
            assert!(output.get("services_ready").is_none());
        }
    }

    proptest! {
        #[test]
        fn the_verdict_is_the_worst_reason(cpu in 0.0_f64..100.0, memory in 0.0_f64..100.0, disk in 0.0_f64..100.0) {
            let output = judged(cpu, memory, disk, vec![]);
            let worst = output.reasons.iter().map(|reason| reason.status).max().unwrap_or(Status::Ok);
            prop_assert_eq!(output.status, worst);
            prop_assert_eq!(output.status == Status::Ok, cpu < 70.0 && memory < 75.0 && disk < 85.0);
        }
    }
}
