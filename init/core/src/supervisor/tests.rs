//! The supervisor on a simulated machine, in simulated time.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use aios_init_protocol::{BootReport, PowerAction, UnitState};
use proptest::prelude::*;

use super::*;
use crate::{Kernel, drive, parse_unit};

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

#[test]
fn units_start_in_the_order_of_their_needs_and_the_machine_is_ready() {
    let world = world(
        &[
            ("console", "wants = [\"orchestrator\"]"),
            ("memory", ""),
            ("orchestrator", "requires = [\"memory\"]"),
            ("runtime", "phase = \"runtime\""),
            ("task", "phase = \"agents\""),
        ],
        &[],
    )
    .boot();
    assert_eq!(
        world.machine.starts,
        ["runtime", "memory", "orchestrator", "console", "task"]
    );
    let report = world.machine.announced.clone().unwrap();
    assert_eq!((report.state.as_str(), report.problems.len()), ("ready", 0));
    assert!(
        report.phases.iter().all(|phase| phase.outcome == "done"),
        "{report:?}"
    );
}

#[test]
fn a_killed_daemon_is_back_at_once_and_those_that_require_it_go_on() {
    let mut world = world(
        &[("memory", ""), ("orchestrator", "requires = [\"memory\"]")],
        &[],
    )
    .boot();
    world.kill("memory");
    assert_eq!(world.state("memory"), UnitState::Ready);
    assert_eq!(
        (world.started("memory"), world.started("orchestrator")),
        (2, 1)
    );
    assert_eq!(
        world.supervisor.report("memory").unwrap().last_exit,
        "killed by SIGKILL"
    );
}

#[test]
fn a_crash_loop_backs_off_and_is_given_up() {
    let mut world = world(
        &[("bad", "restart = \"always\"")],
        &[("bad", Behaviour::Ends(1))],
    )
    .boot();
    assert_eq!(world.started("bad"), 2, "the first restart is immediate");
    world.pass(SECOND);
    let early = world.started("bad");
    assert!((3..=6).contains(&early), "{early}");
    world.pass(120 * SECOND);
    assert_eq!(world.state("bad"), UnitState::Failed);
    assert_eq!(world.started("bad"), 10);
    assert_eq!(
        world.supervisor.next_deadline(),
        None,
        "an idle PID 1 does not wake up"
    );
    let report = world.supervisor.boot_report();
    assert_eq!(report.state, "degraded");
    assert!(
        report.problems[0].starts_with("bad failed: exit status 1"),
        "{report:?}"
    );
}

#[test]
fn a_healthy_period_forgets_failures() {
    let mut world = world(&[("memory", "")], &[]).boot();
    for _ in 0..50 {
        world.kill("memory");
        world.pass(31 * SECOND);
        assert_eq!(world.state("memory"), UnitState::Ready);
    }
    assert_eq!(world.supervisor.report("memory").unwrap().restarts, 50);
}

#[test]
fn a_permanent_failure_is_not_tried_again() {
    let behaviour = [
        ("config", Behaviour::Ends(78)),
        ("absent", Behaviour::Absent),
    ];
    let world = world(&[("config", ""), ("absent", "")], &behaviour).boot();
    assert_eq!(world.state("config"), UnitState::Failed);
    assert_eq!(world.started("config"), 1);
    assert_eq!(world.state("absent"), UnitState::Failed);
    assert_eq!(world.machine.announced.clone().unwrap().problems.len(), 2);
}

#[test]
fn a_model_that_does_not_load_degrades_and_stops_nobody() {
    let units = [
        ("runtime", "phase = \"runtime\""),
        ("memory", "after = [\"runtime\"]"),
    ];
    let world = world(&units, &[("runtime", Behaviour::Ends(78))]).boot();
    assert_eq!(world.state("memory"), UnitState::Ready);
    let report = world.machine.announced.clone().unwrap();
    assert_eq!(report.state, "degraded");
    assert_eq!(report.phases[1].outcome, "degraded");
    assert_eq!(report.phases[2].outcome, "done");
}

