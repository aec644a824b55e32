//! The state machine of PID 1.
//!
//! # A unit
//!
//! ```text
//! Stopped ──start──▶ Waiting ──what it needs is ready──▶ Starting ──ready──▶ Ready
//!    ▲                  ▲                                   │ ends            │ ends
//!    │                  └──────── delay over ── Backoff ◀───┴─────────────────┤
//!    └── ended ── Stopping ◀── stop ── (any of them)         Failed ◀── given up
//! ```
//!
//! * At most one main process per unit; a new one starts only after the old one was reaped.
//! * `requires`: started with the unit, and ready before it starts. When a required unit *restarts*,
//!   the units that require it go on: clients reconnect. When it is *stopped*, they stop first.
//! * `wants`: started with the unit; it starts after they are ready or have failed. `after`: the
//!   same without starting them. Both order the first start only, never a restart.
//! * The first restart is immediate, see [`crate::Backoff`]. Exit status 78 (`EX_CONFIG`) means that
//!   trying again is pointless: the unit fails at once.
//! * A one-shot that ended well is `Ready` with no process. A unit whose condition does not hold is
//!   `Stopped` and holds nobody up.
//!
//! # The boot
//!
//! The phases follow each other. A phase is over when each of its awaited units is ready, has
//! failed, keeps failing or was skipped, or at its deadline; whatever is late goes on starting.
//!
//! # The end
//!
//! No unit is started any more; units stop in reverse order of what they need, each within its own
//! time, all within one budget; what is left is killed and named.

mod boot;
mod entry;
mod life;
mod request;

use std::collections::{BTreeMap, BTreeSet};

use aios_init_protocol::{PowerAction, UnitReport};

use self::{boot::Boot, entry::Entry};
use crate::{
    Micros,
    backoff::{Backoff, Jitter},
    kernel::Spawn,
    notify::Notification,
    unit::Unit,
};

/// Exit status by which a program says that starting it again is pointless (`EX_CONFIG`).
pub(crate) const PERMANENT_FAILURE: i32 = 78;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The hardware phase is over; what it found wrong, if the machine goes on all the same.
    HardwareChecked {
        /// One sentence each.
        problems: Vec<String>,
    },
    /// The outcome of [`Action::Spawn`].
    Spawned {
        /// The unit.
        unit: String,
        /// The outcome.
        outcome: Spawn,
    },
    /// The main process of a unit ended and was reaped.
    Exited {
        /// Its process id.
        pid: u32,
        /// How.
        exit: Exit,
    },
    /// A process of a unit spoke.
    Notified {
        /// The unit, as the kernel says it.
        unit: String,
        /// What it said.
        notification: Notification,
    },
    /// Time has passed.
    Tick,
    /// Somebody asks something that takes time. Answered once, by [`Action::Reply`] with its token.
    Request {
        /// Chosen by the caller.
        token: u64,
        /// What.
        operation: Operation,
    },
    /// The outcome of [`Action::Forget`].
    Forgotten {
        /// The unit.
        unit: String,
        /// Who asked.
        token: u64,
        /// Whether its definition is gone.
        result: Result<(), String>,
    },
    /// The machine is to end.
    Power {
        /// How.
        action: PowerAction,
        /// Why, for the log.
        reason: String,
    },
}

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Start a unit and what it needs.
    Start(String),
    /// Stop a unit and what requires it.
    Stop(String),
    /// Stop a unit, then start it.
    Restart(String),
    /// Load a definition that is already on disk.
    Define(Box<Unit>),
    /// Stop a service of this machine and remove it.
    Remove(String),
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with a status.
    Status(i32),
    /// By a signal.
    Signal(i32),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status) => write!(f, "exit status {status}"),
            Self::Signal(9) => f.write_str("killed by SIGKILL"),
            Self::Signal(15) => f.write_str("ended by SIGTERM"),
            Self::Signal(6) => f.write_str("aborted (SIGABRT)"),
            Self::Signal(11) => f.write_str("crashed (SIGSEGV)"),
            Self::Signal(signal) => write!(f, "ended by signal {signal}"),
        }
    }
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start the program of a unit and answer with [`Event::Spawned`].
    Spawn {
        /// The unit.
        unit: String,
    },
    /// Send SIGTERM to a main process.
    Terminate {
        /// The unit.
        unit: String,
        /// Its main process.
        pid: u32,
    },
    /// Kill every process of a unit.
    KillGroup {
        /// The unit.
        unit: String,
        /// Its main process, 0 when it has ended.
        pid: u32,
    },
    /// Write to the log.
    Log {
        /// How much it matters.
        level: Level,
        /// One line.
        text: String,
    },
    /// Answer a request.
    Reply {
        /// Which.
        token: u64,
        /// For a person, or why not.
        result: Result<String, Refusal>,
    },
    /// The boot report changed.
    SaveBoot,
    /// The machine is ready.
    Announce,
    /// Remember whether a service of this machine runs.
    KeepEnabled {
        /// The unit.
        unit: String,
        /// Whether it is to be started at the next boot.
        enabled: bool,
    },
    /// Remove the definition of a service of this machine and answer with [`Event::Forgotten`].
    Forget {
        /// The unit.
        unit: String,
        /// Who asked.
        token: u64,
    },
    /// Everything has stopped: end the machine.
    Halt {
        /// How.
        action: PowerAction,
        /// Units that had to be killed.
        stragglers: Vec<String>,
    },
}

