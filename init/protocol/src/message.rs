//! The requests and replies.

use serde::{Deserialize, Serialize};

/// What may be asked of PID 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Every unit. Answered by [`Reply::Units`].
    List,
    /// One unit. Answered by [`Reply::Unit`].
    Status {
        /// Its name.
        unit: String,
    },
    /// Start a unit and what it requires. Answered when it is ready or has failed.
    Start {
        /// Its name.
        unit: String,
    },
    /// Stop a unit and what requires it. Answered when it has stopped.
    Stop {
        /// Its name.
        unit: String,
    },
    /// Stop, then start.
    Restart {
        /// Its name.
        unit: String,
    },
    /// Write a service definition of this machine and load it. Answered by [`Reply::Done`].
    Define {
        /// The service.
        service: ServiceDefinition,
    },
    /// Stop a service that was defined on this machine and remove its definition.
    Remove {
        /// Its name.
        unit: String,
    },
    /// The definition of a service that was defined on this machine, or none.
    Definition {
        /// Its name.
        unit: String,
    },
    /// The last lines that a unit wrote. Answered by [`Reply::Lines`].
    Logs {
        /// Its name.
        unit: String,
        /// How many lines at most.
        lines: u32,
    },
    /// How the boot went. Answered by [`Reply::Boot`].
    Boot,
    /// Stop everything in order, then switch off or restart. Answered before it begins.
    Power {
        /// Which.
        action: PowerAction,
        /// Why, for the log.
        reason: String,
    },
}

/// How the machine ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerAction {
    /// Switch off.
    PowerOff,
    /// Restart.
    Reboot,
}

/// A service that was defined on this machine (tool `service.define`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceDefinition {
    /// Name: letters, digits, `-`, `_`, `.`; at most 64.
    pub name: String,
    /// Absolute path of the program.
    pub command: String,
    /// Its arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// The account that it runs as; root when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// `always`, `on-failure` (the default) or `never`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<String>,
    /// Units that must be ready before it starts.
    #[serde(default)]
    pub after: Vec<String>,
}

/// What PID 1 answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case", deny_unknown_fields)]
pub enum Reply {
    /// Done; says what.
    Done {
        /// For a person.
        detail: String,
    },
    /// Not done.
    Error {
        /// `not_found`, `denied`, `invalid`, `conflict`, `failed` or `busy`.
        kind: String,
        /// What was wrong, and what to do.
        message: String,
    },
    /// One unit.
    Unit {
        /// The unit.
        unit: UnitReport,
    },
    /// Every unit, in the order of their names.
    Units {
        /// The units.
        units: Vec<UnitReport>,
    },
    /// A definition, or none.
    Definition {
        /// The service, if it was defined on this machine.
        service: Option<ServiceDefinition>,
    },
    /// Lines of a log, oldest first.
    Lines {
        /// The lines.
        lines: Vec<String>,
    },
    /// How the boot went.
    Boot {
        /// The report.
        boot: BootReport,
    },
}

/// What a unit is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnitState {
    /// Not running, and nobody wants it to.
    Stopped,
    /// Waits for what it requires.
    Waiting,
    /// Started, not ready yet.
    Starting,
    /// Ready.
    Ready,
    /// Was asked to stop.
    Stopping,
    /// Ended by itself; will be started again after a delay.
    Backoff,
    /// Ended too often, or could not be started: given up.
    Failed,
}

impl UnitState {
    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Stopping => "stopping",
            Self::Backoff => "backoff",
            Self::Failed => "failed",
        }
    }
}

/// The state of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitReport {
    /// Name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// What it is doing.
    pub state: UnitState,
    /// Boot phase that it belongs to.
    pub phase: String,
    /// Process id of its main process, 0 when none.
    pub pid: u32,
    /// Times that it was started again.
    pub restarts: u32,
    /// Microseconds since the kernel started at which it entered its state.
    pub since_us: u64,
    /// What it last said of itself.
    pub status_text: String,
    /// How its process last ended; empty when it never did.
    pub last_exit: String,
    /// Memory of its control group in bytes, 0 when not known.
    pub memory_bytes: u64,
    /// Whether it was defined on this machine rather than by the image.
    pub machine_defined: bool,
}

/// When a unit was started and was ready, in microseconds since the kernel started; 0: not yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitTimes {
    /// Name.
    pub name: String,
    /// Boot phase.
    pub phase: String,
    /// Started.
    pub start_us: u64,
    /// Ready.
    pub ready_us: u64,
}

/// One of the five phases. Times are microseconds since the kernel started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhaseReport {
    /// `hardware`, `runtime`, `services`, `agents` or `autonomy`.
    pub name: String,
    /// Begun.
    pub start_us: u64,
    /// Ended; 0 while it runs.
    pub end_us: u64,
    /// How long it may take.
    pub deadline_us: u64,
    /// `waiting`, `running`, `done`, `degraded`, `late` or `failed`.
    pub outcome: String,
    /// Why, when it is not `done`.
    pub detail: String,
}

/// How the boot went; also in `/run/aios/boot.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootReport {
    /// `booting`, `ready`, `degraded`, `rescue` or `stopping`.
    pub state: String,
    /// What is wrong; empty when nothing is.
    pub problems: Vec<String>,
    /// The phases in order.
    pub phases: Vec<PhaseReport>,
    /// The units in the order of their start.
    pub units: Vec<UnitTimes>,
    /// When the machine was ready; 0 until then.
    pub ready_us: u64,
}
