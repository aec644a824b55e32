//! The one line between deciding and doing.
//!
//! [`drive`] gives an event to the supervisor and carries out every action that follows from it,
//! feeding the outcome of each start back in, until nothing is left to do. PID 1's loop and the
//! simulated machine of the tests both turn by it.

use std::collections::VecDeque;

use aios_init_protocol::{BootReport, PowerAction};

use crate::{
    Micros,
    supervisor::{Action, Event, Level, Refusal, Supervisor},
    unit::Unit,
};

/// What became of a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spawn {
    /// The program runs.
    Running {
        /// Its process id.
        pid: u32,
    },
    /// Its condition does not hold.
    Skipped {
        /// Which, for a person.
        reason: String,
    },
    /// It could not be started.
    Failed {
        /// Why, for a person.
        reason: String,
        /// Whether trying again is pointless (no such program, no such account).
        permanent: bool,
    },
}

/// The effects of PID 1. None of them may block or fail in a way that the caller must handle:
/// whatever goes wrong is logged by the implementation or comes back as an event.
pub trait Kernel {
    /// Starts the program of a unit.
    fn spawn(&mut self, unit: &Unit) -> Spawn;
    /// Sends SIGTERM to the main process of a unit.
    fn terminate(&mut self, unit: &str, pid: u32);
    /// Kills every process of a unit.
    fn kill_group(&mut self, unit: &str, pid: u32);
    /// Writes a line to the log and, while it matters, to the console.
    fn log(&mut self, level: Level, text: &str, now: Micros);
    /// Answers a request.
    fn reply(&mut self, token: u64, result: Result<String, Refusal>);
    /// Stores how the boot goes.
    fn save_boot(&mut self, report: &BootReport);
    /// Says on the console that the machine is ready.
    fn announce(&mut self, report: &BootReport);
    /// Keeps whether a service of this machine is started at the next boot.
    fn keep_enabled(&mut self, unit: &str, enabled: bool);
    /// Removes the definition of a service of this machine.
    fn forget(&mut self, unit: &str) -> Result<(), String>;
    /// Ends the machine.
    fn halt(&mut self, action: PowerAction, stragglers: &[String]);
}

/// Handles an event and everything that follows from it.
pub fn drive(supervisor: &mut Supervisor, kernel: &mut impl Kernel, event: Event, now: Micros) {
    let mut actions = VecDeque::from(supervisor.handle(event, now));
    while let Some(action) = actions.pop_front() {
        match action {
            Action::Spawn { unit } => {
                let outcome = match supervisor.unit(&unit) {
                    Some(description) => kernel.spawn(description),
                    None => continue,
                };
                actions.extend(supervisor.handle(Event::Spawned { unit, outcome }, now));
            }
            Action::Terminate { unit, pid } => kernel.terminate(&unit, pid),
            Action::KillGroup { unit, pid } => kernel.kill_group(&unit, pid),
            Action::Log { level, text } => kernel.log(level, &text, now),
            Action::Reply { token, result } => kernel.reply(token, result),
            Action::SaveBoot => kernel.save_boot(&supervisor.boot_report()),
            Action::Announce => kernel.announce(&supervisor.boot_report()),
            Action::KeepEnabled { unit, enabled } => kernel.keep_enabled(&unit, enabled),
            Action::Forget { unit, token } => {
                let result = kernel.forget(&unit);
                actions.extend(supervisor.handle(
                    Event::Forgotten {
                        unit,
                        token,
                        result,
                    },
                    now,
                ));
            }
            Action::Halt { action, stragglers } => kernel.halt(action, &stragglers),
        }
    }
}
