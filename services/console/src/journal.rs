//! Every call in the ledger, under the identity of the caller.
//!
//! A change is recorded before it is passed on; when that is not possible it is not passed on. Reads
//! are recorded in the background, several of a kind as one record, from a bounded queue whose
//! overflow is counted and recorded too. Refusals wait for the ledger for a moment and go to the
//! same queue when it does not answer, so that a refusal is never turned into waiting.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aios_kit::{Category, Error};
use aios_proto::v1::{RecordEventRequest, tools_client::ToolsClient};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use tonic::transport::Channel;

/// Longest wait for the ledger before a change is turned down.
const RECORD_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time by which a refusal is held up.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Records that wait at most.
const QUEUE: usize = 1024;
/// Records that are looked at together, and for how long they are gathered.
const BATCH: usize = 256;
const GATHER: Duration = Duration::from_secs(1);

/// What happened to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    Allowed,
    Refused,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Refused => "refused",
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Allowed => "management",
            Self::Refused => "refusal",
        }
    }
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) outcome: Outcome,
    /// `cert:NAME`, `local:NAME`, or `unauthenticated`.
    pub(crate) principal: String,
    /// Empty when it has none.
    pub(crate) role: String,
    /// Empty for a connection that never came to a call.
    pub(crate) method: String,
    pub(crate) peer: String,
    pub(crate) fingerprint: String,
    /// Why it was refused.
    pub(crate) reason: String,
    /// SHA-256 of the message, for changes.
    pub(crate) request_sha256: String,
}

impl Entry {
    fn request(&self, count: u64) -> RecordEventRequest {
        let mut detail = json!({
            "method": self.method,
            "role": self.role,
            "peer": self.peer,
            "fingerprint": self.fingerprint,
            "outcome": self.outcome.name(),
        });
        if let Value::Object(fields) = &mut detail {
            if !self.reason.is_empty() {
                fields.insert("reason".to_owned(), json!(self.reason));
            }
            if !self.request_sha256.is_empty() {
                fields.insert("request_sha256".to_owned(), json!(self.request_sha256));
            }
            if count > 1 {
                fields.insert("count".to_owned(), json!(count));
            }
        }
        let what = if self.method.is_empty() {
            "a connection"
        } else {
            self.method.trim_start_matches("/aios.v1.")
        };
        RecordEventRequest {
            kind: self.outcome.kind().to_owned(),
            summary: match self.outcome {
                Outcome::Allowed => format!("{} called {what}", self.principal),
                Outcome::Refused => {
                    format!("{} was refused {what}: {}", self.principal, self.reason)
                }
            },
            detail_json: detail.to_string(),
            principal: self.principal.clone(),
            goal_id: String::new(),
            task_id: String::new(),
        }
    }
}

/// The way to the ledger. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    tools: ToolsClient<Channel>,
    queue: mpsc::Sender<Entry>,
    lost: Arc<AtomicU64>,
}

impl Journal {
    /// A journal, and the task that writes its queue; it ends when every journal is dropped.
    pub(crate) fn new(tools: Channel) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (queue, entries) = mpsc::channel(QUEUE);
        let journal = Self {
            tools: ToolsClient::new(tools),
            queue,
            lost: Arc::default(),
        };
        let writer = write_queue(journal.tools.clone(), entries, journal.lost.clone());
        (journal, writer)
    }

    /// Records a change that is about to be made. It must not be made when this fails.
    pub(crate) async fn change(&self, entry: &Entry) -> Result<(), Error> {
        let mut tools = self.tools.clone();
        let recorded = timeout(RECORD_TIMEOUT, tools.record_event(entry.request(1))).await;
        let problem = match recorded {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(status)) => Error::from(status).message().to_owned(),
            Err(_) => "it did not answer in time".to_owned(),
        };
        Err(Error::new(
            Category::Network,
            format!(
                "the call was not made, because the ledger (aios-tools) could not record it: {problem}"
            ),
        )
        .hint("try again in a moment; `aios status` shows whether aios-tools runs")
        .with_retryable(true))
    }

    /// Records a refusal.
    pub(crate) async fn refusal(&self, entry: Entry) {
        let mut tools = self.tools.clone();
        let request = entry.request(1);
        match timeout(REFUSAL_TIMEOUT, tools.record_event(request)).await {
            Ok(Ok(_)) => {}
            _ => self.later(entry),
        }
    }

    /// Records a call soon.
    pub(crate) fn later(&self, entry: Entry) {
        if self.queue.try_send(entry).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn write_queue(
    tools: ToolsClient<Channel>,
    mut entries: mpsc::Receiver<Entry>,
    lost: Arc<AtomicU64>,
) {
    while let Some(first) = entries.recv().await {
        let mut batch = BTreeMap::from([(first, 1_u64)]);
        let until = Instant::now() + GATHER;
        while batch.len() < BATCH
            && let Ok(Some(entry)) = timeout_at(until, entries.recv()).await
        {
            *batch.entry(entry).or_default() += 1;
        }
        for (entry, count) in batch {
            write(&tools, entry.request(count)).await;
        }
        let missing = lost.swap(0, Ordering::Relaxed);
        if missing > 0 {
            tracing::warn!(missing, "calls could not be recorded one by one");
            write(&tools, overflow(missing)).await;
        }
    }
}

async fn write(tools: &ToolsClient<Channel>, request: RecordEventRequest) {
    let result = aios_kit::retry::local(|| async {
        let mut tools = tools.clone();
        match timeout(RECORD_TIMEOUT, tools.record_event(request.clone())).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(Error::from(status)),
            Err(_) => Err(Error::new(
                Category::Timeout,
                "aios-tools did not answer in time",
            )),
        }
    })
    .await;
    if let Err(error) = result {
        tracing::error!(%error, summary = request.summary, "a call is not in the ledger");
    }
}

fn overflow(missing: u64) -> RecordEventRequest {
    RecordEventRequest {
        kind: "management".to_owned(),
        summary: format!("{missing} calls that changed nothing were too many to record one by one"),
        detail_json: json!({ "not_recorded": missing }).to_string(),
        principal: "daemon:console".to_owned(),
        goal_id: String::new(),
        task_id: String::new(),
    }
}
