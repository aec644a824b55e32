//! One agent, put together and run until it is asked to stop.

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use aios_kit::{
    Identities, Paths, Principal, access::AccessLayer, client, process::ResidentMemory, server,
};
use aios_proto::v1::agent_server::AgentServer;
use tonic::transport::Server;

use crate::{
    access::ACCESS,
    config::AgentConfig,
    error::AgentError,
    lifecycle::{Event, Illegal, State},
    service::AgentService,
    session,
    tasks::Tasks,
};

/// How long tasks may take to end by themselves once the agent is asked to stop.
const DRAIN: Duration = Duration::from_secs(5);
/// How long the last answers may take to leave.
const FAREWELL: Duration = Duration::from_secs(1);

/// What an agent knows of itself. Clones share it.
#[derive(Debug, Clone)]
pub struct Agent(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: AgentConfig,
    identities: Arc<Identities>,
    state: Mutex<State>,
    /// Why the orchestrator cannot be reached, while it cannot.
    contact: Mutex<Option<String>>,
    tasks: Arc<Tasks>,
    started: Instant,
    resident: Option<ResidentMemory>,
}

impl Agent {
    /// Reads what the agent `name` needs to know. Nothing is read after this.
    ///
    /// # Errors
    /// When the configuration is not right, or the process is not this agent's.
    pub fn prepare(paths: &Paths, name: &str) -> Result<Self, AgentError> {
        let config = AgentConfig::load(&paths.etc, name)?;
        let identities = Identities::load(&paths.identities_file())?;
        let itself = identities.principal(nix::unistd::geteuid().as_raw());
        if itself != Principal::Agent(name.to_owned()) {
            return Err(AgentError::Identity {
                found: itself.to_string(),
                wanted: name.to_owned(),
            });
        }
        Ok(Self(Arc::new(Inner {
            tasks: Arc::new(Tasks::new(config.max_tasks)),
            config,
            identities: Arc::new(identities),
            state: Mutex::new(State::Starting),
            contact: Mutex::new(Some("not registered yet".to_owned())),
            started: Instant::now(),
            resident: ResidentMemory::open().ok(),
        })))
    }

    /// Its short name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.config.name
    }

    /// Its file.
    #[must_use]
    pub fn config(&self) -> &AgentConfig {
        &self.0.config
    }

    /// Its tasks.
    #[must_use]
    pub fn tasks(&self) -> &Arc<Tasks> {
        &self.0.tasks
    }

    /// Where it is in its life.
    #[must_use]
    pub fn state(&self) -> State {
        *self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves on as the table of [`crate::lifecycle`] says.
    ///
    /// # Errors
    /// [`Illegal`] when the table has no such transition; the state stays as it is.
    pub fn happen(&self, event: Event) -> Result<State, Illegal> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let next = state.after(event)?;
        if next != *state {
            tracing::info!(from = %*state, to = %next, ?event, "state");
            *state = next;
        }
        Ok(next)
    }

    /// `ok`, or `degraded` and why.
    #[must_use]
    pub fn health(&self) -> (&'static str, String) {
        let contact = self
            .0
            .contact
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match (contact, self.state()) {
            (Some(trouble), _) => (
                "degraded",
                format!("no contact with orchestrator: {trouble}"),
            ),
            (None, State::Running) => ("ok", String::new()),
            (None, state) => ("degraded", format!("the agent is {state}")),
        }
    }

    /// Notes why the orchestrator cannot be reached, or that it can.
    pub fn set_contact(&self, trouble: Option<String>) {
        *self
            .0
            .contact
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Since when it runs.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.0.started.elapsed()
    }

    /// Its memory in bytes; 0 when the kernel does not say.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        self.0.resident.as_ref().map_or(0, ResidentMemory::bytes)
    }
}

/// Serves the agent's socket and keeps it registered until `stop` ends; then lets its tasks end.
///
/// # Errors
/// When the socket cannot be used, or the orchestrator refuses the agent for good.
pub async fn run(
    agent: Agent,
    paths: &Paths,
    stop: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    let mut stop = pin!(stop);
    // Asked once before anything is open: from here on it listens, and a signal is not missed.
    if futures::poll!(stop.as_mut()).is_ready() {
        return Ok(());
    }
    let incoming = server::bind(&paths.agent_socket(agent.name()))?;
    let service = AgentService::new(agent.clone(), client::channel(&paths.socket("tools")));
    let (stopping, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut serving = tokio::spawn(
        Server::builder()
            .layer(AccessLayer::new(ACCESS, agent.0.identities.clone()))
            .add_service(AgentServer::new(service))
            .serve_with_incoming_shutdown(incoming, async {
                // A closed channel means the same.
                drop(stopped.await);
            }),
    );
    let mut session = tokio::spawn({
        let agent = agent.clone();
        let orchestrator = client::channel(&paths.socket("orchestrator"));
        async move { session::keep(&agent, orchestrator).await }
    });
    let failure = tokio::select! {
        () = &mut stop => None,
        ended = &mut session => Some(
            ended.unwrap_or_else(|error| AgentError::Serving(error.to_string())),
        ),
        ended = &mut serving => Some(AgentError::Serving(format!("{ended:?}"))),
    };
    if let Some(failure) = failure {
        note(agent.happen(Event::Fail));
        agent.tasks().cancel_all("the agent has failed").await;
        return Err(failure);
    }
    note(agent.happen(Event::Stop));
    server::notify_status("ending its tasks");
    if tokio::time::timeout(DRAIN, agent.tasks().drained())
        .await
        .is_err()
    {
        agent.tasks().cancel_all("the agent is stopping").await;
    }
    drop(stopping);
    if tokio::time::timeout(FAREWELL, serving).await.is_err() {
        tracing::info!("a connection was still open");
    }
    session.abort();
    note(agent.happen(Event::Drained));
    Ok(())
}

fn note(result: Result<State, Illegal>) {
    if let Err(illegal) = result {
        tracing::error!(%illegal, "the life-cycle was not followed");
    }
}
