//! An orchestrator and a tools daemon that only note what an agent asks of them. Each runs on a
//! runtime of its own, so that stopping it breaks its connections as a killed process would.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use aios_kit::{Category, Error, server};
use aios_proto::v1::{
    Empty, ExecuteReply, ExecuteRequest, HeartbeatRequest, RegisterAgentReply, RegisterAgentRequest,
};
use tokio::runtime::Runtime;
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::{Grpc, NamedService},
    transport::{Server, server::UdsConnectInfo},
};
use tonic_prost::ProstCodec;
use tower::service_fn;

/// What the fakes have been asked.
#[derive(Debug, Default)]
pub struct Log {
    /// The caller's uid and what it said.
    pub registered: Mutex<Vec<(u32, RegisterAgentRequest)>>,
    pub beats: Mutex<Vec<HeartbeatRequest>>,
    pub calls: Mutex<Vec<ExecuteRequest>>,
    /// Calls that ended before they were answered.
    pub dropped: AtomicU32,
    /// Whether `slow` answers.
    pub release: AtomicBool,
    outcomes: Mutex<BTreeMap<String, String>>,
    /// Registrations that the orchestrator of now has taken.
    session: AtomicU32,
}

type Handled = BoxFuture<http::Response<Body>, Infallible>;

macro_rules! fake {
    ($name:ident, $service:literal) => {
        #[derive(Clone)]
        pub struct $name(Arc<Log>);

        impl NamedService for $name {
            const NAME: &'static str = $service;
        }

        impl Service<http::Request<Body>> for $name {
            type Response = http::Response<Body>;
            type Error = Infallible;
            type Future = Handled;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, request: http::Request<Body>) -> Handled {
                let log = self.0.clone();
                Box::pin(async move { Ok(self::$name::handle(log, request).await) })
            }
        }
    };
}

fake!(Orchestrator, "aios.v1.Orchestrator");
fake!(Tools, "aios.v1.Tools");

impl Orchestrator {
    async fn handle(log: Arc<Log>, request: http::Request<Body>) -> http::Response<Body> {
        match request.uri().path() {
            "/aios.v1.Orchestrator/RegisterAgent" => {
                let method = service_fn(move |request: Request<RegisterAgentRequest>| {
                    let info = request.extensions().get::<UdsConnectInfo>().unwrap();
                    let uid = info.peer_cred.unwrap().uid();
                    log.registered
                        .lock()
                        .unwrap()
                        .push((uid, request.into_inner()));
                    let session = log.session.fetch_add(1, Ordering::SeqCst) + 1;
                    let reply = RegisterAgentReply {
                        heartbeat_ms: 50,
                        session: session.to_string(),
                    };
                    async { Ok::<_, Status>(Response::new(reply)) }
                });
                Grpc::new(ProstCodec::default())
                    .unary(method, request)
                    .await
            }
            "/aios.v1.Orchestrator/Heartbeat" => {
                let method = service_fn(move |request: Request<HeartbeatRequest>| {
                    let beat = request.into_inner();
                    let known = beat.session == log.session.load(Ordering::SeqCst).to_string();
                    log.beats.lock().unwrap().push(beat);
                    let reply = if known {
                        Ok(Response::new(Empty {}))
                    } else {
                        Err(Error::new(Category::Conflict, "no such session").into())
                    };
                    async { reply }
                });
                Grpc::new(ProstCodec::default())
                    .unary(method, request)
                    .await
            }
            other => Status::unimplemented(other.to_owned()).into_http(),
        }
    }
}

/// Counts a call that is dropped.
struct Unanswered(Arc<Log>, bool);

impl Drop for Unanswered {
    fn drop(&mut self) {
        if !self.1 {
            self.0.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Tools {
    async fn handle(log: Arc<Log>, request: http::Request<Body>) -> http::Response<Body> {
        assert_eq!(request.uri().path(), "/aios.v1.Tools/Execute");
        let method = service_fn(move |request: Request<ExecuteRequest>| {
            Self::execute(log.clone(), request.into_inner())
        });
        Grpc::new(ProstCodec::default())
            .unary(method, request)
            .await
    }

    /// Answers at once, except `slow`, which waits until it is released. `forbidden` is refused.
    async fn execute(
        log: Arc<Log>,
        call: ExecuteRequest,
    ) -> Result<Response<ExecuteReply>, Status> {
        log.calls.lock().unwrap().push(call.clone());
        let mut unanswered = Unanswered(log.clone(), false);
        while call.tool == "slow" && !log.release.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        unanswered.1 = true;
        if call.tool == "forbidden" {
            return Err(Error::new(Category::Auth, "there is no grant").into());
        }
        let mut outcomes = log.outcomes.lock().unwrap();
        let next = format!("call-{}", outcomes.len() + 1);
        let replayed = outcomes.contains_key(&call.idempotency_key);
        let call_id = outcomes.entry(call.idempotency_key).or_insert(next).clone();
        let reply = ExecuteReply {
            call_id,
            outcome: "ok".into(),
            replayed,
            ..ExecuteReply::default()
        };
        Ok(Response::new(reply))
    }
}

pub fn orchestrator(socket: &Path, log: &Arc<Log>) -> Runtime {
    // A new orchestrator knows no session of the old one.
    log.session.fetch_add(100, Ordering::SeqCst);
    serve(socket, Orchestrator(log.clone()))
}

pub fn tools(socket: &Path, log: &Arc<Log>) -> Runtime {
    serve(socket, Tools(log.clone()))
}

fn serve<S>(socket: &Path, service: S) -> Runtime
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let incoming = runtime.block_on(async { server::bind(socket).unwrap() });
    runtime.spawn(
        Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming),
    );
    runtime
}
