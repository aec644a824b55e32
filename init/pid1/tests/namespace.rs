//! The real PID 1 in namespaces of its own.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper of a test fails the test"
)]

mod common;

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use aios_init_protocol::{
    Client, ClientError, MAX_REQUEST_BYTES, PowerAction, Reply, Request, ServiceDefinition,
    UnitState,
};
use common::{Machine, PATIENCE, children, helping, possible, script, send_datagram, signal};

/// Not a test by itself: what units of the other tests run.
#[test]
fn helper() {
    let Ok(what) = std::env::var("AIOS_TEST_HELPER") else {
        return;
    };
    let notify = || std::env::var("NOTIFY_SOCKET").unwrap();
    match what.as_str() {
        "notify" => {
            std::thread::sleep(Duration::from_millis(50));
            send_datagram(Path::new(&notify()), "STATUS=serving\nREADY=1\n");
        }
        "refuse" => {
            let said = "STATUS=cannot start: x.toml:1:1: no\n";
            send_datagram(Path::new(&notify()), said);
            std::process::exit(3);
        }
        "sockets" => {
            use std::os::fd::FromRawFd as _;
            assert_eq!(
                std::env::var("LISTEN_PID").unwrap(),
                std::process::id().to_string()
            );
            // SAFETY: PID 1 handed descriptor 3 over to this process.
            let listener = unsafe { std::os::unix::net::UnixListener::from_raw_fd(3) };
            send_datagram(Path::new(&notify()), "READY=1\n");
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                stream
                    .write_all(std::process::id().to_string().as_bytes())
                    .unwrap();
            }
        }
        "ask" => {
            let socket = std::env::var("AIOS_TEST_SOCKET").unwrap();
            let client = Client::new(Path::new(&socket), PATIENCE);
            let reply = client.call(&Request::Stop { unit: "a".into() });
            let list = client.call(&Request::List);
            println!("<{}|{}>", kind(reply), kind(list));
            return;
        }
        other => panic!("{other}"),
    }
    std::thread::sleep(Duration::from_secs(600));
}

fn kind(reply: Result<Reply, ClientError>) -> String {
    match reply {
        Ok(_) => "ok".to_owned(),
        Err(ClientError::Refused { kind, .. }) => kind,
        Err(error) => error.to_string(),
    }
}

#[test]
fn units_become_ready_in_order_and_the_machine_ends_in_reverse() {
    if !possible() {
        return;
    }
    let mut machine = Machine::new(&[
        ("base", helping("notify", "readiness = \"notify\"")),
        (
            "middle",
            script(
                "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done",
                "requires = [\"base\"]",
            ),
        ),
        ("keys", script("echo made", "readiness = \"exit\"")),
        (
            "late",
            script("exec sleep 600", "phase = \"agents\"\nwants = [\"middle\"]"),
        ),
    ])
    .boot();
    let Ok(Reply::Boot { boot }) = machine.ask(&Request::Boot) else {
        panic!("no boot report");
    };
    assert_eq!(boot.state, "ready", "{boot:?}");
    let times = |name: &str| boot.units.iter().find(|unit| unit.name == name).unwrap();
    assert!(times("base").ready_us <= times("middle").start_us);
    assert!(times("middle").ready_us <= times("late").start_us);
    let file = fs::read(machine.dir.path().join("run/boot.json")).unwrap();
    assert_eq!(
        serde_json::from_slice::<aios_init_protocol::BootReport>(&file).unwrap(),
        boot
    );
    assert!(machine.dir.path().join("run/hardware.json").exists());
    assert_eq!(machine.status("base").status_text, "serving");
    assert_eq!(machine.end(PowerAction::PowerOff), 0);
    assert!(
        machine.log("middle").contains("bye"),
        "it was asked to end, not killed"
    );
    let console = machine.console();
    let place = |text: &str| {
        console
            .find(text)
            .unwrap_or_else(|| panic!("{text}: {console}"))
    };
    assert!(place("base ready") < place("middle ready"));
}

