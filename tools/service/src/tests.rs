//! The tools of the family as the registry calls them, against a PID 1 on a real socket.

use std::sync::atomic::Ordering;

use aios_init_protocol::UnitState;
use aios_tool_api::{Context, PreImage, Registry, Risk, ToolError, ToolErrorKind, Undone};
use serde_json::{Value, json};

use crate::fake_pid1::FakePid1;

fn registry() -> Registry {
    let mut registry = Registry::default();
    crate::register(&mut registry);
    registry
}

struct Call {
    args: Value,
    pre_image: Option<PreImage>,
    output: Value,
}

fn call(name: &str, args: Value, context: &Context) -> Result<Call, ToolError> {
    let tool = registry().get(name).unwrap();
    let args = tool.normalise(&args, context)?;
    let pre_image = tool.pre_image(&args, context)?;
    let output = tool.execute(&args, context)?;
    tool.check(&args, &output, context)?;
    Ok(Call {
        args,
        pre_image,
        output,
    })
}

fn undo(name: &str, call: &Call, context: &Context) -> Undone {
    registry()
        .get(name)
        .unwrap()
        .undo(
            &call.args,
            call.pre_image.as_ref().unwrap(),
            Some(&call.output),
            context,
        )
        .unwrap()
}

fn kind(result: Result<Call, ToolError>) -> ToolErrorKind {
    match result {
        Ok(call) => panic!("was accepted: {}", call.output),
        Err(error) => error.kind,
    }
}

