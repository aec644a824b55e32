//! The `service.*` tools: long-running programs, supervised by PID 1.
//!
//! Invariants: nothing here starts, stops or signals a process; it asks PID 1 over its control
//! socket and reports what PID 1 says afterwards. The daemons and agents that aiOS itself is made of
//! cannot be stopped, redefined or removed from here, because a goal must not be able to end the
//! machinery that checks goals.

mod define;
mod lifecycle;
mod logs;
mod name;
mod pid1;
mod read;
mod report;

#[cfg(test)]
mod fake_pid1;
#[cfg(test)]
mod tests;

pub use define::{Define, DefineArgs, Defined, Remove, Removed, Restart};
pub use lifecycle::{Changed, Start, Stop};
pub use logs::{Level, LogLines, Logs, LogsArgs};
pub use read::{List, Listed, NoArgs, Status};
pub use report::{Service, ServiceName};

use aios_tool_api::Registry;

/// Adds every tool of the family.
pub fn register(registry: &mut Registry) {
    registry.add(List);
    registry.add(Status);
    registry.add(Start);
    registry.add(Stop);
    registry.add(Define);
    registry.add(Remove);
    registry.add(Logs);
}
