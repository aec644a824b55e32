//! `monitor.cpu`: how busy the processors are.

use std::{thread, time::Duration};

use aios_tool_api::{Capability, Context, Registry, Risk, Spec, Tool, ToolError};
use procfs::{CpuTime, Current as _, CurrentSI as _, KernelStats, LoadAverage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{NoArgs, percent, pressure, pressure::Pressure, proc_error};

/// How long is measured.
const SAMPLE: Duration = Duration::from_millis(200);

/// One processor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Core {
    /// Its number, from 0.
    pub core: u32,
    /// Share of the time in which it worked, in percent.
    pub busy_percent: f64,
}

/// The load averages: how many threads ran or waited to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Load {
    /// Over the last minute.
    pub one: f64,
    /// Over the last five minutes.
    pub five: f64,
    /// Over the last fifteen minutes.
    pub fifteen: f64,
}

/// The load.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// Share of the time in which the processors worked, all together, in percent.
    pub busy_percent: f64,
    /// How many processors there are.
    pub core_count: u32,
    /// Each processor.
    pub cores: Vec<Core>,
    /// Share of the time in which processors waited for disks, in percent.
    pub io_wait_percent: f64,
    /// Share of the time that the hypervisor gave to other machines, in percent.
    pub steal_percent: f64,
    /// The load averages.
    pub load: Load,
    /// Waiting for processors; absent where the kernel does not measure it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pressure: Option<Pressure>,
    /// How long was measured, in milliseconds.
    pub sampled_ms: u64,
}

struct MonitorCpu;

pub(crate) fn register(registry: &mut Registry) {
    registry.add(MonitorCpu);
}

impl Tool for MonitorCpu {
    type Args = NoArgs;
    type Output = Output;

    fn spec(&self) -> Spec {
        Spec {
            name: "monitor.cpu",
            summary: "Measures for 200 ms how busy each processor is, and tells load averages and \
                      pressure.",
            risk: Risk::Low,
            undo: None,
            idempotent: true,
            deadline: Duration::from_secs(10),
            capability: ("monitor", "cpu"),
        }
    }

    fn capabilities(&self, _args: &NoArgs) -> Vec<Capability> {
        vec![Capability::new("monitor", "cpu")]
    }

    fn execute(&self, _args: &NoArgs, context: &Context) -> Result<Output, ToolError> {
        measure(SAMPLE, context)
    }
}

/// Measures for a while.
pub(crate) fn measure(sample: Duration, context: &Context) -> Result<Output, ToolError> {
    let stats = || KernelStats::current().map_err(|error| proc_error("/proc/stat", &error));
    let before = stats()?;
    let sample = sample.min(context.remaining());
    thread::sleep(sample);
    context.check_alive()?;
    let after = stats()?;
    let load = LoadAverage::current().map_err(|error| proc_error("/proc/loadavg", &error))?;
    let all = Use::between(&before.total, &after.total);
    let cores: Vec<Core> = before
        .cpu_time
        .iter()
        .zip(&after.cpu_time)
        .zip(0..)
        .map(|((before, after), core)| Core {
            core,
            busy_percent: Use::between(before, after).busy_percent(),
        })
        .collect();
    Ok(Output {
        busy_percent: all.busy_percent(),
        core_count: u32::try_from(cores.len()).unwrap_or(u32::MAX),
        cores,
        io_wait_percent: percent(all.io_wait, all.total),
        steal_percent: percent(all.steal, all.total),
        load: Load {
            one: load_value(load.one),
            five: load_value(load.five),
            fifteen: load_value(load.fifteen),
        },
        pressure: pressure::of("cpu"),
        sampled_ms: u64::try_from(sample.as_millis()).unwrap_or(u64::MAX),
    })
}

fn load_value(value: f32) -> f64 {
    (f64::from(value) * 100.0).round() / 100.0
}

/// Processor ticks between two moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Use {
    total: u64,
    busy: u64,
    io_wait: u64,
    steal: u64,
}

impl Use {
    /// Counters that went back (the kernel corrects idle time sometimes) count as no progress.
    fn between(before: &CpuTime, after: &CpuTime) -> Self {
        let passed = |of: fn(&CpuTime) -> u64| of(after).saturating_sub(of(before));
        let idle = passed(|time| time.idle);
        let io_wait = passed(|time| time.iowait.unwrap_or(0));
        let steal = passed(|time| time.steal.unwrap_or(0));
        // `user` and `nice` contain guest time already.
        let busy = passed(|time| time.user)
            + passed(|time| time.nice)
            + passed(|time| time.system)
            + passed(|time| time.irq.unwrap_or(0))
            + passed(|time| time.softirq.unwrap_or(0));
        Self {
            total: idle + io_wait + steal + busy,
            busy,
            io_wait,
            steal,
        }
    }

    fn busy_percent(self) -> f64 {
        percent(self.busy, self.total)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use procfs::FromBufReadSI as _;

    use super::*;
    use crate::testing;

    fn stats(line: &str) -> CpuTime {
        let text = format!("cpu  {line}\ncpu0 {line}\nctxt 1\nbtime 1\nprocesses 1\n");
        KernelStats::from_buf_read(text.as_bytes(), procfs::current_system_info())
            .unwrap()
            .total
    }

    #[test]
    fn shares_add_up() {
        let used = Use::between(
            &stats("100 0 50 800 10 0 0 0 0 0"),
            &stats("160 10 60 810 15 3 2 0 0 0"),
        );
        assert_eq!(
            used,
            Use {
                total: 100,
                busy: 85,
                io_wait: 5,
                steal: 0
            }
        );
        assert_eq!(used.busy_percent(), 85.0);
    }

    #[test]
    fn counters_that_go_back_do_not_break_anything() {
        let used = Use::between(
            &stats("100 0 50 800 10 0 0 0 0 0"),
            &stats("90 0 50 700 10 0 0 0 0 0"),
        );
        assert_eq!(used.busy_percent(), 0.0);
    }

    #[test]
    fn work_shows() {
        let stop = AtomicBool::new(false);
        let output = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
            let output = testing::output("monitor.cpu");
            stop.store(true, Ordering::Relaxed);
            output
        });
        assert!(output["busy_percent"].as_f64().unwrap() > 1.0, "{output}");
        assert!(output["busy_percent"].as_f64().unwrap() <= 100.0);
        assert_eq!(
            output["core_count"],
            output["cores"].as_array().unwrap().len()
        );
        assert_eq!(output["sampled_ms"], 200);
    }
}
