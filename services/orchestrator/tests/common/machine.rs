//! A machine in a temporary directory: the real orchestrator between fakes.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use aios_kit::identity::{ON_BEHALF_PRINCIPAL, ON_BEHALF_ROLE};
use aios_proto::v1::{
    self, memory_server::MemoryServer, orchestrator_client::OrchestratorClient,
    tools_server::ToolsServer,
};
use tokio::task::JoinHandle;
use tonic::{
    Request, Status,
    transport::{Channel, Server},
};

use super::{
    Chaos,
    agent::{FakeAgent, Running},
    channel_as,
    memory::FakeMemory,
    tools::FakeTools,
};

pub const CONSOLE: u32 = 905;
pub const TASK: u32 = 914;
pub const PACKAGE: u32 = 915;
/// Longest that a test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Machine {
    root: tempfile::TempDir,
    pub chaos: Arc<Chaos>,
    pub memory: FakeMemory,
    pub tools: FakeTools,
    pub agents: Vec<Running>,
    pub client: OrchestratorClient<Channel>,
    child: Option<Child>,
    servers: Vec<JoinHandle<()>>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
        for server in &self.servers {
            server.abort();
        }
    }
}

impl Machine {
    /// With this `config.toml`, the project's procedures, and two agents that may do everything.
    pub async fn start(config: &str) -> Self {
        let mut machine = Self::without_agents(config).await;
        machine.add_agent("task", TASK);
        machine.add_agent("package", PACKAGE);
        machine.agents_running(2).await;
        machine
    }

