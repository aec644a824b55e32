//! Calls that are being made, by idempotency key: a second call with the same key waits for the
//! first and is then answered from its record.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::OwnedMutexGuard;

type Keys = Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>;

/// The keys that are in use.
#[derive(Debug, Default, Clone)]
pub struct InFlight(Keys);

/// The only use of a key at this moment.
#[derive(Debug)]
pub struct Turn {
    keys: Keys,
    key: String,
    guard: Option<OwnedMutexGuard<()>>,
}

impl InFlight {
    /// Waits until nobody else uses the key. The wait can be given up at any point.
    pub async fn turn(&self, key: &str) -> Turn {
        let mut turn = Turn {
            keys: Arc::clone(&self.0),
            key: key.to_owned(),
            guard: None,
        };
        let lock = {
            let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(keys.entry(key.to_owned()).or_default())
        };
        turn.guard = Some(lock.lock_owned().await);
        turn
    }

    /// How many keys are in use.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        self.guard = None;
        // Only the map itself holds a lock that nobody uses or waits for.
        if keys
            .get(&self.key)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            keys.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn one_at_a_time_and_nothing_is_left_behind() {
        let keys = InFlight::default();
        let first = keys.turn("a").await;
        let waiting = keys.turn("a");
        assert!(
            tokio::time::timeout(Duration::from_millis(20), waiting)
                .await
                .is_err()
        );
        let other = keys.turn("b").await;
        drop(first);
        let second = tokio::time::timeout(Duration::from_secs(5), keys.turn("a"))
            .await
            .unwrap();
        drop((second, other));
        assert_eq!(keys.len(), 0);
    }
}
