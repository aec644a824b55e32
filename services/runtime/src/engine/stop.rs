//! When to stop computing: one request at a time is armed with its deadline, and whoever reads the
//! socket may cancel it. llama.cpp asks [`Stop::reason`] between the operations of a graph.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::protocol::Finish;

/// Shared between the thread that computes and the one that reads the socket.
#[derive(Debug)]
pub struct Stop {
    epoch: Instant,
    /// Nanoseconds after `epoch`.
    deadline: AtomicU64,
    armed: AtomicU64,
    cancelled: AtomicU64,
}

/// No request has this number.
const NONE: u64 = u64::MAX;

impl Default for Stop {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            deadline: AtomicU64::new(u64::MAX),
            armed: AtomicU64::new(NONE),
            cancelled: AtomicU64::new(NONE),
        }
    }
}

impl Stop {
    /// Makes `id` the request that is worked on, and ends it after `limit`.
    pub fn arm(&self, id: u64, limit: Duration) {
        let deadline = self.now().saturating_add(nanoseconds(limit));
        self.deadline.store(deadline, Ordering::Relaxed);
        self.armed.store(id, Ordering::Release);
    }

    /// Cancels a request; one that is not worked on any more is left alone.
    pub fn cancel(&self, id: u64) {
        self.cancelled.store(id, Ordering::Release);
    }

    /// Why to stop now, if there is a reason.
    #[must_use]
    pub fn reason(&self) -> Option<Finish> {
        let armed = self.armed.load(Ordering::Acquire);
        if armed != NONE && self.cancelled.load(Ordering::Acquire) == armed {
            return Some(Finish::Cancelled);
        }
        (self.now() >= self.deadline.load(Ordering::Relaxed)).then_some(Finish::Deadline)
    }

    fn now(&self) -> u64 {
        nanoseconds(self.epoch.elapsed())
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_armed_request_is_cancelled() {
        let stop = Stop::default();
        assert_eq!(stop.reason(), None);
        stop.arm(1, Duration::from_secs(60));
        stop.cancel(2);
        assert_eq!(stop.reason(), None);
        stop.cancel(1);
        assert_eq!(stop.reason(), Some(Finish::Cancelled));
        stop.arm(3, Duration::from_secs(60));
        assert_eq!(stop.reason(), None);
        stop.arm(4, Duration::ZERO);
        assert_eq!(stop.reason(), Some(Finish::Deadline));
        stop.arm(5, Duration::MAX);
        assert_eq!(stop.reason(), None);
    }
}