/// How much a line of the log matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As expected.
    Info,
    /// Something failed and is being dealt with.
    Warning,
    /// Something is not working.
    Error,
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// `not_found`, `invalid`, `conflict`, `failed` or `busy`.
    pub kind: &'static str,
    /// What was wrong, and what to do.
    pub message: String,
}

impl Refusal {
    pub(crate) fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

/// Whose word a unit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The image's.
    Image,
    /// This machine's.
    Machine {
        /// Whether it is started at boot.
        enabled: bool,
    },
}

/// The numbers that the supervisor goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Restarts.
    pub backoff: Backoff,
    /// How long a killed process may take to vanish.
    pub kill_wait: Micros,
    /// How long the whole stop may take before everything left is killed.
    pub stop_budget: Micros,
    /// Longest wait of a request.
    pub request_wait: Micros,
    /// How long each phase may take, in the order of [`crate::Phase::ALL`].
    pub phase_deadlines: [Micros; 5],
    /// Seed of the jitter.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            backoff: Backoff::default(),
            kill_wait: 5_000_000,
            stop_budget: 25_000_000,
            request_wait: 120_000_000,
            phase_deadlines: [30_000_000, 120_000_000, 60_000_000, 60_000_000, 30_000_000],
            seed: 0,
        }
    }
}

/// The end of the machine, under way.
#[derive(Debug, Clone)]
struct Ending {
    action: PowerAction,
    deadline: Micros,
    killed: bool,
    stragglers: BTreeSet<String>,
    halted: bool,
}

/// The supervisor. See the module's text for its rules.
#[derive(Debug)]
pub struct Supervisor {
    entries: BTreeMap<String, Entry>,
    settings: Settings,
    jitter: Jitter,
    boot: Boot,
    ending: Option<Ending>,
    out: Vec<Action>,
}

impl Supervisor {
    /// A supervisor of these units, none of them started. `problems` are what was wrong with unit
    /// files; they are part of the boot report.
    #[must_use]
    pub fn new(
        units: impl IntoIterator<Item = (Unit, Origin, Option<String>)>,
        problems: Vec<String>,
        settings: Settings,
        now: Micros,
    ) -> Self {
        let entries = units
            .into_iter()
            .map(|(unit, origin, unusable)| {
                (unit.name.clone(), Entry::new(unit, origin, unusable, now))
            })
            .collect();
        Self {
            entries,
            jitter: Jitter::new(settings.seed),
            boot: Boot::new(&settings, problems, now),
            settings,
            ending: None,
            out: Vec::new(),
        }
    }

    /// Takes an event in and says what is to be done.
    pub fn handle(&mut self, event: Event, now: Micros) -> Vec<Action> {
        match event {
            Event::HardwareChecked { problems } => self.hardware_checked(problems, now),
            Event::Spawned { unit, outcome } => self.spawned(&unit, outcome, now),
            Event::Exited { pid, exit } => self.exited(pid, exit, now),
            Event::Notified { unit, notification } => self.notified(&unit, &notification, now),
            Event::Tick => {}
            Event::Request { token, operation } => self.request(token, operation, now),
            Event::Forgotten {
                unit,
                token,
                result,
            } => self.forgotten(&unit, token, result),
            Event::Power { action, reason } => self.power(action, &reason, now),
        }
        self.expire(now);
        self.settle(now);
        std::mem::take(&mut self.out)
    }

    /// When [`Event::Tick`] is next needed.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Micros> {
        let units = self.entries.values().flat_map(Entry::deadlines);
        let ending = self
            .ending
            .as_ref()
            .filter(|ending| !ending.halted)
            .map(|ending| ending.deadline);
        units.chain(ending).chain(self.boot.deadline()).min()
    }

    /// The description of a unit.
    #[must_use]
    pub fn unit(&self, name: &str) -> Option<&Unit> {
        self.entries.get(name).map(|entry| &entry.unit)
    }

    /// Whether a unit was defined on this machine.
    #[must_use]
    pub fn is_machine_defined(&self, name: &str) -> bool {
        self.entries.get(name).is_some_and(Entry::is_machine)
    }

    /// The unit of a main process.
    #[must_use]
    pub fn unit_of(&self, pid: u32) -> Option<&str> {
        self.entries
            .values()
            .find(|entry| pid != 0 && entry.pid == pid)
            .map(|entry| entry.unit.name.as_str())
    }

    /// The names of all units, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The state of a unit; memory is the Linux side's to fill in.
    #[must_use]
    pub fn report(&self, name: &str) -> Option<UnitReport> {
        self.entries.get(name).map(Entry::report)
    }

    /// The states of all units in the order of their names.
    #[must_use]
    pub fn reports(&self) -> Vec<UnitReport> {
        self.entries.values().map(Entry::report).collect()
    }

    /// Whether the machine is ending.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    fn log(&mut self, level: Level, text: impl Into<String>) {
        self.out.push(Action::Log {
            level,
            text: text.into(),
        });
    }
}

#[cfg(test)]
mod tests;
