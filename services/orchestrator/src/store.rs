//! The durable home of everything that the orchestrator knows, in `aios-memory`.
//!
//! Invariants: a commit is one transaction; a commit whose answer was lost is recognised as done and
//! not reported as a conflict; a daemon that restarts is waited for.

use std::{future::Future, path::Path, time::Duration};

use aios_kit::{Category, Error as KitError, retry};
use aios_proto::v1::{
    AgentState, CommitRequest, Decision, Empty, GetGoalRecordRequest, GoalRecord,
    ListDecisionsRequest, ListGoalRecordsRequest, ListPatternsRequest, ListTaskRecordsRequest,
    MemoryEvent, Pattern, TaskRecord, memory_client::MemoryClient,
};
use tokio::sync::mpsc;
use tonic::{Code, Status, transport::Channel};

use crate::error::Error;

/// Longest that one call may take.
const CALL: Duration = Duration::from_secs(10);
/// Events that may wait to be pushed; more are dropped, since events are only news.
const EVENTS: usize = 1_024;

/// The memory of this machine.
#[derive(Debug, Clone)]
pub struct Store {
    client: MemoryClient<Channel>,
    events: mpsc::Sender<MemoryEvent>,
}

/// One call with a limit; the status keeps its code, which a commit needs to know.
async fn bounded<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(CALL, call).await {
        Ok(result) => result.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("memory did not answer in time")),
    }
}