    pub async fn without_agents(config: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let etc = root.path().join("etc");
        fs::create_dir_all(etc.join("procedures")).unwrap();
        fs::write(etc.join("config.toml"), config).unwrap();
        fs::write(
            etc.join("identities.toml"),
            format!(
                "[daemons]\nconsole = {CONSOLE}\n[agents]\ntask = {TASK}\npackage = {PACKAGE}\n"
            ),
        )
        .unwrap();
        let procedures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../etc/procedures");
        for entry in fs::read_dir(procedures).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), etc.join("procedures").join(entry.file_name())).unwrap();
        }
        let run = root.path().join("run");
        let chaos = Arc::new(Chaos::default());
        let memory = FakeMemory {
            chaos: chaos.clone(),
            ..FakeMemory::default()
        };
        let tools = FakeTools::new(chaos.clone());
        let mut servers = Vec::new();
        let incoming = aios_kit::server::bind(&run.join("memory.sock")).unwrap();
        let service = MemoryServer::new(memory.clone());
        servers.push(tokio::spawn(async move {
            Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        }));
        let incoming = aios_kit::server::bind(&run.join("tools.sock")).unwrap();
        let service = ToolsServer::new(tools.clone());
        servers.push(tokio::spawn(async move {
            Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        }));
        let client = OrchestratorClient::new(channel_as(CONSOLE, &run.join("orchestrator.sock")));
        let mut machine = Self {
            root,
            chaos,
            memory,
            tools,
            agents: Vec::new(),
            client,
            child: None,
            servers,
        };
        machine.boot().await;
        machine
    }

    pub fn run(&self) -> PathBuf {
        self.root.path().join("run")
    }

    pub fn etc(&self) -> PathBuf {
        self.root.path().join("etc")
    }

    pub fn add_agent(&mut self, name: &str, uid: u32) {
        self.agents.push(FakeAgent::start(
            name,
            uid,
            &["*:*"],
            &self.tools,
            &self.run(),
        ));
    }

    /// Starts the orchestrator and waits until it answers.
    pub async fn boot(&mut self) {
        self.spawn();
        self.wait_for("the orchestrator", async |machine| {
            machine
                .client
                .clone()
                .orchestrator_health(v1::Empty {})
                .await
                .ok()
                .map(drop)
        })
        .await;
    }

    pub fn spawn(&mut self) {
        let child = Command::new(env!("CARGO_BIN_EXE_aios-orchestrator"))
            .args(["--etc".as_ref(), self.etc().as_os_str()])
            .args(["--run".as_ref(), self.run().as_os_str()])
            .args([
                "--state".as_ref(),
                self.root.path().join("state").as_os_str(),
            ])
            .env(
                "AIOS_LOG",
                std::env::var("AIOS_LOG").unwrap_or_else(|_| "off".to_owned()),
            )
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        self.chaos.watch(child.id());
        self.child = Some(child);
    }

    /// Kills the orchestrator and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            child.wait().unwrap();
        }
    }

    /// Whether the orchestrator has died.
    pub fn has_died(&mut self) -> bool {
        self.child
            .as_mut()
            .is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    /// Waits for something to be there.
    pub async fn wait_for<T>(
        &mut self,
        what: &str,
        mut look: impl AsyncFnMut(&mut Self) -> Option<T>,
    ) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = look(self).await {
                return found;
            }
            assert!(begun.elapsed() < PATIENCE, "{what} did not come");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn agents_running(&mut self, count: u32) {
        self.wait_for("the agents", async |machine| {
            let health = machine
                .client
                .clone()
                .orchestrator_health(v1::Empty {})
                .await
                .ok()?
                .into_inner();
            (health.agents_running == count).then_some(())
        })
        .await;
    }

    pub async fn submit(&mut self, text: &str) -> Result<v1::GoalRecord, Status> {
        self.submit_with(v1::SubmitGoalRequest {
            text: text.to_owned(),
            ..v1::SubmitGoalRequest::default()
        })
        .await
    }

    pub async fn submit_with(
        &mut self,
        request: v1::SubmitGoalRequest,
    ) -> Result<v1::GoalRecord, Status> {
        Ok(self
            .client
            .submit_goal(as_operator(request))
            .await?
            .into_inner())
    }

    pub async fn view(&mut self, id: &str) -> v1::GoalView {
        let request = v1::GetGoalRequest { id: id.to_owned() };
        self.client
            .get_goal(as_operator(request))
            .await
            .unwrap()
            .into_inner()
    }

    /// The stored status of a goal.
    pub fn status(&self, id: &str) -> String {
        self.memory
            .state
            .lock()
            .unwrap()
            .goals
            .get(id)
            .map(|goal| goal.status.clone())
            .unwrap_or_default()
    }

    pub async fn reaches(&mut self, id: &str, status: &str) -> v1::GoalRecord {
        let begun = Instant::now();
        loop {
            let goal = self.memory.state.lock().unwrap().goals.get(id).cloned();
            if let Some(goal) = goal {
                if goal.status == status {
                    return goal;
                }
                let ended = ["completed", "failed", "refused", "cancelled", "expired"]
                    .contains(&goal.status.as_str());
                assert!(!ended, "ended as {}: {}", goal.status, goal.reason);
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "goal is {}, not {status}",
                self.status(id)
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Submits a goal and waits for its end.
    pub async fn ask(&mut self, text: &str, status: &str) -> v1::GoalRecord {
        let goal = self.submit(text).await.unwrap();
        self.reaches(&goal.id, status).await
    }

    /// No call was carried out twice.
    pub fn assert_nothing_twice(&self) {
        let state = self.tools.state.lock().unwrap();
        assert!(
            state.executed.values().all(|count| *count == 1),
            "{:?}",
            state.executed
        );
        assert_eq!(state.running, 0);
    }

    pub fn executed(&self) -> Vec<String> {
        self.tools
            .state
            .lock()
            .unwrap()
            .order
            .iter()
            .map(|(tool, _)| tool.clone())
            .collect()
    }
}

pub fn on_behalf<T>(message: T, principal: &str, role: &str) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert(ON_BEHALF_PRINCIPAL, principal.parse().unwrap());
    request
        .metadata_mut()
        .insert(ON_BEHALF_ROLE, role.parse().unwrap());
    request
}

pub fn as_operator<T>(message: T) -> Request<T> {
    on_behalf(message, "cert:ana", "operator")
}
