//! The one clock of PID 1: microseconds since the kernel started, sleep included.

use aios_init_core::Micros;
use rustix::time::{ClockId, clock_gettime};

/// Now.
pub fn now() -> Micros {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds * 1_000_000 + nanos / 1000
}
