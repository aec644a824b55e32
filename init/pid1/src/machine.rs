//! What only the PID 1 of a whole machine does before anything else: file systems, host name,
//! loopback, kernel settings. Each failure is a problem to report, never a reason to stop.

use std::{ffi::CString, fs, io, os::fd::AsRawFd as _, path::Path};

use rustix::mount::{MountFlags, mount};

/// A file system that PID 1 mounts unless something is mounted there already.
struct Mount {
    source: &'static str,
    target: &'static str,
    kind: &'static str,
    flags: MountFlags,
    data: &'static str,
}

const SAFE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);
const INERT: MountFlags = SAFE.union(MountFlags::NOEXEC);

const MOUNTS: [Mount; 8] = [
    Mount {
        source: "proc",
        target: "/proc",
        kind: "proc",
        flags: INERT,
        data: "",
    },
    Mount {
        source: "sysfs",
        target: "/sys",
        kind: "sysfs",
        flags: INERT,
        data: "",
    },
    Mount {
        source: "devtmpfs",
        target: "/dev",
        kind: "devtmpfs",
        flags: MountFlags::NOSUID,
        data: "mode=0755",
    },
    Mount {
        source: "devpts",
        target: "/dev/pts",
        kind: "devpts",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        data: "gid=5,mode=620,ptmxmode=666",
    },
    Mount {
        source: "tmpfs",
        target: "/dev/shm",
        kind: "tmpfs",
        flags: SAFE,
        data: "mode=1777",
    },
    Mount {
        source: "tmpfs",
        target: "/run",
        kind: "tmpfs",
        flags: SAFE,
        data: "mode=0755",
    },
    Mount {
        source: "tmpfs",
        target: "/tmp",
        kind: "tmpfs",
        flags: SAFE,
        data: "mode=1777",
    },
    Mount {
        source: "cgroup2",
        target: "/sys/fs/cgroup",
        kind: "cgroup2",
        flags: INERT,
        data: "nsdelegate",
    },
];

/// Mounts what is missing.
pub fn mount_all() -> Vec<String> {
    let mut problems = Vec::new();
    for entry in &MOUNTS {
        if is_mounted(entry.target) {
            continue;
        }
        if let Err(error) = mount_one(entry) {
            problems.push(format!(
                "cannot mount {} on {}: {error}",
                entry.kind, entry.target
            ));
        }
    }
    problems
}

fn mount_one(entry: &Mount) -> io::Result<()> {
    fs::create_dir_all(entry.target)?;
    let data = CString::new(entry.data).map_err(io::Error::other)?;
    mount(
        entry.source,
        entry.target,
        entry.kind,
        entry.flags,
        data.as_c_str(),
    )?;
    Ok(())
}

/// Whether a directory is on another device than the one above it, or listed as a mount point.
fn is_mounted(target: &str) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(own) = fs::metadata(target) else {
        return false;
    };
    let above = Path::new(target).parent().unwrap_or(Path::new("/"));
    fs::metadata(above).is_ok_and(|above| above.dev() != own.dev())
}

/// The host name when none is set, or none that can be used.
const USUAL_HOSTNAME: &str = "aios";

/// Sets the host name from `[system] hostname`, or the usual one when the file cannot be used; what
/// comes back is what is wrong. The rest of the file is other programs' to check.
pub fn set_hostname(config: &Path) -> Vec<String> {
    let (name, problem) = match hostname(config) {
        Ok(name) => (name, None),
        Err(problem) => (USUAL_HOSTNAME.to_owned(), Some(problem)),
    };
    let refused = rustix::system::sethostname(name.as_bytes())
        .err()
        .map(|error| format!("cannot set the host name: {error}"));
    problem.into_iter().chain(refused).collect()
}

