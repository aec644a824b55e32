//! The real agent between an orchestrator and a tools daemon that only note what they are asked.

mod fake;

use std::{
    fs,
    io::Read as _,
    os::unix::{fs::PermissionsExt as _, net::UnixDatagram},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use aios_kit::{Paths, client};
use aios_proto::v1::{RunTaskRequest, agent_client::AgentClient};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rustix::thread::set_thread_res_uid;
use tokio::runtime::Runtime;
use tonic::transport::Channel;

pub use fake::Log;

pub const ORCHESTRATOR: u32 = 903;
const LIMIT: Duration = Duration::from_secs(10);

pub struct World {
    pub root: tempfile::TempDir,
    pub log: Arc<Log>,
    pub orchestrator: Option<Runtime>,
    pub tools: Option<Runtime>,
    agent: Option<Child>,
    notify: UnixDatagram,
}

impl World {
    /// Nothing runs yet. The agent `network` has the uid of this test, the orchestrator another.
    pub fn empty() -> Self {
        // The sockets must be reachable by other uids.
        let root = tempfile::Builder::new()
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .unwrap();
        fs::create_dir_all(root.path().join("etc/agents")).unwrap();
        fs::create_dir_all(root.path().join("run/agents")).unwrap();
        let uid = nix::unistd::geteuid();
        fs::write(
            root.path().join("etc/identities.toml"),
            format!("[daemons]\norchestrator = 903\n[agents]\nnetwork = {uid}\ndev = 918\n"),
        )
        .unwrap();
        fs::write(
            root.path().join("etc/agents/network.toml"),
            "name = \"network\"\ndescription = \"d\"\nfamilies = [\"net\"]\n\
             capabilities = [\"net:check_port\"]\nmax_tasks = 2\n",
        )
        .unwrap();
        let notify = UnixDatagram::bind(root.path().join("notify")).unwrap();
        Self {
            root,
            log: Arc::default(),
            orchestrator: None,
            tools: None,
            agent: None,
            notify,
        }
    }

    /// Everything runs and the agent is registered.
    pub fn running() -> Self {
        let mut world = Self::empty();
        world.start_orchestrator();
        world.start_tools();
        world.start_agent();
        world.wait_ready();
        world
    }

    fn paths(&self) -> Paths {
        Paths::below(self.root.path())
    }

    pub fn start_orchestrator(&mut self) {
        let runtime = fake::orchestrator(&self.paths().socket("orchestrator"), &self.log);
        self.orchestrator = Some(runtime);
    }

    pub fn start_tools(&mut self) {
        self.tools = Some(fake::tools(&self.paths().socket("tools"), &self.log));
    }

    pub fn start_agent(&mut self) {
        self.agent = Some(self.command("network").spawn().unwrap());
        let socket = self.socket();
        until("the agent answers", || {
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        });
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aios-agent"));
        command.arg(name);
        for name in ["etc", "run", "state"] {
            command
                .arg(format!("--{name}"))
                .arg(self.root.path().join(name));
        }
        command
            .env("NOTIFY_SOCKET", self.root.path().join("notify"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Starts an agent that is expected to give up; its exit status and what it said.
    pub fn failing(&self, name: &str) -> (ExitStatus, String) {
        let mut child = self.command(name).stderr(Stdio::piped()).spawn().unwrap();
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

    pub fn signal(&mut self, signal: Signal) {
        let pid = self.agent.as_ref().unwrap().id().try_into().unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    pub fn ended(&mut self) -> ExitStatus {
        let status = wait(self.agent.as_mut().unwrap());
        self.agent = None;
        status
    }

    pub fn socket(&self) -> PathBuf {
        self.paths().agent_socket("network")
    }

    /// Whether the agent has said within `limit` that it is ready.
    pub fn ready_within(&self, limit: Duration) -> bool {
        let mut buffer = [0; 512];
        self.notify.set_read_timeout(Some(limit)).unwrap();
        self.notify
            .recv(&mut buffer)
            .is_ok_and(|length| String::from_utf8_lossy(&buffer[..length]).contains("READY=1"))
    }

    pub fn wait_ready(&self) {
        assert!(self.ready_within(LIMIT), "the agent was not ready in time");
    }

    /// [`as_uid`] on this world's agent.
    pub fn as_uid<T: Send>(
        &self,
        uid: u32,
        calls: impl AsyncFnOnce(AgentClient<Channel>) -> T + Send,
    ) -> T {
        as_uid(&self.socket(), uid, calls)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut child) = self.agent.take() {
            drop(child.kill());
            drop(child.wait());
        }
        for runtime in [self.orchestrator.take(), self.tools.take()]
            .into_iter()
            .flatten()
        {
            runtime.shutdown_background();
        }
    }
}

/// Calls the agent at `socket` from a thread with another uid, on a connection of its own.
pub fn as_uid<T: Send>(
    socket: &Path,
    uid: u32,
    calls: impl AsyncFnOnce(AgentClient<Channel>) -> T + Send,
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
                    .block_on(async { calls(AgentClient::new(client::channel(socket))).await })
            })
            .join()
            .unwrap()
    })
}

/// Stops a fake as a killed process would stop: its connections break.
pub fn kill_fake(runtime: &mut Option<Runtime>) {
    runtime
        .take()
        .unwrap()
        .shutdown_timeout(Duration::from_secs(1));
}

fn wait(child: &mut Child) -> ExitStatus {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if began.elapsed() > LIMIT {
            child.kill().unwrap();
            panic!("the agent did not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn until(what: &str, mut happens: impl FnMut() -> bool) {
    let began = Instant::now();
    while !happens() {
        assert!(began.elapsed() < LIMIT, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn task(id: &str, tool: &str) -> RunTaskRequest {
    RunTaskRequest {
        task_id: id.into(),
        goal_id: "g".into(),
        tool: tool.into(),
        args_json: "{\"port\":80}".into(),
        attempt: 1,
        idempotency_key: format!("key of {id}"),
        deadline_ms: 20_000,
    }
}
