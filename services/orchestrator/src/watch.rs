//! Who follows a goal gets every change of it, after it is committed.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use aios_proto::v1::GoalUpdate;
use tokio::sync::broadcast;

/// Changes that a slow follower may be behind before it has to start from the stored state again.
const BEHIND: usize = 256;

/// The followers of all goals.
#[derive(Debug, Default)]
pub struct Hub(Mutex<HashMap<String, broadcast::Sender<GoalUpdate>>>);

impl Hub {
    /// Follows a goal from now on.
    #[must_use]
    pub fn follow(&self, goal_id: &str) -> broadcast::Receiver<GoalUpdate> {
        let mut followers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        followers.retain(|_, sender| sender.receiver_count() > 0);
        followers
            .entry(goal_id.to_owned())
            .or_insert_with(|| broadcast::channel(BEHIND).0)
            .subscribe()
    }

    /// Tells those who follow.
    pub fn tell(&self, goal_id: &str, update: GoalUpdate) {
        let followers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = followers.get(goal_id) {
            // An error says that nobody follows any more.
            drop(sender.send(update));
        }
    }
}
