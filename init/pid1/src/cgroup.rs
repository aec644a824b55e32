//! A control group per unit: limits, and the certainty of killing all of it.
//!
//! Where the kernel offers no writable cgroup v2 (a container), units have process groups only.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use aios_init_core::Resources;

/// The groups of all units.
#[derive(Debug)]
pub struct Cgroups {
    base: Option<PathBuf>,
    /// Groups that were killed since they were made.
    killed: BTreeSet<String>,
}

/// A group that is ready for a start.
#[derive(Debug)]
pub struct Group {
    /// Its directory.
    pub dir: OwnedFd,
    /// Whether a child can be born inside. Linux since 6.14, and the stable series that took the
    /// change over, compares the group's count of kills with that of PID 1's own group, and kills
    /// a child that is born into a group which was ever killed. Such a child must move in itself.
    pub fresh: bool,
}

impl Cgroups {
    /// Makes the base group and hands the controllers down to it.
    pub fn open(base: &Path) -> Self {
        let usable = fs::create_dir_all(base).is_ok() && base.join("cgroup.procs").exists();
        if !usable {
            return Self {
                base: None,
                killed: BTreeSet::new(),
            };
        }
        for dir in base.parent().into_iter().chain([base]) {
            for controller in ["+memory", "+pids", "+cpu", "+io"] {
                // One at a time: a kernel without one of them still has the others.
                let _ = fs::write(dir.join("cgroup.subtree_control"), controller);
            }
        }
        Self {
            base: Some(base.to_owned()),
            killed: BTreeSet::new(),
        }
    }

    /// Whether there are groups.
    pub fn available(&self) -> bool {
        self.base.is_some()
    }

    /// The directory of a unit's group.
    fn dir(&self, unit: &str) -> Option<PathBuf> {
        self.base.as_ref().map(|base| base.join(unit))
    }

    /// Makes the group of a unit, applies its limits anew, and opens it for a start.
    ///
    /// # Errors
    /// When a limit that the unit asks for cannot be set although its controller is there.
    pub fn prepare(&mut self, unit: &str, resources: &Resources) -> io::Result<Option<Group>> {
        let Some(dir) = self.dir(unit) else {
            return Ok(None);
        };
        // An empty group that was killed is made anew; one with a process that is still dying stays.
        if self.killed.contains(unit) && fs::remove_dir(&dir).is_ok() {
            self.killed.remove(unit);
        }
        match fs::create_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let limits = [
            (
                "memory.max",
                resources.memory_max.map(|bytes| bytes.0.to_string()),
            ),
            (
                "pids.max",
                resources.pids_max.map(|count| count.get().to_string()),
            ),
            (
                "cpu.weight",
                resources.cpu_weight.map(|weight| weight.get().to_string()),
            ),
        ];
        for (file, limit) in limits {
            let path = dir.join(file);
            match limit {
                Some(limit) if path.exists() => fs::write(path, limit)?,
                _ => {}
            }
        }
        Ok(Some(Group {
            dir: OwnedFd::from(File::open(dir)?),
            fresh: !self.killed.contains(unit),
        }))
    }

    /// Kills every process of a unit's group. Whether there was a group to kill.
    pub fn kill(&mut self, unit: &str) -> bool {
        let Some(dir) = self.dir(unit) else {
            return false;
        };
        let events = fs::read_to_string(dir.join("cgroup.events")).unwrap_or_default();
        if events.lines().any(|line| line == "populated 0") {
            return true;
        }
        self.killed.insert(unit.to_owned());
        if fs::write(dir.join("cgroup.kill"), "1").is_ok() {
            return true;
        }
        // Before Linux 5.14 there is no cgroup.kill: each process, until none is left to be seen.
        for _ in 0..8 {
            let pids = self.processes(unit);
            if pids.is_empty() {
                break;
            }
            for pid in pids {
                if let Some(pid) = i32::try_from(pid)
                    .ok()
                    .and_then(rustix::process::Pid::from_raw)
                {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
        }
        true
    }

    /// The processes of a unit's group.
    pub fn processes(&self, unit: &str) -> Vec<u32> {
        self.dir(unit)
            .and_then(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok())
            .map(|text| text.lines().filter_map(|line| line.parse().ok()).collect())
            .unwrap_or_default()
    }

    /// Memory of a unit's group in bytes; 0 when not known.
    pub fn memory(&self, unit: &str) -> u64 {
        self.dir(unit)
            .and_then(|dir| fs::read_to_string(dir.join("memory.current")).ok())
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0)
    }

    /// Removes the group of a unit that is no more.
    pub fn remove(&mut self, unit: &str) {
        self.killed.remove(unit);
        if let Some(dir) = self.dir(unit) {
            let _ = fs::remove_dir(dir);
        }
    }
}
