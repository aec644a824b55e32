//! One story each.

use super::*;

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
fn one_reason_of_several_units_is_a_problem_once() {
    let mut world = world(&[("memory", ""), ("runtime", ""), ("tools", "")], &[]).boot();
    for (unit, status) in [
        ("memory", "degraded: config.toml:2:1: no such key"),
        ("runtime", "degraded: config.toml:2:1: no such key"),
        ("tools", "degraded: the ledger does not verify"),
    ] {
        world.tell(Event::Notified {
            unit: unit.into(),
            notification: Notification {
                ready: false,
                status: Some(status.into()),
            },
        });
    }
    assert_eq!(
        world.supervisor.boot_report().problems,
        [
            "memory, runtime: degraded: config.toml:2:1: no such key",
            "tools: degraded: the ledger does not verify"
        ]
    );
}

#[test]
fn what_a_unit_said_before_it_gave_up_is_in_the_report() {
    let mut world = world(&[("tools", "")], &[("tools", Behaviour::Mute)]).boot();
    let said = "cannot start: policy.toml:3:1: no such key";
    world.tell(Event::Notified {
        unit: "tools".into(),
        notification: Notification {
            ready: false,
            status: Some(said.into()),
        },
    });
    world.machine.end("tools", Exit::Status(78));
    world.tell(Event::Tick);
    let problems = world.supervisor.boot_report().problems;
    assert_eq!(problems, [format!("tools failed: exit status 78: {said}")]);
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
