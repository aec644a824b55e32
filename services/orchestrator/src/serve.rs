//! Puts the parts together and serves them until the daemon is asked to stop.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use aios_kit::{
    Category, Error, Identities, Paths, access::AccessLayer, config::SystemConfig, server,
};
use aios_proto::v1::{AgentState, CommitRequest, orchestrator_server::OrchestratorServer};
use tokio::sync::mpsc;
use tonic::transport::Server;

use crate::{
    access::ACCESS,
    agents::{Agents, HEARTBEAT},
    clients::Tools,
    context::Context,
    engine::Engine,
    planner::{Planner, Procedures, model::Model},
    procedure::Library,
    service::Service,
    slots::Slots,
    store::Store,
    watch::Hub,
};

/// How long calls that are running may take to end once the daemon is asked to stop.
const DRAIN: Duration = Duration::from_secs(2);

/// Serves `orchestrator.sock` until `stop` ends. The socket answers at once; goals of an earlier run
/// are taken over as soon as memory answers.
///
/// # Errors
/// When the identities are wrong or the socket cannot be used.
pub async fn serve(paths: &Paths, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let identities = Arc::new(Identities::load(&paths.identities_file())?);
    let loaded = SystemConfig::load_or_safe(&paths.config_file());
    let library = Arc::new(Library::load(&paths.etc.join("procedures")));
    for problem in &library.problems {
        tracing::warn!(problem, "a procedure was left out");
    }
    let store = Store::new(&paths.socket("memory"));
    let (changed, changes) = mpsc::unbounded_channel();
    let agents = Agents::new(&identities.agents(), changed);
    let planners: Vec<Arc<dyn Planner>> = vec![
        Arc::new(Procedures(library.clone())),
        Arc::new(Model::new(&paths.socket("runtime"))),
    ];
    let ctx = Arc::new(Context {
        paths: paths.clone(),
        slots: Slots::new(loaded.config.goals.max_running),
        settings_problem: loaded.problem.as_ref().map(ToString::to_string),
        config: loaded.config.clone(),
        store: store.clone(),
        tools: Tools::new(&paths.socket("tools")),
        agents: agents.clone(),
        hub: Hub::default(),
        library: library.clone(),
        planners,
        approvals: Mutex::new(BTreeMap::new()),
        catalogue: Mutex::new(None),
    });
    let engine = Engine::new(ctx.clone());
    let incoming = server::bind(&paths.socket("orchestrator"))?;
    tokio::spawn(keep_agent_states(store, changes));
    tokio::spawn(look_after(agents));
    tokio::spawn(begin(engine.clone()));
    let service = OrchestratorServer::new(Service::new(engine, identities.clone()))
        .max_decoding_message_size(server::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(64 << 20);
    let (stopping, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut serving = tokio::spawn(
        Server::builder()
            .layer(AccessLayer::new(ACCESS, identities))
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, async {
                // A closed channel means the same.
                drop(stopped.await);
            }),
    );
    server::notify_ready(&loaded.status(&format!("{} procedures", library.len())));
    tracing::info!(procedures = library.len(), "serving");
    tokio::select! {
        () = stop => {}
        result = &mut serving => {
            return Err(Error::new(Category::Internal, format!("serving ended: {result:?}")));
        }
    }
    drop(stopping);
    if tokio::time::timeout(DRAIN, &mut serving).await.is_err() {
        // Watches last as long as their goals, which go on after the restart.
        serving.abort();
    }
    Ok(())
}

/// Takes over what is stored, however long memory needs to answer.
async fn begin(engine: Arc<Engine>) {
    let mut pause = Duration::from_millis(200);
    loop {
        let result = async {
            engine.ctx.agents.restore(&engine.ctx.store.agents().await?);
            engine.resume().await
        };
        match result.await {
            Ok(count) => {
                tracing::info!(count, "goals taken over");
                break;
            }
            Err(error) => {
                tracing::error!(%error, "stored goals cannot be read yet");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(30));
            }
        }
    }
    // Read the catalogue once, so that broken procedures are in the health report before the first goal.
    if let Err(error) = engine.ctx.catalogue().await {
        tracing::warn!(%error, "the tool catalogue cannot be read yet");
    }
}

/// Commits each change of an agent's state.
async fn keep_agent_states(store: Store, mut changes: mpsc::UnboundedReceiver<AgentState>) {
    while let Some(state) = changes.recv().await {
        store.event(
            "agent",
            "",
            format!("agent {} is {}: {}", state.name, state.state, state.detail),
        );
        let commit = CommitRequest {
            agents: vec![state],
            ..CommitRequest::default()
        };
        if let Err(error) = store.commit(commit).await {
            tracing::warn!(%error, "an agent's state could not be stored");
        }
    }
}

/// Notices agents that are no longer heard of.
async fn look_after(agents: Agents) {
    let mut beat = tokio::time::interval(HEARTBEAT);
    // After a time in which the machine stood still, one look is enough.
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        agents.look();
    }
}
