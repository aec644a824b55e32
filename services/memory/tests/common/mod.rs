//! The real daemon on its own folders, and clients with other uids.

use std::{
    fs,
    io::Read as _,
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt as _, net::UnixListener},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use aios_kit::client;
use aios_proto::v1::memory_client::MemoryClient;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rustix::thread::set_thread_res_uid;
use tonic::transport::Channel;

pub const ORCHESTRATOR: u32 = 903;
pub const CONSOLE: u32 = 905;
pub const AGENT: u32 = 912;
pub const STRANGER: u32 = 4711;

const IDENTITIES: &str = "[daemons]\nmemory = 902\norchestrator = 903\nconsole = 905\n\
    [agents]\nnetwork = 912\n";
const LIMIT: Duration = Duration::from_secs(10);

pub struct Daemon {
    pub root: tempfile::TempDir,
    pub child: Option<Child>,
}

impl Daemon {
    /// Folders for a daemon that does not run yet.
    pub fn prepare() -> Self {
        // The sockets must be reachable by other uids.
        let root = tempfile::Builder::new()
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/identities.toml"), IDENTITIES).unwrap();
        Self { root, child: None }
    }

    pub fn started() -> Self {
        let mut daemon = Self::prepare();
        daemon.start();
        daemon
    }

    pub fn start(&mut self) {
        self.child = Some(self.command().spawn().unwrap());
        let socket = self.socket();
        let began = Instant::now();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(began.elapsed() < LIMIT, "the daemon does not answer");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts as PID 1 does: the listening socket is descriptor 3.
    pub fn start_on(&mut self, listener: &UnixListener) {
        let plain = self.command();
        let mut command = Command::new("sh");
        command
            .args([
                "-c",
                "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\" 3<&0 </dev/null",
                "sh",
            ])
            .arg(plain.get_program())
            .args(plain.get_args())
            .stdin(OwnedFd::from(listener.try_clone().unwrap()))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap());
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aios-memory"));
        for name in ["etc", "run", "state"] {
            command
                .arg(format!("--{name}"))
                .arg(self.root.path().join(name));
        }
        command
            .env("NOTIFY_SOCKET", self.root.path().join("notify"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Starts a daemon that is expected to give up; its exit status and what it said.
    pub fn failing(&self) -> (ExitStatus, String) {
        let mut child = self.command().stderr(Stdio::piped()).spawn().unwrap();
        let status = wait(&mut child);
        let mut said = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        (status, said)
    }

    pub fn signal(&mut self, signal: Signal) -> ExitStatus {
        let child = self.child.as_mut().unwrap();
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        let status = wait(child);
        self.child = None;
        status
    }

    pub fn socket(&self) -> PathBuf {
        self.root.path().join("run/memory.sock")
    }

    pub fn database(&self) -> PathBuf {
        self.root.path().join("state/memory/working.db")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn wait(child: &mut Child) -> ExitStatus {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if began.elapsed() > LIMIT {
            child.kill().unwrap();
            panic!("the daemon did not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs `calls` on a thread that has another uid, on a connection that it makes itself.
pub fn as_uid<T: Send>(
    socket: &Path,
    uid: u32,
    calls: impl AsyncFnOnce(MemoryClient<Channel>) -> T + Send,
) -> T {
    std::thread::scope(|scope| {
        scope
            .spawn(move || {
                let uid = rustix::fs::Uid::from_raw(uid);
                set_thread_res_uid(uid, uid, uid).unwrap();
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap()
                    .block_on(async { calls(MemoryClient::new(client::channel(socket))).await })
            })
            .join()
            .unwrap()
    })
}
