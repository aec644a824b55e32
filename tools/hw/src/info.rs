//! `hw.info`: the inventory of the machine.

use std::time::Duration;

use aios_tool_api::{Capability, Context, Registry, Risk, Spec, Tool, ToolError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    cpu::{self, Cpu},
    disks::{self, Disk},
    network::{self, Nic},
    pci::{self, Gpu},
    platform::{self, Firmware, Machine},
    source::Source,
};

/// No arguments.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Args {}

/// The memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Memory {
    /// Memory that the kernel can give out, in bytes; a little less than is fitted.
    pub total_bytes: u64,
    /// Swap space in bytes.
    pub swap_total_bytes: u64,
}

/// The inventory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The machine as a whole.
    pub machine: Machine,
    /// The firmware.
    pub firmware: Firmware,
    /// The processors.
    pub cpu: Cpu,
    /// The memory.
    pub memory: Memory,
    /// The disks.
    pub disks: Vec<Disk>,
    /// The network cards.
    pub network: Vec<Nic>,
    /// The graphics processors.
    pub gpus: Vec<Gpu>,
    /// Version of the running kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
}

struct HwInfo;

pub(crate) fn register(registry: &mut Registry) {
    registry.add(HwInfo);
}

impl Tool for HwInfo {
    type Args = Args;
    type Output = Output;

    fn spec(&self) -> Spec {
        Spec {
            name: "hw.info",
            summary: "Tells what is built into the machine: processors, memory, disks, network \
                      cards, graphics processors, firmware, and whether it is a virtual machine. \
                      Load and usage are monitor.*.",
            risk: Risk::Low,
            undo: None,
            idempotent: true,
            deadline: Duration::from_secs(10),
            capability: ("hw", "info"),
        }
    }

    fn capabilities(&self, _args: &Args) -> Vec<Capability> {
        vec![Capability::new("hw", "info")]
    }

    fn execute(&self, _args: &Args, _context: &Context) -> Result<Output, ToolError> {
        Ok(inventory(&Source::new("/".as_ref())))
    }
}

fn inventory(source: &Source) -> Output {
    Output {
        machine: platform::machine(source),
        firmware: platform::firmware(source),
        cpu: cpu::read(source),
        memory: memory(source),
        disks: disks::read(source),
        network: network::read(source),
        gpus: pci::read(source),
        kernel: source.text("/proc/sys/kernel/osrelease"),
    }
}

fn memory(source: &Source) -> Memory {
    let text = source.text("/proc/meminfo").unwrap_or_default();
    let bytes = |name: &str| {
        text.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| *key == name)
            .and_then(|(_, value)| value.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
            .unwrap_or(0)
            .saturating_mul(1024)
    };
    Memory {
        total_bytes: bytes("MemTotal"),
        swap_total_bytes: bytes("SwapTotal"),
    }
}

#[cfg(test)]
mod tests {
    use aios_tool_api::{BlobStore, ToolErrorKind};
    use serde_json::{Value, json};

    use super::*;
    use crate::source::testing;

    fn run(args: Value) -> Result<Value, ToolError> {
        let mut registry = Registry::default();
        crate::register(&mut registry);
        let context = Context::new(BlobStore::new("/nonexistent"), Duration::from_secs(10));
        let tool = registry.get("hw.info").unwrap();
        let args = tool.normalise(&args, &context)?;
        assert_eq!(tool.capabilities(&args)?[0].to_string(), "hw:info");
        tool.execute(&args, &context)
    }

    #[test]
    fn this_machine_has_a_processor_and_memory() {
        let output = run(json!({})).unwrap();
        let threads = std::thread::available_parallelism().unwrap().get() as u64;
        assert!(output["cpu"]["threads"].as_u64().unwrap() >= threads);
        assert!(output["memory"]["total_bytes"].as_u64().unwrap() > 64 << 20);
        assert!(!output["kernel"].as_str().unwrap().is_empty());
    }

    #[test]
    fn a_machine_of_which_nothing_is_known_is_described_all_the_same() {
        let (_dir, source) =
            testing::machine(&[("/proc/meminfo", "MemTotal: lots\nSwapTotal:  8 kB\n")]);
        let output = inventory(&source);
        assert_eq!(
            output.memory,
            Memory {
                total_bytes: 0,
                swap_total_bytes: 8192
            }
        );
        assert!(output.disks.is_empty() && output.network.is_empty() && output.gpus.is_empty());
        let text = serde_json::to_value(&output).unwrap();
        assert_eq!(serde_json::from_value::<Output>(text).unwrap(), output);
    }

    #[test]
    fn arguments_that_do_not_exist_are_refused() {
        for args in [json!({"verbose": true}), json!("cpu"), json!(null)] {
            assert_eq!(run(args).unwrap_err().kind, ToolErrorKind::Invalid);
        }
    }
}
