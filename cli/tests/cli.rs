//! The real `aios` binary against a real console (in this process) with fake daemons behind it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may fail loudly"
)]

#[path = "../../services/console/tests/support/mod.rs"]
mod support;

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixListener, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use aios_proto::v1::{
    ExecuteReply, GoalRecord, GoalUpdate, GoalView, ListToolsReply, PlanGoalReply, PlanStep,
    SubmitGoalRequest, TaskRecord, ToolInfo,
};
use prost::Message as _;
use serde_json::Value;
use support::Ground;

/// A console in this process, and the binary where every user may run it.
struct Machine {
    ground: Ground,
    port: u16,
    aios: PathBuf,
    _fakes: Vec<support::Fake>,
}

impl Machine {
    async fn start() -> Self {
        let ground = Ground::new();
        let fakes = ground.fakes();
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let options = aios_console::Options {
            paths: ground.paths.clone(),
            listen: Some(format!("127.0.0.1:{port}")),
        };
        tokio::spawn(aios_console::run(options, std::future::pending()));
        let socket = ground.paths.socket("console");
        support::eventually("the console listens", || socket.exists()).await;
        let aios = ground.dir.path().join("aios");
        fs::copy(env!("CARGO_BIN_EXE_aios"), &aios).unwrap();
        fs::set_permissions(&aios, fs::Permissions::from_mode(0o755)).unwrap();
        Self {
            ground,
            port,
            aios,
            _fakes: fakes,
        }
    }

    fn command(&self) -> Command {
        let mut command = plain(&self.aios, self.ground.dir.path());
        command.arg("--run").arg(&self.ground.paths.run);
        command.arg("--state").arg(&self.ground.paths.state);
        command
    }

    async fn aios(&self, arguments: &[&str]) -> Output {
        let mut command = self.command();
        command.args(arguments);
        run(command).await
    }

    async fn json(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let output = self.aios(&[arguments, &["--json"]].concat()).await;
        let value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{arguments:?} printed no JSON: {error}: {output:?}"));
        (output.status.code(), value)
    }
}

fn plain(aios: &Path, home: &Path) -> Command {
    let mut command = Command::new(aios);
    command
        .env("HOME", home)
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("AIOS_PROFILE")
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null());
    command
}

async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_machine_it_helps_and_says_what_is_missing() {
    let home = tempfile::tempdir().unwrap();
    let aios = Path::new(env!("CARGO_BIN_EXE_aios"));
    let aios = |arguments: &[&str]| {
        let mut command = plain(aios, home.path());
        command
            .arg("--run")
            .arg(home.path().join("none"))
            .args(arguments);
        run(command)
    };
    let help = aios(&["--help"]).await;
    assert_eq!(help.status.code(), Some(0));
    for word in [
        "status",
        "goal",
        "tool",
        "audit",
        "rollback",
        "agent",
        "service",
        "model",
        "memory",
        "logs",
        "events",
        "boot",
        "config",
        "approve",
        "whoami",
        "cert",
        "ssh-key",
        "power",
        "completions",
        "enroll",
        "profile",
        "shell",
        "Exit codes",
        "--json",
        "--profile",
    ] {
        assert!(
            out(&help).contains(word),
            "{word} is not in\n{}",
            out(&help)
        );
    }
    let unreachable = aios(&["status"]).await;
    assert_eq!(unreachable.status.code(), Some(4));
    assert!(err(&unreachable).contains("aios enroll"), "{unreachable:?}");
    for wrong in [
        &["sttus"][..],
        &["goal"],
        &["goal", "lst"],
        &["power"],
        &["tool", "call"],
    ] {
        let output = aios(wrong).await;
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {output:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
    assert_eq!(
        aios(&["--profile", "nobody", "status"]).await.status.code(),
        Some(5)
    );
    let json = aios(&["status", "--json"]).await;
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["error"]["exit_code"], 4);
    // Whatever is wrong, a goal asked for as JSON is one object, and any other command one document.
    for wrong in [
        &["goal", "run", "--json", "--", ""][..],
        &[
            "goal",
            "run",
            "--json",
            "--deadline",
            "0s",
            "--",
            "list /srv",
        ],
        &["goal", "run", "--json", "--", "list /srv"],
    ] {
        let output = aios(wrong).await;
        let goal: Value = serde_json::from_slice(&output.stdout).unwrap();
        for field in ["goal", "status", "result", "steps"] {
            assert!(goal.get(field).is_some(), "{wrong:?}: {goal:#}");
        }
        assert_eq!(goal["status"], "failed");
        assert_eq!(
            Some(goal["error"]["exit_code"].as_i64().unwrap()),
            output.status.code().map(i64::from)
        );
    }
    let usage = aios(&["--json", "goal", "run", "--priority", "99", "a b"]).await;
    assert_eq!(usage.status.code(), Some(2));
    let usage: Value = serde_json::from_slice(&usage.stdout).unwrap();
    assert_eq!(usage["error"]["exit_code"], 2);
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            out(&aios(&["completions", shell]).await).contains("aios"),
            "{shell}"
        );
    }
    assert_eq!(aios(&["ssh-keys"]).await.status.code(), Some(0));
    assert_eq!(aios(&["serve-enrolment-port"]).await.status.code(), Some(0));
}

