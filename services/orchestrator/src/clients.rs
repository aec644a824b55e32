//! The tools daemon and the agents, as the orchestrator calls them. Everything has a limit, and a
//! daemon that restarts is waited for.

use std::{future::Future, path::Path, time::Duration};

use aios_kit::{
    Error as KitError,
    identity::{ON_BEHALF_PRINCIPAL, ON_BEHALF_ROLE},
    retry,
};
use aios_proto::v1::{
    CheckCallReply, CheckCallRequest, CloseGrantRequest, Grant, LedgerRecord, ListLedgerRequest,
    ListToolsRequest, RecordEventRequest, ToolInfo, tools_client::ToolsClient,
};
use tonic::{Request, Status, transport::Channel};

use crate::error::Error;

/// Longest that one call may take.
const CALL: Duration = Duration::from_secs(10);

/// The tools daemon.
#[derive(Debug, Clone)]
pub struct Tools {
    client: ToolsClient<Channel>,
}

/// On whose behalf something is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// As in the ledger.
    pub principal: String,
    /// `admin`, `operator` or `reader`.
    pub role: String,
}

impl Person {
    /// A request on this person's behalf.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        for (key, text) in [
            (ON_BEHALF_PRINCIPAL, &self.principal),
            (ON_BEHALF_ROLE, &self.role),
        ] {
            // A name that cannot stand in a header is left out, which gives no right to anything.
            if let Ok(value) = text.parse() {
                request.metadata_mut().insert(key, value);
            }
        }
        request
    }
}

async fn bounded<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, KitError> {
    match tokio::time::timeout(CALL, call).await {
        Ok(result) => result
            .map(tonic::Response::into_inner)
            .map_err(KitError::from),
        Err(_) => Err(Status::deadline_exceeded("the tools daemon did not answer in time").into()),
    }
}

impl Tools {
    /// Uses the tools daemon at that socket.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        let client =
            ToolsClient::new(aios_kit::client::channel(socket)).max_decoding_message_size(64 << 20);
        Self { client }
    }

    /// The catalogue.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn list(&self) -> Result<Vec<ToolInfo>, Error> {
        let reply = retry::local(|| async {
            bounded(
                self.client
                    .clone()
                    .list_tools(ListToolsRequest { mine: false }),
            )
            .await
        });
        Ok(reply.await?.tools)
    }

    /// The registry's own word on a call; a denial is in the ledger.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn check(
        &self,
        person: &Person,
        request: CheckCallRequest,
    ) -> Result<CheckCallReply, Error> {
        let reply = retry::local(|| async {
            bounded(
                self.client
                    .clone()
                    .check_call(person.request(request.clone())),
            )
            .await
        });
        Ok(reply.await?)
    }

    /// Lets one agent make one call.
    ///
    /// # Errors
    /// When the daemon refuses, or does not answer.
    pub async fn open_grant(&self, person: &Person, grant: Grant) -> Result<(), Error> {
        retry::local(|| async {
            bounded(
                self.client
                    .clone()
                    .open_grant(person.request(grant.clone())),
            )
            .await
        })
        .await?;
        Ok(())
    }

    /// Ends a grant.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn close_grant(&self, person: &Person, task_id: &str) -> Result<(), Error> {
        retry::local(|| async {
            let request = CloseGrantRequest {
                task_id: task_id.to_owned(),
            };
            bounded(self.client.clone().close_grant(person.request(request))).await
        })
        .await?;
        Ok(())
    }

    /// Puts an event in the ledger.
    ///
    /// # Errors
    /// When the daemon refuses, or does not answer.
    pub async fn record(&self, person: &Person, event: RecordEventRequest) -> Result<u64, Error> {
        let reply = retry::local(|| async {
            bounded(
                self.client
                    .clone()
                    .record_event(person.request(event.clone())),
            )
            .await
        });
        Ok(reply.await?.seq)
    }

    /// Everything that the ledger has of a goal, oldest first, up to a bound.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn ledger(&self, person: &Person, goal_id: &str) -> Result<Vec<LedgerRecord>, Error> {
        const PAGE: u32 = 500;
        const PAGES: usize = 20;
        let mut records: Vec<LedgerRecord> = Vec::new();
        for _ in 0..PAGES {
            let after_seq = records.last().map_or(0, |record| record.seq);
            let request = ListLedgerRequest {
                after_seq,
                limit: PAGE,
                goal_id: goal_id.to_owned(),
                ..ListLedgerRequest::default()
            };
            let page = retry::local(|| async {
                bounded(
                    self.client
                        .clone()
                        .list_ledger(person.request(request.clone())),
                )
                .await
            })
            .await?
            .records;
            let whole = page.len() >= PAGE as usize;
            records.extend(page);
            if !whole {
                break;
            }
        }
        Ok(records)
    }
}
