//! The Linux side of PID 1.
//!
//! One thread, one loop ([`run`]): wait for something to happen, turn it into an event for the
//! supervisor of `aios-init-core`, carry out the actions that come back. Nothing in the loop waits
//! for another process: sockets and pipes do not block, and every conversation has a time limit.

mod access;
mod answer;
mod cgroup;
mod check;
mod child;
mod clock;
mod console;
mod control;
mod definitions;
mod directories;
mod inventory;
mod linux;
mod machine;
mod notify;
mod options;
mod output;
mod power;
mod rescue;
mod run;
mod sockets;
mod spawn;

pub use check::check;
pub use options::{Command, Options, USAGE, parse as parse_options};
pub use run::{RunError, run};