fn completed() -> GoalView {
    let task = |step: &str, kind: &str| TaskRecord {
        id: format!("task-{step}"),
        step_id: step.into(),
        ordinal: u32::from(kind == "postcondition"),
        tool: "fs.write".into(),
        args_json: r#"{"path":"/srv/motd.txt","content":"welcome aboard"}"#.into(),
        status: "completed".into(),
        kind: kind.into(),
        result_json: r#"{"bytes":14}"#.into(),
        agent: "storage".into(),
        attempt: 1,
        ..TaskRecord::default()
    };
    GoalView {
        goal: Some(GoalRecord {
            id: "goal-1".into(),
            text: "create it".into(),
            status: "completed".into(),
            result: "created /srv/motd.txt".into(),
            ..GoalRecord::default()
        }),
        plan: Some(PlanGoalReply {
            planner: "procedure".into(),
            source: "file-create".into(),
            steps: vec![PlanStep {
                id: "s1".into(),
                tool: "fs.write".into(),
                args_json: r#"{"path":"/srv/motd.txt"}"#.into(),
                risk: "medium".into(),
                policy: "allow".into(),
                ..PlanStep::default()
            }],
            ..PlanGoalReply::default()
        }),
        tasks: vec![task("p1", "postcondition"), task("s1", "step")],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_goal_is_followed_and_told_as_text_and_as_json() {
    let machine = Machine::start().await;
    let log = &machine.ground.log;
    let view = completed();
    log.answer(
        "/aios.v1.Orchestrator/SubmitGoal",
        view.goal.as_ref().unwrap(),
    );
    log.answer("/aios.v1.Orchestrator/GetGoal", &view);
    log.answer(
        "/aios.v1.Orchestrator/WatchGoal",
        &GoalUpdate {
            goal: view.goal.clone(),
            plan: view.plan.clone(),
            ended: true,
            ..GoalUpdate::default()
        },
    );
    let (code, goal) = machine
        .json(&["goal", "run", "create", "it", "--priority", "7"])
        .await;
    assert_eq!(code, Some(0));
    assert_eq!(goal["goal"], "create it");
    assert_eq!(goal["id"], "goal-1");
    assert_eq!(goal["status"], "completed");
    assert_eq!(goal["result"], "created /srv/motd.txt");
    assert_eq!(
        (&goal["planner"], &goal["source"]),
        (&"procedure".into(), &"file-create".into())
    );
    let steps = goal["steps"].as_array().unwrap();
    assert_eq!(
        (&steps[0]["id"], &steps[1]["kind"]),
        (&"s1".into(), &"postcondition".into())
    );
    assert_eq!(steps[0]["args"]["content"], "welcome aboard");
    assert_eq!(steps[0]["result"]["bytes"], 14);
    assert_eq!(steps[0]["status"], "completed");
    let sent = log.of("/aios.v1.Orchestrator/SubmitGoal").remove(0);
    let sent = SubmitGoalRequest::decode(sent.message).unwrap();
    assert_eq!((sent.text.as_str(), sent.priority), ("create it", 7));
    assert!(!sent.idempotency_key.is_empty());

    let text = machine.aios(&["goal", "create it"]).await;
    assert_eq!(text.status.code(), Some(0));
    for part in [
        "plan by procedure file-create",
        "[done] s1 fs.write",
        "completed: created",
    ] {
        assert!(
            out(&text).contains(part),
            "{part} is not in\n{}",
            out(&text)
        );
    }
    for (status, code) in [
        ("failed", 1),
        ("refused", 3),
        ("cancelled", 1),
        ("expired", 1),
    ] {
        let mut view = completed();
        view.goal.as_mut().unwrap().status = status.into();
        log.answer("/aios.v1.Orchestrator/GetGoal", &view);
        let (exit, goal) = machine.json(&["goal", "run", "create it"]).await;
        assert_eq!((exit, goal["status"].as_str()), (Some(code), Some(status)));
    }
    // A goal that goes on is not waited for longer than asked.
    let mut running = completed();
    running.goal.as_mut().unwrap().status = "running".into();
    log.answer("/aios.v1.Orchestrator/GetGoal", &running);
    log.stream("/aios.v1.Orchestrator/WatchGoal", &GoalUpdate::default());
    let (exit, goal) = machine
        .json(&["goal", "run", "create it", "--timeout", "1s"])
        .await;
    assert_eq!((exit, goal["status"].as_str()), (Some(6), Some("running")));
    // A goal that could not be submitted is an object too.
    log.fail(
        "/aios.v1.Orchestrator/SubmitGoal",
        tonic::Code::InvalidArgument,
    );
    let (exit, goal) = machine.json(&["goal", "run", "create it"]).await;
    assert_eq!((exit, goal["status"].as_str()), (Some(2), Some("failed")));
    assert_eq!(goal["goal"], "create it");
    assert!(goal["steps"].as_array().unwrap().is_empty());
    log.fail("/aios.v1.Orchestrator/GetGoal", tonic::Code::NotFound);
    assert_eq!(
        machine.aios(&["goal", "show", "x"]).await.status.code(),
        Some(5)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_users_are_who_the_kernel_says() {
    let machine = Machine::start().await;
    let (code, root) = machine.json(&["whoami"]).await;
    assert_eq!(
        (code, root["principal"].as_str()),
        (Some(0), Some("local:root"))
    );
    assert_eq!(root["role"], "admin");
    let as_user = |uid: u32, arguments: &[&str]| {
        let mut command = machine.command();
        command.uid(uid).gid(uid).args(arguments);
        run(command)
    };
    let operator = as_user(1000, &["whoami"]).await;
    assert_eq!(
        out(&operator).trim(),
        "local:operator (operator)",
        "{operator:?}"
    );
    let denied = as_user(1000, &["power", "off"]).await;
    assert_eq!(denied.status.code(), Some(3), "{denied:?}");
    for nobody in [4711, 912, 905] {
        let output = as_user(nobody, &["whoami"]).await;
        assert_eq!(output.status.code(), Some(3), "{nobody}: {output:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_are_called_with_the_types_of_their_schema() {
    let machine = Machine::start().await;
    let log = &machine.ground.log;
    log.answer(
        "/aios.v1.Tools/ListTools",
        &ListToolsReply {
            tools: vec![ToolInfo {
                name: "fs.read".into(),
                args_schema: r#"{"properties":{"path":{"type":"string"},"limit":{"type":"integer"}}}"#.into(),
                ..ToolInfo::default()
            }],
        },
    );
    for (outcome, exit) in [
        ("ok", 0),
        ("denied", 3),
        ("invalid", 2),
        ("failed", 1),
        ("timeout", 6),
    ] {
        log.answer(
            "/aios.v1.Tools/Execute",
            &ExecuteReply {
                outcome: outcome.into(),
                result_json: r#"{"content":"x"}"#.into(),
                ..ExecuteReply::default()
            },
        );
        let call = ["tool", "call", "fs.read", "path=5", "limit=5"];
        let (code, reply) = machine.json(&call).await;
        assert_eq!(
            (code, reply["outcome"].as_str()),
            (Some(exit), Some(outcome))
        );
        assert_eq!(reply["result"]["content"], "x");
    }
    let sent = log.of("/aios.v1.Tools/Execute").remove(0);
    let sent = aios_proto::v1::ExecuteRequest::decode(sent.message).unwrap();
    assert_eq!(sent.args_json, r#"{"path":"5","limit":5}"#);
    let unknown = machine.aios(&["tool", "call", "fs.raed", "path=5"]).await;
    assert_eq!(unknown.status.code(), Some(5));
    machine.aios(&["service", "start", "nginx"]).await;
    let sent = log.of("/aios.v1.Tools/Execute").pop().unwrap();
    let sent = aios_proto::v1::ExecuteRequest::decode(sent.message).unwrap();
    assert_eq!(
        (sent.tool.as_str(), sent.args_json.as_str()),
        ("service.start", r#"{"name":"nginx"}"#)
    );
}

/// A serial line: what goes into the socket comes out of the terminal, and back.
fn serial_line(socket: &Path) -> PathBuf {
    let pair = nix::pty::openpty(None, None).unwrap();
    let mut raw = nix::sys::termios::tcgetattr(&pair.slave).unwrap();
    nix::sys::termios::cfmakeraw(&mut raw);
    nix::sys::termios::tcsetattr(&pair.slave, nix::sys::termios::SetArg::TCSANOW, &raw).unwrap();
    let device = nix::unistd::ttyname(&pair.slave).unwrap();
    let listener = UnixListener::bind(socket).unwrap();
    let mut master = fs::File::from(pair.master);
    let slave = pair.slave;
    std::thread::spawn(move || {
        let _kept_open = slave;
        let (mut host, _) = listener.accept().unwrap();
        let mut to_guest = master.try_clone().unwrap();
        let mut from_host = host.try_clone().unwrap();
        std::thread::spawn(move || std::io::copy(&mut from_host, &mut to_guest));
        let mut chunk = [0; 512];
        while let Ok(count @ 1..) = master.read(&mut chunk) {
            if host.write_all(&chunk[..count]).is_err() {
                return;
            }
        }
    });
    device
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_enrolment_over_a_serial_port_gives_a_working_profile() {
    let machine = Machine::start().await;
    let dir = machine.ground.dir.path();
    let socket = dir.join("enrolment");
    let device = serial_line(&socket);
    let key = dir.join("key.pub");
    let line =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me@here";
    fs::write(&key, format!("{line}\n")).unwrap();
    let mut guest = machine
        .command()
        .args(["serve-enrolment-port", "--device"])
        .arg(&device)
        .spawn()
        .unwrap();
    // The host's side knows nothing of the machine but the port.
    let mut host = plain(&machine.aios, dir);
    host.args([
        "enroll",
        "--name",
        "laptop",
        "--role",
        "admin",
        "--timeout",
        "20",
    ])
    .args(["--endpoint", &format!("127.0.0.1:{}", machine.port)])
    .arg("--port")
    .arg(&socket)
    .arg("--out")
    .arg(dir.join(".config/aios/profiles/default"))
    .arg("--ssh-key")
    .arg(&key);
    let output = run(host).await;
    guest.kill().unwrap();
    guest.wait().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");

    let remote = |arguments: &[&str]| {
        let mut command = plain(&machine.aios, dir);
        command.arg("--run").arg(dir.join("none")).args(arguments);
        run(command)
    };
    let who = remote(&["whoami"]).await;
    assert!(out(&who).starts_with("cert:laptop (admin)"), "{who:?}");
    let status = remote(&["status", "--json"]).await;
    assert_eq!(status.status.code(), Some(0), "{status:?}");
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["ca_fingerprint"].as_str().unwrap().len(), 64);
    assert!(out(&remote(&["profile", "list"]).await).contains("laptop"));
    assert_eq!(out(&machine.aios(&["ssh-keys"]).await).trim(), line);

    // A second client from the first, then its certificate is taken back.
    let reader = dir.join("reader");
    let issue = [
        "cert", "issue", "--name", "watcher", "--role", "reader", "--json", "--out",
    ];
    let issued = remote(&[&issue[..], &[reader.to_str().unwrap()]].concat()).await;
    let issued: Value = serde_json::from_slice(&issued.stdout).unwrap();
    let reader = reader.to_str().unwrap();
    assert_eq!(
        remote(&["--profile", reader, "whoami"]).await.status.code(),
        Some(0)
    );
    let denied = remote(&["--profile", reader, "goal", "do something", "--json"]).await;
    assert_eq!(denied.status.code(), Some(3), "{denied:?}");
    let denied: Value = serde_json::from_slice(&denied.stdout).unwrap();
    assert_eq!(denied["status"], "refused");
    let revoked = remote(&["cert", "revoke", issued["serial"].as_str().unwrap()]).await;
    assert_eq!(revoked.status.code(), Some(0), "{revoked:?}");
    assert_eq!(
        remote(&["--profile", reader, "whoami"]).await.status.code(),
        Some(3)
    );
    assert_eq!(
        remote(&["cert", "revoke", "00"]).await.status.code(),
        Some(5)
    );

    // On the machine itself.
    let carried = dir.join("stick/bundle");
    let endpoint = format!("127.0.0.1:{}", machine.port);
    let local = [
        "enroll",
        "--local",
        "--name",
        "carried",
        "--role",
        "operator",
        "--endpoint",
        &endpoint,
    ];
    let local = machine
        .aios(&[&local[..], &["--out", carried.to_str().unwrap()]].concat())
        .await;
    assert_eq!(local.status.code(), Some(0), "{local:?}");
    let who = remote(&["--profile", carried.to_str().unwrap(), "whoami"]).await;
    assert!(out(&who).starts_with("cert:carried (operator)"), "{who:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_prompt_takes_commands_and_goals_and_no_shell() {
    let machine = Machine::start().await;
    let once = machine.aios(&["shell", "-c", "whoami --json"]).await;
    assert_eq!(once.status.code(), Some(0), "{once:?}");
    assert_eq!(
        serde_json::from_slice::<Value>(&once.stdout).unwrap()["role"],
        "admin"
    );
    for command in [
        "/usr/lib/openssh/sftp-server",
        "scp -t /tmp",
        "sh -c id",
        "whoami; id",
        "",
    ] {
        let output = machine.aios(&["shell", "-c", command]).await;
        assert_eq!(output.status.code(), Some(2), "{command:?}: {output:?}");
    }
    let lines = "nonsense\nwhoami\ngoal show\nhelp\nexit\nwhoami\n";
    let mut prompt = machine.command();
    prompt
        .arg("shell")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut prompt = prompt.spawn().unwrap();
    prompt
        .stdin
        .take()
        .unwrap()
        .write_all(lines.as_bytes())
        .unwrap();
    let output = tokio::task::spawn_blocking(move || prompt.wait_with_output().unwrap())
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        out(&output).matches("local:root (admin)").count(),
        1,
        "{output:?}"
    );
    assert!(err(&output).contains("too little for a goal"), "{output:?}");

    // No console at all: the prompt is still one.
    let bare = machine.ground.dir.path().join("bare");
    fs::create_dir(&bare).unwrap();
    let mut prompt = plain(&machine.aios, machine.ground.dir.path());
    prompt
        .arg("--run")
        .arg(&bare)
        .arg("shell")
        .stdin(Stdio::piped());
    prompt.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut prompt = prompt.spawn().unwrap();
    prompt
        .stdin
        .take()
        .unwrap()
        .write_all(b"status\nhelp\n")
        .unwrap();
    let ended = tokio::task::spawn_blocking(move || prompt.wait_with_output().unwrap());
    let output = tokio::time::timeout(Duration::from_secs(20), ended)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(out(&output).contains("power off"));
    assert!(err(&output).contains("does not answer"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pid_1_is_asked_while_the_console_is_down() {
    let dir = tempfile::tempdir().unwrap();
    let init = UnixListener::bind(dir.path().join("init.sock")).unwrap();
    let asked = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = asked.clone();
    std::thread::spawn(move || {
        for stream in init.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            let mut reader = std::io::BufReader::new(stream.try_clone().unwrap());
            std::io::BufRead::read_line(&mut reader, &mut line).unwrap();
            let request: Value = serde_json::from_str(&line).unwrap();
            let op = request["op"].as_str().unwrap().to_owned();
            let reply = match op.as_str() {
                "boot" => serde_json::json!({"reply": "boot", "boot": {"state": "ready",
                    "problems": [], "phases": [], "units": [], "ready_us": 5_000_000}}),
                "list" => serde_json::json!({"reply": "units", "units": []}),
                "logs" => serde_json::json!({"reply": "lines", "lines": ["one", "two"]}),
                _ => serde_json::json!({"reply": "done", "detail": "yes"}),
            };
            log.lock().unwrap().push(op);
            let _ = stream.write_all(format!("{reply}\n").as_bytes());
        }
    });
    let aios = |arguments: &[&str]| {
        let mut command = plain(Path::new(env!("CARGO_BIN_EXE_aios")), dir.path());
        command.arg("--run").arg(dir.path()).args(arguments);
        run(command)
    };
    let status = aios(&["status", "--json"]).await;
    assert_eq!(status.status.code(), Some(0), "{status:?}");
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["state"], "degraded");
    assert!(
        status["problems"][0]
            .as_str()
            .unwrap()
            .contains("aios-console")
    );
    assert!(out(&aios(&["boot"]).await).contains("ready 5.00 s"));
    assert_eq!(out(&aios(&["logs", "aios-tools"]).await), "one\ntwo\n");
    assert_eq!(aios(&["power", "off"]).await.status.code(), Some(0));
    assert_eq!(asked.lock().unwrap().last().unwrap(), "power");
    // What only the console can do is still said to be out of reach.
    assert_eq!(aios(&["goal", "do something"]).await.status.code(), Some(4));
    // A socket that PID 1 keeps open and nobody serves is the same, a little later.
    let _silent = UnixListener::bind(dir.path().join("console.sock")).unwrap();
    assert_eq!(aios(&["logs", "aios-tools"]).await.status.code(), Some(0));
}