impl Store {
    /// Uses the memory at that socket.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        let client = MemoryClient::new(aios_kit::client::channel(socket))
            .max_decoding_message_size(64 << 20)
            .max_encoding_message_size(aios_kit::server::MAX_MESSAGE_BYTES);
        let (events, mut waiting) = mpsc::channel::<MemoryEvent>(EVENTS);
        let mut pusher = client.clone();
        tokio::spawn(async move {
            while let Some(event) = waiting.recv().await {
                if let Err(status) = bounded(pusher.push_event(event)).await {
                    tracing::debug!(%status, "an event was not taken");
                }
            }
        });
        Self { client, events }
    }

    /// Commits in one transaction.
    ///
    /// # Errors
    /// When memory refuses it, or does not answer for half a minute.
    pub async fn commit(&self, request: CommitRequest) -> Result<(), Error> {
        retry::local(|| async {
            let status = match bounded(self.client.clone().commit(request.clone())).await {
                Ok(_) => return Ok(()),
                Err(status) => status,
            };
            if status.code() != Code::Aborted {
                return Err(KitError::from(status));
            }
            // The answer to an earlier try may have been lost: then what is stored is what we sent.
            if self.is_stored(&request).await? {
                return Ok(());
            }
            let message = format!("memory holds another version: {}", status.message());
            Err(KitError::new(Category::Conflict, message))
        })
        .await
        .map_err(Error::Peer)
    }

    async fn is_stored(&self, request: &CommitRequest) -> Result<bool, KitError> {
        for goal in &request.goals {
            let stored = bounded(self.client.clone().get_goal_record(GetGoalRecordRequest {
                id: goal.id.clone(),
            }))
            .await;
            match stored {
                Ok(stored) if stored == *goal => {}
                Ok(_) => return Ok(false),
                Err(status) if status.code() == Code::NotFound => return Ok(false),
                Err(status) => return Err(status.into()),
            }
        }
        for task in &request.tasks {
            let request = ListTaskRecordsRequest {
                goal_id: task.goal_id.clone(),
            };
            let stored = bounded(self.client.clone().list_task_records(request))
                .await?
                .tasks;
            if !stored.contains(task) {
                return Ok(false);
            }
        }
        Ok(!request.goals.is_empty() || !request.tasks.is_empty())
    }

    /// A goal; `None` when there is none of that id.
    ///
    /// # Errors
    /// When memory does not answer.
    pub async fn goal(&self, id: &str) -> Result<Option<GoalRecord>, Error> {
        retry::local(|| async {
            let request = GetGoalRecordRequest { id: id.to_owned() };
            match bounded(self.client.clone().get_goal_record(request)).await {
                Ok(goal) => Ok(Some(goal)),
                Err(status) if status.code() == Code::NotFound => Ok(None),
                Err(status) => {
                    let error = KitError::from(status);
                    // Memory may say "no such goal" as an invalid request.
                    if error.category() == Category::Validation {
                        Ok(None)
                    } else {
                        Err(error)
                    }
                }
            }
        })
        .await
        .map_err(Error::Peer)
    }

    /// Goals, newest first.
    ///
    /// # Errors
    /// When memory does not answer.
    pub async fn goals(&self, request: ListGoalRecordsRequest) -> Result<Vec<GoalRecord>, Error> {
        let client = &self.client;
        let reply = retry::local(|| async {
            bounded(client.clone().list_goal_records(request.clone()))
                .await
                .map_err(KitError::from)
        });
        Ok(reply.await?.goals)
    }

    /// Tasks of a goal in the order of the plan.
    ///
    /// # Errors
    /// When memory does not answer.
    pub async fn tasks(&self, goal_id: &str) -> Result<Vec<TaskRecord>, Error> {
        let reply = retry::local(|| async {
            let request = ListTaskRecordsRequest {
                goal_id: goal_id.to_owned(),
            };
            bounded(self.client.clone().list_task_records(request))
                .await
                .map_err(KitError::from)
        });
        let mut tasks = reply.await?.tasks;
        tasks.sort_by_key(|task| task.ordinal);
        Ok(tasks)
    }

    /// Decisions of a goal in their order.
    ///
    /// # Errors
    /// When memory does not answer.
    pub async fn decisions(&self, goal_id: &str) -> Result<Vec<Decision>, Error> {
        let reply = retry::local(|| async {
            let request = ListDecisionsRequest {
                goal_id: goal_id.to_owned(),
            };
            bounded(self.client.clone().list_decisions(request))
                .await
                .map_err(KitError::from)
        });
        let mut decisions = reply.await?.decisions;
        decisions.sort_by_key(|decision| decision.seq);
        Ok(decisions)
    }

    /// What was last known of the agents.
    ///
    /// # Errors
    /// When memory does not answer.
    pub async fn agents(&self) -> Result<Vec<AgentState>, Error> {
        let reply = retry::local(|| async {
            bounded(self.client.clone().list_agent_states(Empty {}))
                .await
                .map_err(KitError::from)
        });
        Ok(reply.await?.agents)
    }

    /// Patterns of goals with these words.
    ///
    /// # Errors
    /// When memory does not answer.
    pub async fn patterns(&self, goal_text: &str) -> Result<Vec<Pattern>, Error> {
        let reply = retry::local(|| async {
            let request = ListPatternsRequest {
                goal_text: goal_text.to_owned(),
                limit: 100,
            };
            bounded(self.client.clone().list_patterns(request))
                .await
                .map_err(KitError::from)
        });
        Ok(reply.await?.patterns)
    }

    /// Whether memory answers now.
    pub async fn answers(&self) -> bool {
        let call = self.client.clone();
        tokio::time::timeout(Duration::from_secs(1), async move {
            call.clone().memory_health(Empty {}).await
        })
        .await
        .is_ok_and(|result| result.is_ok())
    }

    /// Tells operational memory. News only: it may be dropped.
    pub fn event(&self, kind: &str, goal_id: &str, summary: impl Into<String>) {
        let event = MemoryEvent {
            time_ms: now_ms(),
            kind: kind.to_owned(),
            goal_id: goal_id.to_owned(),
            summary: summary.into(),
            detail_json: "{}".to_owned(),
            ..MemoryEvent::default()
        };
        if self.events.try_send(event).is_err() {
            tracing::debug!("an event was dropped");
        }
    }
}

/// Milliseconds since the epoch.
#[must_use]
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
