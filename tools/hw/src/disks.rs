//! The disks: whole block devices that are hardware (or a hypervisor's idea of it).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::source::Source;

/// The kernel counts the size of every disk in these, whatever its own sectors are.
const SECTOR_BYTES: u64 = 512;
/// Block devices that are made of other things.
const VIRTUAL: &[&str] = &["dm-", "fd", "loop", "md", "nbd", "ram", "zram"];

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Disk {
    /// Device, such as `/dev/sda`.
    pub device: String,
    /// Size in bytes; 0 for a drive without a medium.
    pub size_bytes: u64,
    /// `nvme`, `ssd`, `hdd`, `optical` or `virtual`.
    pub kind: String,
    /// Model; absent when it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Serial number; absent when it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Whether it can be taken out.
    pub removable: bool,
    /// Whether it cannot be written to.
    pub read_only: bool,
    /// Names of its partitions.
    pub partitions: Vec<String>,
}

pub(crate) fn read(source: &Source) -> Vec<Disk> {
    source
        .names("/sys/block")
        .into_iter()
        .filter(|name| !VIRTUAL.iter().any(|prefix| name.starts_with(prefix)))
        .map(|name| {
            let dir = format!("/sys/block/{name}");
            let text = |file: &str| source.text(&format!("{dir}/{file}"));
            let is_one = |file: &str| text(file).as_deref() == Some("1");
            let size: u64 = text("size").and_then(|size| size.parse().ok()).unwrap_or(0);
            let partitions = source
                .names(&dir)
                .into_iter()
                .filter(|part| source.exists(&format!("{dir}/{part}/partition")))
                .collect();
            Disk {
                device: format!("/dev/{name}"),
                size_bytes: size.saturating_mul(SECTOR_BYTES),
                kind: kind(&name, is_one("queue/rotational")).to_owned(),
                model: text("device/model"),
                serial: text("device/serial").or_else(|| text("serial")),
                removable: is_one("removable"),
                read_only: is_one("ro"),
                partitions,
            }
        })
        .collect()
}

fn kind(name: &str, rotational: bool) -> &'static str {
    if name.starts_with("nvme") {
        "nvme"
    } else if name.starts_with("sr") {
        "optical"
    } else if name.starts_with("vd") || name.starts_with("xvd") {
        "virtual"
    } else if rotational {
        "hdd"
    } else {
        "ssd"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing::machine;

    #[test]
    fn disks_are_described_and_what_is_none_left_out() {
        let (_dir, source) = machine(&[
            ("/sys/block/sda/size", "2048\n"),
            ("/sys/block/sda/queue/rotational", "1"),
            ("/sys/block/sda/device/model", "OLD DISK  \n"),
            ("/sys/block/sda/sda1/partition", "1"),
            ("/sys/block/sda/sda2/partition", "2"),
            ("/sys/block/nvme0n1/size", "100"),
            ("/sys/block/vda/size", "not a number"),
            ("/sys/block/sr0/removable", "1"),
            ("/sys/block/loop0/size", "8"),
            ("/sys/block/dm-0/size", "8"),
        ]);
        let disks = read(&source);
        let devices: Vec<_> = disks.iter().map(|disk| disk.device.as_str()).collect();
        assert_eq!(
            devices,
            ["/dev/nvme0n1", "/dev/sda", "/dev/sr0", "/dev/vda"]
        );
        let sda = &disks[1];
        assert_eq!((sda.size_bytes, sda.kind.as_str()), (1 << 20, "hdd"));
        assert_eq!(sda.model.as_deref(), Some("OLD DISK"));
        assert_eq!(sda.partitions, ["sda1", "sda2"]);
        assert_eq!(
            (disks[3].size_bytes, disks[3].kind.as_str()),
            (0, "virtual")
        );
        assert!(disks[2].removable);
    }
}
