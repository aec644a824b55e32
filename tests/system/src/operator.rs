//! Somebody who states goals and looks at what became of them. Patient: a daemon that is just being
//! restarted is asked again.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use aios_kit::{Error, Paths, client, retry};
use aios_proto::v1::{
    Empty, GetGoalRequest, GoalRecord, GoalTrace, GoalView, LedgerRecord, ListLedgerRequest,
    PlanGoalReply, PlanGoalRequest, RollbackReply, RollbackRequest, SubmitGoalRequest,
    VerifyLedgerReply, orchestrator_client::OrchestratorClient, tools_client::ToolsClient,
};
use anyhow::{Context as _, bail};
use tonic::{Response, Status, transport::Channel};

/// Between two looks at a goal.
const LOOK: Duration = Duration::from_millis(20);

/// A client of the orchestrator and of the tools, as whoever the test runs as.
#[derive(Debug, Clone)]
pub struct Operator {
    orchestrator: OrchestratorClient<Channel>,
    tools: ToolsClient<Channel>,
}

async fn patiently<T, F, Fut>(call: F) -> anyhow::Result<T>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<Response<T>, Status>>,
{
    let once = || async { call().await.map(Response::into_inner).map_err(Error::from) };
    Ok(retry::local(once).await?)
}

/// Whether a goal in that state has ended.
#[must_use]
pub fn has_ended(status: &str) -> bool {
    matches!(
        status,
        "completed" | "failed" | "refused" | "cancelled" | "expired"
    )
}

impl Operator {
    pub(crate) fn new(paths: &Paths) -> Self {
        Self {
            orchestrator: OrchestratorClient::new(client::channel(&paths.socket("orchestrator")))
                .max_decoding_message_size(64 << 20),
            tools: ToolsClient::new(client::channel(&paths.socket("tools"))),
        }
    }

    /// States a goal. `key` makes it safe to state it twice.
    ///
    /// # Errors
    /// When it is not taken.
    pub async fn submit(&self, text: &str, key: &str) -> anyhow::Result<GoalRecord> {
        let request = SubmitGoalRequest {
            text: text.to_owned(),
            idempotency_key: key.to_owned(),
            ..SubmitGoalRequest::default()
        };
        patiently(|| {
            let (mut client, request) = (self.orchestrator.clone(), request.clone());
            async move { client.submit_goal(request).await }
        })
        .await
        .with_context(|| format!("the goal `{text}` was not taken"))
    }

    /// The plan that a goal would get.
    ///
    /// # Errors
    /// When the orchestrator does not answer.
    pub async fn plan(&self, text: &str) -> anyhow::Result<PlanGoalReply> {
        patiently(|| {
            let (mut client, text) = (self.orchestrator.clone(), text.to_owned());
            async move { client.plan_goal(PlanGoalRequest { text }).await }
        })
        .await
    }

    /// A goal with its tasks.
    ///
    /// # Errors
    /// When the orchestrator does not answer.
    pub async fn goal(&self, id: &str) -> anyhow::Result<GoalView> {
        patiently(|| {
            let (mut client, id) = (self.orchestrator.clone(), id.to_owned());
            async move { client.get_goal(GetGoalRequest { id }).await }
        })
        .await
    }

    /// Waits until a goal has ended.
    ///
    /// # Errors
    /// When it has not ended within `limit`; the message says how far it came.
    pub async fn wait(&self, id: &str, limit: Duration) -> anyhow::Result<GoalView> {
        let begin = Instant::now();
        loop {
            let view = self.goal(id).await?;
            let goal = view.goal.clone().unwrap_or_default();
            if has_ended(&goal.status) {
                return Ok(view);
            }
            if begin.elapsed() > limit {
                bail!(
                    "after {limit:?} the goal is still {}: {view:#?}",
                    goal.status
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Everything that is recorded about a goal.
    ///
    /// # Errors
    /// When the orchestrator does not answer.
    pub async fn trace(&self, id: &str) -> anyhow::Result<GoalTrace> {
        patiently(|| {
            let (mut client, id) = (self.orchestrator.clone(), id.to_owned());
            async move { client.trace_goal(GetGoalRequest { id }).await }
        })
        .await
    }

    /// Undoes what a goal did.
    ///
    /// # Errors
    /// When the tools do not answer.
    pub async fn rollback(&self, goal_id: &str) -> anyhow::Result<RollbackReply> {
        let request = RollbackRequest {
            goal_id: goal_id.to_owned(),
            ..RollbackRequest::default()
        };
        patiently(|| {
            let (mut client, request) = (self.tools.clone(), request.clone());
            async move { client.rollback(request).await }
        })
        .await
    }

    /// The ledger's records of a goal, oldest first.
    ///
    /// # Errors
    /// When the tools do not answer.
    pub async fn ledger(&self, goal_id: &str) -> anyhow::Result<Vec<LedgerRecord>> {
        let request = ListLedgerRequest {
            goal_id: goal_id.to_owned(),
            limit: 1000,
            ..ListLedgerRequest::default()
        };
        let reply = patiently(|| {
            let (mut client, request) = (self.tools.clone(), request.clone());
            async move { client.list_ledger(request).await }
        })
        .await?;
        Ok(reply.records)
    }

    /// Recomputes the chain of the ledger.
    ///
    /// # Errors
    /// When the tools do not answer.
    pub async fn verify_ledger(&self) -> anyhow::Result<VerifyLedgerReply> {
        patiently(|| {
            let mut client = self.tools.clone();
            async move { client.verify_ledger(Empty {}).await }
        })
        .await
    }
}
