//! The tools of the family as the registry calls them, against servers on loopback.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use aios_tool_api::{BlobStore, Context, Registry, Risk, ToolError, ToolErrorKind};
use serde_json::{Value, json};

fn context() -> Context {
    Context::new(BlobStore::new("/nowhere"), Duration::from_secs(5))
}

fn registry() -> Registry {
    let mut registry = Registry::default();
    crate::register(&mut registry);
    registry
}

fn call(name: &str, args: Value) -> Result<Value, ToolError> {
    let tool = registry().get(name).unwrap();
    let args = tool.normalise(&args, &context())?;
    tool.execute(&args, &context())
}

fn kind(result: Result<Value, ToolError>) -> ToolErrorKind {
    match result {
        Ok(output) => panic!("was accepted: {output}"),
        Err(error) => error.kind,
    }
}

/// An HTTP server that gives the same answer to every request and keeps what it was sent.
struct Server {
    port: u16,
    requests: Arc<Mutex<Vec<String>>>,
    _thread: JoinHandle<()>,
}

fn serve(answer: impl Fn(u16) -> String + Send + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&requests);
    let thread = std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream
                .set_read_timeout(Some(Duration::from_millis(200)))
                .unwrap();
            let mut request = Vec::new();
            let mut chunk = [0; 4096];
            loop {
                let count = stream.read(&mut chunk).unwrap_or(0);
                request.extend_from_slice(&chunk[..count]);
                let text = String::from_utf8_lossy(&request);
                let complete = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
                    let length = head
                        .lines()
                        .find_map(|line| {
                            line.to_lowercase()
                                .strip_prefix("content-length: ")?
                                .parse()
                                .ok()
                        })
                        .unwrap_or(0);
                    body.len() >= length
                });
                if count == 0 || complete {
                    break;
                }
            }
            kept.lock()
                .unwrap()
                .push(String::from_utf8_lossy(&request).into_owned());
            let _ = stream.write_all(answer(port).as_bytes());
        }
    });
    Server {
        port,
        requests,
        _thread: thread,
    }
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nX-One: 1\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn the_family_is_as_catalogued() {
    let registry = registry();
    let found: Vec<_> = registry
        .iter()
        .map(|tool| tool.spec())
        .map(|spec| (spec.name, spec.risk))
        .collect();
    assert_eq!(
        found,
        [
            ("net.check_port", Risk::Low),
            ("net.http_request", Risk::Low),
            ("net.interfaces", Risk::Low)
        ]
    );
    let http = registry.get("net.http_request").unwrap();
    let risk = |method: &str| {
        http.risk(&json!({"url": "http://a/", "method": method}))
            .unwrap()
    };
    assert_eq!(risk("HEAD"), Risk::Low);
    let again = |method: &str| {
        http.idempotent(&json!({"url": "http://a/", "method": method}))
            .unwrap()
    };
    assert!(again("HEAD") && !again("POST"));
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        assert_eq!(risk(method), Risk::High, "{method}");
    }
}

#[test]
fn unknown_fields_are_refused_by_every_tool() {
    for tool in registry().iter() {
        let args = json!({"port": 80, "url": "http://a/", "surprise": 1});
        let error = tool.normalise(&args, &context()).unwrap_err();
        assert_eq!(error.kind, ToolErrorKind::Invalid, "{}", tool.spec().name);
    }
}

#[test]
fn the_loopback_interface_is_there() {
    let output = call("net.interfaces", json!({})).unwrap();
    let interfaces = output["interfaces"].as_array().unwrap();
    let loopback = interfaces
        .iter()
        .find(|one| one["loopback"] == true)
        .unwrap();
    assert!(
        loopback["addresses"]
            .as_array()
            .unwrap()
            .contains(&json!("127.0.0.1/8"))
    );
    assert!(loopback["mtu"].as_u64().unwrap() > 0);
}

#[test]
fn open_and_closed_are_both_results() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let output = call("net.check_port", json!({"port": port})).unwrap();
    assert_eq!(output["open"], true);
    assert_eq!(output["host"], "127.0.0.1");
    assert_eq!(output["error"], "");
    drop(listener);
    let output = call("net.check_port", json!({"port": port, "host": "localhost"})).unwrap();
    assert_eq!(output["open"], false);
    assert!(
        output["error"].as_str().unwrap().contains("refused"),
        "{output}"
    );
}

#[test]
fn a_port_can_be_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let opener = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        TcpListener::bind(address).unwrap()
    });
    let output = call(
        "net.check_port",
        json!({"port": address.port(), "wait_s": 5}),
    )
    .unwrap();
    assert_eq!(output["open"], true, "{output}");
    drop(opener.join());
    let begin = Instant::now();
    let output = call(
        "net.check_port",
        json!({"port": address.port(), "wait_s": 1}),
    )
    .unwrap();
    assert_eq!(output["open"], false);
    assert!(begin.elapsed() >= Duration::from_secs(1));
}

#[test]
fn ports_and_hosts_that_are_none_are_refused() {
    for args in [
        json!({"port": 0}),
        json!({"port": 65536}),
        json!({"port": -1}),
        json!({"port": "80"}),
        json!({"port": 80, "host": "-v"}),
        json!({"port": 80, "host": "a b"}),
        json!({"port": 80, "host": "$(reboot)"}),
        json!({"port": 80, "wait_s": 51}),
    ] {
        assert_eq!(
            kind(call("net.check_port", args.clone())),
            ToolErrorKind::Invalid,
            "{args}"
        );
    }
}

