//! What can be asked of the supervisor while the machine runs, and the machine's end.

use std::collections::{BTreeMap, BTreeSet};

use aios_init_protocol::{PowerAction, UnitState};

use super::{
    Action, Ending, Level, Operation, Origin, Refusal, Supervisor,
    entry::{Entry, Until, Waiter},
};
use crate::{
    Micros,
    graph::{check_graph, requirers},
    unit::Unit,
};

/// How long killed processes may take to vanish at the very end.
const LAST_WAIT: Micros = 2_000_000;

impl Supervisor {
    pub(super) fn request(&mut self, token: u64, operation: Operation, now: Micros) {
        let result = match operation {
            Operation::Start(name) => self.request_start(token, &name, now),
            Operation::Stop(name) => self.request_stop(token, &name, Until::Stopped, now),
            Operation::Restart(name) => self.request_restart(token, &name, now),
            Operation::Define(unit) => self.request_define(*unit, now).map(Some),
            Operation::Remove(name) => self.request_remove(token, &name, now),
        };
        let result = match result {
            Ok(None) => return,
            Ok(Some(detail)) => Ok(detail),
            Err(refusal) => Err(refusal),
        };
        self.out.push(Action::Reply { token, result });
    }

    fn entry(&self, name: &str) -> Result<&Entry, Refusal> {
        self.entries.get(name).ok_or_else(|| {
            let hint = aios_config::nearest(name, self.entries.keys().map(String::as_str))
                .map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            Refusal::new("not_found", format!("there is no unit `{name}`{hint}"))
        })
    }

    fn wait(&mut self, token: u64, name: &str, until: Until, now: Micros) {
        let deadline = now.saturating_add(self.settings.request_wait);
        if let Some(entry) = self.entries.get_mut(name) {
            entry.waiters.push(Waiter {
                token,
                until,
                deadline,
            });
        }
    }

    fn refuse_while_ending(&self) -> Result<(), Refusal> {
        if self.ending.is_some() {
            return Err(Refusal::new("busy", "the machine is being switched off"));
        }
        Ok(())
    }

    fn request_start(
        &mut self,
        token: u64,
        name: &str,
        now: Micros,
    ) -> Result<Option<String>, Refusal> {
        self.refuse_while_ending()?;
        let entry = self.entry(name)?;
        if let Some(reason) = &entry.unusable {
            return Err(Refusal::new(
                "invalid",
                format!("{name} cannot be started: {reason}"),
            ));
        }
        self.keep_enabled(name, true);
        if self
            .entries
            .get(name)
            .is_some_and(|entry| entry.state == UnitState::Ready)
        {
            return Ok(Some(format!("{name} is running")));
        }
        self.cancel(name, Until::Stopped, "it was started again");
        self.wait(token, name, Until::Ready, now);
        self.want(name, true, now);
        Ok(None)
    }

    fn request_stop(
        &mut self,
        token: u64,
        name: &str,
        until: Until,
        now: Micros,
    ) -> Result<Option<String>, Refusal> {
        self.entry(name)?;
        if until == Until::Stopped {
            self.keep_enabled(name, false);
        }
        self.wait(token, name, until, now);
        let requires: BTreeMap<String, Vec<String>> = self
            .entries
            .iter()
            .map(|(name, entry)| (name.clone(), entry.unit.requires.clone()))
            .collect();
        let mut names = requirers(&requires, name);
        names.insert(name.to_owned());
        for name in &names {
            self.begin_stop(name, "it was stopped", now);
        }
        Ok(None)
    }

    fn request_restart(
        &mut self,
        token: u64,
        name: &str,
        now: Micros,
    ) -> Result<Option<String>, Refusal> {
        self.refuse_while_ending()?;
        let alive = self.entry(name)?.is_alive();
        if !alive {
            return self.request_start(token, name, now);
        }
        self.begin_stop(name, "it was restarted", now);
        self.keep_enabled(name, true);
        self.wait(token, name, Until::Ready, now);
        if let Some(entry) = self.entries.get_mut(name) {
            entry.again = true;
            entry.wanted = true;
        }
        Ok(None)
    }