#[test]
fn a_unit_that_says_it_is_degraded_degrades_until_it_says_otherwise() {
    let mut world = world(&[("runtime", "")], &[]).boot();
    let say = |world: &mut World, text: &str| {
        world.tell(Event::Notified {
            unit: "runtime".into(),
            notification: Notification {
                ready: false,
                status: Some(text.into()),
            },
        });
        world.supervisor.boot_report()
    };
    let report = say(&mut world, "degraded: no model");
    assert_eq!(report.problems, ["runtime: degraded: no model"]);
    assert_eq!(say(&mut world, "model loaded").state, "ready");
}

#[test]
fn an_optional_unit_never_degrades_and_an_unawaited_one_is_not_waited_for() {
    let units = [
        ("network", "phase = \"autonomy\"\noptional = true"),
        (
            "sshd",
            "phase = \"autonomy\"\nawait = false\nrequires = [\"keys\"]\noptional = true",
        ),
        (
            "keys",
            "phase = \"autonomy\"\nawait = false\nreadiness = \"exit\"\noptional = true",
        ),
    ];
    let world = world(
        &units,
        &[("network", Behaviour::Absent), ("keys", Behaviour::Mute)],
    )
    .boot();
    assert_eq!(world.machine.announced.clone().unwrap().state, "ready");
    assert_eq!(world.state("sshd"), UnitState::Waiting);
}

#[test]
fn a_unit_that_never_gets_ready_is_killed_and_its_phase_ends_in_time() {
    let units = [
        ("mute", "start_timeout = \"50s\""),
        ("agent", "phase = \"agents\""),
    ];
    let mut world = world(&units, &[("mute", Behaviour::Mute)]).boot();
    world.pass(49 * SECOND);
    assert_eq!(world.state("mute"), UnitState::Starting);
    assert!(world.machine.announced.is_none());
    world.pass(2 * SECOND);
    assert_eq!(world.started("mute"), 2);
    assert_eq!(
        world.supervisor.report("mute").unwrap().last_exit,
        "not ready within 50s"
    );
    world.pass(10 * SECOND);
    assert_eq!(
        world.state("agent"),
        UnitState::Ready,
        "the phase ended at its deadline"
    );
    let report = world.machine.announced.clone().unwrap();
    assert_eq!(report.phases[2].outcome, "late");
    assert_eq!(report.state, "degraded");
}

#[test]
fn a_one_shot_is_done_once_and_a_skipped_unit_holds_nobody_up() {
    let units = [
        ("keys", "readiness = \"exit\""),
        ("port", ""),
        ("sshd", "requires = [\"keys\", \"port\"]"),
    ];
    let behaviour = [("keys", Behaviour::Ends(0)), ("port", Behaviour::Skipped)];
    let mut world = world(&units, &behaviour).boot();
    assert_eq!(world.state("keys"), UnitState::Ready);
    assert_eq!(world.state("port"), UnitState::Stopped);
    assert_eq!(world.state("sshd"), UnitState::Ready);
    world.pass(100 * SECOND);
    assert_eq!(world.started("keys"), 1);
}

#[test]
fn what_requires_a_failed_unit_waits_until_that_one_is_repaired() {
    let units = [
        ("memory", ""),
        ("orchestrator", "requires = [\"memory\"]"),
        ("next", "after = [\"orchestrator\"]"),
    ];
    let mut world = world(&units, &[("memory", Behaviour::Absent)]).boot();
    assert_eq!(world.state("orchestrator"), UnitState::Waiting);
    assert_eq!(
        world.state("next"),
        UnitState::Ready,
        "`after` does not inherit hopelessness"
    );
    assert!(world.machine.announced.is_some());
    let reply = world.ask(1, Operation::Start("orchestrator".into()));
    let refusal = reply.unwrap().unwrap_err();
    assert!(
        refusal.message.contains("memory, which has failed"),
        "{refusal:?}"
    );
    world.machine.behaviour.clear();
    assert!(
        world
            .ask(2, Operation::Start("memory".into()))
            .unwrap()
            .is_ok()
    );
    assert_eq!(world.state("orchestrator"), UnitState::Ready);
    assert_eq!(world.supervisor.boot_report().state, "ready");
}

