//! The gRPC service. Every method first says who may call it; nothing is decided here.

use std::{
    pin::Pin,
    sync::{Arc, PoisonError},
    time::Instant,
};

use aios_kit::{Category, Error as KitError, Identities, Principal};
use aios_proto::v1::{
    Approval, CancelGoalRequest, DecideApprovalRequest, Empty, GetGoalRequest, GoalRecord,
    GoalTrace, GoalUpdate, GoalView, HealthReply, HeartbeatRequest, ListAgentsReply,
    ListApprovalsReply, ListApprovalsRequest, ListGoalRecordsRequest, ListGoalsReply,
    ListGoalsRequest, ListProceduresReply, OrchestratorHealthReply, PlanGoalReply, PlanGoalRequest,
    RegisterAgentReply, RegisterAgentRequest, SubmitGoalRequest, orchestrator_server::Orchestrator,
};
use futures::Stream;
use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::{
    access,
    agents::HEARTBEAT,
    approval,
    clients::Person,
    engine::{Engine, checked_text},
    plan::Plan,
    runner::{Command, Prepared, prepare},
    state::GoalStatus,
};

/// Goals and approvals that one list returns at most.
const MAX_LIST: u32 = 1_000;

/// The service.
#[derive(Debug, Clone)]
pub struct Service {
    engine: Arc<Engine>,
    identities: Arc<Identities>,
    started: Instant,
}

type Answer<T> = Result<Response<T>, Status>;

impl Service {
    /// Serves these goals.
    #[must_use]
    pub fn new(engine: Arc<Engine>, identities: Arc<Identities>) -> Self {
        Self {
            engine,
            identities,
            started: Instant::now(),
        }
    }

    fn person<T>(&self, request: &Request<T>, method: &str) -> Result<Person, Status> {
        let caller = access::person(&self.identities, request, method)?;
        Ok(Person {
            principal: caller.principal,
            role: caller.role,
        })
    }

    fn agent<T>(&self, request: &Request<T>) -> Result<String, Status> {
        match self.identities.caller(request)? {
            Principal::Agent(name) => Ok(name),
            other => Err(KitError::new(Category::Auth, format!("{other} is not an agent")).into()),
        }
    }

    async fn view(&self, id: &str) -> Result<GoalView, Status> {
        let goal = self.engine.goal(id).await?;
        let tasks = self.engine.ctx.store.tasks(id).await?;
        Ok(GoalView {
            plan: stored_plan(&goal)?,
            goal: Some(goal),
            tasks,
        })
    }
}

fn stored_plan(goal: &GoalRecord) -> Result<Option<PlanGoalReply>, Status> {
    if goal.plan_json.is_empty() {
        return Ok(None);
    }
    Ok(Some(Plan::from_json(&goal.plan_json)?.reply()))
}

fn has_ended(goal: &GoalRecord) -> bool {
    GoalStatus::parse(&goal.status).is_ok_and(GoalStatus::is_terminal)
}

#[tonic::async_trait]
impl Orchestrator for Service {
    async fn submit_goal(&self, request: Request<SubmitGoalRequest>) -> Answer<GoalRecord> {
        let person = self.person(&request, "SubmitGoal")?;
        Ok(Response::new(
            self.engine.submit(&person, request.into_inner()).await?,
        ))
    }

    async fn plan_goal(&self, request: Request<PlanGoalRequest>) -> Answer<PlanGoalReply> {
        let person = self.person(&request, "PlanGoal")?;
        let text = checked_text(&request.into_inner().text)?;
        let reply = match prepare(&self.engine.ctx, &text, &person, "").await? {
            Prepared::Plan { plan, .. } => plan.reply(),
            Prepared::Refused(reason, plan) | Prepared::Failed(reason, plan) => {
                let known = plan.map(|plan| plan.reply());
                PlanGoalReply {
                    reason,
                    ..known.unwrap_or_else(|| PlanGoalReply {
                        planner: "none".to_owned(),
                        ..PlanGoalReply::default()
                    })
                }
            }
        };
        Ok(Response::new(reply))
    }

    async fn get_goal(&self, request: Request<GetGoalRequest>) -> Answer<GoalView> {
        self.person(&request, "GetGoal")?;
        Ok(Response::new(self.view(&request.into_inner().id).await?))
    }

