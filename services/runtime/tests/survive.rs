//! What goes wrong: dead engines, full queues, wrong files, callers without rights.

mod common;

use std::{
    fs,
    time::{Duration, Instant},
};

use aios_gguf::untrained;
use aios_kit::{Category, Error};
use aios_proto::v1::{
    EmbedRequest, Empty, GenerateRequest, LoadModelRequest, TokenizeRequest, UnloadModelRequest,
};
use common::{
    AGENT, CONSOLE, Daemon, Home, MEMORY, NOBODY, ORCHESTRATOR, ROOT, kill, long, prompt,
};
use tonic::{Code, Request};

#[tokio::test]
async fn a_good_start_is_reported() {
    let daemon = Home::new().start();
    assert_eq!(daemon.status, "model aios-untrained answers");
    let health = daemon.health().await;
    let state = health.health.unwrap();
    assert_eq!((state.state.as_str(), state.reason.as_str()), ("ok", ""));
    assert!(state.resident_bytes > 0);
    assert!(health.test_passed && !health.test_output.is_empty());
    let model = health.operational.unwrap();
    assert!(model.operational && !model.trained);
    assert_eq!(model.context_tokens, 2048);
    assert_eq!(model.sha256.len(), 64);
}

#[tokio::test]
async fn wrong_settings_are_reported_and_the_model_answers() {
    let daemon = Home::new().config("[models]\ncontext_tokns = 1\n").start();
    assert!(daemon.status.starts_with("degraded: "), "{}", daemon.status);
    let health = daemon.health().await.health.unwrap();
    assert_eq!(health.state, "degraded");
    assert_eq!(format!("degraded: {}", health.reason), daemon.status);
    for part in ["config.toml:2:1: ", "did you mean `context_tokens`?"] {
        assert!(health.reason.contains(part), "{}", health.reason);
    }
    assert!(!daemon.generate(prompt("hello")).await.text.is_empty());
}

#[tokio::test]
async fn a_killed_engine_is_back_for_the_next_request() {
    let daemon = Home::new().start();
    let before = daemon.generate(prompt("hello")).await.text;
    let mut worker = daemon.worker_but(0);
    for _ in 0..3 {
        kill(worker, libc::SIGKILL);
        assert_eq!(daemon.generate(prompt("hello")).await.text, before);
        worker = daemon.worker_but(worker);
    }
    assert_eq!(daemon.health().await.health.unwrap().state, "ok");
}

#[tokio::test]
async fn a_request_survives_its_engine_once() {
    let daemon = Home::new().start();
    let expected = daemon.generate(long()).await.text;
    let worker = daemon.worker_but(0);
    kill(worker, libc::SIGSTOP);
    let mut client = daemon.client(ORCHESTRATOR);
    let request = tokio::spawn(async move { client.generate(long()).await });
    wait_for_running(&daemon).await;
    kill(worker, libc::SIGKILL);
    assert_eq!(request.await.unwrap().unwrap().into_inner().text, expected);

    // The second time it is given up, and others go on.
    let worker = daemon.worker_but(0);
    kill(worker, libc::SIGSTOP);
    let mut client = daemon.client(ORCHESTRATOR);
    let request = tokio::spawn(async move { client.generate(long()).await });
    wait_for_running(&daemon).await;
    kill(worker, libc::SIGKILL);
    let next = daemon.worker_but(worker);
    wait_for_running(&daemon).await;
    kill(next, libc::SIGKILL);
    let error = Error::from(request.await.unwrap().unwrap_err());
    assert_eq!(
        (error.category(), error.retryable()),
        (Category::Internal, false),
        "{error}"
    );
    assert!(!daemon.generate(prompt("others")).await.text.is_empty());
}

#[tokio::test]
async fn a_request_that_kills_engines_is_given_up_and_others_go_on() {
    let daemon = Home::new().start();
    let before = daemon.worker_but(0);
    // The parser of grammars recurses without a limit and runs out of stack.
    let poison = GenerateRequest {
        grammar: format!("root ::= {}", "(".repeat(60_000)),
        ..prompt("x")
    };
    let status = daemon
        .client(ORCHESTRATOR)
        .generate(poison)
        .await
        .unwrap_err();
    let error = Error::from(status);
    assert_eq!(
        (error.category(), error.retryable()),
        (Category::Internal, false),
        "{error}"
    );
    assert_eq!(
        daemon.generate(prompt("others")).await.finish_reason,
        "length"
    );
    assert_ne!(daemon.worker_but(before), before);
}

