//! The agent's word to the orchestrator: a registration, then a heartbeat as often as it was told,
//! and both again after the orchestrator has restarted.
//!
//! Invariants: every call has a limit; an orchestrator that does not answer is asked again for as
//! long as the agent lives; only an orchestrator that says that this agent is wrong in itself ends it.

use std::{future::Future, time::Duration};

use aios_kit::{Category, Error, retry::local_backoff, server};
use aios_proto::v1::{
    HeartbeatRequest, RegisterAgentReply, RegisterAgentRequest,
    orchestrator_client::OrchestratorClient,
};
use tonic::{Response, Status, transport::Channel};

use crate::{agent::Agent, error::AgentError, lifecycle::Event};

/// Longest that the orchestrator may take to answer.
const CALL: Duration = Duration::from_secs(5);
/// Heartbeats come neither faster nor slower than this, whatever was asked for.
const HEARTBEAT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(60));
/// The wait between rounds of registration.
const PAUSE: Duration = Duration::from_secs(1);

/// Keeps `agent` registered until it ends or the orchestrator refuses it for good.
///
/// # Errors
/// [`AgentError::Refused`].
pub async fn keep(agent: &Agent, orchestrator: Channel) -> AgentError {
    let client = OrchestratorClient::new(orchestrator);
    let mut first = true;
    loop {
        let reply = match register(agent, &client).await {
            Ok(reply) => reply,
            Err(error) => return AgentError::Refused(error),
        };
        if let Err(illegal) = agent.happen(Event::Registered) {
            tracing::debug!(%illegal, "registered while ending");
        }
        agent.set_contact(None);
        tracing::info!(session = reply.session, "registered with the orchestrator");
        if std::mem::take(&mut first) {
            server::notify_ready("registered with the orchestrator");
        }
        let lost = beat(agent, &client, &reply).await;
        tracing::warn!(error = %lost, "the orchestrator does not know this agent any more");
        agent.set_contact(Some(lost.to_string()));
    }
}

/// Registers, however long it takes.
async fn register(
    agent: &Agent,
    client: &OrchestratorClient<Channel>,
) -> Result<RegisterAgentReply, Error> {
    let mut delays = delays();
    loop {
        let config = agent.config();
        let request = RegisterAgentRequest {
            capabilities: config
                .capabilities
                .iter()
                .map(ToString::to_string)
                .collect(),
            tool_families: config.families.clone(),
            max_tasks: config.max_tasks,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            running_task_ids: agent.tasks().ids(),
        };
        match bounded(client.clone().register_agent(request)).await {
            Ok(reply) => return Ok(reply),
            Err(error) if matches!(error.category(), Category::Validation | Category::Auth) => {
                return Err(error);
            }
            Err(error) => {
                tracing::debug!(%error, "the orchestrator does not take the registration yet");
                agent.set_contact(Some(error.to_string()));
            }
        }
        tokio::time::sleep(delays.next().unwrap_or(PAUSE)).await;
    }
}

fn delays() -> impl Iterator<Item = Duration> {
    use backon::BackoffBuilder as _;
    local_backoff().build()
}

/// Sends heartbeats until one fails.
async fn beat(
    agent: &Agent,
    client: &OrchestratorClient<Channel>,
    session: &RegisterAgentReply,
) -> Error {
    let period = Duration::from_millis(u64::from(session.heartbeat_ms));
    let period = period.clamp(HEARTBEAT.0, HEARTBEAT.1);
    loop {
        tokio::time::sleep(period).await;
        let (health, detail) = agent.health();
        let (tasks_done, tasks_failed) = agent.tasks().totals();
        let request = HeartbeatRequest {
            session: session.session.clone(),
            health: health.to_owned(),
            detail,
            running_task_ids: agent.tasks().ids(),
            tasks_done,
            tasks_failed,
        };
        if let Err(error) = bounded(client.clone().heartbeat(request)).await {
            return error;
        }
    }
}

async fn bounded<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Error> {
    match tokio::time::timeout(CALL, call).await {
        Ok(result) => result.map(Response::into_inner).map_err(Error::from),
        Err(_) => Err(Error::new(
            Category::Timeout,
            format!(
                "the orchestrator did not answer within {} s",
                CALL.as_secs()
            ),
        )),
    }
}
