//! Graphics processors: PCI devices whose class is *display*.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::source::Source;

/// First byte of the PCI class of display controllers.
const DISPLAY: &str = "0x03";

/// A graphics processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Gpu {
    /// Place on the PCI bus.
    pub address: String,
    /// Who made it: a name for the well-known, otherwise the PCI number.
    pub vendor: String,
    /// PCI number of the device, such as `0x2684`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    /// Driver in use; absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Its own memory in bytes; absent when the driver does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
}

pub(crate) fn read(source: &Source) -> Vec<Gpu> {
    source
        .names("/sys/bus/pci/devices")
        .into_iter()
        .filter_map(|address| {
            let dir = format!("/sys/bus/pci/devices/{address}");
            let text = |file: &str| source.text(&format!("{dir}/{file}"));
            text("class").filter(|class| class.starts_with(DISPLAY))?;
            Some(Gpu {
                vendor: text("vendor").map_or_else(|| "unknown".to_owned(), |id| vendor(&id)),
                device_id: text("device"),
                driver: source.link_name(&format!("{dir}/driver")),
                memory_bytes: text("mem_info_vram_total").and_then(|bytes| bytes.parse().ok()),
                address,
            })
        })
        .collect()
}

fn vendor(id: &str) -> String {
    match id {
        "0x10de" => "NVIDIA",
        "0x1002" => "AMD",
        "0x8086" => "Intel",
        "0x1234" => "QEMU",
        "0x1af4" => "virtio",
        "0x15ad" => "VMware",
        "0x1a03" => "ASPEED",
        "0x102b" => "Matrox",
        other => other,
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing::machine;

    #[test]
    fn only_display_controllers_are_gpus() {
        let (_dir, source) = machine(&[
            ("/sys/bus/pci/devices/0000:00:02.0/class", "0x030000\n"),
            ("/sys/bus/pci/devices/0000:00:02.0/vendor", "0x1234\n"),
            ("/sys/bus/pci/devices/0000:00:03.0/class", "0x020000"),
            ("/sys/bus/pci/devices/0000:01:00.0/class", "0x030200"),
            ("/sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de"),
            ("/sys/bus/pci/devices/0000:01:00.0/device", "0x2684"),
            (
                "/sys/bus/pci/devices/0000:01:00.0/driver",
                "-> ../../bus/pci/drivers/nouveau",
            ),
            ("/sys/bus/pci/devices/broken/class", ""),
        ]);
        let gpus = read(&source);
        assert_eq!(gpus.len(), 2);
        assert_eq!(gpus[0].vendor, "QEMU");
        assert_eq!(gpus[1].driver.as_deref(), Some("nouveau"));
        assert_eq!(gpus[1].device_id.as_deref(), Some("0x2684"));
    }
}