#[test]
fn a_killed_unit_is_back_within_a_second_and_its_socket_never_refuses() {
    if !possible() {
        return;
    }
    let text = helping(
        "sockets",
        "readiness = \"notify\"\nrestart = \"always\"\nlisten = [\"agents/a.sock\"]",
    );
    let machine = Machine::new(&[("a", text)]).boot();
    let socket = machine.dir.path().join("run/agents/a.sock");
    let ask = || {
        let mut answer = String::new();
        UnixStream::connect(&socket)
            .unwrap()
            .read_to_string(&mut answer)
            .unwrap();
        answer
    };
    let first = ask();
    for restarts in 1..=3 {
        let killed = Instant::now();
        machine.kill("a");
        assert_ne!(ask(), first, "another process answers");
        machine.until("it is back", |m| {
            let report = m.status("a");
            report.restarts >= restarts && report.state == UnitState::Ready
        });
        assert!(
            killed.elapsed() < Duration::from_secs(1),
            "{:?}",
            killed.elapsed()
        );
    }
    machine.ask(&Request::Stop { unit: "a".into() }).unwrap();
    assert!(
        UnixStream::connect(&socket).is_err(),
        "a stopped unit refuses at once"
    );
    machine.ask(&Request::Start { unit: "a".into() }).unwrap();
    ask();
}

#[test]
fn orphans_are_reaped_and_a_stop_leaves_nobody_behind() {
    if !possible() {
        return;
    }
    let forks = "i=0; while [ $i -lt 50 ]; do (setsid sh -c 'sleep 0.2 &' &); i=$((i+1)); done; setsid sleep 601 & exec sleep 602";
    let machine = Machine::new(&[("forks", script(forks, ""))]).boot();
    machine.until("every orphan is reaped", |m| {
        let left = children(m.init_pid()).into_iter();
        let zombie = |pid: &u32| {
            fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
        };
        let all: Vec<u32> = left.collect();
        !all.iter().any(zombie) && all.len() <= 2
    });
    if machine.has_cgroups() {
        machine
            .ask(&Request::Stop {
                unit: "forks".into(),
            })
            .unwrap();
        machine.until("nobody is left", |m| children(m.init_pid()).is_empty());
    }
}

#[test]
fn whoever_ignores_sigterm_is_killed_and_named() {
    if !possible() {
        return;
    }
    let stubborn = script(
        "trap '' TERM; while :; do sleep 0.1; done",
        "stop_timeout = \"500ms\"",
    );
    let mut machine =
        Machine::new(&[("stubborn", stubborn), ("a", script("exec sleep 600", ""))]).boot();
    let began = Instant::now();
    assert_eq!(machine.end(PowerAction::Reboot), 3);
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    let console = machine.console();
    assert!(console.contains("had to be killed: stubborn"), "{console}");
}

#[test]
fn failures_are_told_apart_and_shown() {
    if !possible() {
        return;
    }
    let machine = Machine::new(&[
        (
            "absent",
            script("", "").replace("/bin/sh", "/nonexistent/program"),
        ),
        ("config", script("echo no such key; exit 78", "")),
        (
            "told",
            helping("refuse", "readiness = \"notify\"\nrestart = \"never\""),
        ),
        (
            "mute",
            script(
                "exec sleep 600",
                "readiness = \"notify\"\nstart_timeout = \"300ms\"\nrestart = \"never\"",
            ),
        ),
        ("nobody", script("true", "user = \"no-such-user\"")),
        (
            "port",
            script("true", "condition_path = \"/dev/no-such-port*\""),
        ),
        ("broken", "phase = \"servces\"".to_owned()),
    ])
    .boot();
    let exit = |unit: &str| machine.status(unit).last_exit;
    assert!(
        exit("absent").contains("/nonexistent/program: No such file"),
        "{}",
        exit("absent")
    );
    assert_eq!(exit("config"), "exit status 78");
    assert_eq!(exit("told"), "exit status 3: cannot start: x.toml:1:1: no");
    assert_eq!(exit("mute"), "not ready within 300ms");
    assert!(exit("nobody").contains("no account `no-such-user`"));
    assert_eq!(machine.status("port").state, UnitState::Stopped);
    for unit in ["absent", "config", "mute", "nobody", "told"] {
        assert_eq!(machine.status(unit).state, UnitState::Failed, "{unit}");
    }
    let console = machine.console();
    for text in [
        "aiOS READY in",
        "(degraded: ",
        "broken.toml:1:",
        "config: no such key",
    ] {
        assert!(console.contains(text), "{text}: {console}");
    }
}

