//! The effects of the supervisor, on Linux.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use aios_init_core::{Kernel, Level, Micros, Refusal, Spawn, Unit, resolve};
use aios_init_protocol::{BootReport, PowerAction};
use rustix::process::{Pid, Signal, kill_process, kill_process_group, pidfd_send_signal};

use crate::{
    cgroup::Cgroups,
    console::Console,
    definitions::{Definitions, write_atomically},
    directories,
    machine::real_terminal,
    options::Options,
    output::Output,
    sockets::Sockets,
    spawn::{Streams, Surroundings, spawn},
};

/// Lines of a unit's output that are shown when it fails.
const LAST_WORDS: usize = 3;

/// A running main process.
#[derive(Debug)]
pub struct Process {
    pub pid: u32,
    pub pidfd: Option<OwnedFd>,
}

/// Everything that PID 1 holds of the machine.
#[derive(Debug)]
pub struct Linux {
    pub options: Options,
    pub console: Console,
    pub cgroups: Cgroups,
    pub definitions: Option<Definitions>,
    pub processes: BTreeMap<String, Process>,
    pub outputs: BTreeMap<String, Output>,
    pub sockets: Sockets,
    pub notify_socket: String,
    /// Answers for the control socket.
    pub replies: Vec<(u64, Result<String, Refusal>)>,
    /// How the machine is to end, once everything has stopped.
    pub halted: Option<(PowerAction, Vec<String>)>,
}

impl Linux {
    /// The unit that a process belongs to: its main process, or any process of its control group.
    pub fn unit_of(&self, pid: u32) -> Option<String> {
        let main = self
            .processes
            .iter()
            .find(|(_, process)| process.pid == pid);
        main.map(|(name, _)| name.clone()).or_else(|| {
            self.outputs
                .keys()
                .find(|unit| self.cgroups.processes(unit).contains(&pid))
                .cloned()
        })
    }

    /// Descriptors that tell of the end of a main process.
    pub fn pidfds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.processes
            .values()
            .filter_map(|process| process.pidfd.as_ref().map(|fd| fd.as_fd()))
    }

    fn start(&mut self, unit: &Unit) -> Result<Process, (String, bool)> {
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let group = fs::read_to_string("/etc/group").unwrap_or_default();
        let account =
            resolve(&passwd, &group, &unit.user).map_err(|error| (error.to_string(), true))?;
        directories::make(unit, &account, &self.options.state, &self.options.run)
            .map_err(|error| (format!("cannot make its directory {error}"), false))?;
        let cgroup = self
            .cgroups
            .prepare(&unit.name, &unit.resources)
            .map_err(|error| (format!("cannot limit its control group: {error}"), false))?;
        if !self.outputs.contains_key(&unit.name) {
            let path = self.options.log.join(format!("{}.log", unit.name));
            let output = Output::new(path)
                .map_err(|error| (format!("cannot make a pipe: {error}"), false))?;
            self.outputs.insert(unit.name.clone(), output);
        }
        let Some(output) = self.outputs.get(&unit.name) else {
            return Err(("its output is gone".to_owned(), false));
        };
        self.sockets
            .open(unit, &self.options.run)
            .map_err(|error| (format!("cannot listen on {error}"), false))?;
        let terminal = unit.tty.as_ref().map(|path| real_terminal(&path.0));
        let streams = match &terminal {
            Some(path) => Streams::Terminal(path),
            None => Streams::Log(output.writer()),
        };
        let surroundings = Surroundings {
            streams,
            sockets: self.sockets.of(&unit.name),
            cgroup: cgroup.as_ref(),
            notify_socket: &self.notify_socket,
        };
        spawn(unit, &account, &surroundings)
            .map(|child| Process {
                pid: child.pid,
                pidfd: child.pidfd,
            })
            .map_err(|error| (error.to_string(), error.is_permanent()))
    }

    fn show_last_words(&mut self, text: &str) {
        // `NAME failed: …` is the supervisor's word for giving up.
        let Some(name) = text.split_once(" failed:").map(|(name, _)| name) else {
            return;
        };
        let Some(output) = self.outputs.get_mut(name) else {
            return;
        };
        output.take_in();
        for line in output.last_lines(LAST_WORDS) {
            let line: String = line.chars().filter(|c| !c.is_control()).take(200).collect();
            self.console.print(&format!("           {name}: {line}\n"));
        }
    }
}

/// Whether a condition holds. Only the last part of the path may hold `*`.
fn exists(path: &str) -> bool {
    let path = Path::new(path);
    let (Some(dir), Some(pattern)) = (path.parent(), path.file_name()) else {
        return path.exists();
    };
    let pattern = pattern.to_string_lossy();
    if !pattern.contains('*') {
        return path.exists();
    }
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| matches(&pattern, &entry.file_name().to_string_lossy()))
}

