//! The order in which waiting requests are done: callers take turns, each caller's own requests in
//! the order of their arrival, so that nobody waits behind everything that somebody else asked.
//! Pure: it knows neither time nor threads.

use std::collections::VecDeque;

/// Why a request may not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// There is no place left.
    #[error("{0} requests are waiting, which is as many as may")]
    Everybody(usize),
    /// This caller has all the places that one caller may have.
    #[error("{0} requests of this caller are waiting, which is as many as one may have")]
    Caller(usize),
}

/// Waiting requests.
#[derive(Debug)]
pub struct FairQueue<T> {
    capacity: usize,
    waiting: usize,
    /// Callers with waiting requests; the first one is next.
    turns: VecDeque<(u32, VecDeque<T>)>,
}

impl<T> FairQueue<T> {
    /// A queue with so many places, at least one.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            waiting: 0,
            turns: VecDeque::new(),
        }
    }

    /// Places that one caller may take: a quarter stays free for others.
    fn share(&self) -> usize {
        self.capacity - self.capacity / 4
    }

    /// How many requests wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Lets a request wait.
    ///
    /// # Errors
    /// [`Full`] when there is no place for it.
    pub fn push(&mut self, caller: u32, request: T) -> Result<(), Full> {
        if self.waiting >= self.capacity {
            return Err(Full::Everybody(self.waiting));
        }
        let share = self.share();
        match self.turns.iter_mut().find(|(uid, _)| *uid == caller) {
            Some((_, own)) if own.len() >= share => return Err(Full::Caller(own.len())),
            Some((_, own)) => own.push_back(request),
            None => self.turns.push_back((caller, VecDeque::from([request]))),
        }
        self.waiting += 1;
        Ok(())
    }

    /// Takes the next request; its caller's turn is over.
    pub fn pop(&mut self) -> Option<T> {
        let (caller, mut own) = self.turns.pop_front()?;
        let request = own.pop_front();
        if !own.is_empty() {
            self.turns.push_back((caller, own));
        }
        self.waiting -= usize::from(request.is_some());
        request
    }

    /// Takes out the first request that fits.
    pub fn remove(&mut self, mut fits: impl FnMut(&T) -> bool) -> Option<T> {
        for turn in 0..self.turns.len() {
            let own = &mut self.turns[turn].1;
            if let Some(at) = own.iter().position(&mut fits) {
                let request = own.remove(at);
                if own.is_empty() {
                    self.turns.remove(turn);
                }
                self.waiting -= usize::from(request.is_some());
                return request;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn callers_take_turns() {
        let mut queue = FairQueue::new(8);
        for request in ["a1", "a2", "a3"] {
            queue.push(1, request).unwrap();
        }
        queue.push(2, "b1").unwrap();
        queue.push(2, "b2").unwrap();
        let order: Vec<&str> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, ["a1", "b1", "a2", "b2", "a3"]);
    }

    #[test]
    fn one_caller_leaves_places_for_others() {
        let mut queue = FairQueue::new(4);
        for request in 0..3 {
            queue.push(1, request).unwrap();
        }
        assert_eq!(queue.push(1, 3), Err(Full::Caller(3)));
        queue.push(2, 4).unwrap();
        assert_eq!(queue.push(3, 5), Err(Full::Everybody(4)));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_doubled(steps in proptest::collection::vec((0_u8..4, 0_u32..4), 0..200), capacity in 1_usize..20) {
            let mut queue = FairQueue::new(capacity);
            let mut inside = std::collections::BTreeSet::new();
            for (number, (action, caller)) in steps.into_iter().enumerate() {
                match action {
                    0 | 1 => {
                        if queue.push(caller, number).is_ok() {
                            inside.insert(number);
                        }
                    }
                    2 => {
                        let popped = queue.pop();
                        prop_assert_eq!(popped.is_none(), inside.is_empty());
                        if let Some(number) = popped {
                            prop_assert!(inside.remove(&number));
                        }
                    }
                    _ => {
                        let target = inside.first().copied();
                        let removed = queue.remove(|&number| Some(number) == target);
                        prop_assert_eq!(removed, target);
                        if let Some(number) = removed {
                            inside.remove(&number);
                        }
                    }
                }
                prop_assert_eq!(queue.len(), inside.len());
                prop_assert!(queue.len() <= capacity);
            }
        }

        #[test]
        fn nobody_waits_longer_than_one_round(counts in proptest::collection::vec(1_usize..6, 1..6)) {
            let mut queue = FairQueue::new(1000);
            for (caller, count) in (0..).zip(&counts) {
                for _ in 0..*count {
                    queue.push(caller, caller).unwrap();
                }
            }
            let first_round: std::collections::BTreeSet<u32> =
                (0..counts.len()).filter_map(|_| queue.pop()).collect();
            prop_assert_eq!(first_round.len(), counts.len());
        }
    }
}
