//! The gRPC face of the memory: turns calls into reads, commits and events. Who may call what has
//! been decided before ([`crate::access`]).

use std::{
    pin::Pin,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use aios_kit::{Category, Error, Principal, process::ResidentMemory};
use aios_proto::v1::{
    CommitReply, CommitRequest, Empty, GetGoalRecordRequest, GoalRecord, HealthReply,
    ListAgentStatesReply, ListDecisionsReply, ListDecisionsRequest, ListEventsReply,
    ListEventsRequest, ListGoalRecordsReply, ListGoalRecordsRequest, ListPatternsReply,
    ListPatternsRequest, ListTaskRecordsReply, ListTaskRecordsRequest, ListToolCallsReply,
    ListToolCallsRequest, MemoryEvent, MemoryHealthReply, SearchMemoryReply, SearchMemoryRequest,
    memory_server::Memory,
};
use futures::Stream;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use crate::{ring::Ring, schema, store::Store, watch};

/// Watches that may be open at the same time.
const MAX_WATCHERS: usize = 256;
/// Events that a list has when the caller names no limit.
const USUAL_EVENTS: u32 = 100;
/// Bytes of an event's summary, detail and goal id together.
const MAX_EVENT_BYTES: usize = 64 << 10;
const EVENT_KINDS: [&str; 7] = [
    "goal", "task", "agent", "tool", "service", "security", "system",
];

/// The service.
#[derive(Debug)]
pub struct MemoryService {
    store: Store,
    ring: Arc<Ring>,
    watchers: Arc<Semaphore>,
    started: Instant,
    resident: Option<ResidentMemory>,
    settings_problem: Option<Error>,
}

impl MemoryService {
    /// Serves `store` and `ring`; a problem with the settings is part of the health report.
    #[must_use]
    pub fn new(store: Store, ring: Arc<Ring>, settings_problem: Option<Error>) -> Self {
        Self {
            store,
            ring,
            watchers: Arc::new(Semaphore::new(MAX_WATCHERS)),
            started: Instant::now(),
            resident: ResidentMemory::open().ok(),
            settings_problem,
        }
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Memory for MemoryService {
    async fn commit(&self, request: Request<CommitRequest>) -> Answer<CommitReply> {
        let transaction = self.store.commit(request.into_inner()).await?;
        Ok(Response::new(CommitReply { transaction }))
    }

    async fn get_goal_record(&self, request: Request<GetGoalRecordRequest>) -> Answer<GoalRecord> {
        let id = request.into_inner().id;
        Ok(Response::new(
            self.store.read(move |query| query.goal(&id)).await?,
        ))
    }

    async fn list_goal_records(
        &self,
        request: Request<ListGoalRecordsRequest>,
    ) -> Answer<ListGoalRecordsReply> {
        let request = request.into_inner();
        let goals = self.store.read(move |query| query.goals(&request)).await?;
        Ok(Response::new(ListGoalRecordsReply { goals }))
    }

    async fn list_task_records(
        &self,
        request: Request<ListTaskRecordsRequest>,
    ) -> Answer<ListTaskRecordsReply> {
        let goal = request.into_inner().goal_id;
        let tasks = self.store.read(move |query| query.tasks(&goal)).await?;
        Ok(Response::new(ListTaskRecordsReply { tasks }))
    }

    async fn list_decisions(
        &self,
        request: Request<ListDecisionsRequest>,
    ) -> Answer<ListDecisionsReply> {
        let goal = request.into_inner().goal_id;
        let decisions = self.store.read(move |query| query.decisions(&goal)).await?;
        Ok(Response::new(ListDecisionsReply { decisions }))
    }

    async fn list_tool_calls(
        &self,
        request: Request<ListToolCallsRequest>,
    ) -> Answer<ListToolCallsReply> {
        let goal = request.into_inner().goal_id;
        let calls = self
            .store
            .read(move |query| query.tool_calls(&goal))
            .await?;
        Ok(Response::new(ListToolCallsReply { calls }))
    }

    async fn list_agent_states(&self, _request: Request<Empty>) -> Answer<ListAgentStatesReply> {
        let agents = self.store.read(|query| query.agents()).await?;
        Ok(Response::new(ListAgentStatesReply { agents }))
    }

    async fn list_patterns(
        &self,
        request: Request<ListPatternsRequest>,
    ) -> Answer<ListPatternsReply> {
        let request = request.into_inner();
        let patterns = self
            .store
            .read(move |query| query.patterns(&request))
            .await?;
        Ok(Response::new(ListPatternsReply { patterns }))
    }

    async fn push_event(&self, request: Request<MemoryEvent>) -> Answer<Empty> {
        let source = match request.extensions().get::<Principal>() {
            Some(Principal::Daemon(name) | Principal::Agent(name)) => name.clone(),
            Some(Principal::Root) => "root".to_owned(),
            Some(Principal::User(_)) | None => {
                return Err(Status::permission_denied(
                    "only daemons and agents report events",
                ));
            }
        };
        let event = request.into_inner();
        check_event(&event)?;
        self.ring.push(MemoryEvent {
            source,
            time_ms: now_ms(),
            ..event
        });
        Ok(Response::new(Empty {}))
    }

    async fn list_events(&self, request: Request<ListEventsRequest>) -> Answer<ListEventsReply> {
        let request = request.into_inner();
        let limit = match request.limit {
            0 => USUAL_EVENTS,
            limit => limit,
        };
        let (mut events, dropped) = self
            .ring
            .list(&request, usize::try_from(limit).unwrap_or(usize::MAX));
        // Shortened to what a client takes; the caller goes on after the last one's number.
        let mut bytes = 0;
        let fits = events
            .iter()
            .take_while(|event| {
                bytes += prost::Message::encoded_len(*event);
                bytes <= aios_kit::server::MAX_MESSAGE_BYTES - MAX_EVENT_BYTES
            })
            .count();
        events.truncate(fits);
        Ok(Response::new(ListEventsReply { events, dropped }))
    }

    type WatchEventsStream = Pin<Box<dyn Stream<Item = Result<MemoryEvent, Status>> + Send>>;

    async fn watch_events(
        &self,
        request: Request<ListEventsRequest>,
    ) -> Answer<Self::WatchEventsStream> {
        let place = self.watchers.clone().try_acquire_owned().map_err(|_| {
            Error::new(
                Category::RateLimit,
                format!("{MAX_WATCHERS} watches are open already"),
            )
        })?;
        let events = watch::watch(self.ring.clone(), request.into_inner(), place);
        Ok(Response::new(Box::pin(events)))
    }

    async fn search_memory(
        &self,
        _request: Request<SearchMemoryRequest>,
    ) -> Answer<SearchMemoryReply> {
        Err(Status::unimplemented(
            "this aiOS has no long-term memory tier yet; goals, tasks, decisions and patterns of \
             working memory can be listed",
        ))
    }

    async fn memory_health(&self, _request: Request<Empty>) -> Answer<MemoryHealthReply> {
        let totals = self.store.read(|query| query.totals()).await;
        let (entries, max) = self.ring.size();
        let (state, reason) = match (&totals, self.store.trouble(), &self.settings_problem) {
            (Err(error), ..) => ("failed", format!("{error}; {}", error.hint())),
            (Ok(_), Some(error), _) => ("degraded", format!("{error}; {}", error.hint())),
            (Ok(_), None, Some(problem)) => ("degraded", problem.to_string()),
            (Ok(_), None, None) => ("ok", String::new()),
        };
        let (goals, tasks, decisions) = totals.unwrap_or_default();
        Ok(Response::new(MemoryHealthReply {
            health: Some(HealthReply {
                state: state.to_owned(),
                reason,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
                resident_bytes: self.resident.as_ref().map_or(0, ResidentMemory::bytes),
            }),
            operational_entries: u64::try_from(entries).unwrap_or(u64::MAX),
            operational_max: u64::try_from(max).unwrap_or(u64::MAX),
            goals,
            tasks,
            decisions,
            schema_version: u32::try_from(schema::MIGRATIONS.len()).unwrap_or(u32::MAX),
        }))
    }
}

fn check_event(event: &MemoryEvent) -> Result<(), Error> {
    if !EVENT_KINDS.contains(&event.kind.as_str()) {
        return Err(Error::new(
            Category::Validation,
            format!(
                "`{}` is no kind of event: it is one of {}",
                event.kind,
                EVENT_KINDS.join(", ")
            ),
        ));
    }
    let bytes = event.summary.len() + event.detail_json.len() + event.goal_id.len();
    if bytes > MAX_EVENT_BYTES {
        return Err(Error::new(
            Category::Validation,
            format!("an event of {bytes} bytes, but one may have {MAX_EVENT_BYTES}"),
        ));
    }
    Ok(())
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| u64::try_from(since.as_millis()).ok())
        .unwrap_or(0)
}