#[test]
fn a_unit_has_its_own_rights_and_nothing_of_pid_1() {
    if !possible() {
        return;
    }
    let show = "grep -E '^(Uid|Gid|Groups|CapEff|CapBnd|CapAmb|NoNewPrivs|SigBlk|SigIgn)' /proc/self/status; ls /proc/self/fd | tr '\\n' ' '; ulimit -n; id -un; exec sleep 600";
    let machine = Machine::new(&[
        (
            "plain",
            script(
                show,
                "user = \"nobody\"\n[resources]\nnofile = 77\n[directories]\nstate = [\"plain\"]",
            ),
        ),
        (
            "net",
            script(
                show,
                "user = \"nobody\"\n[security]\ncapabilities = [\"CAP_NET_BIND_SERVICE\"]",
            ),
        ),
    ])
    .boot();
    machine.until("both wrote", |m| {
        m.log("plain").contains("nobody") && m.log("net").contains("nobody")
    });
    let plain = machine.log("plain");
    for line in [
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "SigBlk:\t0000000000000000",
        "SigIgn:\t0000000000000000",
        "0 1 2 3 77",
    ] {
        assert!(plain.contains(line), "{line}: {plain}");
    }
    let net = machine.log("net");
    for line in [
        "CapEff:\t0000000000000400",
        "CapBnd:\t0000000000000400",
        "CapAmb:\t0000000000000400",
    ] {
        assert!(net.contains(line), "{line}: {net}");
    }
    let metadata = fs::metadata(machine.dir.path().join("state/plain")).unwrap();
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!((metadata.mode() & 0o777, metadata.uid()), (0o700, 65_534));
}

#[test]
fn a_stranger_may_ask_nothing_and_speaks_for_nobody() {
    if !possible() {
        return;
    }
    let slow = script(
        "exec sleep 600",
        "readiness = \"notify\"\nstart_timeout = \"1h\"\nawait = false\nphase = \"autonomy\"",
    );
    let machine = Machine::new(&[("a", script("exec sleep 600", "")), ("slow", slow)]).boot();
    // The directory of the test is private; a stranger must be able to reach the socket.
    for part in ["", "run"] {
        let path = machine.dir.path().join(part);
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let copy = machine.dir.path().join("helper");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let output = Command::new(copy)
        .args(["--exact", "helper", "--nocapture"])
        .env("AIOS_TEST_HELPER", "ask")
        .env("AIOS_TEST_SOCKET", machine.socket())
        .current_dir("/")
        .uid(65_534)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("<denied|denied>"), "{said}");
    assert_eq!(machine.status("a").state, UnitState::Ready);
    send_datagram(&machine.dir.path().join("run/notify.sock"), "READY=1\n");
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(machine.status("slow").state, UnitState::Starting);
}

