//! Starting a program: everything is prepared in PID 1, and the child only makes system calls until
//! it becomes the program. A step that fails there comes back through a pipe with its name.
//!
//! Invariant: the program never runs outside its control group, with more rights than its unit has,
//! or with a descriptor that is not meant for it.

use std::{
    ffi::CString,
    io,
    mem::size_of,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use crate::{
    cgroup::Group,
    child::{Plan, STEPS, become_program},
};
use aios_init_core::{Account, Capability, Unit};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
};

/// How long PID 1 waits for a child to become its program. Opening a terminal or reading the
/// program from a slow disk may take longer; then the child is taken as running, and a failure
/// shows as its end.
const PATIENCE: Timespec = Timespec {
    tv_sec: 2,
    tv_nsec: 0,
};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A process that was started.
#[derive(Debug)]
pub struct Child {
    pub pid: u32,
    /// Absent where the kernel has no pidfds.
    pub pidfd: Option<OwnedFd>,
}

/// Why a program could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// Nothing was started.
    #[error("{what}: {source}")]
    Prepare {
        what: &'static str,
        source: io::Error,
    },
    /// The child did not get as far as the program.
    #[error("{step}: {source}")]
    Child { step: String, source: io::Error },
}

impl SpawnError {
    /// Whether trying again is pointless.
    pub fn is_permanent(&self) -> bool {
        let Self::Child { source, .. } = self else {
            return false;
        };
        matches!(
            source.raw_os_error(),
            Some(
                libc::ENOENT
                    | libc::EACCES
                    | libc::ENOEXEC
                    | libc::ENOTDIR
                    | libc::ELOOP
                    | libc::EISDIR
            )
        )
    }
}

/// Where a child's standard streams go.
#[derive(Debug)]
pub enum Streams<'a> {
    /// `/dev/null` in, this out.
    Log(BorrowedFd<'a>),
    /// A terminal, which the child controls.
    Terminal(&'a str),
}

/// The constant of libc is too narrow for its value.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What a program is given besides its unit.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// Its standard streams.
    pub streams: Streams<'a>,
    /// Its listening sockets.
    pub sockets: Vec<BorrowedFd<'a>>,
    /// Its control group, if there are any.
    pub cgroup: Option<&'a Group>,
    /// Where it says that it is ready.
    pub notify_socket: &'a str,
}

/// Starts the program of a unit.
///
/// # Errors
/// [`SpawnError`] when the program does not run.
pub fn spawn(
    unit: &Unit,
    account: &Account,
    surroundings: &Surroundings<'_>,
) -> Result<Child, SpawnError> {
    let cgroup = surroundings.cgroup;
    let prepare = |what| move |source: io::Error| SpawnError::Prepare { what, source };
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)
        .map_err(io::Error::from)
        .map_err(prepare("make a pipe"))?;
    let mut plan = plan(unit, account, surroundings, &writer).map_err(prepare("prepare"))?;

    if let Some(group) = cgroup.filter(|group| !group.fresh) {
        plan.procs = Some(open_procs(&group.dir).map_err(prepare("open cgroup.procs"))?);
    }
    let fresh = cgroup.filter(|group| group.fresh).map(|group| &group.dir);
    let (pid, pidfd) = match clone_into(fresh, &plan) {
        Ok(started) => started,
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENOSYS | libc::EINVAL | libc::EPERM | libc::E2BIG)
            ) =>
        {
            if let Some(dir) = fresh {
                plan.procs = Some(open_procs(dir).map_err(prepare("open cgroup.procs"))?);
            }
            fork_into(&plan).map_err(prepare("fork"))?
        }
        Err(error) => return Err(prepare("clone")(error)),
    };
    drop(writer);
    match failure(&reader) {
        None => Ok(Child { pid, pidfd }),
        Some((step, errno)) => {
            // The child ends by itself; the loop reaps it like any other process.
            let source = io::Error::from_raw_os_error(errno);
            let name = STEPS.get(step).copied().unwrap_or("start");
            let step = if name == "run the program" {
                format!("cannot run {}", unit.command.0)
            } else {
                format!("cannot {name}")
            };
            Err(SpawnError::Child { step, source })
        }
    }
}

