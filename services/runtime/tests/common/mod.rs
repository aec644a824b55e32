//! A real daemon in a temporary directory, and clients of it under any uid.

#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "every test file uses another part of it, and none of it is an interface"
)]

use std::{
    fs,
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixDatagram, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use aios_proto::v1::{
    Empty, GenerateReply, GenerateRequest, RuntimeHealthReply, runtime_client::RuntimeClient,
};
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};

pub const ROOT: u32 = 0;
pub const ORCHESTRATOR: u32 = 903;
pub const MEMORY: u32 = 902;
pub const CONSOLE: u32 = 905;
pub const AGENT: u32 = 914;
pub const NOBODY: u32 = 65534;

const IDENTITIES: &str = "[daemons]\nruntime = 901\nmemory = 902\norchestrator = 903\n\
                          gateway = 904\nconsole = 905\n[agents]\ntask = 914\n";

/// A grammar that takes hundreds of tokens and lets the model choose none of them to end.
pub const LONG: &str = "root ::= [a-z]{1900}";

/// The directories of a daemon that is not started yet.
pub struct Home {
    root: tempfile::TempDir,
}

impl Home {
    /// With the stand-in as the image's model.
    pub fn new() -> Self {
        let home = Self::empty();
        aios_gguf::untrained::write(&home.image()).unwrap();
        home
    }

    /// Without any model.
    pub fn empty() -> Self {
        let root = tempfile::Builder::new()
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .unwrap();
        let home = Self { root };
        for dir in [home.etc(), home.models(), home.image()] {
            fs::create_dir_all(dir).unwrap();
        }
        fs::write(home.etc().join("identities.toml"), IDENTITIES).unwrap();
        home
    }

    fn path(&self, part: &str) -> PathBuf {
        self.root.path().join(part)
    }

    pub fn etc(&self) -> PathBuf {
        self.path("etc")
    }

    pub fn image(&self) -> PathBuf {
        self.path("image")
    }

    pub fn models(&self) -> PathBuf {
        self.path("state/models")
    }

    pub fn config(self, text: &str) -> Self {
        fs::write(self.etc().join("config.toml"), text).unwrap();
        self
    }

    pub fn start(self) -> Daemon {
        let _from_before = fs::remove_file(self.path("notify"));
        let notify = UnixDatagram::bind(self.path("notify")).unwrap();
        notify
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_aios-runtime"))
            .args(["--etc".as_ref(), self.etc().as_os_str()])
            .args(["--run".as_ref(), self.path("run").as_os_str()])
            .args(["--state".as_ref(), self.path("state").as_os_str()])
            .args(["--image-models".as_ref(), self.image().as_os_str()])
            .env("NOTIFY_SOCKET", self.path("notify"))
            .stderr(if std::env::var_os("AIOS_LOG").is_some() {
                Stdio::inherit()
            } else {
                Stdio::null()
            })
            .spawn()
            .unwrap();
        let mut daemon = Daemon {
            child,
            home: self,
            status: String::new(),
        };
        daemon.status = daemon.wait_ready(&notify);
        daemon
    }
}

/// A running daemon that said that it is ready.
pub struct Daemon {
    child: Child,
    pub home: Home,
    /// What it said with it.
    pub status: String,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Daemon {
    fn wait_ready(&self, notify: &UnixDatagram) -> String {
        let mut buffer = [0; 4096];
        loop {
            let length = notify.recv(&mut buffer).expect("the daemon is not ready");
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.lines().any(|line| line == "READY=1") {
                let status = text.lines().find_map(|line| line.strip_prefix("STATUS="));
                return status.unwrap().to_owned();
            }
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.home.path("run/runtime.sock")
    }

    /// A client whose connections the kernel reports with this uid.
    pub fn client(&self, uid: u32) -> RuntimeClient<Channel> {
        let socket = self.socket();
        let channel = Endpoint::from_static("http://aios.local").connect_with_connector_lazy(
            tower::service_fn(move |_| {
                let socket = socket.clone();
                async move {
                    let stream = connect_as(&socket, uid)?;
                    stream.set_nonblocking(true)?;
                    Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::from_std(stream)?))
                }
            }),
        );
        RuntimeClient::new(channel)
    }

    pub async fn health(&self) -> RuntimeHealthReply {
        self.client(ROOT)
            .runtime_health(Empty {})
            .await
            .unwrap()
            .into_inner()
    }

    pub async fn generate(&self, request: GenerateRequest) -> GenerateReply {
        self.client(ORCHESTRATOR)
            .generate(request)
            .await
            .unwrap()
            .into_inner()
    }

    /// The processes that the daemon started.
    pub fn workers(&self) -> Vec<i32> {
        let task = format!("/proc/{0}/task", self.child.id());
        let mut workers = Vec::new();
        for thread in fs::read_dir(task).unwrap().flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            workers.extend(
                children
                    .split_whitespace()
                    .map(|pid| pid.parse::<i32>().unwrap()),
            );
        }
        workers
    }

    /// The only worker, as soon as there is one that is not `other`.
    pub fn worker_but(&self, other: i32) -> i32 {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            if let [pid] = self.workers()[..]
                && pid != other
            {
                return pid;
            }
            assert!(Instant::now() < end, "no new worker: {:?}", self.workers());
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn signal(&self, signal: i32) {
        kill(i32::try_from(self.child.id()).unwrap(), signal);
    }

    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            thread::sleep(Duration::from_millis(10));
        }
        None
    }
}

pub fn kill(pid: i32, signal: i32) {
    // SAFETY: plain system call.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "kill {pid}");
}

/// Connects on a thread that has become that user: the kernel notes the thread's uid.
fn connect_as(socket: &Path, uid: u32) -> std::io::Result<UnixStream> {
    let socket = socket.to_owned();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        if uid != ROOT {
            // SAFETY: plain system call; unlike the library's function it changes this thread only.
            let status = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
            assert_eq!(status, 0, "these tests run as root");
        }
        sender.send(UnixStream::connect(socket)).unwrap();
    });
    receiver.recv().unwrap()
}

pub fn prompt(text: &str) -> GenerateRequest {
    GenerateRequest {
        prompt: text.to_owned(),
        max_tokens: 24,
        seed: 11,
        temperature: 0.9,
        ..GenerateRequest::default()
    }
}

/// A generation that runs until somebody ends it, for about as long as the context lasts.
pub fn long() -> GenerateRequest {
    GenerateRequest {
        max_tokens: 2000,
        grammar: LONG.to_owned(),
        ..prompt("go on")
    }
}