/// `*` stands for any run of characters.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => name.strip_prefix(before).is_some_and(|rest| {
            rest.char_indices()
                .map(|(index, _)| index)
                .chain([rest.len()])
                .any(|index| matches(after, rest.get(index..).unwrap_or_default()))
        }),
    }
}

impl Kernel for Linux {
    fn spawn(&mut self, unit: &Unit) -> Spawn {
        if let Some(condition) = unit.condition_path.as_ref().filter(|path| !exists(&path.0)) {
            return Spawn::Skipped {
                reason: format!("there is no {}", condition.0),
            };
        }
        match self.start(unit) {
            Ok(process) => {
                let pid = process.pid;
                self.processes.insert(unit.name.clone(), process);
                Spawn::Running { pid }
            }
            Err((reason, permanent)) => Spawn::Failed { reason, permanent },
        }
    }

    fn terminate(&mut self, unit: &str, pid: u32) {
        let process = self
            .processes
            .get(unit)
            .filter(|process| process.pid == pid);
        if let Some(pidfd) = process.and_then(|process| process.pidfd.as_ref()) {
            let _ = pidfd_send_signal(pidfd, Signal::TERM);
        } else if let Some(pid) = raw(pid) {
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    fn kill_group(&mut self, unit: &str, pid: u32) {
        if !self.cgroups.kill(unit)
            && let Some(pid) = raw(pid)
        {
            // Each unit is a session of its own, so this reaches all that did not leave it.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }

    fn log(&mut self, level: Level, text: &str, now: Micros) {
        self.console.log(level, text, now);
        if level > Level::Info {
            self.show_last_words(text);
        }
    }

    fn reply(&mut self, token: u64, result: Result<String, Refusal>) {
        self.replies.push((token, result));
    }

    fn save_boot(&mut self, report: &BootReport) {
        let text = serde_json::to_vec(report).unwrap_or_default();
        if let Err(error) = write_atomically(&self.options.run.join("boot.json"), &text, 0o644) {
            let now = crate::clock::now();
            self.console.log(
                Level::Warning,
                &format!("cannot write boot.json: {error}"),
                now,
            );
        }
    }

    fn announce(&mut self, report: &BootReport) {
        let took = format!(
            "{}.{} s",
            report.ready_us / 1_000_000,
            report.ready_us / 100_000 % 10
        );
        let line = if report.problems.is_empty() {
            format!("\naiOS READY in {took}\n")
        } else {
            format!(
                "\naiOS READY in {took} (degraded: {})\n",
                report.problems.join("; ")
            )
        };
        self.console.print(&line);
        self.console.print(
            "Here: the prompt below.  From elsewhere: `aios --help`, port 9090 (certificate), or ssh operator@ADDRESS (key).\n\n",
        );
        self.console.hush();
        self.console.log(Level::Info, line.trim(), report.ready_us);
    }

    fn keep_enabled(&mut self, unit: &str, enabled: bool) {
        let kept = self
            .definitions
            .as_ref()
            .map_or(Ok(()), |definitions| definitions.enable(unit, enabled));
        if let Err(error) = kept {
            let text = format!("cannot keep whether {unit} starts at boot: {error}");
            self.console.log(Level::Warning, &text, crate::clock::now());
        }
    }

    fn forget(&mut self, unit: &str) -> Result<(), String> {
        if let Some(definitions) = &self.definitions {
            definitions
                .remove(unit)
                .map_err(|error| format!("cannot remove the definition of {unit}: {error}"))?;
        }
        self.outputs.remove(unit);
        self.cgroups.remove(unit);
        Ok(())
    }

    fn halt(&mut self, action: PowerAction, stragglers: &[String]) {
        self.halted = Some((action, stragglers.to_vec()));
    }
}

fn raw(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        assert!(matches("vport*", "vport0p1"));
        assert!(matches("*p*", "vport0p1"));
        assert!(matches("*", ""));
        assert!(!matches("vport*", "port0"));
        assert!(!matches("a*b*c", "acb"));
        assert!(matches("a*ä", "aäää"));
    }

    #[test]
    fn a_condition_may_be_a_plain_path_or_a_pattern() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("vport0p1"), "").unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        assert!(exists(&path("vport0p1")));
        assert!(exists(&path("vport*")));
        assert!(!exists(&path("hvc*")));
        assert!(!exists("/nonexistent/dir/*"));
    }
}
