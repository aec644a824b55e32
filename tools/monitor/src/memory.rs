//! `monitor.memory`: how much memory and swap is in use.

use std::time::Duration;

use aios_tool_api::{Capability, Context, Registry, Risk, Spec, Tool, ToolError};
use procfs::{Current as _, Meminfo};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{NoArgs, percent, pressure, pressure::Pressure, proc_error};

/// The memory.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// Memory that the kernel can give out, in bytes.
    pub total_bytes: u64,
    /// What is in use and could not be freed at once: total less available, in bytes.
    pub used_bytes: u64,
    /// What programs could still get without swapping, in bytes.
    pub available_bytes: u64,
    /// What holds nothing at all, in bytes.
    pub free_bytes: u64,
    /// What holds copies of files, in bytes.
    pub cached_bytes: u64,
    /// Share in use, in percent.
    pub used_percent: f64,
    /// Swap space in bytes; 0 when there is none.
    pub swap_total_bytes: u64,
    /// Swap space in use, in bytes.
    pub swap_used_bytes: u64,
    /// Share of the swap space in use, in percent.
    pub swap_used_percent: f64,
    /// Waiting for memory; absent where the kernel does not measure it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pressure: Option<Pressure>,
}

struct MonitorMemory;

pub(crate) fn register(registry: &mut Registry) {
    registry.add(MonitorMemory);
}

impl Tool for MonitorMemory {
    type Args = NoArgs;
    type Output = Output;

    fn spec(&self) -> Spec {
        Spec {
            name: "monitor.memory",
            summary: "Tells how much memory and swap there is, is used and is available, and the \
                      pressure on memory.",
            risk: Risk::Low,
            undo: None,
            idempotent: true,
            deadline: Duration::from_secs(5),
            capability: ("monitor", "memory"),
        }
    }

    fn capabilities(&self, _args: &NoArgs) -> Vec<Capability> {
        vec![Capability::new("monitor", "memory")]
    }

    fn execute(&self, _args: &NoArgs, _context: &Context) -> Result<Output, ToolError> {
        measure()
    }
}

/// Reads the kernel's account.
pub(crate) fn measure() -> Result<Output, ToolError> {
    let info = Meminfo::current().map_err(|error| proc_error("/proc/meminfo", &error))?;
    Ok(from(&info))
}

fn from(info: &Meminfo) -> Output {
    // Kernels before 3.14 do not say what is available; free and cached comes close.
    let available = info
        .mem_available
        .unwrap_or_else(|| info.mem_free.saturating_add(info.cached))
        .min(info.mem_total);
    let used = info.mem_total - available;
    let swap_used = info.swap_total.saturating_sub(info.swap_free);
    Output {
        total_bytes: info.mem_total,
        used_bytes: used,
        available_bytes: available,
        free_bytes: info.mem_free,
        cached_bytes: info.cached,
        used_percent: percent(used, info.mem_total),
        swap_total_bytes: info.swap_total,
        swap_used_bytes: swap_used,
        swap_used_percent: percent(swap_used, info.swap_total),
        pressure: pressure::of("memory"),
    }
}

#[cfg(test)]
mod tests {
    use crate::testing;

    #[test]
    fn the_parts_are_the_whole() {
        let output = testing::output("monitor.memory");
        let bytes = |name: &str| output[name].as_u64().unwrap();
        assert_eq!(
            bytes("used_bytes") + bytes("available_bytes"),
            bytes("total_bytes")
        );
        assert!(bytes("total_bytes") > 64 << 20);
        let percent = output["used_percent"].as_f64().unwrap();
        assert!(percent > 0.0 && percent <= 100.0);
        assert!(bytes("swap_used_bytes") <= bytes("swap_total_bytes"));
    }
}
