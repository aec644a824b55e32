//! The machine as a whole: who made it, its firmware, and whether it is a virtual one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::source::Source;

/// The firmware.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Firmware {
    /// How it started the kernel: `uefi` or `bios`.
    pub kind: String,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Whether only signed kernels start; absent when the firmware does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secure_boot: Option<bool>,
}

/// The machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Machine {
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// What it is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// `none` on real hardware, otherwise the hypervisor: `kvm`, `qemu`, `vmware`, `hyper-v`,
    /// `virtualbox`, `xen`, `firecracker` or `unknown`.
    pub virtualisation: String,
}

pub(crate) fn firmware(source: &Source) -> Firmware {
    let uefi = source.exists("/sys/firmware/efi");
    Firmware {
        kind: if uefi { "uefi" } else { "bios" }.to_owned(),
        vendor: source.text("/sys/class/dmi/id/bios_vendor"),
        version: source.text("/sys/class/dmi/id/bios_version"),
        secure_boot: if uefi { secure_boot(source) } else { None },
    }
}

/// The variable has four bytes of attributes, then its value.
fn secure_boot(source: &Source) -> Option<bool> {
    let path =
        source.at("/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c");
    std::fs::read(path).ok()?.get(4).map(|value| *value == 1)
}

pub(crate) fn machine(source: &Source) -> Machine {
    let vendor = source.text("/sys/class/dmi/id/sys_vendor");
    let product = source.text("/sys/class/dmi/id/product_name");
    let is_guest = source.text("/proc/cpuinfo").is_some_and(|text| {
        text.lines()
            .find(|line| line.starts_with("flags"))
            .is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor"))
    });
    let named = format!(
        "{} {}",
        vendor.as_deref().unwrap_or(""),
        product.as_deref().unwrap_or("")
    )
    .to_lowercase();
    let by_name = [
        ("vmware", "vmware"),
        ("virtualbox", "virtualbox"),
        ("innotek", "virtualbox"),
        ("microsoft corporation virtual", "hyper-v"),
        ("xen", "xen"),
        ("kvm", "kvm"),
        ("qemu", "qemu"),
        ("firecracker", "firecracker"),
        ("amazon ec2", "kvm"),
        ("google", "kvm"),
    ]
    .into_iter()
    .find(|(part, _)| named.contains(part))
    .map(|(_, hypervisor)| hypervisor);
    let by_kernel = source.text("/sys/hypervisor/type");
    let virtualisation = match (by_name, by_kernel) {
        // A large cloud's name alone is no guest: the same names stand on real machines there.
        (Some("kvm"), _) if !is_guest => "none".to_owned(),
        (Some(hypervisor), _) => hypervisor.to_owned(),
        (None, Some(hypervisor)) => hypervisor,
        (None, None) if is_guest => "unknown".to_owned(),
        (None, None) => "none".to_owned(),
    };
    Machine {
        vendor,
        product,
        virtualisation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing;

    #[test]
    fn firmware_is_told_by_what_it_left() {
        let (dir, source) = testing::machine(&[
            (
                "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c",
                "\u{6}\0\0\0\u{1}",
            ),
            ("/sys/class/dmi/id/bios_vendor", "EDK II"),
        ]);
        let read = firmware(&source);
        assert_eq!((read.kind.as_str(), read.secure_boot), ("uefi", Some(true)));
        assert_eq!(read.vendor.as_deref(), Some("EDK II"));
        drop(dir);
        assert_eq!(firmware(&source).kind, "bios");
    }

    #[test]
    fn guests_are_told_from_real_machines() {
        let kind = |vendor: &str, flags: &str| {
            let cpuinfo = format!("processor: 0\nflags\t: {flags}\n");
            let files = [
                ("/sys/class/dmi/id/sys_vendor", vendor),
                ("/proc/cpuinfo", cpuinfo.as_str()),
            ];
            let (_dir, source) = testing::machine(&files);
            machine(&source).virtualisation
        };
        assert_eq!(kind("QEMU", "fpu hypervisor"), "qemu");
        assert_eq!(kind("QEMU", "fpu"), "qemu");
        assert_eq!(kind("VMware, Inc.", "fpu hypervisor"), "vmware");
        assert_eq!(kind("Dell Inc.", "fpu vmx"), "none");
        assert_eq!(kind("Amazon EC2", "fpu vmx"), "none");
        assert_eq!(kind("Amazon EC2", "fpu hypervisor"), "kvm");
        assert_eq!(kind("", "fpu hypervisor"), "unknown");
    }
}
