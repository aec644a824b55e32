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

use crate::cgroup::Group;
use aios_init_core::{Account, CAPABILITIES, Capability, Unit};
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

/// The steps of a child, in order; a failed one reports its place in this list.
const STEPS: [&str; 12] = [
    "enter the control group",
    "open the terminal",
    "set the standard streams",
    "set the memory score",
    "limit the open files",
    "set the niceness",
    "drop capabilities",
    "set the groups",
    "change to the account",
    "keep capabilities",
    "forbid new privileges",
    "run the program",
];

/// All that the child needs, so that it allocates nothing.
struct Plan {
    program: CString,
    argv: Vec<CString>,
    envp: Vec<CString>,
    terminal: Option<CString>,
    null: OwnedFd,
    output: Option<i32>,
    /// `cgroup.procs` to write to, where the kernel cannot start the child inside.
    procs: Option<OwnedFd>,
    oom: Option<CString>,
    nofile: Option<u64>,
    nice: Option<i32>,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    /// The account is the one that PID 1 has, so nothing about it needs to change.
    same_account: bool,
    /// `None`: keep everything.
    capabilities: Option<u64>,
    no_new_privileges: bool,
    sockets: Vec<i32>,
    report: i32,
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

/// The child: never returns.
fn become_program(plan: &Plan) -> ! {
    let mut step = 0;
    let mut report_to = plan.report;
    let result = prepare_child(plan, &mut step, &mut report_to);
    let errno = match result {
        Ok(()) => {
            step = STEPS.len() - 1;
            let argv: Vec<*const libc::c_char> = pointers(&plan.argv);
            let pid = listen_pid(plan);
            let mut envp: Vec<*const libc::c_char> = pointers(&plan.envp);
            if let (Some(pid), Some(last)) = (&pid, envp.last_mut()) {
                *last = pid.as_ptr();
                envp.push(std::ptr::null());
            }
            // SAFETY: both arrays end in a null pointer and point to strings that live in `plan`.
            unsafe { libc::execve(plan.program.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
            io::Error::last_os_error()
        }
        Err(error) => error,
    };
    let mut report = [0; 8];
    let (first, second) = report.split_at_mut(4);
    first.copy_from_slice(&u32::try_from(step).unwrap_or(0).to_ne_bytes());
    second.copy_from_slice(&errno.raw_os_error().unwrap_or(0).to_ne_bytes());
    // SAFETY: the descriptor is open and the buffer is as long as said; `_exit` ends the child
    // without running anything of PID 1's.
    unsafe {
        libc::write(report_to, report.as_ptr().cast(), report.len());
        libc::_exit(127)
    }
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

/// Turns a result of libc into a `Result`.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn prepare_child(plan: &Plan, step: &mut usize, report_to: &mut i32) -> io::Result<()> {
    reset_signals();
    // SAFETY: plain system calls; every pointer is to memory that outlives the call.
    unsafe {
        libc::setsid();
        libc::umask(0o022);
        check(libc::chdir(c"/".as_ptr()))?;

        if let Some(procs) = &plan.procs {
            check(libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1) as libc::c_int)?;
        }
        *step = 1;
        let (input, output) = match &plan.terminal {
            None => (
                plan.null.as_raw_fd(),
                plan.output.unwrap_or(plan.null.as_raw_fd()),
            ),
            Some(path) => {
                // A serial line without carrier would block the open for ever.
                let terminal = check(libc::open(
                    path.as_ptr(),
                    libc::O_RDWR | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC,
                ))?;
                check(libc::fcntl(terminal, libc::F_SETFL, 0))?;
                // 1: also when another session has it, which is then one that is ending.
                check(libc::ioctl(terminal, libc::TIOCSCTTY, 1))?;
                (terminal, terminal)
            }
        };
        *step = 2;
        check(libc::dup2(input, 0))?;
        check(libc::dup2(output, 1))?;
        check(libc::dup2(output, 2))?;
        *step = 3;
        if let Some(score) = &plan.oom {
            let file = check(libc::open(
                c"/proc/self/oom_score_adj".as_ptr(),
                libc::O_WRONLY | libc::O_CLOEXEC,
            ))?;
            let length = score.as_bytes().len();
            check(libc::write(file, score.as_ptr().cast(), length) as libc::c_int)?;
        }
        *step = 4;
        if let Some(limit) = plan.nofile {
            let limit = libc::rlimit {
                rlim_cur: limit,
                rlim_max: limit,
            };
            check(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit))?;
        }
        *step = 5;
        if let Some(nice) = plan.nice {
            check(libc::setpriority(libc::PRIO_PROCESS, 0, nice))?;
        }
        change_rights(plan, step)?;
        // Whatever PID 1 has open closes when the program starts.
        libc::syscall(
            libc::SYS_close_range,
            3,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
        hand_over_sockets(plan, report_to)?;
    }
    Ok(())
}

/// Puts the listening sockets at 3 and up, where the program looks for them. Everything that stands
/// there, or is still needed, is moved out of the way first.
///
/// # Safety
/// Only for a child that is about to become its program.
unsafe fn hand_over_sockets(plan: &Plan, report_to: &mut i32) -> io::Result<()> {
    let first_free = 3 + libc::c_int::try_from(plan.sockets.len()).unwrap_or(0);
    // SAFETY: plain system calls on descriptors that are open.
    unsafe {
        *report_to = check(libc::fcntl(*report_to, libc::F_DUPFD_CLOEXEC, first_free))?;
        let mut moved = Vec::with_capacity(plan.sockets.len());
        for socket in &plan.sockets {
            moved.push(check(libc::fcntl(
                *socket,
                libc::F_DUPFD_CLOEXEC,
                first_free,
            ))?);
        }
        for (target, socket) in (3..).zip(moved) {
            check(libc::dup2(socket, target))?;
        }
    }
    Ok(())
}

/// `LISTEN_PID`, which only the child can know.
fn listen_pid(plan: &Plan) -> Option<CString> {
    if plan.sockets.is_empty() {
        return None;
    }
    CString::new(format!("LISTEN_PID={}", std::process::id())).ok()
}

/// Every signal at its default, none blocked: PID 1 blocks them all, and a child inherits that.
fn reset_signals() {
    // SAFETY: plain system calls on a local set; signals that cannot be changed are refused by the
    // kernel, which does no harm.
    unsafe {
        // The kernel's own structure, all zeros: default action, no flags, empty mask. The C
        // library's wrapper would refuse the two signals that it keeps for itself.
        let default_action = [0_u64; 4];
        for signal in 1..=64 {
            let none = std::ptr::null_mut::<u64>();
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default_action.as_ptr(),
                none,
                8,
            );
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// From root to the account of the unit, with the capabilities that the unit lists and no others.
///
/// # Safety
/// Only for a child that is about to become its program.
unsafe fn change_rights(plan: &Plan, step: &mut usize) -> io::Result<()> {
    // SAFETY: plain system calls; every pointer is to memory that outlives the call.
    unsafe {
        *step = 6;
        if let Some(mask) = plan.capabilities {
            for number in 0..CAPABILITIES.len() {
                if mask >> number & 1 == 0 {
                    // A kernel that does not know a capability refuses it with EINVAL.
                    let dropped = libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0);
                    if dropped < 0 && *libc::__errno_location() != libc::EINVAL {
                        return Err(io::Error::last_os_error());
                    }
                }
            }
        }
        *step = 7;
        let groups = libc::setgroups(plan.groups.len(), plan.groups.as_ptr());
        if groups < 0 && !plan.same_account {
            return Err(io::Error::last_os_error());
        }
        *step = 8;
        if plan.uid != 0 {
            check(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0))?;
        }
        check(libc::setresgid(plan.gid, plan.gid, plan.gid))?;
        check(libc::setresuid(plan.uid, plan.uid, plan.uid))?;
        *step = 9;
        if let Some(mask) = plan.capabilities {
            keep_capabilities(mask, plan.uid != 0)?;
        }
        *step = 10;
        if plan.no_new_privileges {
            check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        }
    }
    Ok(())
}

/// # Safety
/// As [`change_rights`].
unsafe fn keep_capabilities(mask: u64, ambient: bool) -> io::Result<()> {
    let header = CapabilityHeader {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    let half = |bits: u64| CapabilityData {
        effective: bits as u32,
        permitted: bits as u32,
        inheritable: bits as u32,
    };
    let data = [half(mask & 0xffff_ffff), half(mask >> 32)];
    // SAFETY: the two structures have the layout that version 3 of the call asks for.
    unsafe {
        check(libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) as libc::c_int)?;
        for number in (0..64).filter(|number| ambient && mask >> number & 1 == 1) {
            check(libc::prctl(
                libc::PR_CAP_AMBIENT,
                libc::PR_CAP_AMBIENT_RAISE,
                number,
                0,
                0,
            ))?;
        }
    }
    Ok(())
}