#[test]
fn stopping_a_unit_stops_what_requires_it_first() {
    let units = [
        ("memory", ""),
        ("orchestrator", "requires = [\"memory\"]"),
        ("other", "wants = [\"memory\"]"),
    ];
    let mut world = world(&units, &[]).boot();
    assert!(
        world
            .ask(1, Operation::Stop("memory".into()))
            .unwrap()
            .is_ok()
    );
    assert_eq!(world.machine.ends, ["orchestrator", "memory"]);
    assert_eq!(world.state("other"), UnitState::Ready);
    assert!(
        world
            .ask(2, Operation::Start("orchestrator".into()))
            .unwrap()
            .is_ok()
    );
    assert_eq!(world.state("memory"), UnitState::Ready);
}

#[test]
fn a_restart_by_request_touches_only_that_unit() {
    let mut world = world(&[("memory", ""), ("user", "requires = [\"memory\"]")], &[]).boot();
    assert_eq!(
        world.ask(1, Operation::Restart("memory".into())),
        Some(Ok("memory ready again".into()))
    );
    assert_eq!((world.started("memory"), world.started("user")), (2, 1));
}

#[test]
fn requests_that_cannot_be_met_say_why() {
    let mut world = world(&[("memory", "")], &[("memory", Behaviour::Mute)]).boot();
    let kind = |reply: Option<Result<String, Refusal>>| reply.unwrap().unwrap_err().kind;
    let reply = world
        .ask(1, Operation::Start("memroy".into()))
        .unwrap()
        .unwrap_err();
    assert!(
        reply.message.contains("did you mean `memory`?"),
        "{reply:?}"
    );
    assert_eq!(
        kind(world.ask(2, Operation::Remove("memory".into()))),
        "conflict"
    );
    assert_eq!(world.ask(3, Operation::Start("memory".into())), None);
    assert!(
        world
            .ask(4, Operation::Stop("memory".into()))
            .unwrap()
            .is_ok()
    );
    assert_eq!(
        kind(world.reply(3)),
        "conflict",
        "the start was overtaken by the stop"
    );
    world.tell(Event::Power {
        action: PowerAction::Reboot,
        reason: "r".into(),
    });
    assert_eq!(
        kind(world.ask(5, Operation::Start("memory".into()))),
        "busy"
    );
}

#[test]
fn a_request_is_answered_in_bounded_time() {
    let units = [("slow", "start_timeout = \"1h\"")];
    let mut world = world(&units, &[("slow", Behaviour::Mute)]).boot();
    assert_eq!(world.ask(1, Operation::Start("slow".into())), None);
    world.pass(121 * SECOND);
    assert_eq!(world.reply(1).unwrap().unwrap_err().kind, "busy");
}

#[test]
fn a_service_of_the_machine_lives_a_whole_life() {
    let mut world = world(&[("memory", "")], &[]).boot();
    let nginx = unit(
        "nginx",
        "after = [\"memory\"]\nphase = \"autonomy\"\nawait = false",
    );
    let define = |unit: &Unit| Operation::Define(Box::new(unit.clone()));
    assert!(world.ask(1, define(&nginx)).unwrap().is_ok());
    assert_eq!(world.state("nginx"), UnitState::Stopped);
    assert!(
        world
            .ask(2, Operation::Start("nginx".into()))
            .unwrap()
            .is_ok()
    );
    assert!(
        world
            .ask(3, Operation::Stop("nginx".into()))
            .unwrap()
            .is_ok()
    );
    assert_eq!(
        world.machine.enabled,
        [("nginx".to_owned(), true), ("nginx".to_owned(), false)]
    );
    assert!(
        world
            .ask(4, Operation::Start("nginx".into()))
            .unwrap()
            .is_ok()
    );
    assert!(
        world
            .ask(5, Operation::Remove("nginx".into()))
            .unwrap()
            .is_ok()
    );
    assert_eq!(world.machine.forgotten, ["nginx"]);
    assert!(world.supervisor.report("nginx").is_none());
    let clash = world
        .ask(6, define(&unit("memory", "")))
        .unwrap()
        .unwrap_err();
    assert_eq!(clash.kind, "conflict");
    let lost = world
        .ask(7, define(&unit("x", "after = [\"nginx\"]")))
        .unwrap()
        .unwrap_err();
    assert_eq!(lost.kind, "invalid");
}

