//! How long PID 1 waits before it starts a failed unit again, and when it gives up.
//!
//! The first restart is immediate: a daemon that was killed is a short pause. From the second
//! failure without a healthy period between, the delay doubles up to a cap, with jitter so that
//! units that fail together do not return together.

use crate::Micros;

/// The rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Delay after the second failure.
    pub base: Micros,
    /// Longest delay.
    pub cap: Micros,
    /// The failure in a row at which PID 1 gives up.
    pub give_up: u32,
    /// How long a unit is ready before its failures are forgotten.
    pub healthy: Micros,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            base: 100_000,
            cap: 30_000_000,
            give_up: 10,
            healthy: 30_000_000,
        }
    }
}

impl Backoff {
    /// The delay after the `failures`-th failure in a row, or `None` to give up.
    pub fn delay(&self, failures: u32, jitter: &mut Jitter) -> Option<Micros> {
        if failures >= self.give_up {
            return None;
        }
        if failures <= 1 {
            return Some(0);
        }
        let doublings = (failures - 2).min(63);
        let full = self
            .base
            .checked_mul(1 << doublings)
            .map_or(self.cap, |delay| delay.min(self.cap));
        // Between three and five quarters of the full delay.
        let quarter = full / 4;
        Some(full - quarter + jitter.below(2 * quarter + 1))
    }
}

/// A small deterministic source of random numbers (`SplitMix64`); good enough to spread restarts,
/// not for secrets.
#[derive(Debug, Clone)]
pub struct Jitter(u64);

impl Jitter {
    /// Starts the sequence of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).checked_rem(bound).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_restart_is_immediate_and_the_last_never_comes() {
        let backoff = Backoff::default();
        let mut jitter = Jitter::new(1);
        assert_eq!(backoff.delay(1, &mut jitter), Some(0));
        assert_eq!(backoff.delay(backoff.give_up, &mut jitter), None);
        assert_eq!(backoff.delay(u32::MAX, &mut jitter), None);
    }

    proptest! {
        #[test]
        fn delays_stay_near_the_doubling_and_below_the_cap(seed: u64, failures in 2u32..500) {
            let backoff = Backoff { give_up: u32::MAX, ..Backoff::default() };
            let delay = backoff.delay(failures, &mut Jitter::new(seed)).unwrap();
            let full = (u128::from(backoff.base) << (failures - 2).min(60))
                .min(u128::from(backoff.cap));
            prop_assert!(u128::from(delay) * 4 >= full * 3);
            prop_assert!(u128::from(delay) * 4 <= full * 5 + 4);
        }

        #[test]
        fn the_same_seed_gives_the_same_delays(seed: u64) {
            let backoff = Backoff::default();
            let run = || {
                let mut jitter = Jitter::new(seed);
                (1..10).map(|failures| backoff.delay(failures, &mut jitter)).collect::<Vec<_>>()
            };
            prop_assert_eq!(run(), run());
        }
    }
}
