//! All living goals: each has a runner, which is started again from the stored state if it ends with
//! an error, and takes commands meanwhile.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aios_kit::{Category, Error as KitError};
use aios_proto::v1::{
    CommitRequest, Decision, GoalRecord, ListGoalRecordsRequest, SubmitGoalRequest,
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    approval::Approval,
    clients::Person,
    context::Context,
    error::Error,
    runner::{Command, Reply, Runner},
    state::GoalStatus,
    store::now_ms,
};

/// Longest goal, in bytes.
pub const MAX_TEXT: usize = 8 * 1024;
/// Longest idempotency key, in bytes.
const MAX_KEY: usize = 200;
/// Goals that may live at the same time.
const MAX_LIVING: usize = 1_000;
/// Commands that may wait for one goal.
const COMMANDS: usize = 32;
/// Longest that a command may take to be obeyed.
const OBEY: Duration = Duration::from_secs(40);

/// The goals.
#[derive(Debug)]
pub struct Engine {
    /// What every goal needs.
    pub ctx: Arc<Context>,
    living: Mutex<HashMap<String, mpsc::Sender<Command>>>,
    submitting: tokio::sync::Mutex<()>,
}

/// The names of the states in which a goal lives.
#[must_use]
pub fn living_states() -> Vec<String> {
    GoalStatus::ALL
        .iter()
        .filter(|state| !state.is_terminal())
        .map(|state| state.name().to_owned())
        .collect()
}

impl Engine {
    /// No goals yet.
    #[must_use]
    pub fn new(ctx: Arc<Context>) -> Arc<Self> {
        Arc::new(Self {
            ctx,
            living: Mutex::new(HashMap::new()),
            submitting: tokio::sync::Mutex::new(()),
        })
    }

    /// Takes every stored goal over that has not ended.
    ///
    /// # Errors
    /// When memory does not answer.
    pub async fn resume(self: &Arc<Self>) -> Result<usize, Error> {
        const PAGE: u32 = 100;
        let mut before_id = String::new();
        let mut count = 0;
        loop {
            let request = ListGoalRecordsRequest {
                statuses: living_states(),
                limit: PAGE,
                before_id: before_id.clone(),
                ..ListGoalRecordsRequest::default()
            };
            let goals = self.ctx.store.goals(request).await?;
            count += goals.len();
            for goal in &goals {
                self.start(&goal.id);
            }
            match goals.last() {
                Some(last) if goals.len() >= PAGE as usize && last.id != before_id => {
                    before_id.clone_from(&last.id)
                }
                _ => return Ok(count),
            }
        }
    }