#[test]
fn a_service_of_the_machine_starts_at_boot_only_if_it_ran() {
    let more = "phase = \"autonomy\"\nawait = false\noptional = true";
    let machine = |name: &str, enabled| (unit(name, more), Origin::Machine { enabled }, None);
    let world = World::new([machine("on", true), machine("off", false)], &[]).boot();
    assert_eq!(world.machine.starts, ["on"]);
}

#[test]
fn the_end_stops_everything_in_reverse_and_names_the_stubborn() {
    let units = [
        ("memory", ""),
        (
            "orchestrator",
            "requires = [\"memory\"]\nstop_timeout = \"3s\"",
        ),
        ("console", "wants = [\"orchestrator\"]"),
    ];
    let mut world = world(&units, &[("orchestrator", Behaviour::Stubborn)]).boot();
    world.tell(Event::Power {
        action: PowerAction::PowerOff,
        reason: "test".into(),
    });
    assert_eq!(world.machine.ends, ["console"]);
    world.pass(2 * SECOND);
    assert!(world.machine.halted.is_none());
    world.pass(2 * SECOND);
    assert_eq!(world.machine.ends, ["console", "orchestrator", "memory"]);
    let expected = (PowerAction::PowerOff, vec!["orchestrator".to_owned()]);
    assert_eq!(world.machine.halted, Some(expected));
}

#[test]
fn not_even_an_immortal_process_keeps_the_machine_from_ending() {
    let mut world = world(&[("stuck", "")], &[("stuck", Behaviour::Immortal)]).boot();
    world.tell(Event::Power {
        action: PowerAction::Reboot,
        reason: "test".into(),
    });
    world.pass(40 * SECOND);
    assert_eq!(
        world.machine.halted,
        Some((PowerAction::Reboot, vec!["stuck".to_owned()]))
    );
}

#[test]
fn a_process_that_outlived_sigkill_has_no_second_beside_it() {
    let mut world = world(&[("stuck", "")], &[("stuck", Behaviour::Immortal)]).boot();
    assert_eq!(world.ask(1, Operation::Stop("stuck".into())), None);
    world.pass(20 * SECOND);
    assert_eq!(world.state("stuck"), UnitState::Failed);
    assert_eq!(world.ask(2, Operation::Start("stuck".into())), None);
    assert_eq!(world.started("stuck"), 1);
    world.machine.end("stuck", Exit::Signal(9));
    world.tell(Event::Tick);
    assert_eq!(world.started("stuck"), 2);
    assert!(world.reply(2).unwrap().is_ok());
}

#[derive(Debug, Clone)]
enum Step {
    Pass(Micros),
    Kill(usize),
    Ready(usize),
    Start(usize),
    Stop(usize),
    Restart(usize),
    Behave(usize, Behaviour),
    Power,
}

const COUNT: usize = 6;

fn step() -> impl Strategy<Value = Step> {
    let behaviour = prop_oneof![
        Just(Behaviour::Good),
        Just(Behaviour::Mute),
        Just(Behaviour::Absent),
        Just(Behaviour::Skipped),
        Just(Behaviour::Ends(0)),
        Just(Behaviour::Ends(1)),
        Just(Behaviour::Ends(78)),
        Just(Behaviour::Stubborn),
        Just(Behaviour::Immortal),
    ];
    prop_oneof![
        6 => (0..40 * SECOND).prop_map(Step::Pass),
        4 => (0..COUNT).prop_map(Step::Kill),
        2 => (0..COUNT).prop_map(Step::Ready),
        3 => (0..COUNT).prop_map(Step::Start),
        3 => (0..COUNT).prop_map(Step::Stop),
        2 => (0..COUNT).prop_map(Step::Restart),
        4 => (0..COUNT, behaviour).prop_map(|(unit, behaviour)| Step::Behave(unit, behaviour)),
        1 => Just(Step::Power),
    ]
}