    async fn list_goals(&self, request: Request<ListGoalsRequest>) -> Answer<ListGoalsReply> {
        self.person(&request, "ListGoals")?;
        let request = request.into_inner();
        for status in &request.statuses {
            GoalStatus::parse(status)
                .map_err(|error| KitError::new(Category::Validation, error.to_string()))?;
        }
        let request = ListGoalRecordsRequest {
            statuses: request.statuses,
            limit: request.limit.min(MAX_LIST),
            ..ListGoalRecordsRequest::default()
        };
        Ok(Response::new(ListGoalsReply {
            goals: self.engine.ctx.store.goals(request).await?,
        }))
    }

    async fn cancel_goal(&self, request: Request<CancelGoalRequest>) -> Answer<GoalRecord> {
        let by = self.person(&request, "CancelGoal")?.principal;
        let CancelGoalRequest { id, reason } = request.into_inner();
        let make = |reply| Command::Cancel { by, reason, reply };
        Ok(Response::new(self.engine.order(&id, make).await?))
    }

    async fn pause_goal(&self, request: Request<GetGoalRequest>) -> Answer<GoalRecord> {
        let by = self.person(&request, "PauseGoal")?.principal;
        Ok(Response::new(
            self.engine
                .order(&request.into_inner().id, |reply| Command::Pause(by, reply))
                .await?,
        ))
    }

    async fn resume_goal(&self, request: Request<GetGoalRequest>) -> Answer<GoalRecord> {
        let by = self.person(&request, "ResumeGoal")?.principal;
        Ok(Response::new(
            self.engine
                .order(&request.into_inner().id, |reply| Command::Resume(by, reply))
                .await?,
        ))
    }

    type WatchGoalStream = Pin<Box<dyn Stream<Item = Result<GoalUpdate, Status>> + Send>>;

