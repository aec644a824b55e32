//! What is said of a service: PID 1's own words, in one shape for every tool of the family.

use aios_init_protocol::{UnitReport, UnitState};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceName {
    /// Name of the service, as Debian calls it, e.g. `nginx`.
    pub name: String,
}

/// A service as PID 1 reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Service {
    /// Name.
    pub name: String,
    /// `stopped`, `waiting`, `starting`, `ready`, `stopping`, `backoff` or `failed`.
    pub state: String,
    /// Whether it is up and does its work: `state` is `ready`.
    pub running: bool,
    /// Process id of its main process; 0 when it has none.
    pub pid: u32,
    /// Times that it was started again after it had ended by itself.
    pub restarts: u32,
    /// What it last said of itself; may be empty.
    pub status: String,
    /// How its process last ended; empty when it never did.
    pub last_exit: String,
    /// Microseconds since the kernel started at which it entered its state.
    pub since_us: u64,
    /// Memory in bytes; 0 when not known.
    pub memory_bytes: u64,
    /// What it is for.
    pub description: String,
    /// Boot phase that it belongs to.
    pub phase: String,
    /// Whether it was defined on this machine (service.define) rather than by the image.
    pub machine_defined: bool,
}

impl From<UnitReport> for Service {
    fn from(unit: UnitReport) -> Self {
        Self {
            name: unit.name,
            state: unit.state.name().to_owned(),
            running: unit.state == UnitState::Ready,
            pid: unit.pid,
            restarts: unit.restarts,
            status: unit.status_text,
            last_exit: unit.last_exit,
            since_us: unit.since_us,
            memory_bytes: unit.memory_bytes,
            description: unit.description,
            phase: unit.phase,
            machine_defined: unit.machine_defined,
        }
    }
}

/// Whether PID 1 keeps the unit up, or is about to.
pub(crate) fn is_wanted(state: UnitState) -> bool {
    matches!(
        state,
        UnitState::Ready | UnitState::Starting | UnitState::Waiting | UnitState::Backoff
    )
}
