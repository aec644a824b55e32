//! The loop of PID 1.
//!
//! A turn: wait, reap, take in what was said, written and asked, tell the supervisor the time. A
//! turn that panics is logged and the loop goes on: the supervisor's state is consistent between
//! events, and a machine that goes on with one event lost is better than one that has no PID 1.

use std::{
    fs, io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::PermissionsExt as _,
    },
    panic::{AssertUnwindSafe, catch_unwind},
};

use aios_init_core::{
    Event, Exit, Level, Micros, Minimum, Origin, Settings, Supervisor, drive, missing,
};
use aios_init_protocol::{PowerAction, Reply, UnitState};
use nix::sys::signal::{SigSet, Signal};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{WaitId, WaitIdOptions, WaitOptions, wait, waitid},
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};

use crate::{
    access::Access,
    cgroup::Cgroups,
    check::load_dir,
    clock::now,
    console::Console,
    control::{Control, error},
    definitions::{Definitions, write_atomically},
    inventory,
    linux::Linux,
    machine,
    notify::NotifySocket,
    options::Options,
    power,
    rescue::{Choice, rescue},
    sockets::Sockets,
};

/// Turns in a row that may panic before PID 1 waits a little between them.
const PANICS_IN_A_ROW: u32 = 3;

/// Why PID 1 could not begin.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Something that it cannot be without.
    #[error("cannot {what}: {source}")]
    Setup {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

fn setup(what: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::Setup { what, source }
}

/// PID 1 at work.
pub(crate) struct Init {
    pub(crate) supervisor: Supervisor,
    pub(crate) linux: Linux,
    pub(crate) control: Control,
    pub(crate) access: Access,
    notify: NotifySocket,
    signals: nix::sys::signalfd::SignalFd,
    timer: OwnedFd,
}

/// Is PID 1 until the machine ends. In a container the status says how: 0 off, 3 restart.
///
/// # Errors
/// [`RunError`] when PID 1 cannot listen, wait or be told of signals.
pub fn run(options: Options) -> Result<u8, RunError> {
    let mut init = match begin(options) {
        Ok(Begun::Ready(init)) => *init,
        Ok(Begun::End(action)) => return Ok(end(action, &mut Console::of_machine(), false)),
        Err(error) => return Err(error),
    };
    init.drive(Event::Tick);
    let mut panics = 0;
    loop {
        match catch_unwind(AssertUnwindSafe(|| init.turn())) {
            Ok(()) => panics = 0,
            Err(cause) => {
                panics += 1;
                let text = cause
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or_else(|| cause.downcast_ref::<&str>().copied())
                    .unwrap_or("no message");
                let text = format!("PID 1 failed inside and goes on: {text}");
                init.linux.console.log(Level::Error, &text, now());
                if panics >= PANICS_IN_A_ROW {
                    std::thread::sleep(std::time::Duration::from_millis(200));
                }
            }
        }
        if let Some((action, stragglers)) = init.linux.halted.take() {
            if !stragglers.is_empty() {
                let text = format!("had to be killed: {}", stragglers.join(", "));
                init.linux.console.log(Level::Warning, &text, now());
            }
            let container = init.linux.options.container;
            return Ok(end(action, &mut init.linux.console, container));
        }
    }
}

fn end(action: PowerAction, console: &mut Console, container: bool) -> u8 {
    if container {
        power::kill_everything();
    } else {
        power::end_machine(action, &mut |text| console.log(Level::Warning, text, now()));
        // The kernel refused to end. PID 1 must not return: that would be a panic of the kernel.
        loop {
            std::thread::sleep(std::time::Duration::from_secs(3600));
        }
    }
    match action {
        PowerAction::PowerOff => 0,
        PowerAction::Reboot => 3,
    }
}

enum Begun {
    Ready(Box<Init>),
    End(PowerAction),
}

/// The hardware phase, and everything that the loop stands on.
fn begin(options: Options) -> Result<Begun, RunError> {
    let started = now();
    let mut problems = Vec::new();
    if !options.container {
        problems.extend(machine::mount_all());
        machine::kernel_manners();
    }
    let mut mask = SigSet::all();
    for fault in [
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGILL,
        Signal::SIGFPE,
        Signal::SIGABRT,
    ] {
        mask.remove(fault);
    }
    mask.thread_block()
        .map_err(io::Error::from)
        .map_err(setup("block signals"))?;
    let flags =
        nix::sys::signalfd::SfdFlags::SFD_NONBLOCK | nix::sys::signalfd::SfdFlags::SFD_CLOEXEC;
    let signals = nix::sys::signalfd::SignalFd::with_flags(&mask, flags)
        .map_err(io::Error::from)
        .map_err(setup("be told of signals"))?;

    let mut console = if options.container {
        Console::of_container()
    } else {
        Console::of_machine()
    };
    console.log(Level::Info, "aiOS is starting", now());
    if !options.container {
        problems.extend(machine::apply_sysctls("/etc/sysctl.d".as_ref()));
        problems.extend(machine::set_hostname(&options.etc.join("config.toml")));
        problems.extend(
            machine::loopback_up()
                .err()
                .map(|error| format!("cannot bring the loopback up: {error}")),
        );
    }
    make_directories(&options, &mut problems);
    console.keep_file(&options.log);
    if let Some(action) = check_hardware(&options, &mut console) {
        return Ok(Begun::End(action));
    }
    for problem in &problems {
        console.log(Level::Warning, problem, now());
    }

    let access = Access::load(&options.etc.join("identities.toml")).unwrap_or_else(|error| {
        problems.push(format!("{error}; only root may ask PID 1 anything"));
        Access::default()
    });
    let notify = NotifySocket::listen(&options.run.join("notify.sock"))
        .map_err(setup("listen for services"))?;
    let control =
        Control::listen(&options.run.join("init.sock")).map_err(setup("listen for requests"))?;
    let timer = timerfd_create(
        TimerfdClockId::Boottime,
        TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
    )
    .map_err(io::Error::from)
    .map_err(setup("make a timer"))?;
    let definitions = Definitions::open(options.state.join("services"))
        .map_err(|error| problems.push(format!("cannot keep services of this machine: {error}")))
        .ok();
    let (units, unit_problems) = load(&options, definitions.as_ref());
    for problem in &unit_problems {
        console.log(Level::Error, problem, now());
    }
    let settings = Settings {
        seed: started,
        ..Settings::default()
    };
    let supervisor = Supervisor::new(units, unit_problems, settings, started);
    let cgroups = Cgroups::open(&options.cgroup);
    if !cgroups.available() {
        let text =
            "no control groups: limits do not hold, and a service may leave processes behind";
        console.log(Level::Warning, text, now());
    }
    let mut init = Init {
        supervisor,
        linux: Linux {
            sockets: Sockets::default(),
            notify_socket: notify.path(),
            options,
            console,
            cgroups,
            definitions,
            processes: std::collections::BTreeMap::new(),
            outputs: std::collections::BTreeMap::new(),
            replies: Vec::new(),
            halted: None,
        },
        control,
        access,
        notify,
        signals,
        timer,
    };
    init.drive(Event::HardwareChecked { problems });
    Ok(Begun::Ready(Box::new(init)))
}

/// Makes the directories that everything else stands in.
fn make_directories(options: &Options, problems: &mut Vec<String>) {
    for (dir, mode) in [
        (&options.run, 0o755),
        (&options.state, 0o755),
        (&options.log, 0o755),
    ] {
        let made = fs::create_dir_all(dir)
            .and_then(|()| fs::set_permissions(dir, fs::Permissions::from_mode(mode)));
        if let Err(error) = made {
            problems.push(format!("cannot make {}: {error}", dir.display()));
        }
    }
}

/// Takes the inventory and, on a machine that has too little, stays in the rescue console until
/// something is done about it. `Some`: the machine is to end.
fn check_hardware(options: &Options, console: &mut Console) -> Option<PowerAction> {
    loop {
        let inventory = inventory::take();
        let text = serde_json::to_vec_pretty(&inventory).unwrap_or_default();
        if let Err(error) = write_atomically(&options.run.join("hardware.json"), &text, 0o644) {
            console.log(
                Level::Warning,
                &format!("cannot write hardware.json: {error}"),
                now(),
            );
        }
        let summary = format!(
            "{} processors, {} MiB of memory, {} disks, {} network devices",
            inventory.cpu.count,
            inventory.ram_kib >> 10,
            inventory.disks.len(),
            inventory.nics.len()
        );
        console.log(Level::Info, &summary, now());
        for (address, ids, kind) in &inventory.driverless {
            let text = format!("no driver for the {kind} device {ids} at {address}");
            console.log(Level::Warning, &text, now());
        }
        let lacks = missing(&inventory, &Minimum::default());
        if lacks.is_empty() || options.container {
            return None;
        }
        for lack in &lacks {
            console.log(Level::Error, lack, now());
        }
        match rescue(console, &lacks) {
            Choice::Retry => {}
            Choice::Power(action) => return Some(action),
        }
    }
}

type Described = (aios_init_core::Unit, Origin, Option<String>);

/// The units of the image and of the machine, and everything that is wrong with either.
fn load(options: &Options, definitions: Option<&Definitions>) -> (Vec<Described>, Vec<String>) {
    let set = load_dir(&options.etc.join("services"));
    let mut problems = set.problems;
    let mut units: Vec<Described> = set
        .units
        .into_values()
        .map(|loaded| (loaded.unit, Origin::Image, loaded.unusable))
        .collect();
    if let Some(definitions) = definitions {
        let (defined, wrong) = definitions.load();
        problems.extend(wrong);
        for (unit, enabled) in defined {
            if units.iter().any(|(image, ..)| image.name == unit.name) {
                problems.push(format!(
                    "the service `{}` of this machine has the name of a unit of the image: not loaded",
                    unit.name
                ));
                continue;
            }
            units.push((unit, Origin::Machine { enabled }, None));
        }
    }
    (units, problems)
}

impl Init {
    pub(crate) fn drive(&mut self, event: Event) {
        drive(&mut self.supervisor, &mut self.linux, event, now());
        let supervisor = &self.supervisor;
        self.linux.sockets.close_unless(|unit| {
            supervisor.report(unit).is_some_and(|report| {
                !matches!(report.state, UnitState::Stopped | UnitState::Failed)
            })
        });
        self.pass_replies();
    }

    fn pass_replies(&mut self) {
        for (token, result) in std::mem::take(&mut self.linux.replies) {
            let reply = match result {
                Ok(detail) => Reply::Done { detail },
                Err(refusal) => error(refusal.kind, refusal.message),
            };
            self.control.reply(token, &reply, now());
        }
    }

    fn turn(&mut self) {
        self.wait();
        // Signals first: a SIGCHLD that is read after the look at the children would be one that
        // nobody answers, and an orphan that ended in between would stay a zombie.
        self.take_signals();
        self.reap();
        for output in self.linux.outputs.values_mut() {
            output.take_in();
        }
        self.hear();
        for asked in self.control.turn(now()) {
            self.answer(asked);
        }
        self.drive(Event::Tick);
    }

    fn wait(&self) {
        let deadline = [
            self.supervisor.next_deadline(),
            self.control.next_deadline(),
        ]
        .into_iter()
        .flatten()
        .min();
        arm(&self.timer, deadline);
        let mut fds = vec![
            PollFd::new(&self.signals, PollFlags::IN),
            PollFd::new(&self.timer, PollFlags::IN),
        ];
        fds.push(PollFd::from_borrowed_fd(self.notify.fd(), PollFlags::IN));
        for fd in self.linux.pidfds() {
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
        }
        for output in self.linux.outputs.values() {
            fds.push(PollFd::from_borrowed_fd(output.reader(), PollFlags::IN));
        }
        for (fd, writes) in self.control.fds() {
            let flags = if writes {
                PollFlags::OUT
            } else {
                PollFlags::IN
            };
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        }
        let _ = poll(&mut fds, None);
        let mut expirations = [0; 8];
        let _ = rustix::io::read(&self.timer, &mut expirations);
    }

    fn hear(&mut self) {
        for (pid, notification) in self.notify.take_in() {
            if let Some(unit) = self.linux.unit_of(pid) {
                self.drive(Event::Notified { unit, notification });
            }
        }
    }

    /// Main processes by their own descriptor, then every orphan that was left to PID 1.
    fn reap(&mut self) {
        let mut ended = Vec::new();
        for process in self.linux.processes.values() {
            let Some(pidfd) = &process.pidfd else {
                continue;
            };
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            if let Ok(Some(status)) = waitid(WaitId::PidFd(pidfd.as_fd()), options) {
                let exit = match (status.exit_status(), status.terminating_signal()) {
                    (Some(status), _) => Exit::Status(status),
                    (None, Some(signal)) => Exit::Signal(signal),
                    (None, None) => continue,
                };
                ended.push((process.pid, exit));
            }
        }
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let exit = match (status.exit_status(), status.terminating_signal()) {
                        (Some(status), _) => Exit::Status(status),
                        (None, Some(signal)) => Exit::Signal(signal),
                        (None, None) => continue,
                    };
                    ended.push((u32::try_from(pid.as_raw_nonzero().get()).unwrap_or(0), exit));
                }
                Err(Errno::INTR) => {}
                Ok(None) | Err(_) => break,
            }
        }
        if !ended.is_empty() {
            // The last thing that they said came before their end, and says why.
            self.hear();
        }
        for (pid, exit) in ended {
            self.linux.processes.retain(|_, process| process.pid != pid);
            if self.supervisor.unit_of(pid).is_some() {
                self.drive(Event::Exited { pid, exit });
            }
        }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            let (action, reason) = match i32::try_from(signal.ssi_signo) {
                Ok(libc::SIGINT) => (PowerAction::Reboot, "Ctrl-Alt-Del"),
                Ok(libc::SIGTERM) => (PowerAction::PowerOff, "SIGTERM"),
                Ok(libc::SIGPWR) => (PowerAction::PowerOff, "power failure or power button"),
                _ => continue,
            };
            self.drive(Event::Power {
                action,
                reason: reason.to_owned(),
            });
        }
    }
}

/// Sets the timer, or switches it off: an idle PID 1 does not wake up.
fn arm(timer: &OwnedFd, deadline: Option<Micros>) {
    let zero = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // A deadline of zero would switch the timer off.
    let value = deadline.map_or(zero, |deadline| {
        let deadline = deadline.max(1);
        Timespec {
            tv_sec: i64::try_from(deadline / 1_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(deadline % 1_000_000 * 1000).unwrap_or(0),
        }
    });
    let setting = Itimerspec {
        it_interval: zero,
        it_value: value,
    };
    let _ = timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &setting);
}
