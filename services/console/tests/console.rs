//! The real console process, real TLS and real sockets; only the daemons behind it are fakes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may fail loudly"
)]

mod support;

use std::{path::Path, sync::atomic::Ordering, time::Duration};

use aios_console::{
    authority::Authority,
    roles::{self, Role},
};
use aios_kit::config::SystemConfig;
use aios_proto::v1::{
    AuthorizeSshKeyRequest, CheckCallRequest, Empty, ExecuteRequest, GetGoalRequest, GoalRecord,
    GoalUpdate, GoalView, HealthReply, IssueCertificateReply, LedgerRecord, ListLedgerReply,
    MemoryHealthReply, PowerRequest, RevokeCertificateRequest, StatusReply, SubmitGoalRequest,
    management_client::ManagementClient, orchestrator_client::OrchestratorClient,
    tools_client::ToolsClient,
};
use prost::Message as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use support::{Client, Console, Ground, builder, connect, csr, eventually};
use tonic::{Code, Request, Status, transport::Channel};

const SUBMIT: &str = "/aios.v1.Orchestrator/SubmitGoal";
const GET: &str = "/aios.v1.Orchestrator/GetGoal";
const WATCH: &str = "/aios.v1.Orchestrator/WatchGoal";

fn start(ground: &Ground) -> Console {
    Console::start(Path::new(env!("CARGO_BIN_EXE_aios-console")), ground)
}