#[test]
fn the_family_is_as_catalogued() {
    let expected = [
        ("service.define", Risk::Medium, true),
        ("service.list", Risk::Low, false),
        ("service.logs", Risk::Low, false),
        ("service.remove", Risk::High, true),
        ("service.start", Risk::Medium, true),
        ("service.status", Risk::Low, false),
        ("service.stop", Risk::Medium, true),
    ];
    let registry = registry();
    let found: Vec<_> = registry
        .iter()
        .map(|tool| tool.spec())
        .map(|spec| (spec.name, spec.risk, spec.undo.is_some()))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn unknown_fields_are_refused_by_every_tool() {
    let init = FakePid1::start();
    for tool in registry().iter() {
        let args = json!({"name": "nginx", "command": "/bin/x", "surprise": 1});
        let error = tool.normalise(&args, &init.context()).unwrap_err();
        assert_eq!(error.kind, ToolErrorKind::Invalid, "{}", tool.spec().name);
    }
}

#[test]
fn hostile_names_never_reach_pid_1() {
    let init = FakePid1::start();
    for tool in [
        "service.status",
        "service.start",
        "service.stop",
        "service.remove",
        "service.logs",
    ] {
        for name in [
            "",
            "-h",
            "../../etc/passwd",
            "a;reboot",
            "$(reboot)",
            "a\nb",
            "a b",
        ] {
            let result = call(tool, json!({"name": name}), &init.context());
            assert_eq!(kind(result), ToolErrorKind::Invalid, "{tool} {name:?}");
        }
    }
    assert!(init.world.lock().unwrap().changes.is_empty());
}

#[test]
fn start_is_verified_and_undone() {
    let init = FakePid1::start();
    {
        let mut world = init.world.lock().unwrap();
        world.unit("nginx", UnitState::Stopped);
        world.unit("network", UnitState::Stopped);
        world.requires.insert("nginx".into(), "network".into());
    }
    let context = init.context();
    let start = call("service.start", json!({"name": "nginx.service"}), &context).unwrap();
    assert_eq!(start.output["service"]["state"], "ready");
    assert_eq!(start.output["changed"], true);
    assert_eq!(start.output["along"], json!(["network"]));
    let done = undo("service.start", &start, &context);
    assert_eq!(done, Undone::Undone("stopped nginx, network".into()));
    let again = undo("service.start", &start, &context);
    assert!(matches!(again, Undone::Nothing(_)), "{again:?}");
}

#[test]
fn undoing_the_start_of_what_ran_already_leaves_it_alone() {
    let init = FakePid1::start();
    init.world.lock().unwrap().unit("nginx", UnitState::Ready);
    let context = init.context();
    let start = call("service.start", json!({"name": "nginx"}), &context).unwrap();
    assert_eq!(start.output["changed"], false);
    assert!(matches!(
        undo("service.start", &start, &context),
        Undone::Nothing(_)
    ));
    assert_eq!(
        init.world.lock().unwrap().units["nginx"].state,
        UnitState::Ready
    );
}

#[test]
fn stop_brings_back_what_went_with_it() {
    let init = FakePid1::start();
    {
        let mut world = init.world.lock().unwrap();
        world.unit("nginx", UnitState::Ready);
        world.unit("network", UnitState::Ready);
        world.requires.insert("nginx".into(), "network".into());
    }
    let context = init.context();
    let stop = call("service.stop", json!({"name": "network"}), &context).unwrap();
    assert_eq!(stop.output["along"], json!(["nginx"]));
    undo("service.stop", &stop, &context);
    assert_eq!(
        init.world.lock().unwrap().units["nginx"].state,
        UnitState::Ready
    );
}

#[test]
fn aios_itself_is_neither_stopped_nor_redefined() {
    let init = FakePid1::start();
    let own = [
        "tools",
        "aios-memory",
        "orchestrator",
        "console",
        "runtime",
        "agent-network",
    ];
    for name in own {
        init.world.lock().unwrap().unit(name, UnitState::Ready);
        for tool in ["service.stop", "service.remove"] {
            let result = call(tool, json!({"name": name}), &init.context());
            assert_eq!(kind(result), ToolErrorKind::Conflict, "{tool} {name}");
        }
        let args = json!({"name": name, "command": "/bin/true"});
        assert_eq!(
            kind(call("service.define", args, &init.context())),
            ToolErrorKind::Conflict
        );
    }
    assert!(init.world.lock().unwrap().changes.is_empty());
}

#[test]
fn a_service_that_does_not_come_up_says_so() {
    let init = FakePid1::start();
    {
        let mut world = init.world.lock().unwrap();
        world.unit("nginx", UnitState::Stopped);
        world.broken.push("nginx".into());
    }
    let error = call("service.start", json!({"name": "nginx"}), &init.context())
        .err()
        .unwrap();
    assert_eq!(error.kind, ToolErrorKind::Program);
    assert!(error.message.contains("exit code 1"), "{error}");
    assert!(error.hint.contains("service.logs"));
}

#[test]
fn a_unit_that_died_after_it_was_started_is_unverified() {
    let init = FakePid1::start();
    init.world.lock().unwrap().unit("nginx", UnitState::Stopped);
    let context = init.context();
    let tool = registry().get("service.start").unwrap();
    let args = json!({"name": "nginx"});
    let output = tool.execute(&args, &context).unwrap();
    init.world.lock().unwrap().unit("nginx", UnitState::Backoff);
    let error = tool.check(&args, &output, &context).unwrap_err();
    assert_eq!(error.kind, ToolErrorKind::Unverified);
}

#[test]
fn an_unknown_service_is_not_found() {
    let init = FakePid1::start();
    for tool in [
        "service.start",
        "service.stop",
        "service.status",
        "service.remove",
        "service.logs",
    ] {
        let result = call(tool, json!({"name": "nowhere"}), &init.context());
        assert_eq!(kind(result), ToolErrorKind::NotFound, "{tool}");
    }
}

#[test]
fn define_resolves_the_program_and_is_undone() {
    let init = FakePid1::start();
    init.program("/usr/sbin/nginx");
    let context = init.context();
    let args =
        json!({"name": "nginx", "command": "nginx", "args": ["-g", "daemon off; $(reboot)"]});
    let define = call("service.define", args, &context).unwrap();
    assert_eq!(
        define.args["command"], "nginx",
        "what was approved stays as it was written"
    );
    assert_eq!(define.output["command"], "/usr/sbin/nginx");
    assert_eq!(
        define.output["args"],
        json!(["-g", "daemon off; $(reboot)"])
    );
    assert_eq!(define.output["state"], "stopped");
    let done = undo("service.define", &define, &context);
    assert!(matches!(done, Undone::Undone(_)), "{done:?}");
    assert!(init.world.lock().unwrap().definitions.is_empty());
    assert!(matches!(
        undo("service.define", &define, &context),
        Undone::Nothing(_)
    ));
}

#[test]
fn a_redefinition_is_restored_unless_somebody_changed_it_since() {
    let init = FakePid1::start();
    init.program("/usr/bin/one");
    init.program("/usr/bin/two");
    let context = init.context();
    let of = |command: &str| json!({"name": "web", "command": command, "restart": "always"});
    call("service.define", of("/usr/bin/one"), &context).unwrap();
    let second = call("service.define", of("/usr/bin/two"), &context).unwrap();
    assert_eq!(second.output["replaced"], true);

    let ours = init.world.lock().unwrap().definitions["web"].clone();
    init.world
        .lock()
        .unwrap()
        .definitions
        .get_mut("web")
        .unwrap()
        .args = vec!["edited".into()];
    let refused = undo("service.define", &second, &context);
    assert!(matches!(refused, Undone::Refused(_)), "{refused:?}");

    init.world
        .lock()
        .unwrap()
        .definitions
        .insert("web".into(), ours);
    undo("service.define", &second, &context);
    assert_eq!(
        init.world.lock().unwrap().definitions["web"].command,
        "/usr/bin/one"
    );
}

#[test]
fn services_of_the_image_are_left_alone() {
    let init = FakePid1::start();
    init.program("/usr/bin/evil");
    init.world.lock().unwrap().unit("sshd", UnitState::Ready);
    let args = json!({"name": "sshd", "command": "/usr/bin/evil"});
    assert_eq!(
        kind(call("service.define", args, &init.context())),
        ToolErrorKind::Conflict
    );
    let result = call("service.remove", json!({"name": "sshd"}), &init.context());
    assert_eq!(kind(result), ToolErrorKind::Conflict);
    assert!(init.world.lock().unwrap().changes.is_empty());
}

#[test]
fn a_missing_program_or_account_defines_nothing() {
    let init = FakePid1::start();
    init.program("/usr/bin/web");
    std::fs::create_dir(init.dir.path().join("etc")).unwrap();
    std::fs::write(
        init.dir.path().join("etc/passwd"),
        "root:x:0:0::/:/bin/sh\n",
    )
    .unwrap();
    let context = init.context();
    for command in ["/usr/bin/nowhere", "nowhere", "/usr/bin"] {
        let result = call(
            "service.define",
            json!({"name": "web", "command": command}),
            &context,
        );
        assert_eq!(kind(result), ToolErrorKind::NotFound, "{command}");
    }
    for command in ["", "bin/web", "/usr/bin/../bin/web", "web --flag", "-web"] {
        let result = call(
            "service.define",
            json!({"name": "web", "command": command}),
            &context,
        );
        assert_eq!(kind(result), ToolErrorKind::Invalid, "{command}");
    }
    let args = json!({"name": "web", "command": "web", "user": "nobody-here"});
    assert_eq!(
        kind(call("service.define", args, &context)),
        ToolErrorKind::NotFound
    );
    let args = json!({"name": "web", "command": "web", "restart": "sometimes"});
    assert_eq!(
        kind(call("service.define", args, &context)),
        ToolErrorKind::Invalid
    );
    assert!(init.world.lock().unwrap().changes.is_empty());
}

#[test]
fn a_removed_service_comes_back_running() {
    let init = FakePid1::start();
    init.program("/usr/bin/web");
    let context = init.context();
    call(
        "service.define",
        json!({"name": "web", "command": "web"}),
        &context,
    )
    .unwrap();
    call("service.start", json!({"name": "web"}), &context).unwrap();
    let remove = call("service.remove", json!({"name": "web"}), &context).unwrap();
    assert_eq!(remove.output, json!({"name": "web", "was_running": true}));
    assert!(!init.world.lock().unwrap().units.contains_key("web"));
    undo("service.remove", &remove, &context);
    assert_eq!(
        init.world.lock().unwrap().units["web"].state,
        UnitState::Ready
    );
}

#[test]
fn logs_are_filtered() {
    let init = FakePid1::start();
    {
        let mut world = init.world.lock().unwrap();
        world.unit("nginx", UnitState::Ready);
        world.log = (0..300).map(|n| format!("line {n}")).collect();
        world.log.push("[error] Boom".into());
    }
    let context = init.context();
    let all = call(
        "service.logs",
        json!({"name": "nginx", "lines": 2}),
        &context,
    )
    .unwrap();
    assert_eq!(all.output["lines"], json!(["line 299", "[error] Boom"]));
    let some = call(
        "service.logs",
        json!({"name": "nginx", "query": "boom"}),
        &context,
    )
    .unwrap();
    assert_eq!(some.output["lines"], json!(["[error] Boom"]));
    assert_eq!(some.output["scanned"], 301);
    for args in [
        json!({"name": "nginx", "lines": 0}),
        json!({"name": "nginx", "since": "soon"}),
    ] {
        assert_eq!(
            kind(call("service.logs", args, &context)),
            ToolErrorKind::Invalid
        );
    }
}

#[test]
fn without_pid_1_the_message_says_so_and_a_cancelled_call_does_not_start() {
    let init = FakePid1::start();
    let mut context = init.context();
    context.cancelled.store(true, Ordering::Relaxed);
    let result = call("service.start", json!({"name": "nginx"}), &context);
    assert_eq!(kind(result), ToolErrorKind::Cancelled);
    context = init.context();
    context.init_socket = init.dir.path().join("nobody.sock");
    let error = call("service.list", json!({}), &context).err().unwrap();
    assert!(error.message.contains("nobody.sock"), "{error}");
    assert!(error.retryable);
}