    async fn watch_goal(&self, request: Request<GetGoalRequest>) -> Answer<Self::WatchGoalStream> {
        self.person(&request, "WatchGoal")?;
        let id = request.into_inner().id;
        let service = self.clone();
        // Following begins before the state is read, so that nothing falls between.
        let mut updates = self.engine.ctx.hub.follow(&id);
        let mut view = self.view(&id).await?;
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(async move {
            loop {
                let Some(goal) = view.goal.take() else {
                    return;
                };
                let ended = has_ended(&goal);
                let mut seen_plan = view.plan.is_some();
                let first = GoalUpdate {
                    goal: Some(goal.clone()),
                    task: None,
                    plan: view.plan.take(),
                    ended: ended && view.tasks.is_empty(),
                };
                if sender.send(Ok(first)).await.is_err() {
                    return;
                }
                let count = view.tasks.len();
                let mut versions = std::collections::HashMap::new();
                for (index, task) in std::mem::take(&mut view.tasks).into_iter().enumerate() {
                    versions.insert(task.id.clone(), task.version);
                    let ended = ended && index + 1 == count;
                    let update = GoalUpdate {
                        goal: Some(goal.clone()),
                        task: Some(task),
                        plan: None,
                        ended,
                    };
                    if sender.send(Ok(update)).await.is_err() {
                        return;
                    }
                }
                if ended {
                    return;
                }
                let mut version = goal.version;
                loop {
                    let received = tokio::select! {
                        received = updates.recv() => received,
                        () = sender.closed() => return,
                    };
                    match received {
                        Ok(mut update) => {
                            let known = match (&update.task, &update.goal) {
                                (Some(task), _) => versions
                                    .insert(task.id.clone(), task.version)
                                    .is_some_and(|old| old >= task.version),
                                (None, Some(goal)) => {
                                    let old = version >= goal.version;
                                    version = version.max(goal.version);
                                    old
                                }
                                (None, None) => true,
                            };
                            if known {
                                continue;
                            }
                            if seen_plan {
                                update.plan = None;
                            }
                            seen_plan |= update.plan.is_some();
                            let ended = update.ended;
                            if sender.send(Ok(update)).await.is_err() || ended {
                                return;
                            }
                        }
                        // Too slow, or the channel was renewed: start again from what is stored.
                        Err(RecvError::Lagged(_) | RecvError::Closed) => break,
                    }
                }
                updates = service.engine.ctx.hub.follow(&id);
                view = match service.view(&id).await {
                    Ok(view) => view,
                    Err(status) => {
                        drop(sender.send(Err(status)).await);
                        return;
                    }
                };
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn trace_goal(&self, request: Request<GetGoalRequest>) -> Answer<GoalTrace> {
        let person = self.person(&request, "TraceGoal")?;
        let id = request.into_inner().id;
        let view = self.view(&id).await?;
        let decisions = self.engine.ctx.store.decisions(&id).await?;
        let ledger = self.engine.ctx.tools.ledger(&person, &id).await?;
        Ok(Response::new(GoalTrace {
            view: Some(view),
            decisions,
            ledger,
        }))
    }

    async fn list_approvals(
        &self,
        request: Request<ListApprovalsRequest>,
    ) -> Answer<ListApprovalsReply> {
        self.person(&request, "ListApprovals")?;
        let all = request.into_inner().include_decided;
        let known = self
            .engine
            .ctx
            .approvals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut approvals: Vec<Approval> = known
            .values()
            .filter(|approval| all || approval.status == approval::Status::Pending)
            .map(approval::Approval::wire)
            .collect();
        approvals.sort_by_key(|approval| std::cmp::Reverse(approval.created_ms));
        Ok(Response::new(ListApprovalsReply { approvals }))
    }

    async fn decide_approval(&self, request: Request<DecideApprovalRequest>) -> Answer<Approval> {
        let by = self.person(&request, "DecideApproval")?;
        let DecideApprovalRequest {
            id,
            approve,
            action_hash,
            reason,
        } = request.into_inner();
        let approval = self
            .engine
            .decide(&id, by, approve, action_hash, reason)
            .await?;
        Ok(Response::new(approval.wire()))
    }

    async fn list_agents(&self, request: Request<Empty>) -> Answer<ListAgentsReply> {
        self.person(&request, "ListAgents")?;
        Ok(Response::new(ListAgentsReply {
            agents: self.engine.ctx.agents.infos(),
        }))
    }

    async fn list_procedures(&self, request: Request<Empty>) -> Answer<ListProceduresReply> {
        self.person(&request, "ListProcedures")?;
        Ok(Response::new(ListProceduresReply {
            procedures: self.engine.ctx.library.infos(),
        }))
    }

    async fn register_agent(
        &self,
        request: Request<RegisterAgentRequest>,
    ) -> Answer<RegisterAgentReply> {
        let name = self.agent(&request)?;
        let session = uuid::Uuid::now_v7().to_string();
        self.engine
            .ctx
            .agents
            .register(&name, &request.into_inner(), &session)?;
        let heartbeat_ms = u32::try_from(HEARTBEAT.as_millis()).unwrap_or(1_000);
        Ok(Response::new(RegisterAgentReply {
            heartbeat_ms,
            session,
        }))
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Answer<Empty> {
        let name = self.agent(&request)?;
        self.engine
            .ctx
            .agents
            .heartbeat(&name, &request.into_inner())?;
        Ok(Response::new(Empty {}))
    }

    async fn orchestrator_health(
        &self,
        _request: Request<Empty>,
    ) -> Answer<OrchestratorHealthReply> {
        let ctx = &self.engine.ctx;
        let (agents_running, agents_expected) = ctx.agents.counts();
        let mut problems = ctx.problems();
        if agents_running < agents_expected {
            problems.push(format!(
                "{agents_running} of {agents_expected} agents are running"
            ));
        }
        if !ctx.store.answers().await {
            problems.push("memory does not answer".to_owned());
        }
        let health = HealthReply {
            state: if problems.is_empty() {
                "ok"
            } else {
                "degraded"
            }
            .to_owned(),
            reason: problems.join("; "),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            resident_bytes: resident_bytes(),
        };
        Ok(Response::new(OrchestratorHealthReply {
            health: Some(health),
            active_goals: u32::try_from(self.engine.count()).unwrap_or(u32::MAX),
            agents_running,
            agents_expected,
            autonomy_level: ctx.config.system.autonomy_level.name().to_owned(),
        }))
    }
}

/// Resident memory of this process, from the kernel; 0 when it does not say.
fn resident_bytes() -> u64 {
    const PAGE: u64 = 4096;
    std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| {
            text.split_whitespace()
                .nth(1)
                .and_then(|pages| pages.parse::<u64>().ok())
        })
        .map_or(0, |pages| pages.saturating_mul(PAGE))
}
