//! An agent: registers under its own uid, keeps its heart beating, carries tasks out with the fake
//! tools, and can be made to vanish.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aios_proto::v1::{
    self,
    agent_server::{Agent, AgentServer},
    orchestrator_client::OrchestratorClient,
};
use tokio::task::JoinHandle;
use tonic::{
    Request, Response, Status,
    transport::{Channel, Server},
};

use super::{channel_as, tools::FakeTools};

#[derive(Clone)]
pub struct FakeAgent {
    name: String,
    tools: FakeTools,
    cancelled: Arc<Mutex<Vec<String>>>,
    pub seen: Arc<Mutex<Vec<v1::RunTaskRequest>>>,
    /// Breaks the connection after the task is done, once.
    pub vanish: Arc<AtomicBool>,
}

/// An agent that runs; dropping it makes it vanish.
pub struct Running {
    pub agent: FakeAgent,
    parts: Vec<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        for part in &self.parts {
            part.abort();
        }
    }
}

impl FakeAgent {
    pub fn start(
        name: &str,
        uid: u32,
        capabilities: &[&str],
        tools: &FakeTools,
        run: &Path,
    ) -> Running {
        let agent = Self {
            name: name.to_owned(),
            tools: tools.clone(),
            cancelled: Arc::default(),
            seen: Arc::default(),
            vanish: Arc::default(),
        };
        let incoming =
            aios_kit::server::bind(&run.join("agents").join(format!("{name}.sock"))).unwrap();
        let service = AgentServer::new(agent.clone());
        let server = tokio::spawn(async move {
            Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        let families = capabilities
            .iter()
            .map(|text| text.split(':').next().unwrap().to_owned())
            .collect();
        let register = v1::RegisterAgentRequest {
            capabilities: capabilities.iter().map(|&text| text.to_owned()).collect(),
            tool_families: families,
            max_tasks: 4,
            ..v1::RegisterAgentRequest::default()
        };
        let client = OrchestratorClient::new(channel_as(uid, &run.join("orchestrator.sock")));
        let heart = tokio::spawn(beat(client, register));
        Running {
            agent,
            parts: vec![server, heart],
        }
    }
}

async fn beat(mut client: OrchestratorClient<Channel>, register: v1::RegisterAgentRequest) {
    loop {
        if let Ok(reply) = client.register_agent(register.clone()).await {
            let session = reply.into_inner().session;
            let heartbeat = || v1::HeartbeatRequest {
                session: session.clone(),
                health: "ok".to_owned(),
                ..v1::HeartbeatRequest::default()
            };
            while client.heartbeat(heartbeat()).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Agent for FakeAgent {
    async fn run_task(&self, request: Request<v1::RunTaskRequest>) -> Answer<v1::RunTaskReply> {
        if self.tools.chaos.point() {
            return Err(Status::unavailable("struck"));
        }
        let request = request.into_inner();
        self.seen.lock().unwrap().push(request.clone());
        let this = self.clone();
        // An agent goes on with a task when the orchestrator is gone.
        let work = tokio::spawn(async move {
            let call = this.tools.execute(&this.name, &request).await;
            (request.task_id, call)
        });
        let (task_id, call) = work.await.unwrap();
        if self.vanish.swap(false, Ordering::SeqCst) || self.tools.chaos.point() {
            return Err(Status::unavailable("the agent has vanished"));
        }
        let cancelled = self.cancelled.lock().unwrap().contains(&task_id);
        let call = if cancelled && call.outcome != "ok" {
            v1::ExecuteReply {
                outcome: "failed".to_owned(),
                ..call
            }
        } else {
            call
        };
        Ok(Response::new(v1::RunTaskReply {
            task_id,
            call: Some(call),
        }))
    }

    async fn cancel_task(&self, request: Request<v1::CancelTaskRequest>) -> Answer<v1::Empty> {
        self.cancelled
            .lock()
            .unwrap()
            .push(request.into_inner().task_id);
        Ok(Response::new(v1::Empty {}))
    }

    async fn pause_agent(&self, _: Request<v1::Empty>) -> Answer<v1::Empty> {
        Err(Status::unimplemented("not asked for here"))
    }

    async fn resume_agent(&self, _: Request<v1::Empty>) -> Answer<v1::Empty> {
        Err(Status::unimplemented("not asked for here"))
    }

    async fn agent_health(&self, _: Request<v1::Empty>) -> Answer<v1::AgentHealthReply> {
        Err(Status::unimplemented("not asked for here"))
    }
}
