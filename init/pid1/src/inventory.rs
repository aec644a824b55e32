//! What the machine is made of, read from `/proc` and `/sys`. Whatever cannot be read is left out.

use std::{fs, path::Path};

use aios_init_core::{Inventory, parse_cpuinfo, parse_meminfo_total_kib, pci_class_name};

/// Takes the inventory.
pub fn take() -> Inventory {
    let mut inventory = Inventory {
        cpu: parse_cpuinfo(&text(Path::new("/proc/cpuinfo"))),
        ram_kib: parse_meminfo_total_kib(&text(Path::new("/proc/meminfo"))),
        ..Inventory::default()
    };
    for (name, path) in entries("/sys/block") {
        // RAM disks and unused loop devices are no disks.
        let sectors: u64 = text(&path.join("size")).parse().unwrap_or(0);
        if sectors > 0 && !name.starts_with("ram") {
            inventory.disks.push((name, sectors.saturating_mul(512)));
        }
    }
    for (name, path) in entries("/sys/class/net") {
        if path.join("device").exists() {
            let driver = link_name(&path.join("device/driver"));
            inventory
                .nics
                .push((name, text(&path.join("address")), driver));
        }
    }
    for (name, path) in entries("/sys/bus/pci/devices") {
        let class = text(&path.join("class"));
        let kind = pci_class_name(&class);
        let id = |file: &str| text(&path.join(file)).trim_start_matches("0x").to_owned();
        let ids = format!("{}:{}", id("vendor"), id("device"));
        if matches!(kind, "display" | "accelerator") {
            inventory
                .gpus
                .push((name.clone(), ids.clone(), kind.to_owned()));
        }
        let wants_driver = matches!(kind, "storage" | "network" | "display" | "accelerator");
        if wants_driver && !path.join("driver").exists() {
            inventory.driverless.push((name, ids, kind.to_owned()));
        }
    }
    inventory
}

fn text(path: &Path) -> String {
    fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

fn link_name(path: &Path) -> String {
    fs::read_link(path)
        .ok()
        .and_then(|target| {
            target
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
        })
        .unwrap_or_default()
}

fn entries(dir: &str) -> Vec<(String, std::path::PathBuf)> {
    let mut found: Vec<_> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| {
            (
                entry.file_name().to_string_lossy().into_owned(),
                entry.path(),
            )
        })
        .collect();
    found.sort();
    found
}
