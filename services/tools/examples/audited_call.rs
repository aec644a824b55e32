//! What auditing costs: the latency of an audited `fs.stat` over the daemon's socket beside that of
//! a bare tonic echo over a Unix socket, in the same run, from the same client code.
//!
//! Prints one JSON object: `echo_p50_us`, `echo_p99_us`, `call_p50_us`, `call_p99_us`, `ratio_p50`,
//! `ratio_p99`, and for scale `fsync_p50_us` (an append of 512 bytes and fdatasync on the same disk),
//! `clients` and `calls_per_s` with that many clients at once. Usage: `audited_call [CALLS [CLIENTS]]`.
//! State is below `TMPDIR`; point it at the disk that is to be measured. Must run as root.

use std::{
    convert::Infallible,
    fs,
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use aios_kit::{Paths, client::channel, server};
use aios_proto::v1::{self, tools_client::ToolsClient};
use anyhow::Context as _;
use serde_json::json;
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::{Service, http},
    server::{Grpc, NamedService, UnaryService},
    transport::{Channel, Server},
};
use tonic_prost::ProstCodec;

/// Calls before the clock counts.
const WARM_UP: usize = 200;

/// A service whose only method gives its message back.
#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "aios.bench.Echo";
}

struct EchoMethod;

impl UnaryService<v1::ExecuteRequest> for EchoMethod {
    type Response = v1::ExecuteRequest;
    type Future = std::future::Ready<Result<Response<v1::ExecuteRequest>, Status>>;

    fn call(&mut self, request: Request<v1::ExecuteRequest>) -> Self::Future {
        std::future::ready(Ok(Response::new(request.into_inner())))
    }
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = tonic::codegen::BoxFuture<Self::Response, Infallible>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let codec = ProstCodec::<v1::ExecuteRequest, v1::ExecuteRequest>::default();
            Ok(Grpc::new(codec).unary(EchoMethod, request).await)
        })
    }
}

fn request() -> v1::ExecuteRequest {
    v1::ExecuteRequest {
        tool: "fs.stat".to_owned(),
        args_json: json!({ "path": "/etc" }).to_string(),
        ..Default::default()
    }
}

async fn echo(channel: &Channel) -> anyhow::Result<()> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await?;
    let codec = ProstCodec::<v1::ExecuteRequest, v1::ExecuteRequest>::default();
    let path = http::uri::PathAndQuery::from_static("/aios.bench.Echo/Echo");
    grpc.unary(Request::new(request()), path, codec).await?;
    Ok(())
}

async fn stat(client: &mut ToolsClient<Channel>) -> anyhow::Result<()> {
    let reply = client.execute(request()).await?.into_inner();
    anyhow::ensure!(reply.outcome == "ok", "fs.stat: {reply:?}");
    Ok(())
}

/// p50 and p99 in microseconds.
fn percentiles(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort();
    let at = |part: usize| {
        times
            .get((times.len() * part / 100).min(times.len().saturating_sub(1)))
            .map_or(0.0, |time| time.as_secs_f64() * 1e6)
    };
    (at(50), at(99))
}

fn disk(dir: &Path, calls: usize) -> anyhow::Result<Vec<Duration>> {
    let mut file = fs::File::create(dir.join("yardstick"))?;
    (0..calls)
        .map(|_| {
            let started = Instant::now();
            file.write_all(&[b'x'; 512])?;
            file.sync_data()?;
            Ok(started.elapsed())
        })
        .collect()
}

fn lay_out(paths: &Paths) -> anyhow::Result<()> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../etc");
    fs::create_dir_all(paths.etc.join("security"))?;
    for file in ["identities.toml", "security/policy.toml"] {
        fs::copy(own.join(file), paths.etc.join(file))
            .with_context(|| format!("cannot copy {file}"))?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let calls: usize = arguments.next().map_or(Ok(2000), |text| text.parse())?;
    let clients: usize = arguments.next().map_or(Ok(8), |text| text.parse())?;
    let dir = std::env::temp_dir().join(format!("audited-call-{}", std::process::id()));
    let paths = Paths::below(&dir);
    lay_out(&paths)?;
    let result = measure(&paths, &dir, calls.max(100), clients.max(1)).await;
    fs::remove_dir_all(&dir)?;
    println!("{}", result?);
    Ok(())
}

async fn measure(
    paths: &Paths,
    dir: &Path,
    calls: usize,
    clients: usize,
) -> anyhow::Result<serde_json::Value> {
    let echo_socket = paths.socket("echo");
    let incoming = server::bind(&echo_socket)?;
    tokio::spawn(
        Server::builder()
            .add_service(Echo)
            .serve_with_incoming(incoming),
    );
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let serving = tokio::spawn(aios_tools::serve(
        paths.clone(),
        aios_tools::families::registry(),
        std::future::pending(),
        |_| {
            let _ = ready.send(());
        },
    ));
    if is_ready.await.is_err() {
        serving.await??;
        anyhow::bail!("the server ended");
    }
    let echo_channel = channel(&echo_socket);
    let mut client = ToolsClient::new(channel(&paths.socket("tools")));
    // Taken in turn, so that whatever else the machine does falls on both alike.
    let (mut echoes, mut stats) = (Vec::new(), Vec::new());
    for index in 0..calls + WARM_UP {
        let started = Instant::now();
        echo(&echo_channel).await?;
        let echoed = started.elapsed();
        let started = Instant::now();
        stat(&mut client).await?;
        let called = started.elapsed();
        if index >= WARM_UP {
            echoes.push(echoed);
            stats.push(called);
        }
    }
    let together = Instant::now();
    let each = calls / clients + 1;
    let tasks: Vec<_> = (0..clients)
        .map(|_| {
            let mut client = ToolsClient::new(channel(&paths.socket("tools")));
            tokio::spawn(async move {
                for _ in 0..each {
                    stat(&mut client).await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    let elapsed = together.elapsed().as_secs_f64();
    let (echo_p50, echo_p99) = percentiles(echoes);
    let (call_p50, call_p99) = percentiles(stats);
    let (fsync_p50, _) = percentiles(disk(dir, 200)?);
    let round = |value: f64| (value * 100.0).round() / 100.0;
    Ok(json!({
        "echo_p50_us": round(echo_p50),
        "echo_p99_us": round(echo_p99),
        "call_p50_us": round(call_p50),
        "call_p99_us": round(call_p99),
        "ratio_p50": round(call_p50 / echo_p50),
        "ratio_p99": round(call_p99 / echo_p99),
        "fsync_p50_us": round(fsync_p50),
        "clients": clients,
        "calls_per_s": round((each * clients) as f64 / elapsed),
    }))
}
