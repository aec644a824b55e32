//! The supervisor on a simulated machine, in simulated time.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use super::*;
use crate::{Kernel, drive, parse_unit};
use aios_init_protocol::{BootReport, PowerAction, UnitState};

mod promises;
mod scenarios;

const SECOND: Micros = 1_000_000;

/// How a simulated program behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behaviour {
    /// Ready at once and for ever; ends at SIGTERM.
    Good,
    /// Never says that it is ready.
    Mute,
    /// Cannot be run.
    Absent,
    /// Its condition does not hold.
    Skipped,
    /// Ends with this status as soon as it is started.
    Ends(i32),
    /// Does not end at SIGTERM.
    Stubborn,
    /// Does not even end at SIGKILL.
    Immortal,
}

#[derive(Default)]
struct Machine {
    behaviour: BTreeMap<String, Behaviour>,
    running: BTreeMap<String, u32>,
    next_pid: u32,
    /// What the programs did since, to be told to the supervisor.
    events: Vec<Event>,
    log: Vec<String>,
    replies: Vec<(u64, Result<String, Refusal>)>,
    announced: Option<BootReport>,
    enabled: Vec<(String, bool)>,
    forgotten: Vec<String>,
    halted: Option<(PowerAction, Vec<String>)>,
    starts: Vec<String>,
    ends: Vec<String>,
    /// Units that are satisfied without a process.
    done: BTreeSet<String>,
    /// Units whose end the supervisor has not heard of yet.
    unheard: BTreeSet<String>,
}

impl Machine {
    fn end(&mut self, unit: &str, exit: Exit) {
        if let Some(pid) = self.running.remove(unit) {
            self.ends.push(unit.to_owned());
            self.unheard.insert(unit.to_owned());
            if exit == Exit::Status(0) {
                self.done.insert(unit.to_owned());
            }
            self.events.push(Event::Exited { pid, exit });
        }
    }

    fn behaviour(&self, unit: &str) -> Behaviour {
        self.behaviour.get(unit).copied().unwrap_or(Behaviour::Good)
    }
}

impl Kernel for Machine {
    fn spawn(&mut self, unit: &Unit) -> Spawn {
        assert!(self.halted.is_none(), "{} started after the end", unit.name);
        assert!(
            !self.running.contains_key(&unit.name),
            "{} runs twice",
            unit.name
        );
        for name in &unit.requires {
            let there = [&self.done, &self.unheard]
                .iter()
                .any(|set| set.contains(name));
            assert!(
                there || self.running.contains_key(name),
                "{} started without {name}",
                unit.name
            );
        }
        let behaviour = self.behaviour(&unit.name);
        match behaviour {
            Behaviour::Absent => {
                return Spawn::Failed {
                    reason: "no such program".into(),
                    permanent: true,
                };
            }
            Behaviour::Skipped => {
                self.done.insert(unit.name.clone());
                return Spawn::Skipped {
                    reason: "no port".into(),
                };
            }
            _ => {}
        }
        self.next_pid += 1;
        let pid = self.next_pid + 100;
        self.running.insert(unit.name.clone(), pid);
        self.starts.push(unit.name.clone());
        match behaviour {
            Behaviour::Ends(status) => self.end(&unit.name, Exit::Status(status)),
            Behaviour::Mute => {}
            _ => self.events.push(Event::Notified {
                unit: unit.name.clone(),
                notification: Notification {
                    ready: true,
                    status: None,
                },
            }),
        }
        Spawn::Running { pid }
    }

    fn terminate(&mut self, unit: &str, pid: u32) {
        assert_eq!(
            self.running.get(unit),
            Some(&pid),
            "SIGTERM to a process that is not {unit}'s"
        );
        if !matches!(
            self.behaviour(unit),
            Behaviour::Stubborn | Behaviour::Immortal
        ) {
            self.end(unit, Exit::Signal(15));
        }
    }

    fn kill_group(&mut self, unit: &str, _pid: u32) {
        if self.behaviour(unit) != Behaviour::Immortal {
            self.end(unit, Exit::Signal(9));
        }
    }

    fn log(&mut self, _level: Level, text: &str, _now: Micros) {
        self.log.push(text.to_owned());
    }

    fn reply(&mut self, token: u64, result: Result<String, Refusal>) {
        self.replies.push((token, result));
    }

    fn save_boot(&mut self, _report: &BootReport) {}

