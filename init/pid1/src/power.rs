//! The end of the machine: everything left is killed, what is in memory goes to disk, file systems
//! are let go of in reverse order, and the kernel switches off or restarts. Every step has a limit;
//! none can keep the machine from ending.

use std::{fs, thread, time::Duration};

use aios_init_protocol::PowerAction;
use rustix::{
    mount::{MountFlags, UnmountFlags, mount_remount, unmount},
    process::{Signal, WaitOptions, kill_process, wait},
    system::{RebootCommand, reboot},
};

/// How long the disks may take to store what is in memory.
const SYNC_LIMIT: Duration = Duration::from_secs(30);

/// Ends the machine. Only returns when the kernel refuses.
pub fn end_machine(action: PowerAction, say: &mut dyn FnMut(&str)) {
    kill_everything();
    say("storing everything");
    if !sync_within(SYNC_LIMIT) {
        say("the disks did not take everything within 30 s; going on");
    }
    for problem in let_go() {
        say(&problem);
    }
    sync_within(Duration::from_secs(5));
    let command = match action {
        PowerAction::PowerOff => RebootCommand::PowerOff,
        PowerAction::Reboot => RebootCommand::Restart,
    };
    say(match action {
        PowerAction::PowerOff => "power off",
        PowerAction::Reboot => "restart",
    });
    if let Err(error) = reboot(command) {
        say(&format!("the kernel refused: {error}"));
    }
}

/// Kills every process but PID 1 and reaps them.
pub fn kill_everything() {
    // SAFETY: a plain system call. -1 is every process that PID 1 may signal, without PID 1 itself.
    unsafe { libc::kill(-1, libc::SIGKILL) };
    for _ in 0..100 {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) => thread::sleep(Duration::from_millis(10)),
            Err(_) => break,
        }
    }
}

/// Syncs in a child: one that hangs in the kernel can be left behind, PID 1 cannot.
fn sync_within(limit: Duration) -> bool {
    // SAFETY: PID 1 has one thread; the child makes two system calls.
    let child = unsafe { libc::fork() };
    if child == 0 {
        rustix::fs::sync();
        // SAFETY: ends the child without running anything of PID 1's.
        unsafe { libc::_exit(0) }
    }
    let step = Duration::from_millis(20);
    let mut waited = Duration::ZERO;
    while waited < limit {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, _))) if pid.as_raw_nonzero().get() == child => return true,
            Ok(Some(_)) => {}
            Ok(None) => {
                thread::sleep(step);
                waited += step;
            }
            Err(_) => return true,
        }
    }
    if let Some(pid) = rustix::process::Pid::from_raw(child) {
        let _ = kill_process(pid, Signal::KILL);
    }
    false
}

/// Unmounts what can be unmounted, and makes the rest read-only. What could do neither is returned.
fn let_go() -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut problems = Vec::new();
    for (target, kind) in disk_mounts(&table) {
        if target != "/" && unmount(target.as_str(), UnmountFlags::empty()).is_ok() {
            continue;
        }
        if let Err(error) = mount_remount(target.as_str(), MountFlags::RDONLY, c"") {
            // An overlay is as clean as the file systems below it, which are in this list.
            if kind != "overlay" {
                problems.push(format!("{target} ({kind}) could not be let go of: {error}"));
            }
        }
    }
    problems
}

/// Mount points that are kept somewhere, the last first. What lives in memory needs no care.
fn disk_mounts(mountinfo: &str) -> Vec<(String, String)> {
    const IN_MEMORY: [&str; 14] = [
        "proc",
        "sysfs",
        "devtmpfs",
        "devpts",
        "tmpfs",
        "cgroup2",
        "mqueue",
        "debugfs",
        "tracefs",
        "securityfs",
        "efivarfs",
        "bpf",
        "ramfs",
        "rootfs",
    ];
    let mut mounts: Vec<(String, String)> = mountinfo
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let target = left.split(' ').nth(4)?;
            let kind = right.split(' ').next()?;
            Some((unescape(target), kind.to_owned()))
        })
        .filter(|(_, kind)| !IN_MEMORY.contains(&kind.as_str()))
        .collect();
    mounts.reverse();
    mounts
}

/// `mountinfo` writes a blank as `\040`.
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let code = after
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) => {
                out.push(char::from(byte));
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_let_go_of_in_reverse_and_memory_is_left_alone() {
        let table = "22 1 0:20 / / rw - overlay overlay rw\n\
                     23 22 0:21 / /proc rw - proc proc rw\n\
                     24 22 8:1 / /media/data\\040disk rw shared:1 - ext4 /dev/sda1 rw\n\
                     25 24 8:2 / /media/data\\040disk/x rw - ext4 /dev/sda2 rw\n\
                     broken line\n";
        let targets: Vec<String> = disk_mounts(table)
            .into_iter()
            .map(|(target, _)| target)
            .collect();
        assert_eq!(targets, ["/media/data disk/x", "/media/data disk", "/"]);
    }

    #[test]
    fn escapes_are_undone_and_nonsense_is_kept() {
        assert_eq!(unescape("a\\040b\\011"), "a b\t");
        assert_eq!(unescape("a\\9zz\\"), "a\\9zz\\");
    }
}