#[test]
fn garbage_on_the_sockets_does_no_harm() {
    if !possible() {
        return;
    }
    let mut machine = Machine::new(&[("a", script("exec sleep 600", ""))]).boot();
    let send = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(machine.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    assert!(send(b"\x00\xff\xfe\n").contains("invalid"));
    assert!(send(b"{\"op\":\"explode\"}\n").contains("unknown variant"));
    assert!(send(b"{\"op\":\"list\",\"more\":1}\n").contains("\"reply\""));
    assert_eq!(send(b"{\"op\":\"list\""), "");
    assert!(send(&vec![b'['; MAX_REQUEST_BYTES + 10]).contains("at most"));
    let mut seed: u64 = 7;
    for round in 0..300 {
        let bytes: Vec<u8> = (0..round * 3)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 56) as u8
            })
            .collect();
        send(&bytes);
        let datagram = std::os::unix::net::UnixDatagram::unbound().unwrap();
        let _ = datagram.send_to(&bytes, machine.dir.path().join("run/notify.sock"));
    }
    let idle: Vec<UnixStream> = (0..100)
        .map_while(|_| UnixStream::connect(machine.socket()).ok())
        .collect();
    assert!(idle.len() > 60);
    drop(idle);
    machine.until("it still answers", |m| m.ask(&Request::List).is_ok());
    assert!(
        !machine.console().contains("failed inside"),
        "{}",
        machine.console()
    );
    assert_eq!(machine.end(PowerAction::PowerOff), 0);
}

#[test]
fn a_service_that_was_defined_here_comes_back_after_a_reboot() {
    if !possible() {
        return;
    }
    let mut machine = Machine::new(&[("a", script("exec sleep 600", ""))]).boot();
    let define = |name: &str, command: &str| Request::Define {
        service: ServiceDefinition {
            name: name.into(),
            command: command.into(),
            args: vec!["600".into()],
            user: None,
            restart: None,
            after: if name == "a" {
                vec![]
            } else {
                vec!["a".into()]
            },
        },
    };
    assert_eq!(kind(machine.ask(&define("a", "/bin/sleep"))), "conflict");
    assert_eq!(kind(machine.ask(&define("x/y", "/bin/sleep"))), "invalid");
    assert_eq!(kind(machine.ask(&define("napper", "sleep"))), "invalid");
    machine.ask(&define("napper", "/bin/sleep")).unwrap();
    machine.ask(&define("idler", "/bin/sleep")).unwrap();
    machine
        .ask(&Request::Start {
            unit: "napper".into(),
        })
        .unwrap();
    assert_eq!(machine.end(PowerAction::Reboot), 3);
    fs::remove_file(machine.dir.path().join("console")).unwrap();
    machine.start();
    machine.until_state("napper", UnitState::Ready);
    assert_eq!(machine.status("idler").state, UnitState::Stopped);
    let definition = machine.ask(&Request::Definition {
        unit: "napper".into(),
    });
    assert!(
        matches!(definition, Ok(Reply::Definition { service: Some(service) }) if service.args == ["600"])
    );
    machine
        .ask(&Request::Remove {
            unit: "napper".into(),
        })
        .unwrap();
    assert_eq!(
        kind(machine.ask(&Request::Status {
            unit: "napper".into()
        })),
        "not_found"
    );
    assert_eq!(
        kind(machine.ask(&Request::Remove { unit: "a".into() })),
        "conflict"
    );
    assert!(
        !machine
            .dir
            .path()
            .join("state/services/napper.toml")
            .exists()
    );
}

#[test]
fn signals_end_the_machine_as_keys_and_power_buttons_do() {
    if !possible() {
        return;
    }
    for (number, status) in [(libc::SIGINT, 3), (libc::SIGTERM, 0), (libc::SIGPWR, 0)] {
        let mut machine = Machine::new(&[("a", script("exec sleep 600", ""))]).boot();
        signal(machine.init_pid(), number);
        assert_eq!(machine.wait(), status, "{number}");
    }
}

#[test]
fn outside_of_process_1_it_only_explains_itself() {
    let output = Command::new(env!("CARGO_BIN_EXE_aios-init"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("runs only as process 1"));
}
