//! A memory: records by id with their versions, in transactions.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex},
};

use aios_proto::v1::{self, memory_server::Memory};
use tonic::{Request, Response, Status};

use super::Chaos;

#[derive(Debug, Default, Clone)]
pub struct State {
    pub goals: BTreeMap<String, v1::GoalRecord>,
    pub tasks: BTreeMap<String, v1::TaskRecord>,
    pub decisions: BTreeMap<(String, u64), v1::Decision>,
    pub agents: BTreeMap<String, v1::AgentState>,
    pub patterns: BTreeMap<String, v1::Pattern>,
    pub events: Vec<v1::MemoryEvent>,
    /// Every status that a goal was committed with, in order.
    pub history: Vec<(String, String)>,
}

#[derive(Debug, Clone, Default)]
pub struct FakeMemory {
    pub state: Arc<Mutex<State>>,
    pub chaos: Arc<Chaos>,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Memory for FakeMemory {
    async fn commit(&self, request: Request<v1::CommitRequest>) -> Answer<v1::CommitReply> {
        if self.chaos.point() {
            return Err(Status::unavailable("struck before the commit"));
        }
        let request = request.into_inner();
        {
            let mut state = self.state.lock().unwrap();
            for goal in &request.goals {
                let stored = state.goals.get(&goal.id).map_or(0, |goal| goal.version);
                if goal.version != stored + 1 {
                    return Err(Status::aborted(format!(
                        "goal {} is at {stored}, not {}",
                        goal.id, goal.version
                    )));
                }
            }
            for task in &request.tasks {
                let stored = state.tasks.get(&task.id).map_or(0, |task| task.version);
                if task.version != stored + 1 {
                    return Err(Status::aborted(format!(
                        "task {} is at {stored}, not {}",
                        task.id, task.version
                    )));
                }
            }
            for goal in request.goals {
                state.history.push((goal.id.clone(), goal.status.clone()));
                state.goals.insert(goal.id.clone(), goal);
            }
            for task in request.tasks {
                state.tasks.insert(task.id.clone(), task);
            }
            for decision in request.decisions {
                state
                    .decisions
                    .entry((decision.goal_id.clone(), decision.seq))
                    .or_insert(decision);
            }
            for agent in request.agents {
                state.agents.insert(agent.name.clone(), agent);
            }
            for pattern in request.patterns {
                state.patterns.insert(pattern.id.clone(), pattern);
            }
        }
        if self.chaos.point() {
            return Err(Status::unavailable("struck after the commit"));
        }
        Ok(Response::new(v1::CommitReply { transaction: 1 }))
    }

    async fn get_goal_record(
        &self,
        request: Request<v1::GetGoalRecordRequest>,
    ) -> Answer<v1::GoalRecord> {
        let state = self.state.lock().unwrap();
        let goal = state.goals.get(&request.into_inner().id).cloned();
        goal.map(Response::new)
            .ok_or_else(|| Status::not_found("no such goal"))
    }

    async fn list_goal_records(
        &self,
        request: Request<v1::ListGoalRecordsRequest>,
    ) -> Answer<v1::ListGoalRecordsReply> {
        let request = request.into_inner();
        let state = self.state.lock().unwrap();
        let fits = |goal: &&v1::GoalRecord| {
            (request.statuses.is_empty() || request.statuses.contains(&goal.status))
                && (request.idempotency_key.is_empty()
                    || request.idempotency_key == goal.idempotency_key)
                && (request.before_id.is_empty() || goal.id < request.before_id)
        };
        let limit = if request.limit == 0 {
            100
        } else {
            request.limit
        } as usize;
        let goals = state
            .goals
            .values()
            .rev()
            .filter(fits)
            .take(limit)
            .cloned()
            .collect();
        Ok(Response::new(v1::ListGoalRecordsReply { goals }))
    }

    async fn list_task_records(
        &self,
        request: Request<v1::ListTaskRecordsRequest>,
    ) -> Answer<v1::ListTaskRecordsReply> {
        let id = request.into_inner().goal_id;
        let state = self.state.lock().unwrap();
        let tasks = state
            .tasks
            .values()
            .filter(|task| task.goal_id == id)
            .cloned()
            .collect();
        Ok(Response::new(v1::ListTaskRecordsReply { tasks }))
    }

    async fn list_decisions(
        &self,
        request: Request<v1::ListDecisionsRequest>,
    ) -> Answer<v1::ListDecisionsReply> {
        let id = request.into_inner().goal_id;
        let state = self.state.lock().unwrap();
        let decisions = state
            .decisions
            .values()
            .filter(|decision| decision.goal_id == id)
            .cloned()
            .collect();
        Ok(Response::new(v1::ListDecisionsReply { decisions }))
    }

    async fn list_tool_calls(
        &self,
        _: Request<v1::ListToolCallsRequest>,
    ) -> Answer<v1::ListToolCallsReply> {
        Err(Status::unimplemented("not asked for here"))
    }

    async fn list_agent_states(&self, _: Request<v1::Empty>) -> Answer<v1::ListAgentStatesReply> {
        let agents = self
            .state
            .lock()
            .unwrap()
            .agents
            .values()
            .cloned()
            .collect();
        Ok(Response::new(v1::ListAgentStatesReply { agents }))
    }

    async fn list_patterns(
        &self,
        request: Request<v1::ListPatternsRequest>,
    ) -> Answer<v1::ListPatternsReply> {
        let text = request.into_inner().goal_text;
        let state = self.state.lock().unwrap();
        let patterns = state
            .patterns
            .values()
            .filter(|pattern| pattern.goal_text == text)
            .cloned()
            .collect();
        Ok(Response::new(v1::ListPatternsReply { patterns }))
    }

    async fn push_event(&self, request: Request<v1::MemoryEvent>) -> Answer<v1::Empty> {
        self.state.lock().unwrap().events.push(request.into_inner());
        Ok(Response::new(v1::Empty {}))
    }

    async fn list_events(&self, _: Request<v1::ListEventsRequest>) -> Answer<v1::ListEventsReply> {
        Err(Status::unimplemented("not asked for here"))
    }

    type WatchEventsStream =
        Pin<Box<dyn futures::Stream<Item = Result<v1::MemoryEvent, Status>> + Send>>;

    async fn watch_events(
        &self,
        _: Request<v1::ListEventsRequest>,
    ) -> Answer<Self::WatchEventsStream> {
        Err(Status::unimplemented("not asked for here"))
    }

    async fn search_memory(
        &self,
        _: Request<v1::SearchMemoryRequest>,
    ) -> Answer<v1::SearchMemoryReply> {
        Err(Status::unimplemented("not asked for here"))
    }

    async fn memory_health(&self, _: Request<v1::Empty>) -> Answer<v1::MemoryHealthReply> {
        Ok(Response::new(v1::MemoryHealthReply::default()))
    }
}
