//! `monitor.disk`: how full each mounted file system is.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use aios_tool_api::{Capability, Context, Registry, Risk, Spec, Tool, ToolError};
use procfs::process::MountInfo;
use rustix::fs::{StatVfs, StatVfsMountFlags};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{NoArgs, percent, proc_error};

/// How long a file system may take to answer; one on a dead server would take for ever.
const PATIENCE: Duration = Duration::from_secs(2);
/// File systems on local disks.
const LOCAL: &[&str] = &[
    "bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "fuseblk", "hfsplus", "jfs",
    "msdos", "nilfs2", "ntfs", "ntfs3", "reiserfs", "ufs", "vfat", "xfs", "zfs",
];
/// File systems on another machine.
const REMOTE: &[&str] = &[
    "9p",
    "afs",
    "ceph",
    "cifs",
    "glusterfs",
    "nfs",
    "nfs4",
    "smb3",
    "virtiofs",
];

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FileSystem {
    /// Where it is mounted; the shortest place when there are several.
    pub mount_point: String,
    /// The device, or whatever else it was mounted from.
    pub device: String,
    /// Its type, such as `ext4` or `overlay`.
    pub kind: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Used, in bytes.
    pub used_bytes: u64,
    /// What ordinary users can still write, in bytes.
    pub available_bytes: u64,
    /// Share of what can be written that is used, in percent.
    pub used_percent: f64,
    /// How many files it can have; 0 when it has no such limit.
    pub inodes: u64,
    /// How many it has.
    pub inodes_used: u64,
    /// Share of them, in percent.
    pub inodes_used_percent: f64,
    /// Whether it cannot be written to.
    pub read_only: bool,
}

/// A file system that could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Silent {
    /// Where it is mounted.
    pub mount_point: String,
    /// Why it could not be asked.
    pub reason: String,
}

/// The file systems.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The file systems, the fullest first.
    pub filesystems: Vec<FileSystem>,
    /// Those that could not be asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<Silent>,
}

struct MonitorDisk;

pub(crate) fn register(registry: &mut Registry) {
    registry.add(MonitorDisk);
}

impl Tool for MonitorDisk {
    type Args = NoArgs;
    type Output = Output;

    fn spec(&self) -> Spec {
        Spec {
            name: "monitor.disk",
            summary: "Tells size, use and free space of each mounted file system, the fullest \
                      first. Leaves out file systems in memory and images that can never be \
                      written; the root is always there.",
            risk: Risk::Low,
            undo: None,
            idempotent: true,
            deadline: Duration::from_secs(10),
            capability: ("monitor", "disk"),
        }
    }

    fn capabilities(&self, _args: &NoArgs) -> Vec<Capability> {
        vec![Capability::new("monitor", "disk")]
    }

    fn execute(&self, _args: &NoArgs, context: &Context) -> Result<Output, ToolError> {
        measure(context)
    }
}

/// What is asked about: one mount of each file system.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    mount_point: PathBuf,
    device: String,
    kind: String,
}

/// Asks every real file system.
pub(crate) fn measure(context: &Context) -> Result<Output, ToolError> {
    let mounts = procfs::process::Process::myself()
        .and_then(|myself| myself.mountinfo())
        .map_err(|error| proc_error("the list of mounts", &error))?;
    let chosen = choose(&mounts.0);
    let patience = PATIENCE.min(context.remaining());
    // One thread each: a file system that does not answer holds up nobody but its own thread.
    let answers: Vec<_> = chosen
        .iter()
        .map(|mount| {
            let (sender, receiver) = mpsc::channel();
            let place = mount.mount_point.clone();
            thread::spawn(move || {
                // Nobody listens any more when the wait is over; then the answer is not needed.
                let _ = sender.send(rustix::fs::statvfs(&place));
            });
            receiver
        })
        .collect();
    let until = std::time::Instant::now() + patience;
    let mut filesystems = Vec::new();
    let mut silent = Vec::new();
    for (mount, answer) in chosen.iter().zip(answers) {
        let left = until.saturating_duration_since(std::time::Instant::now());
        let reason = match answer.recv_timeout(left) {
            Ok(Ok(stat)) => {
                filesystems.push(describe(mount, &stat));
                continue;
            }
            Ok(Err(errno)) => errno.to_string(),
            Err(_) => format!("no answer in {} ms", patience.as_millis()),
        };
        silent.push(Silent {
            mount_point: mount.mount_point.display().to_string(),
            reason,
        });
    }
    filesystems.sort_by(|one: &FileSystem, two| {
        two.used_percent
            .total_cmp(&one.used_percent)
            .then_with(|| one.mount_point.cmp(&two.mount_point))
    });
    Ok(Output {
        filesystems,
        silent,
    })
}

