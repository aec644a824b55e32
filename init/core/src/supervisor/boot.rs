//! The five phases, and what is wrong with the machine.

use std::collections::BTreeMap;

use aios_init_protocol::{BootReport, PhaseReport, UnitState, UnitTimes};

use super::{Action, Level, Origin, Settings, Supervisor, entry::Entry};
use crate::{Micros, unit::Phase};

/// How the boot goes.
#[derive(Debug)]
pub(super) struct Boot {
    phases: Vec<PhaseReport>,
    /// Index of the running phase; past the end when the boot is over.
    current: usize,
    state: &'static str,
    ready: Micros,
    /// What is wrong with unit files and hardware; it stays so until the next boot.
    lasting: Vec<String>,
    problems: Vec<String>,
    saved: Option<BootReport>,
}

impl Boot {
    pub(super) fn new(settings: &Settings, problems: Vec<String>, now: Micros) -> Self {
        let phases = Phase::ALL
            .iter()
            .zip(settings.phase_deadlines)
            .enumerate()
            .map(|(index, (phase, deadline_us))| PhaseReport {
                name: phase.name().to_owned(),
                start_us: if index == 0 { now } else { 0 },
                end_us: 0,
                deadline_us,
                outcome: if index == 0 { "running" } else { "waiting" }.to_owned(),
                detail: String::new(),
            })
            .collect();
        Self {
            phases,
            current: 0,
            state: "booting",
            ready: 0,
            lasting: problems,
            problems: Vec::new(),
            saved: None,
        }
    }

    pub(super) fn deadline(&self) -> Option<Micros> {
        // The hardware phase is PID 1's own; it ends by an event, not by time.
        (self.current > 0 && self.state != "stopping")
            .then(|| self.phases.get(self.current))
            .flatten()
            .map(|phase| phase.start_us.saturating_add(phase.deadline_us))
    }

    pub(super) fn stopping(&mut self) {
        self.state = "stopping";
    }
}

impl Supervisor {
    pub(super) fn hardware_checked(&mut self, problems: Vec<String>, now: Micros) {
        if self.boot.current != 0 || self.boot.state != "booting" {
            return;
        }
        let detail = problems.join("; ");
        let outcome = if problems.is_empty() {
            "done"
        } else {
            "degraded"
        };
        self.boot.lasting.extend(problems);
        self.end_phase(outcome, detail, now);
    }

    fn end_phase(&mut self, outcome: &str, detail: String, now: Micros) {
        let Some(phase) = self.boot.phases.get_mut(self.boot.current) else {
            return;
        };
        phase.end_us = now;
        outcome.clone_into(&mut phase.outcome);
        phase.detail.clone_from(&detail);
        let took = now.saturating_sub(phase.start_us);
        let mut text = format!(
            "phase {} {outcome} after {}.{:03} s",
            phase.name,
            took / 1_000_000,
            took / 1000 % 1000
        );
        if !detail.is_empty() {
            text.push_str(": ");
            text.push_str(&detail);
        }
        let level = if outcome == "done" {
            Level::Info
        } else {
            Level::Warning
        };
        self.boot.current += 1;
        self.log(level, text);
        self.begin_phase(now);
    }

    fn begin_phase(&mut self, now: Micros) {
        let index = self.boot.current;
        let (Some(report), Some(phase)) = (self.boot.phases.get_mut(index), Phase::ALL.get(index))
        else {
            return;
        };
        report.start_us = now;
        "running".clone_into(&mut report.outcome);
        let names: Vec<String> = self
            .entries
            .values()
            .filter(|entry| entry.unit.phase == *phase)
            .filter(|entry| entry.origin != Origin::Machine { enabled: false })
            .map(|entry| entry.unit.name.clone())
            .collect();
        for name in names {
            self.want(&name, false, now);
        }
    }

    /// Ends the running phase if it is over. Whether anything moved.
    pub(super) fn turn_boot(&mut self, now: Micros) -> bool {
        let index = self.boot.current;
        if index == 0 || self.boot.state != "booting" {
            return false;
        }
        let (Some(phase), Some(report)) = (Phase::ALL.get(index), self.boot.phases.get(index))
        else {
            return self.boot_is_over(now);
        };
        let late = report.start_us.saturating_add(report.deadline_us) <= now;
        let mut open = Vec::new();
        let mut wrong = Vec::new();
        for entry in self
            .entries
            .values()
            .filter(|entry| entry.unit.phase == *phase)
        {
            if !entry.unit.awaited {
                continue;
            }
            if !self.is_settled(entry) {
                open.push(entry.unit.name.clone());
            } else if let Some(problem) = self.problem_of(entry) {
                wrong.push(problem);
            }
        }
        if !open.is_empty() && !late {
            return false;
        }
        if open.is_empty() {
            let outcome = if wrong.is_empty() { "done" } else { "degraded" };
            self.end_phase(outcome, wrong.join("; "), now);
        } else {
            let detail = format!("not ready in time: {}", open.join(", "));
            self.end_phase("late", detail, now);
        }
        true
    }

