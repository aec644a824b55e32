//! What holds whatever happens.

use proptest::prelude::*;

use super::*;

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
