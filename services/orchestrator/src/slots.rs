//! How many goals run at the same time; the others wait, the most urgent first.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::oneshot;

type Place = (Reverse<u32>, u64, String);

#[derive(Debug)]
struct State {
    free: usize,
    waiting: BTreeMap<Place, oneshot::Sender<Slot>>,
}

/// Places for running goals.
#[derive(Debug, Clone)]
pub struct Slots(Arc<Mutex<State>>);

/// A place; dropping it gives it to the next.
#[derive(Debug)]
pub struct Slot(Slots);

impl Slots {
    /// Room for so many goals, at least one.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            free: count.max(1),
            waiting: BTreeMap::new(),
        })))
    }

    /// Waits for a place. Dropping the wait gives up the turn.
    pub async fn acquire(&self, priority: u32, since_ms: u64, id: &str) -> Slot {
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            state
                .waiting
                .insert((Reverse(priority), since_ms, id.to_owned()), sender);
        }
        self.pump();
        match receiver.await {
            Ok(slot) => slot,
            // The same goal asked again elsewhere and took over this turn, which does not happen
            // while one runner owns a goal; there is then nothing to wait for.
            Err(_) => std::future::pending().await,
        }
    }

    fn pump(&self) {
        loop {
            let (sender, slot) = {
                let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                if state.free == 0 {
                    return;
                }
                let Some((_, sender)) = state.waiting.pop_first() else {
                    return;
                };
                state.free -= 1;
                (sender, Slot(self.clone()))
            };
            // Someone who no longer waits gives the slot back by dropping it, which comes here again.
            drop(sender.send(slot));
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        {
            let mut state = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.free += 1;
        }
        self.0.pump();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_most_urgent_is_next_and_those_who_left_are_passed_over() {
        let slots = Slots::new(1);
        let first = slots.acquire(5, 1, "first").await;
        let (order, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let mut waiting = Vec::new();
        for (priority, since, id) in [
            (5, 2, "late"),
            (9, 3, "urgent"),
            (9, 2, "gone"),
            (5, 1, "early"),
        ] {
            let (slots, order) = (slots.clone(), order.clone());
            waiting.push(tokio::spawn(async move {
                let _slot = slots.acquire(priority, since, id).await;
                order.send(id).unwrap();
            }));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        waiting[2].abort();
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(first);
        drop(order);
        let mut got = Vec::new();
        while let Some(id) = seen.recv().await {
            got.push(id);
        }
        assert_eq!(got, ["urgent", "early", "late"]);
        tokio::time::timeout(Duration::from_secs(1), slots.acquire(0, 9, "again"))
            .await
            .unwrap();
    }
}