fn plan(
    unit: &Unit,
    account: &Account,
    surroundings: &Surroundings<'_>,
    report: &OwnedFd,
) -> io::Result<Plan> {
    let text = |text: &str| CString::new(text).map_err(io::Error::other);
    let argv = std::iter::once(unit.command.0.as_str())
        .chain(unit.args.iter().map(String::as_str))
        .map(text)
        .collect::<io::Result<Vec<_>>>()?;
    let mut environment: std::collections::BTreeMap<&str, &str> = [
        ("PATH", PATH),
        ("LANG", "C.UTF-8"),
        ("HOME", account.home.as_str()),
        ("USER", account.name.as_str()),
        ("LOGNAME", account.name.as_str()),
        ("NOTIFY_SOCKET", surroundings.notify_socket),
    ]
    .into();
    let (terminal, output) = match &surroundings.streams {
        Streams::Log(writer) => (None, Some(writer.as_raw_fd())),
        Streams::Terminal(path) => {
            let kind = if path.contains("ttyS") {
                "vt220"
            } else {
                "linux"
            };
            environment.insert("TERM", kind);
            (Some(text(path)?), None)
        }
    };
    let socket_count = surroundings.sockets.len().to_string();
    if !surroundings.sockets.is_empty() {
        environment.insert("LISTEN_FDS", &socket_count);
    }
    environment.extend(
        unit.environment
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str())),
    );
    let envp = environment
        .iter()
        .map(|(key, value)| text(&format!("{key}={value}")))
        .collect::<io::Result<Vec<_>>>()?;
    let null = OwnedFd::from(
        std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")?,
    );
    let oom = unit
        .resources
        .oom_score_adjust
        .map(|score| text(&score.get().to_string()))
        .transpose()?;
    let me = rustix::process::geteuid().as_raw();
    Ok(Plan {
        program: text(&unit.command.0)?,
        argv,
        envp,
        terminal,
        null,
        output,
        procs: None,
        oom,
        nofile: unit
            .resources
            .nofile
            .and_then(|n| u64::try_from(n.get()).ok()),
        nice: unit
            .resources
            .nice
            .and_then(|n| i32::try_from(n.get()).ok()),
        uid: account.uid,
        gid: account.gid,
        groups: account.groups.clone(),
        same_account: account.uid == me && account.groups.is_empty(),
        capabilities: (!unit.security.all_capabilities)
            .then(|| Capability::mask(&unit.security.capabilities)),
        no_new_privileges: unit.security.no_new_privileges,
        sockets: surroundings
            .sockets
            .iter()
            .map(|fd| fd.as_raw_fd())
            .collect(),
        report: report.as_raw_fd(),
    })
}

fn open_procs(dir: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
    Ok(rustix::fs::openat(
        dir,
        "cgroup.procs",
        flags,
        rustix::fs::Mode::empty(),
    )?)
}

/// Starts the child inside its group, with a descriptor of the process, in one step.
fn clone_into(cgroup: Option<&OwnedFd>, plan: &Plan) -> io::Result<(u32, Option<OwnedFd>)> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: `clone_args` is a plain structure of integers, for which all zeros is valid.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = libc::CLONE_PIDFD as u64;
    args.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM this is a fork: the child has its own copy of everything. PID 1 has
    // one thread, so no lock can be held by a thread that the child lacks.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut args,
            size_of::<libc::clone_args>(),
        )
    };
    match pid {
        0 => become_program(plan),
        pid if pid > 0 => {
            // SAFETY: the kernel has just made this descriptor for us, and nobody else has it.
            let pidfd = (pidfd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) });
            Ok((u32::try_from(pid).unwrap_or(0), pidfd))
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// The same for kernels without `clone3` into a group.
fn fork_into(plan: &Plan) -> io::Result<(u32, Option<OwnedFd>)> {
    // SAFETY: PID 1 has one thread; see `clone_into`.
    match unsafe { libc::fork() } {
        0 => become_program(plan),
        pid if pid > 0 => {
            let pidfd = rustix::process::Pid::from_raw(pid).and_then(|pid| {
                rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
            });
            Ok((u32::try_from(pid).unwrap_or(0), pidfd))
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// What the child reported before the pipe closed, if anything.
fn failure(reader: &OwnedFd) -> Option<(usize, i32)> {
    let mut wait = [PollFd::new(reader, PollFlags::IN)];
    loop {
        match poll(&mut wait, Some(&PATIENCE)) {
            Ok(0) => return None,
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    let mut report = [0; 8];
    match rustix::io::read(reader.as_fd(), &mut report) {
        Ok(8) => {
            let [a, b, c, d, e, f, g, h] = report;
            let step = u32::from_ne_bytes([a, b, c, d]);
            Some((step as usize, i32::from_ne_bytes([e, f, g, h])))
        }
        _ => None,
    }
}
