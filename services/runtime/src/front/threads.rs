//! How many threads a worker computes with.

use std::sync::atomic::{AtomicU32, Ordering};

/// Threads that all workers share.
#[derive(Debug)]
pub struct Threads {
    total: u32,
    /// Whether a small model may be given fewer.
    by_size: bool,
    computing: AtomicU32,
}

/// Below so many weights a second thread costs more than it brings: the threads wait for each other
/// between operations, and on a busy machine they wait for a core first.
const SMALL_MODEL: u64 = 20_000_000;

impl Threads {
    /// One per core, and only one for a small model.
    #[must_use]
    pub fn automatic(cores: u32) -> Self {
        Self {
            total: cores.max(1),
            by_size: true,
            computing: AtomicU32::new(0),
        }
    }

    /// So many in all for any model, but never more than cores.
    #[must_use]
    pub fn fixed(threads: u32, cores: u32) -> Self {
        Self {
            total: threads.min(cores).max(1),
            by_size: false,
            computing: AtomicU32::new(0),
        }
    }

    /// The share of one more worker, whose model has so many weights; more threads than cores cost
    /// far more than they bring.
    pub(super) fn enter(&self, parameters: u64) -> (u32, Counted<'_>) {
        let counted = Counted::new(&self.computing);
        let workers = self.computing.load(Ordering::SeqCst).max(1);
        let threads = if self.by_size && parameters < SMALL_MODEL {
            1
        } else {
            (self.total / workers).max(1)
        };
        (threads, counted)
    }
}

/// Adds one to a number for as long as it lives, however its owner ends.
#[derive(Debug)]
pub(super) struct Counted<'a>(&'a AtomicU32);

impl<'a> Counted<'a> {
    pub(super) fn new(number: &'a AtomicU32) -> Self {
        number.fetch_add(1, Ordering::SeqCst);
        Self(number)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_the_threads() {
        let threads = Threads::automatic(8);
        let (first, one) = threads.enter(SMALL_MODEL);
        let (second, _two) = threads.enter(SMALL_MODEL);
        assert_eq!((first, second), (8, 4));
        drop(one);
        assert_eq!(threads.enter(SMALL_MODEL).0, 4);
        assert_eq!(threads.enter(1000).0, 1);
    }

    #[test]
    fn a_configured_number_holds_for_small_models_too_but_not_beyond_the_cores() {
        assert_eq!(Threads::fixed(3, 8).enter(1000).0, 3);
        assert_eq!(Threads::fixed(64, 2).enter(1000).0, 2);
        assert_eq!(Threads::fixed(0, 2).enter(1000).0, 1);
    }
}