    fn announce(&mut self, report: &BootReport) {
        assert!(self.announced.is_none(), "READY was said twice");
        self.announced = Some(report.clone());
    }

    fn keep_enabled(&mut self, unit: &str, enabled: bool) {
        self.enabled.push((unit.to_owned(), enabled));
    }

    fn forget(&mut self, unit: &str) -> Result<(), String> {
        self.forgotten.push(unit.to_owned());
        Ok(())
    }

    fn halt(&mut self, action: PowerAction, stragglers: &[String]) {
        assert!(self.halted.is_none(), "ended twice");
        self.halted = Some((action, stragglers.to_vec()));
    }
}

struct World {
    supervisor: Supervisor,
    machine: Machine,
    now: Micros,
}

fn unit(name: &str, more: &str) -> Unit {
    let readiness = if more.contains("readiness") {
        ""
    } else {
        "readiness = \"notify\"\n"
    };
    let phase = if more.contains("phase") {
        ""
    } else {
        "phase = \"services\"\n"
    };
    let text = format!("description = \"d\"\ncommand = \"/bin/x\"\n{phase}{readiness}{more}\n");
    parse_unit(Path::new(&format!("{name}.toml")), &text).unwrap()
}

fn world(units: &[(&str, &str)], behaviour: &[(&str, Behaviour)]) -> World {
    let units = units
        .iter()
        .map(|(name, more)| (unit(name, more), Origin::Image, None));
    World::new(units, behaviour)
}

impl World {
    fn new(
        units: impl IntoIterator<Item = (Unit, Origin, Option<String>)>,
        behaviour: &[(&str, Behaviour)],
    ) -> Self {
        let behaviour = behaviour
            .iter()
            .map(|(name, b)| ((*name).to_owned(), *b))
            .collect();
        Self {
            supervisor: Supervisor::new(units, Vec::new(), Settings::default(), SECOND),
            machine: Machine {
                behaviour,
                ..Machine::default()
            },
            now: SECOND,
        }
    }

    fn tell(&mut self, event: Event) {
        drive(&mut self.supervisor, &mut self.machine, event, self.now);
        self.follow();
        // Whoever has an immediate deadline is served before time goes on.
        while self
            .supervisor
            .next_deadline()
            .is_some_and(|deadline| deadline <= self.now)
        {
            drive(
                &mut self.supervisor,
                &mut self.machine,
                Event::Tick,
                self.now,
            );
            self.follow();
        }
    }

    fn follow(&mut self) {
        while !self.machine.events.is_empty() {
            let event = self.machine.events.remove(0);
            if let Event::Exited { pid, .. } = &event
                && let Some(unit) = self.supervisor.unit_of(*pid)
            {
                self.machine.unheard.remove(unit);
            }
            drive(&mut self.supervisor, &mut self.machine, event, self.now);
        }
    }

    fn boot(mut self) -> Self {
        self.tell(Event::HardwareChecked {
            problems: Vec::new(),
        });
        self
    }

    /// Lets time pass, deadline by deadline.
    fn pass(&mut self, time: Micros) {
        let end = self.now + time;
        while let Some(deadline) = self.supervisor.next_deadline().filter(|d| *d <= end) {
            assert!(deadline > self.now, "a deadline that does not move");
            self.now = deadline;
            self.tell(Event::Tick);
        }
        self.now = end;
        self.tell(Event::Tick);
    }

    fn kill(&mut self, unit: &str) {
        self.machine.end(unit, Exit::Signal(9));
        self.tell(Event::Tick);
    }

    fn ask(&mut self, token: u64, operation: Operation) -> Option<Result<String, Refusal>> {
        self.tell(Event::Request { token, operation });
        self.reply(token)
    }

    fn reply(&self, token: u64) -> Option<Result<String, Refusal>> {
        let mut replies = self
            .machine
            .replies
            .iter()
            .filter(|(other, _)| *other == token);
        let reply = replies.next().map(|(_, result)| result.clone());
        assert!(
            replies.next().is_none(),
            "request {token} was answered twice"
        );
        reply
    }

    fn state(&self, unit: &str) -> UnitState {
        self.supervisor.report(unit).unwrap().state
    }

    fn started(&self, unit: &str) -> usize {
        self.machine
            .starts
            .iter()
            .filter(|name| *name == unit)
            .count()
    }
}
