//! What the machine is made of, and whether that is enough. The texts come from `/proc` and `/sys`;
//! reading them is PID 1's part.

use serde::Serialize;

/// Memory below which aiOS does not start, in KiB: 448 MiB, what is left of 512 MiB after the
/// firmware's and the kernel's part.
pub const MINIMUM_RAM_KIB: u64 = 448 << 10;

/// What the processor must be able to do (x86-64-v2), as `/proc/cpuinfo` calls it.
const CPU_FLAGS: [&str; 7] = [
    "cx16", "lahf_lm", "popcnt", "pni", "ssse3", "sse4_1", "sse4_2",
];

/// The processor.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Cpu {
    /// Model name.
    pub model: String,
    /// Logical processors.
    pub count: usize,
    /// Flags of the first one.
    pub flags: Vec<String>,
}

/// `/run/aios/hardware.json`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Inventory {
    /// The processor.
    pub cpu: Cpu,
    /// Memory in KiB.
    pub ram_kib: u64,
    /// Block devices: name and size in bytes.
    pub disks: Vec<(String, u64)>,
    /// Network devices: name, hardware address, driver (empty when none).
    pub nics: Vec<(String, String, String)>,
    /// PCI display devices and accelerators: address, `vendor:device`, kind.
    pub gpus: Vec<(String, String, String)>,
    /// PCI devices that no driver has taken: address, `vendor:device`, kind.
    pub driverless: Vec<(String, String, String)>,
}

/// What is the least that aiOS runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Minimum {
    /// Memory in KiB.
    pub ram_kib: u64,
    /// Whether the flags of x86-64-v2 are asked for.
    pub x86_64_v2: bool,
}

impl Default for Minimum {
    fn default() -> Self {
        Self {
            ram_kib: MINIMUM_RAM_KIB,
            x86_64_v2: cfg!(target_arch = "x86_64"),
        }
    }
}

/// What the machine lacks, one sentence each; empty when it is enough.
#[must_use]
pub fn missing(inventory: &Inventory, minimum: &Minimum) -> Vec<String> {
    let mut lacks = Vec::new();
    if inventory.ram_kib < minimum.ram_kib {
        lacks.push(format!(
            "this machine has {} MiB of memory; aiOS needs {} MiB. Give it more memory and try again",
            inventory.ram_kib >> 10,
            minimum.ram_kib >> 10
        ));
    }
    if minimum.x86_64_v2 {
        let absent: Vec<&str> = CPU_FLAGS
            .into_iter()
            .filter(|flag| !inventory.cpu.flags.iter().any(|has| has == flag))
            .collect();
        if !absent.is_empty() {
            lacks.push(format!(
                "the processor lacks {}; aiOS needs x86-64-v2 (any from 2009 on; in QEMU: -cpu max)",
                absent.join(", ")
            ));
        }
    }
    lacks
}

/// `/proc/cpuinfo`
#[must_use]
pub fn parse_cpuinfo(text: &str) -> Cpu {
    let mut cpu = Cpu::default();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        match key.trim() {
            "processor" => cpu.count += 1,
            "model name" if cpu.model.is_empty() => cpu.model = value.trim().to_owned(),
            "flags" if cpu.flags.is_empty() => {
                cpu.flags = value.split_whitespace().map(str::to_owned).collect();
            }
            _ => {}
        }
    }
    cpu
}

/// `MemTotal` of `/proc/meminfo` in KiB; 0 when it is not there.
#[must_use]
pub fn parse_meminfo_total_kib(text: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// The kind of a PCI device from its class as `/sys` writes it (`0x030000`).
#[must_use]
pub fn pci_class_name(class: &str) -> &'static str {
    match class.trim().get(2..4) {
        Some("01") => "storage",
        Some("02") => "network",
        Some("03") => "display",
        Some("04") => "multimedia",
        Some("05") => "memory",
        Some("06") => "bridge",
        Some("07") => "communication",
        Some("08") => "system",
        Some("0c") => "serial bus",
        Some("12") => "accelerator",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPUINFO: &str = "processor\t: 0\nmodel name\t: QEMU Virtual CPU\nflags\t\t: fpu cx16 lahf_lm popcnt pni ssse3 sse4_1 sse4_2\n\nprocessor\t: 1\nmodel name\t: QEMU Virtual CPU\n";

    fn inventory(ram_kib: u64) -> Inventory {
        Inventory {
            cpu: parse_cpuinfo(CPUINFO),
            ram_kib,
            ..Inventory::default()
        }
    }

    #[test]
    fn enough_is_enough() {
        let inventory = inventory(MINIMUM_RAM_KIB);
        assert_eq!(inventory.cpu.count, 2);
        assert_eq!(
            missing(
                &inventory,
                &Minimum {
                    x86_64_v2: true,
                    ..Minimum::default()
                }
            ),
            [""; 0]
        );
    }

    #[test]
    fn too_little_is_named_with_what_to_do() {
        let mut poor = inventory(200 << 10);
        poor.cpu.flags.retain(|flag| flag != "popcnt");
        let lacks = missing(
            &poor,
            &Minimum {
                ram_kib: MINIMUM_RAM_KIB,
                x86_64_v2: true,
            },
        );
        assert_eq!(lacks.len(), 2);
        assert!(
            lacks[0].contains("200 MiB") && lacks[0].contains("448 MiB"),
            "{lacks:?}"
        );
        assert!(lacks[1].contains("lacks popcnt;"), "{lacks:?}");
    }

    #[test]
    fn meminfo_is_read_or_zero() {
        assert_eq!(
            parse_meminfo_total_kib("MemTotal:        987654 kB\nMemFree: 1 kB\n"),
            987_654
        );
        assert_eq!(parse_meminfo_total_kib("MemTotal: lots"), 0);
        assert_eq!(pci_class_name("0x030000\n"), "display");
        assert_eq!(pci_class_name("x"), "other");
    }
}
