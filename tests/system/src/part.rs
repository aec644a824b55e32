//! One process of the machine, and the thread that starts it again when it ends.

use std::{
    fs::{File, OpenOptions},
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How often a process is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// Pause before a restart, as PID 1's shortest.
const PAUSE: Duration = Duration::from_millis(50);
/// The group that all of aiOS is in.
pub(crate) const GROUP: u32 = 900;

/// What is started, and as whom.
#[derive(Debug)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) binary: File,
    pub(crate) args: Vec<String>,
    pub(crate) uid: u32,
    pub(crate) socket: PathBuf,
    pub(crate) log: PathBuf,
}

/// A process that is kept running.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) socket: PathBuf,
    pub(crate) log: PathBuf,
    pid: Arc<AtomicU32>,
    starts: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    keeper: Option<JoinHandle<()>>,
}

fn spawn(spec: &Spec) -> std::io::Result<Child> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&spec.log)?;
    let mut command = Command::new(format!("/proc/self/fd/{}", spec.binary.as_raw_fd()));
    command
        .arg0(&spec.name)
        .args(&spec.args)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("AIOS_LOG", "info")
        .env("RUST_BACKTRACE", "1")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .gid(if spec.uid == 0 { 0 } else { GROUP })
        .uid(spec.uid);
    // SAFETY: the closure makes one system call between fork and exec and touches no memory.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
                .map_err(Into::into)
        });
    }
    command.spawn()
}

impl Part {
    /// Starts the process and keeps it running.
    pub(crate) fn start(spec: Spec) -> anyhow::Result<Self> {
        let pid = Arc::new(AtomicU32::new(0));
        let starts = Arc::new(AtomicU32::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let mut part = Self {
            name: spec.name.clone(),
            socket: spec.socket.clone(),
            log: spec.log.clone(),
            pid: Arc::clone(&pid),
            starts: Arc::clone(&starts),
            stop: Arc::clone(&stop),
            keeper: None,
        };
        // The keeper is the parent: when its thread ends, the kernel ends the process.
        let keeper = std::thread::Builder::new()
            .name(format!("keep-{}", spec.name))
            .spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let mut child = match spawn(&spec) {
                        Ok(child) => child,
                        Err(error) => {
                            eprintln!("cannot start {}: {error}", spec.name);
                            return;
                        }
                    };
                    starts.fetch_add(1, Ordering::SeqCst);
                    pid.store(child.id(), Ordering::SeqCst);
                    while matches!(child.try_wait(), Ok(None)) {
                        if stop.load(Ordering::SeqCst) {
                            // An error means that it has ended by itself just now.
                            let _ = child.kill();
                            let _ = child.wait();
                            return;
                        }
                        std::thread::sleep(LOOK);
                    }
                    pid.store(0, Ordering::SeqCst);
                    std::thread::sleep(PAUSE);
                }
            });
        part.keeper = Some(keeper.context("a thread for a process")?);
        Ok(part)
    }

    /// Process id, or 0 while it is down.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.load(Ordering::SeqCst)
    }

    /// How often it was started.
    pub(crate) fn starts(&self) -> u32 {
        self.starts.load(Ordering::SeqCst)
    }

    /// Kills it as it stands (SIGKILL).
    pub(crate) fn kill(&self) -> anyhow::Result<()> {
        let pid = self.pid();
        ensure!(pid != 0, "{} is not running", self.name);
        kill(Pid::from_raw(pid.try_into()?), Signal::SIGKILL)
            .with_context(|| format!("cannot kill {}", self.name))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(keeper) = self.keeper.take() {
            // A keeper that panicked has been reported by its thread.
            let _ = keeper.join();
        }
    }
}
