//! The life of a unit: started, ready, ended, started again, stopped.

use aios_init_protocol::UnitState;

use super::{
    Action, Exit, Level, PERMANENT_FAILURE, Refusal, Supervisor,
    entry::{Entry, Until},
};
use crate::{
    Micros,
    kernel::Spawn,
    notify::Notification,
    unit::{Readiness, Restart},
};

/// A clean end counts as a failure when the process lived shorter than this: a program that ends at
/// once, again and again, is broken even if it says it is not.
const SHORT_LIFE: Micros = 2_000_000;

impl Supervisor {
    pub(super) fn spawned(&mut self, name: &str, outcome: Spawn, now: Micros) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        let stopping = entry.state == UnitState::Stopping;
        match outcome {
            Spawn::Running { pid } => {
                entry.pid = pid;
                if entry.first_start == 0 {
                    entry.first_start = now.max(1);
                }
                if !stopping && entry.unit.readiness == Readiness::Started {
                    self.became_ready(name, now);
                }
            }
            Spawn::Skipped { reason } => {
                entry.satisfied = true;
                entry.wanted = false;
                entry.status_text = format!("skipped: {reason}");
                entry.enter(UnitState::Stopped, now, None);
                self.log(Level::Info, format!("{name} skipped: {reason}"));
                self.answer(name, &Ok(format!("{name} was skipped: {reason}")), |_| true);
            }
            Spawn::Failed { .. } if stopping => self.stopped(name, now),
            Spawn::Failed { reason, permanent } => {
                entry.last_exit.clone_from(&reason);
                if permanent {
                    self.give_up(name, &reason, now);
                } else {
                    self.failed_once(name, &reason, now);
                }
            }
        }
    }

    pub(super) fn exited(&mut self, pid: u32, exit: Exit, now: Micros) {
        let Some(name) = self.unit_of(pid).map(str::to_owned) else {
            return;
        };
        let Some(entry) = self.entries.get_mut(&name) else {
            return;
        };
        let lived = now.saturating_sub(entry.since);
        let was_killed = entry.killed;
        entry.pid = 0;
        if !(was_killed && entry.state == UnitState::Starting) {
            entry.last_exit = exit.to_string();
            // What it said before it was ready is why it never became so.
            if entry.state == UnitState::Starting && !entry.status_text.is_empty() {
                entry.last_exit = format!("{exit}: {}", entry.status_text);
            }
        }
        let (state, restart) = (entry.state, entry.unit.restart);
        let one_shot = entry.unit.readiness == Readiness::Exit;
        let reason = entry.last_exit.clone();
        // Whatever the main process left behind would hold its ports and files.
        self.out.push(Action::KillGroup {
            unit: name.clone(),
            pid: 0,
        });
        match (state, exit) {
            (UnitState::Stopping, _) => self.stopped(&name, now),
            // It had been given up because not even SIGKILL ended it; now it is gone.
            (
                UnitState::Failed | UnitState::Stopped | UnitState::Waiting | UnitState::Backoff,
                _,
            ) => {
                self.log(
                    Level::Info,
                    format!("{name}: the process that did not end is gone"),
                );
            }
            (_, Exit::Status(0)) if one_shot && !was_killed => {
                if let Some(entry) = self.entries.get_mut(&name) {
                    entry.satisfied = true;
                }
                self.became_ready(&name, now);
            }
            (_, Exit::Status(0)) if restart != Restart::Always && !was_killed => {
                if let Some(entry) = self.entries.get_mut(&name) {
                    entry.wanted = false;
                    entry.failures = 0;
                    entry.enter(UnitState::Stopped, now, None);
                }
                self.log(Level::Info, format!("{name} ended by itself"));
                let refusal = Refusal::new("failed", format!("{name} ended before it was ready"));
                self.answer(&name, &Err(refusal), |until| until == Until::Ready);
                self.answer(&name, &Ok(format!("{name} has stopped")), |_| true);
            }
            (_, Exit::Status(PERMANENT_FAILURE)) => {
                let reason = format!("{reason}: starting it again is pointless");
                self.give_up(&name, &reason, now);
            }
            _ if restart == Restart::Never => self.give_up(&name, &reason, now),
            (UnitState::Ready, Exit::Status(0)) if lived >= SHORT_LIFE => {
                if let Some(entry) = self.entries.get_mut(&name) {
                    entry.failures = 0;
                    entry.restarts = entry.restarts.saturating_add(1);
                    entry.enter(UnitState::Waiting, now, None);
                }
            }
            _ => self.failed_once(&name, &reason, now),
        }
    }

    pub(super) fn notified(&mut self, name: &str, said: &Notification, now: Micros) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        if let Some(status) = &said.status {
            entry.status_text.clone_from(status);
        }
        let waits_for_it = entry.state == UnitState::Starting
            && !entry.killed
            && entry.unit.readiness == Readiness::Notify;
        if said.ready && waits_for_it {
            self.became_ready(name, now);
        }
    }

    fn became_ready(&mut self, name: &str, now: Micros) {
        let healthy = self.settings.backoff.healthy;
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        entry.started_before = true;
        let again = entry.restarts > 0;
        let deadline = (entry.failures > 0).then(|| now.saturating_add(healthy));
        entry.enter(UnitState::Ready, now, deadline);
        if entry.first_ready == 0 {
            entry.first_ready = now.max(1);
        }
        let done = entry.unit.readiness == Readiness::Exit;
        let text = match (done, again) {
            (true, _) => format!("{name} done"),
            (false, true) => format!("{name} ready again"),
            (false, false) => format!("{name} ready"),
        };
        self.answer(name, &Ok(text.clone()), |until| until == Until::Ready);
        self.log(Level::Info, text);
    }

    /// A failure after which the unit may be tried again.
    fn failed_once(&mut self, name: &str, reason: &str, now: Micros) {
        let backoff = self.settings.backoff;
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        entry.failures = entry.failures.saturating_add(1);
        let failures = entry.failures;
        match backoff.delay(failures, &mut self.jitter) {
            None => {
                let reason = format!("{reason}; failed {failures} times in a row");
                self.give_up(name, &reason, now);
            }
            Some(delay) => {
                entry.enter(UnitState::Backoff, now, Some(now.saturating_add(delay)));
                let when = if delay == 0 {
                    "at once".to_owned()
                } else {
                    format!("in {}.{} s", delay / 1_000_000, delay / 100_000 % 10)
                };
                let hopeless = entry.keeps_failing();
                self.log(
                    Level::Warning,
                    format!("{name}: {reason}; starting it again {when}"),
                );
                if hopeless {
                    let message = format!("{name} keeps failing: {reason}; PID 1 goes on trying");
                    let refusal = Refusal::new("failed", message);
                    self.answer(name, &Err(refusal), |until| until == Until::Ready);
                }
            }
        }
    }

    fn give_up(&mut self, name: &str, reason: &str, now: Micros) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        entry.wanted = false;
        entry.enter(UnitState::Failed, now, None);
        let level = if entry.unit.optional {
            Level::Warning
        } else {
            Level::Error
        };
        self.log(level, format!("{name} failed: {reason}"));
        let message = format!("{name} failed: {reason}; `aios logs {name}` shows what it wrote");
        let refusal = Refusal::new("failed", message);
        self.answer(name, &Err(refusal), |until| until == Until::Ready);
        self.answer(name, &Ok(format!("{name} has stopped")), |_| true);
    }

    /// The process of a unit that was asked to stop has ended.
    pub(super) fn stopped(&mut self, name: &str, now: Micros) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        entry.failures = 0;
        entry.status_text.clear();
        entry.enter(UnitState::Stopped, now, None);
        if entry.again && self.ending.is_none() {
            entry.again = false;
            entry.wanted = true;
            entry.restarts = entry.restarts.saturating_add(1);
            entry.enter(UnitState::Waiting, now, None);
        }
        self.log(Level::Info, format!("{name} stopped"));
        self.answer(name, &Ok(format!("{name} has stopped")), |until| {
            until == Until::Stopped
        });
    }

    /// Everything whose time has come.
    pub(super) fn expire(&mut self, now: Micros) {
        let due = |deadline: Option<Micros>| deadline.is_some_and(|deadline| deadline <= now);
        let names: Vec<String> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.deadlines().any(|deadline| due(Some(deadline))))
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            self.expire_waiters(&name, now);
            let Some(entry) = self
                .entries
                .get_mut(&name)
                .filter(|entry| due(entry.deadline))
            else {
                continue;
            };
            match entry.state {
                UnitState::Ready => {
                    entry.failures = 0;
                    entry.deadline = None;
                }
                UnitState::Backoff => {
                    entry.restarts = entry.restarts.saturating_add(1);
                    entry.enter(UnitState::Waiting, now, None);
                }
                UnitState::Starting | UnitState::Stopping => self.overdue(&name, now),
                UnitState::Stopped | UnitState::Waiting | UnitState::Failed => {
                    entry.deadline = None
                }
            }
        }
        self.expire_ending(now);
    }

    /// A process that did not become ready, or did not end, in time: killed; and if even that does
    /// not end it, given up.
    fn overdue(&mut self, name: &str, now: Micros) {
        let kill_wait = self.settings.kill_wait;
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        let pid = entry.pid;
        if entry.killed {
            entry.deadline = None;
            let reason = format!("process {pid} does not end although it was killed");
            entry.last_exit.clone_from(&reason);
            return self.give_up(name, &reason, now);
        }
        entry.killed = true;
        entry.deadline = Some(now.saturating_add(kill_wait));
        let text = if entry.state == UnitState::Starting {
            entry.last_exit = format!("not ready within {}", entry.unit.start_timeout);
            format!(
                "{name} is not ready within {}: killed",
                entry.unit.start_timeout
            )
        } else {
            if let Some(ending) = &mut self.ending {
                ending.stragglers.insert(name.to_owned());
            }
            format!(
                "{name} did not end within {}: killed",
                entry.unit.stop_timeout
            )
        };
        self.log(Level::Warning, text);
        self.out.push(Action::KillGroup {
            unit: name.to_owned(),
            pid,
        });
    }

    /// Starts what may start, ends what may end, and turns the boot, until nothing moves.
    pub(super) fn settle(&mut self, now: Micros) {
        loop {
            let mut moved = false;
            let names: Vec<String> = self.entries.keys().cloned().collect();
            for name in &names {
                moved |= self.start_if_clear(name, now) | self.end_if_clear(name, now);
                moved |= self.remove_if_stopped(name);
            }
            if !moved && !self.turn_boot(now) {
                break;
            }
        }
        self.finish_ending();
        self.refresh_report();
    }

    fn start_if_clear(&mut self, name: &str, now: Micros) -> bool {
        let Some(entry) = self.entries.get(name) else {
            return false;
        };
        if entry.state != UnitState::Waiting || entry.pid != 0 || self.ending.is_some() {
            return false;
        }
        if let Some(reason) = entry.unusable.clone() {
            self.give_up(name, &reason, now);
            return true;
        }
        if let Some((blocker, failed)) = self.blocker(entry) {
            let text = if failed {
                format!("waits for {blocker}, which has failed")
            } else {
                format!("waits for {blocker}")
            };
            if let Some(entry) = self.entries.get_mut(name) {
                entry.status_text.clone_from(&text);
            }
            if failed {
                let message = format!("{name} {text}; start {blocker} first");
                self.answer(name, &Err(Refusal::new("failed", message)), |until| {
                    until == Until::Ready
                });
            }
            return false;
        }
        let Some(entry) = self.entries.get_mut(name) else {
            return false;
        };
        let deadline = now.saturating_add(entry.unit.start_timeout.micros());
        entry.status_text.clear();
        entry.satisfied = false;
        entry.enter(UnitState::Starting, now, Some(deadline));
        self.out.push(Action::Spawn {
            unit: name.to_owned(),
        });
        true
    }

    /// The first unit that this one must wait for, and whether that one has failed.
    pub(super) fn blocker(&self, entry: &Entry) -> Option<(String, bool)> {
        for name in &entry.unit.requires {
            match self.entries.get(name) {
                Some(other) if other.fulfils() => {}
                Some(other) => {
                    let hopeless = other.state == UnitState::Failed
                        || (other.state == UnitState::Stopped && !other.wanted)
                        || (other.state == UnitState::Waiting
                            && self.blocker(other).is_some_and(|(_, failed)| failed));
                    return Some((name.clone(), hopeless));
                }
                None => return Some((name.clone(), true)),
            }
        }
        if entry.started_before || entry.failures > 0 {
            return None;
        }
        let ordered = entry.unit.wants.iter().chain(&entry.unit.after);
        ordered
            .filter_map(|name| self.entries.get(name))
            .find(|other| other.wanted && !other.lets_pass() && self.can_still_start(other))
            .map(|other| (other.unit.name.clone(), false))
    }

    /// A unit that waits for something that has failed holds up nobody who merely comes after it.
    fn can_still_start(&self, entry: &Entry) -> bool {
        entry.state != UnitState::Waiting || !self.blocker(entry).is_some_and(|(_, failed)| failed)
    }

    fn end_if_clear(&mut self, name: &str, now: Micros) -> bool {
        let Some(entry) = self.entries.get(name) else {
            return false;
        };
        if entry.state != UnitState::Stopping || entry.terminated || entry.killed || entry.pid == 0
        {
            return false;
        }
        // A unit that needs this one and is ending too goes first.
        let in_use = self.entries.values().any(|other| {
            other.state == UnitState::Stopping
                && other.unit.dependencies().any(|(_, on)| on == name)
        });
        if in_use {
            return false;
        }
        let pid = entry.pid;
        if let Some(entry) = self.entries.get_mut(name) {
            entry.terminated = true;
            entry.deadline = Some(now.saturating_add(entry.unit.stop_timeout.micros()));
        }
        self.out.push(Action::Terminate {
            unit: name.to_owned(),
            pid,
        });
        true
    }

    /// Answers whoever waits for a unit in one of these ways.
    pub(super) fn answer(
        &mut self,
        name: &str,
        result: &Result<String, Refusal>,
        which: impl Fn(Until) -> bool,
    ) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        let answers = |until: Until| until != Until::Removed && which(until);
        for waiter in entry.waiters.extract_if(.., |waiter| answers(waiter.until)) {
            self.out.push(Action::Reply {
                token: waiter.token,
                result: result.clone(),
            });
        }
    }

    fn expire_waiters(&mut self, name: &str, now: Micros) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        let state = entry.state.name();
        for waiter in entry
            .waiters
            .extract_if(.., |waiter| waiter.deadline <= now)
        {
            let message = format!(
                "{name} is still {state}; PID 1 goes on with it, `aios service status {name}` shows how far it is"
            );
            self.out.push(Action::Reply {
                token: waiter.token,
                result: Err(Refusal::new("busy", message)),
            });
        }
    }
}