fn hostname(config: &Path) -> Result<String, String> {
    if !config.exists() {
        return Ok(USUAL_HOSTNAME.to_owned());
    }
    let table: toml::Table = aios_config::load(config).map_err(|error| error.to_string())?;
    let set = table
        .get("system")
        .and_then(|system| system.get("hostname"));
    let Some(set) = set else {
        return Ok(USUAL_HOSTNAME.to_owned());
    };
    let label = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    match set.as_str() {
        Some(name) if (1..=63).contains(&name.len()) && name.chars().all(label) => {
            Ok(name.to_owned())
        }
        _ => Err(format!(
            "{}: system.hostname is {set}, which is no host name (letters, digits, `-` and `.`, at \
             most 63); it is `{USUAL_HOSTNAME}` until that is corrected and the machine restarted",
            config.display()
        )),
    }
}

/// Brings the loopback interface up.
pub fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: `ifreq` is a plain structure for which all zeros is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *place = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an `ifreq`, which outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Applies `/etc/sysctl.d/*.conf`. A setting that this kernel does not have is reported.
pub fn apply_sysctls(dir: &Path) -> Vec<String> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "conf")
        })
        .collect();
    files.sort();
    let mut problems = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).unwrap_or_default();
        for (key, value) in parse_sysctls(&text) {
            let target = Path::new("/proc/sys").join(key.replace('.', "/"));
            if let Err(error) = fs::write(&target, value) {
                problems.push(format!("{}: cannot set {key}: {error}", path.display()));
            }
        }
    }
    problems
}

/// The settings of a sysctl file. A key cannot name anything outside `/proc/sys`.
fn parse_sysctls(text: &str) -> Vec<(&str, &str)> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with(['#', ';']))
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim(), value.trim()))
        .filter(|(key, _)| {
            !key.is_empty()
                && key.split('.').all(|part| !part.is_empty())
                && key
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        })
        .collect()
}

/// What the kernel is to do for PID 1: keep every line of the log, send Ctrl-Alt-Del as SIGINT, and
/// spare PID 1 when memory runs out.
pub fn kernel_manners() {
    let _ = fs::write("/proc/sys/kernel/printk_devkmsg", "on\n");
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    let _ = rustix::system::reboot(rustix::system::RebootCommand::CadOff);
}

/// The device behind `/dev/console`, which itself cannot be anybody's controlling terminal.
pub fn real_terminal(path: &str) -> String {
    if path != "/dev/console" {
        return path.to_owned();
    }
    fs::read_to_string("/sys/class/tty/console/active")
        .ok()
        .and_then(|names| {
            names
                .split_whitespace()
                .last()
                .map(|name| format!("/dev/{name}"))
        })
        .unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctl_files_are_read_and_keys_stay_inside() {
        let text = "# comment\nkernel.kptr_restrict = 2\n; x\nnet.ipv4.ip_forward=0\n../etc/passwd = x\na..b = 1\nnonsense\n";
        assert_eq!(
            parse_sysctls(text),
            [("kernel.kptr_restrict", "2"), ("net.ipv4.ip_forward", "0")]
        );
    }

    #[test]
    fn the_host_name_is_read_and_a_wrong_one_is_explained() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        assert_eq!(hostname(&path).unwrap(), "aios");
        for (text, expected) in [
            ("[system]\nhostname = \"node-7\"\n", Ok("node-7")),
            ("[goals]\nmax_running = 2\n", Ok("aios")),
            (
                "[system]\nhostname = \"a b\"\n",
                Err("which is no host name"),
            ),
            ("[system]\nhostname = 7\n", Err("which is no host name")),
            ("[system]\nhostname = \"\"\n", Err("which is no host name")),
            ("[system\n", Err("config.toml:1:8: ")),
        ] {
            fs::write(&path, text).unwrap();
            match (hostname(&path), expected) {
                (Ok(name), Ok(expected)) => assert_eq!(name, expected),
                (Err(problem), Err(part)) => assert!(problem.contains(part), "{problem}"),
                (got, _) => panic!("{text}: {got:?}"),
            }
        }
    }

    #[test]
    fn a_terminal_that_is_named_is_kept() {
        assert_eq!(real_terminal("/dev/ttyS0"), "/dev/ttyS0");
    }
}