/// The mounts to ask: of each file system the one with the shortest path, hidden ones left out.
fn choose(mounts: &[MountInfo]) -> Vec<Mount> {
    // A later mount on the same place hides the earlier.
    let mut visible: BTreeMap<&Path, &MountInfo> = BTreeMap::new();
    for mount in mounts {
        visible.insert(&mount.mount_point, mount);
    }
    let mut by_device: BTreeMap<&str, &MountInfo> = BTreeMap::new();
    for mount in visible.into_values().filter(|mount| is_real(mount)) {
        let length = |mount: &MountInfo| mount.mount_point.as_os_str().len();
        by_device
            .entry(&mount.majmin)
            .and_modify(|known| {
                if length(mount) < length(known) {
                    *known = mount;
                }
            })
            .or_insert(mount);
    }
    by_device
        .into_values()
        .map(|mount| Mount {
            mount_point: mount.mount_point.clone(),
            device: mount
                .mount_source
                .clone()
                .unwrap_or_else(|| "none".to_owned()),
            kind: mount.fs_type.clone(),
        })
        .collect()
}

fn is_real(mount: &MountInfo) -> bool {
    let kind = mount.fs_type.as_str();
    LOCAL.contains(&kind)
        || REMOTE.contains(&kind)
        || kind.starts_with("fuse.ssh")
        // Whatever the root is made of (an overlay, memory) is what fills up first.
        || mount.mount_point == Path::new("/")
}

fn describe(mount: &Mount, stat: &StatVfs) -> FileSystem {
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    let used = stat.f_blocks.saturating_sub(stat.f_bfree);
    let inodes_used = stat.f_files.saturating_sub(stat.f_ffree);
    FileSystem {
        mount_point: mount.mount_point.display().to_string(),
        device: mount.device.clone(),
        kind: mount.kind.clone(),
        size_bytes: bytes(stat.f_blocks),
        used_bytes: bytes(used),
        available_bytes: bytes(stat.f_bavail),
        // As df counts: blocks kept for root are neither used nor to be had.
        used_percent: percent(used, used.saturating_add(stat.f_bavail)),
        inodes: stat.f_files,
        inodes_used,
        inodes_used_percent: percent(inodes_used, stat.f_files),
        read_only: stat.f_flag.contains(StatVfsMountFlags::RDONLY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn mounts(lines: &[&str]) -> Vec<MountInfo> {
        lines
            .iter()
            .map(|line| MountInfo::from_line(line).unwrap())
            .collect()
    }

    #[test]
    fn real_file_systems_are_chosen_once() {
        let chosen = choose(&mounts(&[
            "20 1 0:25 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/u",
            "21 20 0:5 / /proc rw - proc proc rw",
            "22 20 0:6 / /run rw - tmpfs tmpfs rw",
            "23 20 7:0 / /image ro - squashfs /dev/loop0 ro",
            "24 20 8:1 /sub /srv/data/bind rw - ext4 /dev/sda1 rw",
            "25 20 8:1 / /data rw - ext4 /dev/sda1 rw",
            "26 20 8:17 / /mnt rw - xfs /dev/sdb1 rw",
            "27 20 0:7 / /mnt rw - tmpfs tmpfs rw",
            "28 20 0:50 / /net rw - nfs4 server:/export rw",
            "29 20 0:51 / /var/lib/docker/overlay2/x rw - overlay overlay rw",
        ]));
        let places: Vec<_> = chosen
            .iter()
            .map(|mount| mount.mount_point.to_str().unwrap())
            .collect();
        assert_eq!(places, ["/", "/net", "/data"]);
    }

    #[test]
    fn the_root_is_always_there_and_the_numbers_fit() {
        let output = testing::output("monitor.disk");
        let all = output["filesystems"].as_array().unwrap();
        let root = all.iter().find(|one| one["mount_point"] == "/").unwrap();
        let bytes = |name: &str| root[name].as_u64().unwrap();
        assert!(bytes("used_bytes") + bytes("available_bytes") <= bytes("size_bytes"));
        assert!(bytes("size_bytes") > 0);
        let percents: Vec<f64> = all
            .iter()
            .map(|one| one["used_percent"].as_f64().unwrap())
            .collect();
        assert!(percents.is_sorted_by(|one, two| one >= two));
    }
}