    /// Whether the boot need not wait for a unit any longer.
    fn is_settled(&self, entry: &Entry) -> bool {
        match entry.state {
            UnitState::Ready | UnitState::Failed => true,
            UnitState::Stopped => !entry.wanted,
            UnitState::Waiting => {
                entry.keeps_failing() || self.blocker(entry).is_some_and(|(_, failed)| failed)
            }
            UnitState::Starting | UnitState::Backoff => entry.keeps_failing(),
            UnitState::Stopping => false,
        }
    }

    fn boot_is_over(&mut self, now: Micros) -> bool {
        self.boot.ready = now;
        self.boot.problems = self.problems();
        self.boot.state = if self.boot.problems.is_empty() {
            "ready"
        } else {
            "degraded"
        };
        self.out.push(Action::Announce);
        true
    }

    /// What is wrong with the machine because of a unit, if anything.
    fn problem_of(&self, entry: &Entry) -> Option<String> {
        if entry.unit.optional {
            return None;
        }
        let name = &entry.unit.name;
        match entry.state {
            UnitState::Failed => Some(format!("{name} failed: {}", failure(entry))),
            UnitState::Ready if entry.degraded() => Some(format!("{name}: {}", entry.status_text)),
            UnitState::Waiting if self.blocker(entry).is_some_and(|(_, failed)| failed) => {
                Some(format!("{name} {}", entry.status_text))
            }
            _ if entry.keeps_failing() => Some(format!("{name} keeps failing: {}", failure(entry))),
            UnitState::Waiting | UnitState::Starting
                if entry.unit.awaited && entry.first_ready == 0 =>
            {
                Some(format!("{name} is not ready yet"))
            }
            _ => None,
        }
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = self.boot.lasting.clone();
        // Several units can be degraded for the same reason, which is then said once.
        let mut degraded: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for entry in self.entries.values() {
            if entry.degraded() && !entry.unit.optional {
                let names = degraded.entry(&entry.status_text).or_default();
                names.push(&entry.unit.name);
            } else {
                problems.extend(self.problem_of(entry));
            }
        }
        let together = degraded
            .into_iter()
            .map(|(reason, names)| format!("{}: {reason}", names.join(", ")));
        problems.extend(together);
        problems
    }

    /// Keeps the report up to date and asks for it to be stored when it changed.
    pub(super) fn refresh_report(&mut self) {
        if self.boot.ready != 0 && self.boot.state != "stopping" {
            self.boot.problems = self.problems();
            let state = if self.boot.problems.is_empty() {
                "ready"
            } else {
                "degraded"
            };
            if state != self.boot.state {
                self.boot.state = state;
                let (level, text) = match state {
                    "ready" => (Level::Info, "the machine is whole again".to_owned()),
                    _ => (
                        Level::Warning,
                        format!("degraded: {}", self.boot.problems.join("; ")),
                    ),
                };
                self.log(level, text);
            }
        } else if self.boot.state == "booting" {
            self.boot.problems.clone_from(&self.boot.lasting);
        }
        let report = self.boot_report();
        if self.boot.saved.as_ref() != Some(&report) {
            self.boot.saved = Some(report);
            self.out.push(Action::SaveBoot);
        }
    }

    /// How the boot went.
    #[must_use]
    pub fn boot_report(&self) -> BootReport {
        let mut units: Vec<UnitTimes> = self
            .entries
            .values()
            .filter(|entry| entry.first_start != 0)
            .map(|entry| UnitTimes {
                name: entry.unit.name.clone(),
                phase: entry.unit.phase.name().to_owned(),
                start_us: entry.first_start,
                ready_us: entry.first_ready,
            })
            .collect();
        units.sort_by_key(|unit| unit.start_us);
        BootReport {
            state: self.boot.state.to_owned(),
            problems: self.boot.problems.clone(),
            phases: self.boot.phases.clone(),
            units,
            ready_us: self.boot.ready,
        }
    }
}

fn failure(entry: &Entry) -> &str {
    entry
        .unusable
        .as_deref()
        .unwrap_or(if entry.last_exit.is_empty() {
            "not started"
        } else {
            &entry.last_exit
        })
}
