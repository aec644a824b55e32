//! The gRPC face of an agent, and the one thing it does: a task is one call of the tools daemon.

use std::time::{Duration, Instant};

use aios_kit::{Category, Error, retry};
use aios_proto::v1::{
    AgentHealthReply, CancelTaskRequest, Empty, ExecuteReply, ExecuteRequest, HealthReply,
    RunTaskReply, RunTaskRequest, agent_server::Agent as AgentRpc, tools_client::ToolsClient,
};
use tonic::{Request, Response, Status, transport::Channel};

use crate::{
    agent::Agent,
    lifecycle::{Event, State},
    tasks::Outcome,
};

/// Largest outcome of a tool that is taken, in bytes.
const MAX_OUTCOME_BYTES: usize = 16 << 20;
/// What a task gets beyond its deadline, so that the tools daemon's own word on it arrives.
const SLACK: Duration = Duration::from_secs(2);
/// The deadline of a task that names none.
const USUAL_DEADLINE_MS: u32 = 60_000;

/// The service of one agent.
#[derive(Debug, Clone)]
pub struct AgentService {
    agent: Agent,
    tools: Channel,
}

impl AgentService {
    /// Serves `agent`, whose tasks call the daemon behind `tools`.
    #[must_use]
    pub fn new(agent: Agent, tools: Channel) -> Self {
        Self { agent, tools }
    }

    fn check(&self, request: &RunTaskRequest) -> Result<(), Error> {
        let missing = [
            ("task_id", &request.task_id),
            ("tool", &request.tool),
            ("idempotency_key", &request.idempotency_key),
        ];
        if let Some((name, _)) = missing.iter().find(|(_, value)| value.is_empty()) {
            return Err(Error::new(
                Category::Validation,
                format!("a task without {name}"),
            ));
        }
        let state = self.agent.state();
        if state.takes_tasks() {
            return Ok(());
        }
        let category = match state {
            State::Paused => Category::Conflict,
            _ => Category::Network,
        };
        let message = format!(
            "agent {} is {state} and takes no new tasks",
            self.agent.name()
        );
        Err(Error::new(category, message).with_retryable(true))
    }

    fn move_on(&self, event: Event) -> Result<Response<Empty>, Status> {
        self.agent
            .happen(event)
            .map_err(|illegal| Error::new(Category::Conflict, illegal.to_string()))?;
        Ok(Response::new(Empty {}))
    }
}

/// Calls the tool, and again while the tools daemon is restarting: the key makes that one call.
async fn carry_out(tools: Channel, request: RunTaskRequest) -> Outcome {
    let deadline_ms = match request.deadline_ms {
        0 => USUAL_DEADLINE_MS,
        deadline_ms => deadline_ms,
    };
    let deadline = Instant::now() + Duration::from_millis(u64::from(deadline_ms));
    let client = ToolsClient::new(tools).max_decoding_message_size(MAX_OUTCOME_BYTES);
    let calls = retry::local(|| {
        let mut client = client.clone();
        let left = deadline.saturating_duration_since(Instant::now());
        let call = ExecuteRequest {
            tool: request.tool.clone(),
            args_json: request.args_json.clone(),
            task_id: request.task_id.clone(),
            idempotency_key: request.idempotency_key.clone(),
            deadline_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1),
            dry_run: false,
        };
        async move {
            client
                .execute(call)
                .await
                .map(Response::into_inner)
                .map_err(Error::from)
        }
    });
    let limit = deadline.saturating_duration_since(Instant::now()) + SLACK;
    tokio::time::timeout(limit, calls)
        .await
        .unwrap_or_else(|_| {
            Err(Error::new(
                Category::Timeout,
                format!("{} had no outcome within {deadline_ms} ms", request.tool),
            ))
        })
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl AgentRpc for AgentService {
    async fn run_task(&self, request: Request<RunTaskRequest>) -> Answer<RunTaskReply> {
        let request = request.into_inner();
        self.check(&request)?;
        let task_id = request.task_id.clone();
        tracing::info!(
            task = task_id,
            tool = request.tool,
            attempt = request.attempt,
            "task"
        );
        let tools = self.tools.clone();
        let call: ExecuteReply = self
            .agent
            .tasks()
            .run(request, |request| carry_out(tools, request))
            .await?;
        tracing::info!(
            task = task_id,
            call = call.call_id,
            outcome = call.outcome,
            "task ended"
        );
        Ok(Response::new(RunTaskReply {
            task_id,
            call: Some(call),
        }))
    }

    async fn cancel_task(&self, request: Request<CancelTaskRequest>) -> Answer<Empty> {
        let CancelTaskRequest { task_id, reason } = request.into_inner();
        tracing::info!(task = task_id, reason, "cancel");
        self.agent.tasks().cancel(&task_id, &reason).await;
        Ok(Response::new(Empty {}))
    }

    async fn pause_agent(&self, _request: Request<Empty>) -> Answer<Empty> {
        self.move_on(Event::Pause)
    }

    async fn resume_agent(&self, _request: Request<Empty>) -> Answer<Empty> {
        self.move_on(Event::Resume)
    }

    async fn agent_health(&self, _request: Request<Empty>) -> Answer<AgentHealthReply> {
        let (health, reason) = self.agent.health();
        Ok(Response::new(AgentHealthReply {
            health: Some(HealthReply {
                state: health.to_owned(),
                reason,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                uptime_ms: u64::try_from(self.agent.uptime().as_millis()).unwrap_or(u64::MAX),
                resident_bytes: self.agent.resident_bytes(),
            }),
            name: self.agent.name().to_owned(),
            state: self.agent.state().name().to_owned(),
            running_task_ids: self.agent.tasks().ids(),
        }))
    }
}