/// Any method, with an empty message.
async fn call(channel: &Channel, method: &str) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client
        .ready()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let codec = tonic_prost::ProstCodec::<Empty, Empty>::default();
    client
        .unary(Request::new(Empty {}), method.parse().unwrap(), codec)
        .await
        .map(|_| ())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_is_open_to_the_roles_of_the_table_and_to_nobody_else() {
    let ground = Ground::new();
    let _fakes = ground.fakes();
    let console = start(&ground);
    for role in Role::ALL {
        let client = ground.issue(&format!("a-{role}"), role.name()).await;
        let channel = client.connect(&console).await.unwrap();
        for rule in roles::TABLE {
            let result = call(&channel, rule.method).await;
            let denied = matches!(&result, Err(status) if status.code() == Code::PermissionDenied);
            assert_eq!(
                denied,
                role < rule.role,
                "{role} {}: {result:?}",
                rule.method
            );
        }
        let unknown = [
            "/aios.v1.Management/Nothing",
            "/grpc.reflection.v1.ServerReflection/X",
            "/",
        ];
        for method in roles::NEVER_REMOTE.iter().chain(&unknown) {
            let error = call(&channel, method).await.unwrap_err();
            assert_eq!(error.code(), Code::PermissionDenied, "{role} {method}");
        }
    }
    let forwarded: Vec<_> = ground
        .log
        .seen()
        .into_iter()
        .filter(|seen| roles::NEVER_REMOTE.contains(&seen.path.as_str()))
        .filter(|seen| seen.path != "/aios.v1.Tools/RecordEvent")
        .collect();
    assert!(forwarded.is_empty(), "{forwarded:?}");
    // What did arrive arrived as the caller, at the daemon that owns it.
    for seen in ground.log.seen() {
        let Some(rule) = roles::find(&seen.path) else {
            continue;
        };
        if seen.headers.contains_key("aios-principal") {
            assert_eq!(seen.daemon, rule.backend.name(), "{}", seen.path);
            let role = seen.headers["aios-role"].to_str().unwrap();
            assert_eq!(seen.headers["aios-principal"], format!("cert:a-{role}"));
        }
    }
    // Every denial of a named caller is in the ledger.
    let refused = ground
        .log
        .recorded()
        .into_iter()
        .filter(|(event, _)| event.kind == "refusal");
    let table = roles::TABLE.iter().map(|rule| match rule.role {
        Role::Reader => 0,
        Role::Operator => 1,
        Role::Admin => 2,
    });
    let expected = table.sum::<usize>() + 3 * (roles::NEVER_REMOTE.len() + 3);
    assert_eq!(refused.count(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_certificate_of_this_machine_opens_the_port() {
    let ground = Ground::new();
    let _fakes = ground.fakes();
    let console = start(&ground);
    let good = ground.issue("alice", "operator").await;
    let channel = good.connect(&console).await.unwrap();
    let who = ManagementClient::new(channel)
        .who_am_i(Empty {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (who.principal.as_str(), who.role.as_str()),
        ("cert:alice", "operator")
    );
    assert_eq!(who.fingerprint.len(), 64);

    let authority = Authority::open(&ground.paths.state.join("console")).unwrap();
    let strangers = tempfile::tempdir().unwrap();
    let strangers = Authority::open(strangers.path()).unwrap();
    let now = time::OffsetDateTime::now_utc();
    let client = |signer: &Authority, at: time::OffsetDateTime| {
        let (key, csr) = csr();
        let issued = signer
            .issue_client(&csr, "eve", Role::Admin, 1, at)
            .unwrap();
        Client::new(
            &key,
            IssueCertificateReply {
                certificate_pem: issued.pem,
                authority_pem: authority.pem().to_owned(),
                ..IssueCertificateReply::default()
            },
        )
    };
    let status = Code::PermissionDenied;
    // Of another authority, and of ours but expired: no connection.
    for stranger in [
        client(&strangers, now),
        client(&authority, now - Duration::from_secs(4 * 86_400)),
    ] {
        let result = match stranger.connect(&console).await {
            Ok(channel) => call(&channel, "/aios.v1.Management/WhoAmI").await.err(),
            Err(_) => None,
        };
        assert!(result.is_none_or(|error| error.code() != Code::Ok && error.code() != status));
    }
    // Of ours, well signed, but not in the table: a connection that may do nothing.
    let unlisted = client(&authority, now).connect(&console).await.unwrap();
    let error = call(&unlisted, "/aios.v1.Management/WhoAmI")
        .await
        .unwrap_err();
    assert_eq!(error.code(), status);
    assert!(error.message().contains("table"), "{error}");

    // No certificate, and TLS 1.2 with a good one.
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let nobody = builder(&[&rustls::version::TLS13])
        .with_root_certificates(roots.clone())
        .with_no_client_auth();
    if let Ok(channel) = connect(console.address, nobody).await {
        assert!(call(&channel, "/aios.v1.Management/WhoAmI").await.is_err());
    }
    let old = builder(&[&rustls::version::TLS12])
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(good.certificate_pem.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(good.key_pem.as_bytes()).unwrap(),
        )
        .unwrap();
    let error = format!("{:?}", connect(console.address, old).await.unwrap_err());
    assert!(error.contains("ProtocolVersion"), "{error}");

    // A client that pins another authority does not talk to this machine.
    let mut elsewhere = good.clone();
    elsewhere.authority_pem = strangers.pem().to_owned();
    let error = format!("{:?}", elsewhere.connect(&console).await.unwrap_err());
    assert!(
        error.contains("UnknownIssuer") || error.contains("BadSignature"),
        "{error}"
    );

    eventually("connections that failed are recorded", || {
        ground
            .log
            .recorded()
            .iter()
            .any(|(event, _)| event.principal == "unauthenticated")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_certificate_loses_even_what_is_open() {
    let ground = Ground::new();
    let _fakes = ground.fakes();
    ground.log.stream(WATCH, &GoalUpdate::default());
    let console = start(&ground);
    let client = ground.issue("alice", "operator").await;
    let channel = client.connect(&console).await.unwrap();
    let mut stream = OrchestratorClient::new(channel.clone())
        .watch_goal(GetGoalRequest { id: "g".into() })
        .await
        .unwrap()
        .into_inner();
    for _ in 0..3 {
        stream.message().await.unwrap().unwrap();
    }
    let mut admin = ManagementClient::new(ground.local());
    let revoke = RevokeCertificateRequest {
        serial: client.serial.clone(),
        reason: "lost".into(),
    };
    admin.revoke_certificate(revoke).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(5), async {
        while let Ok(Some(_)) = stream.message().await {}
    });
    end.await.expect("the stream goes on after the revocation");
    eventually("the daemon's stream is closed too", || {
        ground.log.streams.load(Ordering::SeqCst) == 0
    })
    .await;
    let again = client.connect(&console).await.unwrap();
    let error = call(&again, "/aios.v1.Management/WhoAmI")
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    assert!(error.message().contains("revoked"), "{error}");

    // A revocation survives the console being killed.
    console.kill();
    let console = start(&ground);
    let again = client.connect(&console).await.unwrap();
    assert!(call(&again, "/aios.v1.Management/WhoAmI").await.is_err());
    let unknown = RevokeCertificateRequest {
        serial: "00".into(),
        reason: String::new(),
    };
    let error = ManagementClient::new(ground.local())
        .revoke_certificate(unknown)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_caller_claims_about_itself_goes_nowhere() {
    let ground = Ground::new();
    let _fakes = ground.fakes();
    let console = start(&ground);
    let channel = ground
        .issue("eve", "operator")
        .await
        .connect(&console)
        .await
        .unwrap();
    let hostile = |mut request: Request<CheckCallRequest>| {
        let metadata = request.metadata_mut();
        for (key, value) in [
            ("aios-principal", "local:root"),
            ("aios-role", "admin"),
            ("authorization", "Bearer x"),
            ("x-aios-role", "admin"),
        ] {
            metadata.append(key, value.parse().unwrap());
        }
        metadata.append("aios-role", "admin".parse().unwrap());
        request
    };
    let request = CheckCallRequest {
        tool: "fs.read".into(),
        principal: "local:root".into(),
        role: "admin".into(),
        ..CheckCallRequest::default()
    };
    ToolsClient::new(channel.clone())
        .check_call(hostile(Request::new(request)))
        .await
        .unwrap();
    let seen = ground.log.of("/aios.v1.Tools/CheckCall").remove(0);
    let all = |name: &str| seen.headers.get_all(name).iter().collect::<Vec<_>>();
    assert_eq!(all("aios-principal"), ["cert:eve"]);
    assert_eq!(all("aios-role"), ["operator"]);
    assert!(all("authorization").is_empty() && all("x-aios-role").is_empty());
    let passed = CheckCallRequest::decode(seen.message).unwrap();
    assert_eq!(
        (passed.principal.as_str(), passed.role.as_str()),
        ("cert:eve", "operator")
    );

    let task = ExecuteRequest {
        tool: "fs.read".into(),
        task_id: "t1".into(),
        ..ExecuteRequest::default()
    };
    let error = ToolsClient::new(channel).execute(task).await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    assert!(ground.log.of("/aios.v1.Tools/Execute").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_recorded_before_it_is_passed_on_or_not_passed_on() {
    let ground = Ground::new();
    let mut fakes = ground.fakes();
    let console = start(&ground);
    let channel = ground
        .issue("alice", "operator")
        .await
        .connect(&console)
        .await
        .unwrap();
    let mut orchestrator = OrchestratorClient::new(channel.clone());
    let goal = SubmitGoalRequest {
        text: "do it".into(),
        ..SubmitGoalRequest::default()
    };
    orchestrator.submit_goal(goal.clone()).await.unwrap();
    let order: Vec<_> = ground
        .log
        .seen()
        .into_iter()
        .filter(|seen| {
            seen.path == SUBMIT
                || aios_proto::v1::RecordEventRequest::decode(seen.message.clone())
                    .is_ok_and(|event| event.detail_json.contains(SUBMIT))
        })
        .map(|seen| seen.path)
        .collect();
    assert_eq!(order, ["/aios.v1.Tools/RecordEvent", SUBMIT]);
    let (event, detail) = ground
        .log
        .recorded()
        .into_iter()
        .find(|(_, detail)| detail["method"] == SUBMIT)
        .unwrap();
    assert_eq!(
        (event.kind.as_str(), event.principal.as_str()),
        ("management", "cert:alice")
    );
    assert_eq!(detail["role"], "operator");
    assert_eq!(detail["peer"], "127.0.0.1");
    assert_eq!(detail["outcome"], "allowed");
    assert_eq!(detail["fingerprint"].as_str().unwrap().len(), 64);
    use sha2::Digest as _;
    let hash: String = sha2::Sha256::digest(goal.encode_to_vec())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(detail["request_sha256"], hash);

    // Reads are recorded soon, several as one.
    for _ in 0..5 {
        call(&channel, GET).await.unwrap();
    }
    eventually("reads are recorded", || {
        let counts = ground
            .log
            .recorded()
            .into_iter()
            .filter(|(_, detail)| detail["method"] == GET);
        counts
            .map(|(_, detail)| detail["count"].as_u64().unwrap_or(1))
            .sum::<u64>()
            == 5
    })
    .await;

    // The ledger refuses, then is gone: nothing is passed on, reads go on.
    let before = ground.log.of(SUBMIT).len();
    ground
        .log
        .fail("/aios.v1.Tools/RecordEvent", Code::Internal);
    let error = orchestrator.submit_goal(goal.clone()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(error.message().contains("not made"), "{error}");
    fakes.remove(0).kill();
    let error = orchestrator.submit_goal(goal).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(ground.log.of(SUBMIT).len(), before);
    call(&channel, GET).await.unwrap();

    // Only the superuser at the machine may switch it off without a record, and only that.
    let error = ManagementClient::new(ground.local())
        .power_off(PowerRequest::default())
        .await
        .unwrap_err();
    assert!(error.message().contains("PID 1"), "{error}");
    let error = ManagementClient::new(ground.local())
        .authorize_ssh_key(AuthorizeSshKeyRequest::default())
        .await
        .unwrap_err();
    assert!(error.message().contains("not made"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_streams_and_errors_pass_through_whole() {
    let ground = Ground::new();
    let _fakes = ground.fakes();
    let console = start(&ground);
    let channel = ground
        .issue("alice", "operator")
        .await
        .connect(&console)
        .await
        .unwrap();
    let view = GoalView {
        goal: Some(GoalRecord {
            text: "x".repeat(1 << 20),
            ..GoalRecord::default()
        }),
        ..GoalView::default()
    };
    ground.log.answer(GET, &view);
    let mut orchestrator = OrchestratorClient::new(channel.clone());
    let reply = orchestrator
        .get_goal(GetGoalRequest { id: "g".into() })
        .await
        .unwrap();
    assert_eq!(reply.metadata().get("x-from-the-daemon").unwrap(), "yes");
    assert_eq!(reply.into_inner(), view);
    let records = ListLedgerReply {
        records: vec![LedgerRecord::default(); 3],
        ..ListLedgerReply::default()
    };
    ground.log.answer("/aios.v1.Tools/ListLedger", &records);
    let ledger = ToolsClient::new(channel.clone())
        .list_ledger(aios_proto::v1::ListLedgerRequest::default())
        .await
        .unwrap();
    assert_eq!(ledger.into_inner(), records);
    ground.log.fail(GET, Code::FailedPrecondition);
    assert_eq!(
        call(&channel, GET).await.unwrap_err().code(),
        Code::FailedPrecondition
    );

    // A stream ends at the daemon when the caller has enough.
    ground.log.stream(
        WATCH,
        &GoalUpdate {
            ended: true,
            ..GoalUpdate::default()
        },
    );
    let mut stream = orchestrator
        .watch_goal(GetGoalRequest { id: "g".into() })
        .await
        .unwrap()
        .into_inner();
    for _ in 0..5 {
        assert!(stream.message().await.unwrap().unwrap().ended);
    }
    assert_eq!(ground.log.streams.load(Ordering::SeqCst), 1);
    drop(stream);
    eventually("the daemon hears of the cancel", || {
        ground.log.streams.load(Ordering::SeqCst) == 0
    })
    .await;

    // Too long, for reads and for changes; the connection lives on.
    let huge = "x".repeat(5 << 20);
    let error = orchestrator
        .get_goal(GetGoalRequest { id: huge.clone() })
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
    let goal = SubmitGoalRequest {
        text: huge,
        ..SubmitGoalRequest::default()
    };
    let error = orchestrator.submit_goal(goal).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
    assert!(ground.log.of(SUBMIT).is_empty());
    call(&channel, "/aios.v1.Management/WhoAmI").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_is_down_is_said_to_be_and_found_again() {
    let ground = Ground::new();
    let tools = ground.fake("tools");
    let mut console = start(&ground);
    let channel = ground
        .issue("alice", "reader")
        .await
        .connect(&console)
        .await
        .unwrap();
    let error = call(&channel, GET).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(
        error
            .message()
            .contains("aios-orchestrator does not answer"),
        "{error}"
    );
    for _ in 0..2 {
        let orchestrator = ground.fake("orchestrator");
        let mut answered = false;
        for _ in 0..50 {
            answered = call(&channel, GET).await.is_ok();
            if answered {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(answered, "the daemon is back and not found");
        orchestrator.kill();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(
            call(&channel, GET).await.unwrap_err().code(),
            Code::Unavailable
        );
    }
    // Everything else down: the status still says so.
    tools.kill();
    let status = ManagementClient::new(channel)
        .status(Empty {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(status.state, "degraded");
    for name in [
        "PID 1",
        "aios-runtime",
        "aios-memory",
        "aios-tools",
        "aios-orchestrator",
    ] {
        assert!(
            status.problems.iter().any(|problem| problem.contains(name)),
            "{name}: {:?}",
            status.problems
        );
    }
    assert_eq!(status.ca_fingerprint.len(), 64);
    assert!(console.is_running());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_caller_cannot_use_the_console_up() {
    let ground = Ground::new();
    let _fakes = ground.fakes();
    let console = start(&ground);
    let greedy = ground
        .issue("greedy", "reader")
        .await
        .connect(&console)
        .await
        .unwrap();
    let modest = ground
        .issue("modest", "reader")
        .await
        .connect(&console)
        .await
        .unwrap();
    let many = (0..800).map(|_| call(&greedy, "/aios.v1.Management/WhoAmI"));
    let limited = futures::future::join_all(many)
        .await
        .into_iter()
        .filter_map(Result::err)
        .map(|status| assert_eq!(status.code(), Code::ResourceExhausted))
        .count();
    assert!(limited > 0, "800 requests at once and no limit");
    call(&modest, "/aios.v1.Management/WhoAmI").await.unwrap();
    // A connection that never says anything is not waited for.
    let silent = tokio::net::TcpStream::connect(console.address)
        .await
        .unwrap();
    silent.readable().await.unwrap();
    let mut byte = [0];
    assert!(matches!(silent.try_read(&mut byte), Ok(0) | Err(_)));
}

/// Status as the administrator at the console sees it, once the console answers.
async fn local_status(ground: &Ground) -> StatusReply {
    for _ in 0..250 {
        let mut client = ManagementClient::new(ground.local());
        if let Ok(reply) = client.status(Empty {}).await {
            return reply.into_inner();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the console does not answer")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_settings_are_the_first_problem_and_named_once() {
    let ground = Ground::new();
    let _fakes = ground.fakes();
    std::fs::write(
        ground.paths.config_file(),
        "[management]\nlistn = \"[::]:1\"\n",
    )
    .unwrap();
    let reason = SystemConfig::load_or_safe(&ground.paths.config_file())
        .problem
        .unwrap()
        .to_string();
    ground.log.answer(
        "/aios.v1.Memory/MemoryHealth",
        &MemoryHealthReply {
            health: Some(HealthReply {
                state: "degraded".into(),
                reason,
                ..HealthReply::default()
            }),
            ..MemoryHealthReply::default()
        },
    );
    let _console = start(&ground);
    let status = local_status(&ground).await;
    assert_eq!(status.state, "degraded");
    let named: Vec<&String> = status
        .problems
        .iter()
        .filter(|problem| problem.contains("config.toml:2:1: "))
        .collect();
    assert_eq!(named.len(), 1, "{:?}", status.problems);
    assert_eq!(named[0], &status.problems[0]);
    assert!(named[0].contains("did you mean `listen`?"), "{named:?}");
    let error = ManagementClient::new(ground.local())
        .get_config(Empty {})
        .await
        .unwrap_err();
    assert!(error.message().contains("config.toml:2:1: "), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_cannot_be_listened_on_leaves_the_local_way_open() {
    let ground = Ground::new();
    let _fakes = ground.fakes();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    std::fs::write(
        ground.paths.config_file(),
        format!("[management]\nlisten = \"{address}\"\n"),
    )
    .unwrap();
    let notify = std::os::unix::net::UnixDatagram::bind(ground.dir.path().join("notify")).unwrap();
    notify
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let told = || {
        let mut buffer = [0; 4096];
        let length = notify.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let mut process = std::process::Command::new(env!("CARGO_BIN_EXE_aios-console"))
        .arg("--etc")
        .arg(&ground.paths.etc)
        .arg("--run")
        .arg(&ground.paths.run)
        .arg("--state")
        .arg(&ground.paths.state)
        .env("NOTIFY_SOCKET", ground.dir.path().join("notify"))
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let first = told();
    local_status(&ground).await;
    drop(taken);
    let second = told();
    let reachable = std::net::TcpStream::connect(address).is_ok();
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(first.contains("READY=1"), "{first}");
    assert!(
        first.contains(&format!("STATUS=degraded: cannot listen on {address}")),
        "{first}"
    );
    assert!(first.contains("set management.listen"), "{first}");
    assert_eq!(second.trim(), format!("STATUS=management on {address}"));
    assert!(reachable);
}