    /// Gives a stored goal a runner.
    fn start(self: &Arc<Self>, id: &str) {
        let (sender, mut commands) = mpsc::channel(COMMANDS);
        {
            let mut living = self.living.lock().unwrap_or_else(PoisonError::into_inner);
            if living.contains_key(id) {
                return;
            }
            living.insert(id.to_owned(), sender);
        }
        let (engine, id) = (self.clone(), id.to_owned());
        tokio::spawn(async move {
            let mut pause = Duration::from_millis(200);
            loop {
                let result = match Runner::load(engine.ctx.clone(), &id).await {
                    Ok(Some(runner)) => runner.run(&mut commands).await,
                    Ok(None) => break,
                    Err(error) => Err(error),
                };
                match result {
                    Ok(()) => break,
                    Err(error) => {
                        tracing::error!(goal = id, %error, "a goal starts again from what is stored");
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(Duration::from_secs(30));
                    }
                }
            }
            engine
                .living
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&id);
            // What still waits is answered from the stored state by its sender.
        });
    }

    /// How many goals live.
    #[must_use]
    pub fn count(&self) -> usize {
        self.living
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Stores a goal and starts it. Acknowledged only when it is durable.
    ///
    /// # Errors
    /// When the request is wrong, there are too many goals, or memory does not answer.
    pub async fn submit(
        self: &Arc<Self>,
        person: &Person,
        request: SubmitGoalRequest,
    ) -> Result<GoalRecord, KitError> {
        let text = checked_text(&request.text)?;
        let invalid = |message: &str| Err(KitError::new(Category::Validation, message));
        if request.priority > 9 {
            return invalid("the priority is from 0 to 9; 9 is the most urgent, 0 means 5");
        }
        if request.idempotency_key.len() > MAX_KEY
            || request.idempotency_key.chars().any(char::is_control)
        {
            return invalid(
                "the idempotency key is longer than 200 bytes or has control characters",
            );
        }
        // One at a time, so that two calls with one key cannot both find none.
        let _turn = self.submitting.lock().await;
        if !request.idempotency_key.is_empty() {
            let known = ListGoalRecordsRequest {
                idempotency_key: request.idempotency_key.clone(),
                ..ListGoalRecordsRequest::default()
            };
            let goals = self
                .ctx
                .store
                .goals(known)
                .await
                .map_err(|error| error.to_kit())?;
            if let Some(goal) = goals
                .into_iter()
                .find(|goal| goal.principal == person.principal)
            {
                if goal.text == text {
                    return Ok(goal);
                }
                return Err(KitError::new(
                    Category::Conflict,
                    "this idempotency key was used for another goal",
                ));
            }
        }
        if self.count() >= MAX_LIVING {
            return Err(KitError::new(
                Category::RateLimit,
                format!("{MAX_LIVING} goals are living already"),
            )
            .hint("wait for some to end, or cancel some"));
        }
        let now = now_ms();
        let goal = GoalRecord {
            id: uuid::Uuid::now_v7().to_string(),
            text,
            principal: person.principal.clone(),
            role: person.role.clone(),
            status: GoalStatus::Received.name().to_owned(),
            priority: if request.priority == 0 {
                5
            } else {
                request.priority
            },
            created_ms: now,
            updated_ms: now,
            deadline_ms: if request.deadline_in_ms == 0 {
                0
            } else {
                now.saturating_add(request.deadline_in_ms)
            },
            version: 1,
            idempotency_key: request.idempotency_key,
            ..GoalRecord::default()
        };
        let decision = Decision {
            goal_id: goal.id.clone(),
            seq: 1,
            time_ms: now,
            kind: "state".to_owned(),
            summary: format!("received from {} ({})", person.principal, person.role),
            detail_json: "{}".to_owned(),
        };
        let commit = CommitRequest {
            goals: vec![goal.clone()],
            decisions: vec![decision],
            ..CommitRequest::default()
        };
        self.ctx
            .store
            .commit(commit)
            .await
            .map_err(|error| error.to_kit())?;
        self.ctx
            .store
            .event("goal", &goal.id, "the goal is received");
        self.start(&goal.id);
        Ok(goal)
    }

    async fn command<T>(
        &self,
        id: &str,
        make: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<Option<T>, KitError> {
        let sender = self
            .living
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(id)
            .cloned();
        let Some(sender) = sender else {
            return Ok(None);
        };
        let (reply, answer) = oneshot::channel();
        let obey = async {
            if sender.send(make(reply)).await.is_err() {
                return Ok(None);
            }
            match answer.await {
                Ok(answer) => answer.map(Some),
                // The goal ended before it could obey.
                Err(_) => Ok(None),
            }
        };
        match tokio::time::timeout(OBEY, obey).await {
            Ok(answer) => answer,
            Err(_) => Err(KitError::new(
                Category::Timeout,
                format!("goal {id} did not answer in time"),
            )),
        }
    }

    /// The stored goal.
    ///
    /// # Errors
    /// When there is none, or memory does not answer.
    pub async fn goal(&self, id: &str) -> Result<GoalRecord, KitError> {
        self.ctx
            .store
            .goal(id)
            .await
            .map_err(|error| error.to_kit())?
            .ok_or_else(|| {
                KitError::not_found(format!("there is no goal {id}"))
                    .hint("`aios goal list` shows them")
            })
    }

    /// Gives a goal an order; one that has ended answers with its stored state.
    ///
    /// # Errors
    /// When there is no such goal, it cannot obey, or it has ended.
    pub async fn order(
        &self,
        id: &str,
        make: impl FnOnce(Reply<GoalRecord>) -> Command,
    ) -> Result<GoalRecord, KitError> {
        if let Some(goal) = self.command(id, make).await? {
            return Ok(goal);
        }
        let goal = self.goal(id).await?;
        Err(KitError::new(
            Category::Conflict,
            format!("goal {id} is {} already", goal.status),
        ))
    }

    /// Decides an approval.
    ///
    /// # Errors
    /// When there is none, it cannot be decided, or its goal has ended.
    pub async fn decide(
        &self,
        id: &str,
        by: Person,
        approve: bool,
        action_hash: String,
        reason: String,
    ) -> Result<Approval, KitError> {
        let known = self
            .ctx
            .approvals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(id)
            .cloned();
        let Some(approval) = known else {
            return Err(
                KitError::new(Category::Validation, format!("there is no approval {id}"))
                    .hint("`aios approve list` shows them"),
            );
        };
        let make = |reply| Command::Decide {
            id: id.to_owned(),
            by,
            approve,
            action_hash,
            reason,
            reply,
        };
        self.command(&approval.goal_id, make).await?.ok_or_else(|| {
            KitError::new(
                Category::Conflict,
                format!("the goal of approval {id} has ended"),
            )
        })
    }
}

/// A goal's text, if it is one.
///
/// # Errors
/// When it is empty, too long, or has control characters.
pub fn checked_text(text: &str) -> Result<String, KitError> {
    let invalid =
        |message: String, hint: &str| Err(KitError::new(Category::Validation, message).hint(hint));
    let text = text.trim();
    if text.is_empty() {
        return invalid("the goal is empty".to_owned(), "say what is to be done");
    }
    if text.len() > MAX_TEXT {
        return invalid(
            format!("the goal has {} bytes, more than {MAX_TEXT}", text.len()),
            "shorten it",
        );
    }
    if let Some(bad) = text
        .chars()
        .find(|char| char.is_control() && !matches!(char, '\n' | '\t'))
    {
        return invalid(
            format!("the goal has the control character {bad:?}"),
            "write it as plain text",
        );
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn goals_that_are_none_are_refused() {
        for text in [
            "",
            "  \n",
            "a\u{0}b",
            "a\u{1b}[2Jb",
            &"x".repeat(MAX_TEXT + 1),
        ] {
            assert!(checked_text(text).is_err());
        }
        assert_eq!(checked_text("  it's \"fine\"\n ").unwrap(), "it's \"fine\"");
    }

    proptest! {
        #[test]
        fn what_passes_is_bounded_and_printable(text in "\\PC*|.{0,100}") {
            if let Ok(text) = checked_text(&text) {
                prop_assert!(!text.is_empty() && text.len() <= MAX_TEXT);
                let has_null = text.contains('\0');
                prop_assert!(!has_null);
            }
        }
    }
}