    /// Whether a definition may become a unit of this machine.
    ///
    /// # Errors
    /// When the name is the image's, or the unit does not fit the others.
    pub fn check_definition(&self, unit: &Unit) -> Result<(), Refusal> {
        self.refuse_while_ending()?;
        if self
            .entries
            .get(&unit.name)
            .is_some_and(|entry| !entry.is_machine())
        {
            let message = format!(
                "`{}` is a unit of the image and cannot be defined anew; choose another name",
                unit.name
            );
            return Err(Refusal::new("conflict", message));
        }
        let mut units: BTreeMap<String, Unit> = self
            .entries
            .iter()
            .map(|(name, entry)| (name.clone(), entry.unit.clone()))
            .collect();
        let before = check_graph(&units).len();
        units.insert(unit.name.clone(), unit.clone());
        let problems = check_graph(&units);
        match problems.iter().find(|problem| problem.unit == unit.name) {
            Some(problem) => Err(Refusal::new("invalid", problem.to_string())),
            None if problems.len() > before => {
                let message = format!("`{}` would make units wait for each other", unit.name);
                Err(Refusal::new("invalid", message))
            }
            None => Ok(()),
        }
    }

    fn request_define(&mut self, unit: Unit, now: Micros) -> Result<String, Refusal> {
        self.check_definition(&unit)?;
        let name = unit.name.clone();
        match self.entries.get_mut(&name) {
            Some(entry) => {
                let alive = entry.is_alive();
                entry.unit = unit;
                entry.unusable = None;
                Ok(if alive {
                    format!("{name} is defined anew; it takes effect when {name} is restarted")
                } else {
                    format!("{name} is defined anew")
                })
            }
            None => {
                let origin = Origin::Machine { enabled: false };
                self.entries
                    .insert(name.clone(), Entry::new(unit, origin, None, now));
                Ok(format!("{name} is defined; start it to run it"))
            }
        }
    }

    fn request_remove(
        &mut self,
        token: u64,
        name: &str,
        now: Micros,
    ) -> Result<Option<String>, Refusal> {
        if !self.entry(name)?.is_machine() {
            let message = format!(
                "`{name}` is a unit of the image; only services that were defined on this machine can be removed"
            );
            return Err(Refusal::new("conflict", message));
        }
        let user = self.entries.values().find(|other| {
            other.unit.name != name && other.unit.dependencies().any(|(_, on)| on == name)
        });
        if let Some(user) = user {
            let message = format!(
                "`{}` names it; change or remove that one first",
                user.unit.name
            );
            return Err(Refusal::new("conflict", message));
        }
        self.request_stop(token, name, Until::Removed, now)
    }

    /// Forgets a unit that was to be removed once it has stopped.
    pub(super) fn remove_if_stopped(&mut self, name: &str) -> bool {
        let Some(entry) = self.entries.get_mut(name) else {
            return false;
        };
        if entry.is_alive() || !matches!(entry.state, UnitState::Stopped | UnitState::Failed) {
            return false;
        }
        let Some(index) = entry
            .waiters
            .iter()
            .position(|waiter| waiter.until == Until::Removed)
        else {
            return false;
        };
        let token = entry.waiters.swap_remove(index).token;
        self.out.push(Action::Forget {
            unit: name.to_owned(),
            token,
        });
        true
    }

    pub(super) fn forgotten(&mut self, name: &str, token: u64, result: Result<(), String>) {
        let result = match result {
            Ok(()) => {
                if let Some(entry) = self.entries.remove(name) {
                    for waiter in entry.waiters {
                        let refusal = Refusal::new("conflict", format!("{name} was removed"));
                        self.out.push(Action::Reply {
                            token: waiter.token,
                            result: Err(refusal),
                        });
                    }
                }
                Ok(format!("{name} is removed"))
            }
            Err(error) => Err(Refusal::new("failed", error)),
        };
        self.out.push(Action::Reply { token, result });
    }

