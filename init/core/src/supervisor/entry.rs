//! What the supervisor knows about one unit.

use aios_init_protocol::{UnitReport, UnitState};

use super::Origin;
use crate::{Micros, unit::Unit};

/// Somebody who waits for a unit.
#[derive(Debug, Clone)]
pub(super) struct Waiter {
    pub(super) token: u64,
    pub(super) until: Until,
    pub(super) deadline: Micros,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// The unit is ready.
    Ready,
    /// The unit has stopped.
    Stopped,
    /// The unit has stopped and is to be forgotten.
    Removed,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) unit: Unit,
    pub(super) origin: Origin,
    /// Why it can never be started, if so.
    pub(super) unusable: Option<String>,
    pub(super) state: UnitState,
    pub(super) since: Micros,
    /// Whether it is to run.
    pub(super) wanted: bool,
    /// Whether it is started again once it has stopped.
    pub(super) again: bool,
    /// Main process, 0 when none.
    pub(super) pid: u32,
    /// A one-shot that ended well, or a unit whose condition does not hold: satisfied, no process.
    pub(super) satisfied: bool,
    /// Whether it has been started before, so that only `requires` counts.
    pub(super) started_before: bool,
    pub(super) restarts: u32,
    /// Failures in a row.
    pub(super) failures: u32,
    pub(super) status_text: String,
    pub(super) last_exit: String,
    /// What it means depends on the state: start timeout, healthy, delay, grace.
    pub(super) deadline: Option<Micros>,
    /// Whether SIGTERM was sent (`Stopping`).
    pub(super) terminated: bool,
    /// Whether the group was killed (`Starting`, `Stopping`).
    pub(super) killed: bool,
    pub(super) first_start: Micros,
    pub(super) first_ready: Micros,
    pub(super) waiters: Vec<Waiter>,
}

impl Entry {
    pub(super) fn new(unit: Unit, origin: Origin, unusable: Option<String>, now: Micros) -> Self {
        Self {
            unit,
            origin,
            unusable,
            state: UnitState::Stopped,
            since: now,
            wanted: false,
            again: false,
            pid: 0,
            satisfied: false,
            started_before: false,
            restarts: 0,
            failures: 0,
            status_text: String::new(),
            last_exit: String::new(),
            deadline: None,
            terminated: false,
            killed: false,
            first_start: 0,
            first_ready: 0,
            waiters: Vec::new(),
        }
    }

    pub(super) fn enter(&mut self, state: UnitState, now: Micros, deadline: Option<Micros>) {
        self.state = state;
        self.since = now;
        self.deadline = deadline;
        self.terminated = false;
        self.killed = false;
    }

    pub(super) fn is_machine(&self) -> bool {
        matches!(self.origin, Origin::Machine { .. })
    }

    /// Whether a unit that `requires` this one may start.
    pub(super) fn fulfils(&self) -> bool {
        self.state == UnitState::Ready || self.satisfied
    }

    /// Whether a unit that `wants` this one, or comes `after` it, need not wait any longer.
    pub(super) fn lets_pass(&self) -> bool {
        match self.state {
            UnitState::Ready | UnitState::Failed | UnitState::Stopped => true,
            UnitState::Backoff | UnitState::Starting | UnitState::Waiting => self.keeps_failing(),
            UnitState::Stopping => !self.again,
        }
    }

    /// Whether it failed again after it was restarted at once.
    pub(super) fn keeps_failing(&self) -> bool {
        self.failures >= 3 && self.state != UnitState::Ready
    }

    /// Whether it has, or is about to have, a process.
    pub(super) fn is_alive(&self) -> bool {
        self.pid != 0 || matches!(self.state, UnitState::Starting | UnitState::Stopping)
    }

    /// What it says is wrong with itself although it runs.
    pub(super) fn degraded(&self) -> bool {
        self.state == UnitState::Ready && self.status_text.starts_with("degraded")
    }

    pub(super) fn deadlines(&self) -> impl Iterator<Item = Micros> {
        let waiters = self.waiters.iter().map(|waiter| waiter.deadline);
        self.deadline.into_iter().chain(waiters)
    }

    pub(super) fn report(&self) -> UnitReport {
        UnitReport {
            name: self.unit.name.clone(),
            description: self.unit.description.clone(),
            state: self.state,
            phase: self.unit.phase.name().to_owned(),
            pid: self.pid,
            restarts: self.restarts,
            since_us: self.since,
            status_text: self.status_text.clone(),
            last_exit: self.last_exit.clone(),
            memory_bytes: 0,
            machine_defined: self.is_machine(),
        }
    }
}