#[tokio::test]
async fn an_engine_ends_with_its_daemon() {
    let mut daemon = Home::new().start();
    let worker = daemon.worker_but(0);
    daemon.signal(libc::SIGKILL);
    assert!(daemon.wait(Duration::from_secs(5)).is_some());
    let end = Instant::now() + Duration::from_secs(5);
    // Its parent is gone, so that it may stay as a zombie until somebody reaps it.
    while fs::read_to_string(format!("/proc/{worker}/stat"))
        .is_ok_and(|stat| !stat.contains(") Z "))
    {
        assert!(Instant::now() < end, "the engine is left behind");
        std::thread::sleep(Duration::from_millis(10));
    }
}

async fn wait_for_running(daemon: &Daemon) {
    let end = Instant::now() + Duration::from_secs(10);
    while daemon.health().await.running == 0 {
        assert!(Instant::now() < end, "it does not run");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_stream_that_loses_its_engine_says_so() {
    let daemon = Home::new().start();
    let mut client = daemon.client(ORCHESTRATOR);
    let mut stream = client.generate_stream(long()).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    kill(daemon.worker_but(0), libc::SIGKILL);
    let status = loop {
        match stream.message().await {
            Ok(Some(chunk)) => assert!(!chunk.done, "it ended before it could be killed"),
            Ok(None) => panic!("it ended without a word"),
            Err(status) => break status,
        }
    };
    let error = Error::from(status);
    assert!(error.retryable(), "{error}");
}

#[tokio::test]
async fn an_engine_that_hangs_is_replaced() {
    let daemon = Home::new().start();
    let worker = daemon.worker_but(0);
    kill(worker, libc::SIGSTOP);
    let started = Instant::now();
    let reply = daemon
        .generate(GenerateRequest {
            deadline_ms: 200,
            ..prompt("hello")
        })
        .await;
    assert_eq!(reply.finish_reason, "deadline");
    assert!(
        started.elapsed() < Duration::from_secs(8),
        "{:?}",
        started.elapsed()
    );
    daemon.worker_but(worker);
    assert_eq!(
        daemon.generate(prompt("hello")).await.finish_reason,
        "length"
    );
}

#[tokio::test]
async fn a_full_queue_refuses_and_says_when_to_come_back() {
    let daemon = Home::new().config("[models]\nqueue = 4\n").start();
    let worker = daemon.worker_but(0);
    kill(worker, libc::SIGSTOP);
    let mut requests = Vec::new();
    let send = |uid| {
        let mut client = daemon.client(uid);
        tokio::spawn(async move { client.generate(prompt("wait")).await })
    };
    requests.push(send(ORCHESTRATOR));
    wait_for_running(&daemon).await;
    for waiting in 1..=3 {
        requests.push(send(ORCHESTRATOR));
        wait_for_queued(&daemon, waiting).await;
    }
    // One caller may not take the last place; another one may; then nobody.
    for uid in [ORCHESTRATOR, CONSOLE, ROOT] {
        let mut client = daemon.client(uid);
        let request = tokio::spawn(async move { client.generate(prompt("wait")).await });
        if uid == CONSOLE {
            wait_for_queued(&daemon, 4).await;
            requests.push(request);
        } else {
            let status = request.await.unwrap().unwrap_err();
            assert_eq!(status.code(), Code::ResourceExhausted);
            assert!(Error::from(status).retry_after().unwrap() >= Duration::from_millis(100));
        }
    }
    // Who waits is not kept beyond its own deadline by the one that is stuck.
    kill(worker, libc::SIGCONT);
    for request in requests {
        assert_eq!(
            request.await.unwrap().unwrap().into_inner().finish_reason,
            "length"
        );
    }
}

async fn wait_for_queued(daemon: &Daemon, count: u32) {
    let end = Instant::now() + Duration::from_secs(10);
    while daemon.health().await.queued != count {
        assert!(Instant::now() < end, "{:?}", daemon.health().await);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_request_that_only_waited_ends_at_its_deadline() {
    let daemon = Home::new().start();
    let worker = daemon.worker_but(0);
    kill(worker, libc::SIGSTOP);
    let mut client = daemon.client(ORCHESTRATOR);
    let first = tokio::spawn(async move { client.generate(prompt("first")).await });
    wait_for_running(&daemon).await;
    let started = Instant::now();
    let reply = daemon
        .generate(GenerateRequest {
            deadline_ms: 150,
            ..prompt("second")
        })
        .await;
    assert_eq!(
        (reply.finish_reason.as_str(), reply.text.as_str()),
        ("deadline", "")
    );
    assert!(started.elapsed() < Duration::from_secs(2));
    kill(worker, libc::SIGCONT);
    first.await.unwrap().unwrap();
}

#[tokio::test]
async fn without_a_model_it_answers_and_says_why() {
    let daemon = Home::empty().start();
    assert!(daemon.status.starts_with("degraded: "), "{}", daemon.status);
    let health = daemon.health().await.health.unwrap();
    assert_eq!(health.state, "failed");
    assert!(
        health.reason.contains("there is no model in"),
        "{}",
        health.reason
    );
    let status = daemon
        .client(ORCHESTRATOR)
        .generate(prompt("x"))
        .await
        .unwrap_err();
    assert_eq!(Error::from(status).category(), Category::Conflict);
    // A model that is put there later can be loaded without a restart.
    fs::write(
        daemon.home.models().join("mine.gguf"),
        untrained::model().unwrap(),
    )
    .unwrap();
    let request = LoadModelRequest {
        name: "mine.gguf".to_owned(),
    };
    let info = daemon
        .client(ROOT)
        .load_model(request)
        .await
        .unwrap()
        .into_inner();
    assert!(info.operational && info.trained);
    assert_eq!(daemon.generate(prompt("x")).await.model, "mine");
    assert_eq!(daemon.health().await.health.unwrap().state, "ok");
}

#[tokio::test]
async fn a_wrong_hash_is_refused_and_the_next_model_is_used() {
    let home = Home::new();
    let wrong = "0".repeat(64);
    fs::write(home.models().join("mine.gguf"), untrained::model().unwrap()).unwrap();
    fs::write(
        home.models().join("manifest.toml"),
        format!("[[model]]\nfile = \"mine.gguf\"\nsha256 = \"{wrong}\"\n"),
    )
    .unwrap();
    let daemon = home.start();
    assert!(
        daemon.status.starts_with("degraded: mine.gguf: refused"),
        "{}",
        daemon.status
    );
    let health = daemon.health().await;
    let state = health.health.unwrap();
    assert_eq!(state.state, "degraded");
    assert!(state.reason.contains(&wrong), "{}", state.reason);
    assert_eq!(health.operational.unwrap().name, "aios-untrained");
    let models = daemon
        .client(ROOT)
        .list_models(Empty {})
        .await
        .unwrap()
        .into_inner()
        .models;
    let mine = models.iter().find(|model| model.name == "mine").unwrap();
    assert_eq!(mine.state, "failed");
    assert!(mine.reason.contains("refused"));
    let request = LoadModelRequest {
        name: "mine".to_owned(),
    };
    let error = Error::from(daemon.client(ROOT).load_model(request).await.unwrap_err());
    assert!(error.message().contains("refused"), "{error}");
}

#[tokio::test]
async fn the_image_without_its_hash_leaves_no_model() {
    let home = Home::new();
    let path = home.image().join(untrained::FILE_NAME);
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(path, bytes).unwrap();
    let daemon = home.start();
    assert!(
        daemon.status.starts_with("degraded: no model answers: "),
        "{}",
        daemon.status
    );
    assert!(daemon.workers().is_empty());
    assert_eq!(daemon.health().await.health.unwrap().state, "failed");
}

#[tokio::test]
async fn a_replaced_model_is_refused_until_the_operator_says_so() {
    let mut home = Home::new();
    let path = home.models().join("mine.gguf");
    fs::write(&path, untrained::model().unwrap()).unwrap();
    let daemon = home.start();
    assert_eq!(daemon.status, "model mine answers");
    let record = daemon.home.models().join("first-use.toml");
    assert!(fs::read_to_string(&record).unwrap().contains("mine.gguf"));
    home = stop(daemon);
    let mut bytes = untrained::model().unwrap();
    let last = bytes.len() - 40;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    let daemon = home.start();
    assert!(
        daemon.status.contains("when it was first used"),
        "{}",
        daemon.status
    );
    home = stop(daemon);
    fs::remove_file(record).unwrap();
    assert_eq!(home.start().status, "model mine answers");
}

fn stop(mut daemon: Daemon) -> Home {
    daemon.signal(libc::SIGTERM);
    let status = daemon.wait(Duration::from_secs(5));
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
    let fresh = Home::empty();
    std::mem::replace(&mut daemon.home, fresh)
}

#[tokio::test]
async fn garbage_is_refused_however_good_it_looks() {
    let home = Home::new();
    let whole = untrained::model().unwrap();
    let mut liar = whole.clone();
    // The first tensor's data type becomes one that does not exist; the header stays readable.
    let at = liar
        .windows(17)
        .position(|bytes| bytes == b"token_embd.weight")
        .unwrap();
    liar[at + 17 + 4 + 16] = 0xee;
    fs::write(home.models().join("a-liar.gguf"), &liar).unwrap();
    fs::write(home.models().join("b-junk.gguf"), [0x5a; 4096]).unwrap();
    fs::write(
        home.models().join("c-short.gguf"),
        &whole[..whole.len() - 20_000],
    )
    .unwrap();
    fs::write(home.models().join("d-empty.gguf"), b"").unwrap();
    let daemon = home.start();
    assert!(daemon.status.starts_with("degraded: "), "{}", daemon.status);
    for file in ["a-liar.gguf", "b-junk.gguf", "c-short.gguf", "d-empty.gguf"] {
        assert!(daemon.status.contains(file), "{file}: {}", daemon.status);
    }
    assert!(!daemon.generate(prompt("x")).await.text.is_empty());
}

#[tokio::test]
async fn who_has_no_rights_is_refused_by_the_kernels_word() {
    let daemon = Home::new().start();
    for uid in [AGENT, NOBODY] {
        let mut client = daemon.client(uid);
        // What a message or a header says about the caller changes nothing.
        let mut request = Request::new(prompt("x"));
        request
            .metadata_mut()
            .insert("aios-role", "admin".parse().unwrap());
        request
            .metadata_mut()
            .insert("aios-principal", "local:root".parse().unwrap());
        let codes = [
            client.generate(request).await.unwrap_err().code(),
            client
                .generate_stream(prompt("x"))
                .await
                .unwrap_err()
                .code(),
            client
                .embed(EmbedRequest::default())
                .await
                .unwrap_err()
                .code(),
            client
                .tokenize(TokenizeRequest::default())
                .await
                .unwrap_err()
                .code(),
            client.list_models(Empty {}).await.unwrap_err().code(),
            client
                .load_model(LoadModelRequest::default())
                .await
                .unwrap_err()
                .code(),
            client
                .unload_model(UnloadModelRequest::default())
                .await
                .unwrap_err()
                .code(),
            client.runtime_health(Empty {}).await.unwrap_err().code(),
        ];
        assert_eq!(codes, [Code::PermissionDenied; 8], "uid {uid}");
    }
    let status = daemon
        .client(MEMORY)
        .generate(prompt("x"))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(
        status.message().contains("daemon:memory"),
        "{}",
        status.message()
    );
}

#[tokio::test]
async fn models_are_loaded_and_unloaded_for_administrators() {
    let home = Home::new();
    fs::write(home.models().join("mine.gguf"), untrained::model().unwrap()).unwrap();
    let daemon = home
        .config("[models]\noperational = \"mine.gguf\"\n")
        .start();
    let as_role = |role: &str| {
        let mut request = Request::new(LoadModelRequest {
            name: "aios-untrained".to_owned(),
        });
        request
            .metadata_mut()
            .insert("aios-principal", "cert:eve".parse().unwrap());
        request
            .metadata_mut()
            .insert("aios-role", role.parse().unwrap());
        request
    };
    let mut console = daemon.client(CONSOLE);
    for refused in [
        console.load_model(as_role("operator")).await,
        daemon
            .client(ORCHESTRATOR)
            .load_model(as_role("admin"))
            .await,
    ] {
        assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    }
    let info = console
        .load_model(as_role("admin"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((info.state.as_str(), info.operational), ("loaded", false));
    assert_eq!(daemon.workers().len(), 2);
    let other = GenerateRequest {
        model: "aios-untrained".to_owned(),
        ..prompt("x")
    };
    assert_eq!(daemon.generate(other.clone()).await.model, "aios-untrained");
    let mut root = daemon.client(ROOT);
    root.unload_model(UnloadModelRequest {
        name: "aios-untrained".to_owned(),
    })
    .await
    .unwrap();
    let status = daemon
        .client(ORCHESTRATOR)
        .generate(other)
        .await
        .unwrap_err();
    assert_eq!(Error::from(status).category(), Category::Conflict);
    assert_eq!(daemon.generate(prompt("x")).await.model, "mine");
    root.unload_model(UnloadModelRequest {
        name: String::new(),
    })
    .await
    .unwrap();
    let health = daemon.health().await.health.unwrap();
    assert_eq!(health.state, "failed");
    assert!(health.reason.contains("unloaded"));
}

#[tokio::test]
async fn a_configured_model_that_is_missing_is_named() {
    let daemon = Home::new()
        .config("[models]\noperational = \"gone.gguf\"\n")
        .start();
    assert!(
        daemon
            .status
            .starts_with("degraded: models.operational is \"gone.gguf\""),
        "{}",
        daemon.status
    );
    assert!(!daemon.generate(prompt("x")).await.text.is_empty());
}

#[tokio::test]
async fn it_stops_when_asked_even_while_it_computes() {
    let mut daemon = Home::new().start();
    let mut client = daemon.client(ORCHESTRATOR);
    let mut stream = client.generate_stream(long()).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    let worker = daemon.worker_but(0);
    kill(worker, libc::SIGSTOP);
    daemon.signal(libc::SIGTERM);
    let status = daemon
        .wait(Duration::from_secs(5))
        .expect("it does not stop");
    assert!(status.success(), "{status}");
    let end = Instant::now() + Duration::from_secs(2);
    while fs::read_to_string(format!("/proc/{worker}/stat"))
        .is_ok_and(|stat| !stat.contains(") Z "))
    {
        assert!(Instant::now() < end, "the engine is left behind");
        std::thread::sleep(Duration::from_millis(10));
    }
}