    /// Wants a unit and everything that is started with it. What somebody asks for by name is tried
    /// anew even if it was given up.
    pub(super) fn want(&mut self, name: &str, by_name: bool, now: Micros) {
        let mut open = vec![(name.to_owned(), by_name)];
        let mut seen = BTreeSet::new();
        while let Some((name, retry)) = open.pop() {
            let Some(entry) = self.entries.get_mut(&name) else {
                continue;
            };
            if !seen.insert(name) {
                continue;
            }
            open.extend(entry.unit.requires.iter().map(|name| (name.clone(), retry)));
            open.extend(entry.unit.wants.iter().map(|name| (name.clone(), false)));
            match entry.state {
                UnitState::Failed if !retry => {}
                // A process that survived SIGKILL must be gone before there is a second one.
                UnitState::Stopped | UnitState::Failed => {
                    entry.wanted = true;
                    entry.failures = 0;
                    entry.enter(UnitState::Waiting, now, None);
                }
                UnitState::Backoff if retry => {
                    entry.failures = 0;
                    entry.enter(UnitState::Waiting, now, None);
                }
                UnitState::Stopping => {
                    entry.wanted = true;
                    entry.again = true;
                }
                UnitState::Waiting
                | UnitState::Starting
                | UnitState::Ready
                | UnitState::Backoff => {}
            }
        }
    }

    /// Turns a unit towards its end. Its process is asked to end when nothing needs it any more.
    fn begin_stop(&mut self, name: &str, why: &str, now: Micros) {
        self.cancel(name, Until::Ready, why);
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        entry.wanted = false;
        entry.again = false;
        match entry.state {
            UnitState::Stopping => {}
            UnitState::Starting | UnitState::Ready if entry.is_alive() => {
                entry.enter(UnitState::Stopping, now, None);
            }
            _ if entry.pid != 0 => entry.enter(UnitState::Stopping, now, None),
            _ => {
                entry.satisfied = false;
                entry.failures = 0;
                entry.status_text.clear();
                entry.enter(UnitState::Stopped, now, None);
                self.answer(name, &Ok(format!("{name} has stopped")), |until| {
                    until == Until::Stopped
                });
            }
        }
    }

    /// Sends whoever waits for the opposite away.
    fn cancel(&mut self, name: &str, until: Until, why: &str) {
        let refusal = Refusal::new("conflict", format!("{name}: {why} meanwhile"));
        self.answer(name, &Err(refusal), |other| other == until);
    }

    fn keep_enabled(&mut self, name: &str, enabled: bool) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        if let Origin::Machine { enabled: before } = entry.origin
            && before != enabled
        {
            entry.origin = Origin::Machine { enabled };
            self.out.push(Action::KeepEnabled {
                unit: name.to_owned(),
                enabled,
            });
        }
    }

    pub(super) fn power(&mut self, action: PowerAction, reason: &str, now: Micros) {
        if self.ending.is_some() {
            return;
        }
        let what = match action {
            PowerAction::PowerOff => "switching off",
            PowerAction::Reboot => "restarting the machine",
        };
        self.log(Level::Warning, format!("{what}: {reason}"));
        self.ending = Some(Ending {
            action,
            deadline: now.saturating_add(self.settings.stop_budget),
            killed: false,
            stragglers: BTreeSet::new(),
            halted: false,
        });
        let names: Vec<String> = self.entries.keys().cloned().collect();
        for name in names {
            self.begin_stop(&name, "the machine is being switched off", now);
        }
        self.boot.stopping();
    }

    /// The budget of the whole stop: what is left is killed, and then no longer waited for.
    pub(super) fn expire_ending(&mut self, now: Micros) {
        let Some(ending) = self
            .ending
            .as_mut()
            .filter(|ending| !ending.halted && ending.deadline <= now)
        else {
            return;
        };
        if ending.killed {
            ending.halted = true;
            let (action, stragglers) = (ending.action, ending.stragglers.iter().cloned().collect());
            self.out.push(Action::Halt { action, stragglers });
            return;
        }
        ending.killed = true;
        ending.deadline = now.saturating_add(LAST_WAIT);
        for (name, entry) in &mut self.entries {
            if entry.is_alive() {
                ending.stragglers.insert(name.clone());
                entry.killed = true;
                entry.deadline = None;
                self.out.push(Action::KillGroup {
                    unit: name.clone(),
                    pid: entry.pid,
                });
            }
        }
        self.log(
            Level::Warning,
            "the time for stopping is over: everything left was killed",
        );
    }

    pub(super) fn finish_ending(&mut self) {
        let alive = self.entries.values().any(Entry::is_alive);
        if let Some(ending) = self
            .ending
            .as_mut()
            .filter(|ending| !ending.halted && !alive)
        {
            ending.halted = true;
            let (action, stragglers) = (ending.action, ending.stragglers.iter().cloned().collect());
            self.out.push(Action::Halt { action, stragglers });
        }
    }
}
