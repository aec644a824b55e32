//! The child between its birth and its program: one system call after the other, from what PID 1 is
//! to what the unit may be. Nothing of PID 1 is left when the program starts.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use aios_init_core::CAPABILITIES;

/// The steps of a child, in order; a failed one reports its place in this list.
pub const STEPS: [&str; 12] = [
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
pub struct Plan {
    pub program: CString,
    pub argv: Vec<CString>,
    pub envp: Vec<CString>,
    pub terminal: Option<CString>,
    pub null: OwnedFd,
    pub output: Option<i32>,
    /// `cgroup.procs` to write to, where the kernel cannot start the child inside.
    pub procs: Option<OwnedFd>,
    pub oom: Option<CString>,
    pub nofile: Option<u64>,
    pub nice: Option<i32>,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// The account is the one that PID 1 has, so nothing about it needs to change.
    pub same_account: bool,
    /// `None`: keep everything.
    pub capabilities: Option<u64>,
    pub no_new_privileges: bool,
    pub sockets: Vec<i32>,
    pub report: i32,
}

/// The child: never returns.
pub fn become_program(plan: &Plan) -> ! {
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
    let mut held = [CapabilityData {
        effective: 0,
        permitted: 0,
        inheritable: 0,
    }; 2];
    // SAFETY: as below; the call fills in what this process has.
    let mask = unsafe {
        check(
            libc::syscall(libc::SYS_capget, &raw const header, held.as_mut_ptr()) as libc::c_int,
        )?;
        // In a container PID 1 may lack some itself; nobody can hand on what they do not have.
        mask & (u64::from(held[0].permitted) | u64::from(held[1].permitted) << 32)
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
