//! What the tests of the daemon share: a machine in a temporary directory, the real binary, and
//! clients that the kernel takes for somebody else.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod tools;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use aios_proto::v1::{self, tools_client::ToolsClient};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tempfile::TempDir;
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};

pub type Client = ToolsClient<Channel>;

/// Uids of identities.toml.
pub const ROOT: u32 = 0;
pub const MEMORY: u32 = 902;
pub const ORCHESTRATOR: u32 = 903;
pub const CONSOLE: u32 = 905;
pub const NETWORK: u32 = 912;
pub const STORAGE: u32 = 916;
pub const NOBODY: u32 = 4711;

/// A machine: its three directories, and one to work in.
pub struct Machine {
    dir: TempDir,
}

impl Machine {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Callers with other uids must reach the socket.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let machine = Self { dir };
        for name in ["etc/security", "etc/agents", "run", "state", "work"] {
            fs::create_dir_all(machine.path(name)).unwrap();
        }
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../etc");
        fs::copy(
            own.join("identities.toml"),
            machine.path("etc/identities.toml"),
        )
        .unwrap();
        fs::copy(
            own.join("security/policy.toml"),
            machine.path("etc/security/policy.toml"),
        )
        .unwrap();
        machine.write(
            "etc/agents/storage.toml",
            "name = \"storage\"\ncapabilities = [\"fs:*\", \"test:*\"]\n",
        );
        machine.write(
            "etc/agents/network.toml",
            "name = \"network\"\ncapabilities = [\"net:*\", \"fs:read\"]\n",
        );
        machine
    }

    /// Gives the operator the tools that exist only in tests.
    pub fn with_test_tools(self) -> Self {
        let path = self.path("etc/security/policy.toml");
        let text = fs::read_to_string(&path).unwrap();
        let text = text.replace("    \"fs:*\",\n", "    \"fs:*\",\n    \"test:*\",\n");
        fs::write(path, text).unwrap();
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub fn paths(&self) -> aios_kit::Paths {
        aios_kit::Paths::below(self.dir.path())
    }

    /// A command that runs the real daemon on this machine.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aios-tools"));
        command
            .arg("--etc")
            .arg(self.path("etc"))
            .arg("--run")
            .arg(self.path("run"))
            .arg("--state")
            .arg(self.path("state"))
            .env("AIOS_LOG", "warn")
            .stdin(Stdio::null());
        command
    }

    pub fn spawn(&self) -> Daemon {
        Daemon(self.command().stderr(Stdio::null()).spawn().unwrap())
    }

    /// Starts the real daemon and waits until it answers.
    pub async fn start(&self) -> Daemon {
        let daemon = self.spawn();
        self.ready().await;
        daemon
    }

    /// Serves test tools beside the real ones from within this process.
    pub async fn serve(&self, registry: aios_tool_api::Registry) -> tokio::task::JoinHandle<()> {
        let paths = self.paths();
        let task = tokio::spawn(async move {
            aios_tools::serve(paths, registry, std::future::pending(), |_| {})
                .await
                .unwrap();
        });
        self.ready().await;
        task
    }

    pub async fn ready(&self) {
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(20) {
            if self.client(ROOT).tools_health(v1::Empty {}).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the daemon does not answer");
    }

    /// A client whose connections the kernel takes for those of `uid`.
    pub fn client(&self, uid: u32) -> Client {
        let socket = self.path("run/tools.sock");
        let channel = Endpoint::from_static("http://test")
            .timeout(Duration::from_secs(60))
            .connect_with_connector_lazy(tower::service_fn(move |_| {
                let socket = socket.clone();
                async move {
                    // The credentials of a socket are those of the thread that connects.
                    let connect = std::thread::spawn(move || {
                        if uid != 0 {
                            rustix::thread::set_thread_uid(rustix::fs::Uid::from_raw(uid))?;
                        }
                        let stream = std::os::unix::net::UnixStream::connect(socket)?;
                        stream.set_nonblocking(true)?;
                        Ok::<_, std::io::Error>(stream)
                    });
                    let stream = connect.join().unwrap()?;
                    Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::from_std(stream)?))
                }
            }));
        ToolsClient::new(channel)
    }

    /// Every record, as an administrator sees them.
    pub async fn ledger(&self) -> Vec<v1::LedgerRecord> {
        let mut all = Vec::new();
        loop {
            let after_seq = all.last().map_or(0, |record: &v1::LedgerRecord| record.seq);
            let request = v1::ListLedgerRequest {
                after_seq,
                limit: 1000,
                ..Default::default()
            };
            let page = self
                .client(ROOT)
                .list_ledger(request)
                .await
                .unwrap()
                .into_inner();
            if page.records.is_empty() {
                return all;
            }
            all.extend(page.records);
        }
    }

    pub async fn verify(&self) -> v1::VerifyLedgerReply {
        self.client(ROOT)
            .verify_ledger(v1::Empty {})
            .await
            .unwrap()
            .into_inner()
    }

    /// Checks a call as the orchestrator does for an operator, and grants it to an agent.
    pub async fn grant(&self, task: &str, agent: &str, tool: &str, args: &Value) -> v1::Grant {
        let check = v1::CheckCallRequest {
            tool: tool.to_owned(),
            args_json: args.to_string(),
            principal: "cert:ann".to_owned(),
            role: "operator".to_owned(),
            agent: agent.to_owned(),
            goal_id: "goal-1".to_owned(),
        };
        let mut orchestrator = self.client(ORCHESTRATOR);
        let checked = orchestrator.check_call(check).await.unwrap().into_inner();
        assert_eq!(checked.verdict, "ok", "{checked:?}");
        let grant = v1::Grant {
            task_id: task.to_owned(),
            goal_id: "goal-1".to_owned(),
            agent: agent.to_owned(),
            tool: tool.to_owned(),
            action_hash: checked.action_hash,
            principal: "cert:ann".to_owned(),
            role: "operator".to_owned(),
            expires_ms: aios_tools::ledger::now_ms() + 60_000,
            approval_id: String::new(),
        };
        orchestrator.open_grant(grant.clone()).await.unwrap();
        grant
    }
}

/// The real daemon; killed when the test ends.
pub struct Daemon(pub Child);

impl Daemon {
    /// SIGKILL, and wait until it is gone.
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn call(tool: &str, args: &Value, task: &str, key: &str) -> v1::ExecuteRequest {
    v1::ExecuteRequest {
        tool: tool.to_owned(),
        args_json: args.to_string(),
        task_id: task.to_owned(),
        idempotency_key: key.to_owned(),
        deadline_ms: 0,
        dry_run: false,
    }
}

/// A request that the console makes for a person.
pub fn on_behalf<T>(message: T, principal: &'static str, role: &'static str) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("aios-principal", principal.parse().unwrap());
    request
        .metadata_mut()
        .insert("aios-role", role.parse().unwrap());
    request
}

pub fn message(reply: &v1::ExecuteReply) -> String {
    reply
        .error
        .as_ref()
        .map(|error| format!("{} ({})", error.message, error.hint))
        .unwrap_or_default()
}
