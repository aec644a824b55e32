//! The processors.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::source::Source;

/// What is worth knowing of the many flags: what decides whether models run fast, whether machines can
/// be run in this one, and whether cryptography is done in hardware.
const FLAGS_OF_NOTE: &[&str] = &[
    "aes",
    "amx_tile",
    "asimd",
    "avx",
    "avx2",
    "avx512f",
    "avx512_bf16",
    "avx512_vnni",
    "avx_vnni",
    "bmi2",
    "f16c",
    "fma",
    "rdrand",
    "sha_ni",
    "sse4_2",
    "sve",
    "svm",
    "vmx",
];

/// The processors of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cpu {
    /// Model name; absent when the processor does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// Architecture, such as `x86_64`.
    pub architecture: String,
    /// Processor packages.
    pub sockets: u32,
    /// Cores of all packages.
    pub cores: u32,
    /// Hardware threads: what the scheduler sees as processors.
    pub threads: u32,
    /// Highest clock rate in MHz; absent when not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_mhz: Option<u32>,
    /// Extensions that matter for speed, virtualisation and cryptography.
    pub flags: Vec<String>,
}

pub(crate) fn read(source: &Source) -> Cpu {
    let text = source.text("/proc/cpuinfo").unwrap_or_default();
    let field = |block: &str, name: &str| {
        block
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.trim() == name)
            .map(|(_, value)| value.trim().to_owned())
    };
    let processors: Vec<&str> = text
        .split("\n\n")
        .filter(|block| field(block, "processor").is_some())
        .collect();
    let threads = u32::try_from(processors.len()).unwrap_or(u32::MAX);
    let mut sockets = BTreeSet::new();
    let mut cores = BTreeSet::new();
    for block in &processors {
        // A machine that does not say has one package, and a core for each thread.
        let socket = field(block, "physical id").unwrap_or_default();
        let core = field(block, "core id")
            .or_else(|| field(block, "processor"))
            .unwrap_or_default();
        sockets.insert(socket.clone());
        cores.insert((socket, core));
    }
    let first = processors.first().copied().unwrap_or_default();
    let has: BTreeSet<String> = field(first, "flags")
        .or_else(|| field(first, "Features"))
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let max_khz = source
        .text("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
        .and_then(|khz| khz.parse::<u32>().ok());
    let now_mhz = field(first, "cpu MHz").and_then(|mhz| mhz.split('.').next()?.parse().ok());
    Cpu {
        model: field(first, "model name"),
        vendor: field(first, "vendor_id"),
        architecture: std::env::consts::ARCH.to_owned(),
        sockets: u32::try_from(sockets.len()).unwrap_or(u32::MAX),
        cores: u32::try_from(cores.len()).unwrap_or(u32::MAX),
        threads,
        max_mhz: max_khz.map(|khz| khz / 1000).or(now_mhz),
        flags: FLAGS_OF_NOTE
            .iter()
            .filter(|flag| has.contains(**flag))
            .map(|flag| (*flag).to_owned())
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing::machine;

    #[test]
    fn packages_cores_and_threads_are_told_apart() {
        let block = |processor: u32, socket: u32, core: u32| {
            format!(
                "processor\t: {processor}\nvendor_id\t: GenuineIntel\nmodel name\t: Xeon\nphysical id\t: {socket}\n\
                 core id\t\t: {core}\ncpu MHz\t\t: 2500.123\nflags\t\t: fpu avx2 avx512f vmx hypervisor\n\n"
            )
        };
        let text = block(0, 0, 0) + &block(1, 0, 0) + &block(2, 0, 1) + &block(3, 1, 0);
        let (_dir, source) = machine(&[("/proc/cpuinfo", &text)]);
        let cpu = read(&source);
        assert_eq!((cpu.sockets, cpu.cores, cpu.threads), (2, 3, 4));
        assert_eq!(cpu.flags, ["avx2", "avx512f", "vmx"]);
        assert_eq!(cpu.max_mhz, Some(2500));
        assert_eq!(cpu.model.as_deref(), Some("Xeon"));
    }

    #[test]
    fn a_machine_that_says_nothing_is_no_failure() {
        for text in ["", "garbage\n\n:::\n", "processor : 0\n"] {
            let (_dir, source) = machine(&[("/proc/cpuinfo", text)]);
            let cpu = read(&source);
            assert!(cpu.threads <= 1 && cpu.model.is_none());
        }
    }
}