fn graph() -> impl Strategy<Value = Vec<(String, String)>> {
    let edges = proptest::collection::vec((0..COUNT, 0..COUNT, 0..3usize), 0..10);
    (edges, proptest::collection::vec(0..9usize, COUNT)).prop_map(|(edges, kinds)| {
        (0..COUNT)
            .map(|index| {
                let mut more = String::new();
                for (place, key) in ["requires", "wants", "after"].iter().enumerate() {
                    let names: BTreeSet<String> = edges
                        .iter()
                        .filter(|(from, to, kind)| *from == index && to < from && *kind == place)
                        .map(|(_, to, _)| format!("\"u{to}\""))
                        .collect();
                    let names: Vec<String> = names.into_iter().collect();
                    more.push_str(&format!("{key} = [{}]\n", names.join(",")));
                }
                more.push_str(
                    ["", "readiness = \"started\"\n", "readiness = \"exit\"\n"][kinds[index] % 3],
                );
                let restart = ["on-failure", "never", "always"][kinds[index] / 3];
                if !(restart == "always" && kinds[index] % 3 == 2) {
                    more.push_str(&format!("restart = \"{restart}\"\n"));
                }
                (format!("u{index}"), more)
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    // Whatever happens: never two processes of a unit, never a start before its requirements or
    // after the end began (the machine asserts these), every request answered exactly once and in
    // time, the boot over in time, and the end within its budget.
    #[test]
    fn the_supervisor_keeps_its_promises(units in graph(), steps in proptest::collection::vec(step(), 0..60)) {
        let list: Vec<(&str, &str)> = units.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        let mut world = world(&list, &[]).boot();
        let mut token = 0;
        let mut asked = Vec::new();
        for step in steps {
            let name = |index: usize| format!("u{index}");
            let before = world.machine.starts.len();
            let states: BTreeMap<String, UnitState> = (0..COUNT).map(|i| (name(i), world.state(&name(i)))).collect();
            match step {
                Step::Pass(time) => world.pass(time),
                Step::Kill(index) => world.kill(&name(index)),
                Step::Ready(index) => world.tell(Event::Notified {
                    unit: name(index),
                    notification: Notification { ready: true, status: Some("s".into()) },
                }),
                Step::Behave(index, behaviour) => {
                    world.machine.behaviour.insert(name(index), behaviour);
                }
                Step::Power => world.tell(Event::Power { action: PowerAction::PowerOff, reason: String::new() }),
                Step::Start(_) | Step::Stop(_) | Step::Restart(_) => {
                    token += 1;
                    asked.push((token, world.now));
                    let operation = match step {
                        Step::Start(index) => Operation::Start(name(index)),
                        Step::Stop(index) => Operation::Stop(name(index)),
                        Step::Restart(index) => Operation::Restart(name(index)),
                        _ => unreachable!(),
                    };
                    world.ask(token, operation);
                }
            }
            let started = &world.machine.starts[before..];
            prop_assert!(states.len() == COUNT && started.len() < 200, "a start loop: {started:?}");
            // What the supervisor believes is what the machine knows.
            for index in 0..COUNT {
                let report = world.supervisor.report(&name(index)).unwrap();
                prop_assert_eq!(world.machine.running.get(&name(index)).copied().unwrap_or(0), report.pid);
            }
        }
        world.pass(400 * SECOND);
        prop_assert!(world.supervisor.is_ending() || world.machine.announced.is_some());
        for (token, _) in asked {
            prop_assert!(world.reply(token).is_some(), "request {} was never answered", token);
        }
        world.tell(Event::Power { action: PowerAction::Reboot, reason: String::new() });
        world.pass(28 * SECOND);
        prop_assert!(world.machine.halted.is_some());
    }
}