#[test]
fn a_capability_names_host_and_port() {
    let registry = registry();
    let check = registry.get("net.check_port").unwrap();
    let needed = check.capabilities(&json!({"port": 80})).unwrap();
    assert_eq!(needed[0].to_string(), "net:check_port:127.0.0.1:80");
    let http = registry.get("net.http_request").unwrap();
    let needed = http
        .capabilities(&json!({"url": "https://Example.org/x"}))
        .unwrap();
    assert_eq!(needed[0].to_string(), "net:http_request:example.org:443");
}

#[test]
fn a_page_is_fetched() {
    let server = serve(|_| ok("welcome"));
    let output = call(
        "net.http_request",
        json!({"url": format!("http://localhost:{}/a?b=c", server.port)}),
    )
    .unwrap();
    assert_eq!(output["status"], 200);
    assert_eq!(output["body"], "welcome");
    assert_eq!(output["headers"]["x-one"], "1");
    assert_eq!(output["truncated"], false);
    assert!(server.requests.lock().unwrap()[0].starts_with("GET /a?b=c HTTP/1.1\r\n"));
}

#[test]
fn a_body_and_headers_are_sent_as_they_are() {
    let server = serve(|_| "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".into());
    let args = json!({
        "url": format!("http://127.0.0.1:{}/", server.port),
        "method": "post",
        "headers": {"X-Shell": "$(reboot)"},
        "body": "a=`reboot`",
    });
    let output = call("net.http_request", args).unwrap();
    assert_eq!(output["status"], 404, "a status is a result");
    let requests = server.requests.lock().unwrap();
    assert!(requests[0].starts_with("POST / "), "{requests:?}");
    assert!(
        requests[0].contains("x-shell: $(reboot)\r\n"),
        "{requests:?}"
    );
    assert!(requests[0].ends_with("a=`reboot`"), "{requests:?}");
}

#[test]
fn a_long_body_is_cut() {
    let server = serve(|_| ok(&"x".repeat(200 << 10)));
    let output = call(
        "net.http_request",
        json!({"url": format!("http://127.0.0.1:{}/", server.port)}),
    )
    .unwrap();
    assert_eq!(output["truncated"], true);
    assert_eq!(output["body"].as_str().unwrap().len(), 64 << 10);
}

#[test]
fn a_redirect_does_not_lead_to_where_a_request_may_not_go() {
    for to in [
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1:9090/",
    ] {
        let server = serve(move |_| {
            format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")
        });
        let result = call(
            "net.http_request",
            json!({"url": format!("http://127.0.0.1:{}/", server.port)}),
        );
        assert_eq!(kind(result), ToolErrorKind::Permission, "{to}");
    }
}

#[test]
fn redirects_in_a_circle_end() {
    let hits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&hits);
    let server = serve(move |port| {
        counted.fetch_add(1, Ordering::SeqCst);
        format!(
            "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{port}/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
    });
    let result = call(
        "net.http_request",
        json!({"url": format!("http://127.0.0.1:{}/", server.port)}),
    );
    assert_eq!(kind(result), ToolErrorKind::Network);
    assert!(hits.load(Ordering::SeqCst) <= 6);
}

#[test]
fn a_server_that_never_answers_is_a_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let tool = registry().get("net.http_request").unwrap();
    let mut context = context();
    context.deadline = Instant::now() + Duration::from_millis(300);
    let error = tool.execute(&json!({"url": url}), &context).unwrap_err();
    assert_eq!(error.kind, ToolErrorKind::Timeout, "{error}");
    assert!(error.retryable);
}

#[test]
fn requests_that_should_not_be_made_are_not() {
    for args in [
        json!({"url": "file:///etc/shadow"}),
        json!({"url": "gopher://a/"}),
        json!({"url": "example.org"}),
        json!({"url": "/etc/passwd"}),
        json!({"url": "http://user:secret@example.org/"}),
        json!({"url": "http://2130706433/"}),
        json!({"url": "http://a/", "method": "CONNECT"}),
        json!({"url": "http://a/", "method": "GET\r\nX: y"}),
        json!({"url": "http://a/", "body": "x"}),
        json!({"url": "http://a/", "headers": {"Host": "b"}}),
        json!({"url": "http://a/", "headers": {"x": "a\r\nHost: b"}}),
    ] {
        assert_eq!(
            kind(call("net.http_request", args.clone())),
            ToolErrorKind::Invalid,
            "{args}"
        );
    }
    for url in [
        "http://169.254.169.254/",
        "http://127.0.0.1:9090/",
        "http://[::1]:9090/",
    ] {
        assert_eq!(
            kind(call("net.http_request", json!({"url": url}))),
            ToolErrorKind::Permission,
            "{url}"
        );
    }
}

#[test]
fn secrets_do_not_go_into_the_ledger() {
    let tool = registry().get("net.http_request").unwrap();
    let args = json!({"url": "http://a/", "headers": {"Authorization": "Bearer x"}});
    let canonical = tool.normalise(&args, &context()).unwrap();
    let hidden: Vec<_> = tool
        .redacted()
        .iter()
        .filter_map(|pointer| canonical.pointer(pointer))
        .collect();
    assert_eq!(hidden, ["Bearer x"]);
}
