//! A console with fake daemons behind it: real sockets, real TLS, recorded calls.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aios_kit::Paths;
use aios_proto::v1::{
    IssueCertificateReply, IssueCertificateRequest, management_client::ManagementClient,
};
use bytes::Bytes;
use futures::StreamExt as _;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::{
    net::{TcpStream, UnixListener},
    sync::watch,
};
use tonic::{
    body::Body,
    transport::{Channel, Endpoint},
};

/// A call that a fake daemon got.
#[derive(Debug, Clone)]
pub struct Seen {
    pub daemon: &'static str,
    pub path: String,
    pub headers: HeaderMap,
    pub message: Bytes,
}

#[derive(Clone)]
enum Answer {
    Message(Bytes),
    Status(i32),
    /// One message after the other for ever.
    Stream(Bytes),
}

/// Everything that the fakes of one test share.
#[derive(Clone, Default)]
pub struct Log {
    seen: Arc<Mutex<Vec<Seen>>>,
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    /// Streams that are open at this moment.
    pub streams: Arc<AtomicUsize>,
}

impl Log {
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn of(&self, path: &str) -> Vec<Seen> {
        self.seen()
            .into_iter()
            .filter(|seen| seen.path == path)
            .collect()
    }

    pub fn answer(&self, path: &str, message: &impl Message) {
        let answer = Answer::Message(message.encode_to_vec().into());
        self.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    pub fn fail(&self, path: &str, code: tonic::Code) {
        let answer = Answer::Status(code as i32);
        self.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    pub fn stream(&self, path: &str, message: &impl Message) {
        let answer = Answer::Stream(message.encode_to_vec().into());
        self.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    /// Details of what was recorded in the ledger, oldest first.
    pub fn recorded(&self) -> Vec<(aios_proto::v1::RecordEventRequest, serde_json::Value)> {
        self.of("/aios.v1.Tools/RecordEvent")
            .into_iter()
            .map(|seen| {
                let event = aios_proto::v1::RecordEventRequest::decode(seen.message).unwrap();
                let detail = serde_json::from_str(&event.detail_json).unwrap();
                (event, detail)
            })
            .collect()
    }
}

/// A daemon that answers whatever it is told to; by default with an empty message.
pub struct Fake {
    stop: watch::Sender<bool>,
}

impl Fake {
    pub fn start(socket: &Path, daemon: &'static str, log: &Log) -> Self {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666)).unwrap();
        let (stop, stopped) = watch::channel(false);
        let log = log.clone();
        let mut ended = stopped.clone();
        tokio::spawn(async move {
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    _ = ended.changed() => return,
                };
                let log = log.clone();
                let mut ended = stopped.clone();
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(move |request| {
                        let log = log.clone();
                        async move {
                            Ok::<_, std::convert::Infallible>(respond(daemon, &log, request).await)
                        }
                    });
                    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service);
                    tokio::select! {
                        _ = connection => {}
                        _ = ended.changed() => {}
                    }
                });
            }
        });
        Self { stop }
    }

    /// As if killed: the listener and every connection are gone.
    pub fn kill(self) {
        self.stop.send(true).unwrap();
    }
}

struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn respond(daemon: &'static str, log: &Log, request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let message = match body.collect().await {
        Ok(whole) => whole.to_bytes().slice(5..),
        Err(_) => return Response::new(Body::empty()),
    };
    log.seen.lock().unwrap().push(Seen {
        daemon,
        path: path.clone(),
        headers: parts.headers,
        message,
    });
    let answer = log.answers.lock().unwrap().get(&path).cloned();
    let mut trailers = HeaderMap::new();
    let (messages, code) = match answer.unwrap_or(Answer::Message(Bytes::new())) {
        Answer::Message(message) => (Some(message), 0),
        Answer::Status(code) => (None, code),
        Answer::Stream(message) => {
            log.streams.fetch_add(1, Ordering::SeqCst);
            let open = Open(log.streams.clone());
            let ticks = tokio_stream::wrappers::IntervalStream::new(tokio::time::interval(
                Duration::from_millis(20),
            ));
            let frames = ticks.map(move |_| {
                let _ = &open;
                Ok::<_, std::convert::Infallible>(Frame::data(frame(&message)))
            });
            return grpc(Body::new(StreamBody::new(frames)));
        }
    };
    trailers.insert("grpc-status", code.to_string().parse().unwrap());
    trailers.insert("x-from-the-daemon", "yes".parse().unwrap());
    let frames = messages
        .map(|message| Ok::<_, std::convert::Infallible>(Frame::data(frame(&message))))
        .into_iter()
        .chain([Ok(Frame::trailers(trailers))]);
    grpc(Body::new(StreamBody::new(futures::stream::iter(
        frames.collect::<Vec<_>>(),
    ))))
}

fn grpc(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert("content-type", "application/grpc".parse().unwrap());
    response
}

fn frame(message: &[u8]) -> Bytes {
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(message);
    frame.into()
}

/// A directory with the configuration that a console needs.
pub struct Ground {
    pub dir: tempfile::TempDir,
    pub paths: Paths,
    pub log: Log,
}

impl Ground {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let paths = Paths::below(dir.path());
        for path in [&paths.etc, &paths.run, &paths.state] {
            std::fs::create_dir_all(path).unwrap();
        }
        std::fs::write(
            paths.identities_file(),
            "[daemons]\nconsole = 905\n[agents]\nnetwork = 912\n[operators]\noperator = 1000\n",
        )
        .unwrap();
        Self {
            dir,
            paths,
            log: Log::default(),
        }
    }

    pub fn fake(&self, daemon: &'static str) -> Fake {
        Fake::start(&self.paths.socket(daemon), daemon, &self.log)
    }

    pub fn fakes(&self) -> Vec<Fake> {
        ["tools", "orchestrator", "memory", "runtime"]
            .into_iter()
            .map(|daemon| self.fake(daemon))
            .collect()
    }

    /// The administrator's way: the local socket, as root.
    pub fn local(&self) -> Channel {
        aios_kit::client::channel(&self.paths.socket("console"))
    }

    /// A certificate through the front door.
    pub async fn issue(&self, name: &str, role: &str) -> Client {
        let (key_pem, csr_pem) = csr();
        let reply = ManagementClient::new(self.local())
            .issue_certificate(IssueCertificateRequest {
                csr_pem,
                name: name.into(),
                role: role.into(),
                days: 0,
            })
            .await
            .unwrap()
            .into_inner();
        Client::new(&key_pem, reply)
    }
}

/// A console process.
pub struct Console {
    process: Child,
    pub address: SocketAddr,
}

impl Console {
    /// Starts the binary and waits until it listens.
    pub fn start(program: &Path, ground: &Ground) -> Self {
        let mut process = Command::new(program)
            .args(["--listen", "127.0.0.1:0"])
            .arg("--etc")
            .arg(&ground.paths.etc)
            .arg("--run")
            .arg(&ground.paths.run)
            .arg("--state")
            .arg(&ground.paths.state)
            .env_remove("NOTIFY_SOCKET")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line
            .trim()
            .strip_prefix("listening on ")
            .unwrap()
            .parse()
            .unwrap();
        Self { process, address }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn csr() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    (key.serialize_pem(), request.pem().unwrap())
}

/// A client with a certificate.
#[derive(Clone)]
pub struct Client {
    pub key_pem: String,
    pub certificate_pem: String,
    pub authority_pem: String,
    pub serial: String,
}

impl Client {
    pub fn new(key_pem: &str, reply: IssueCertificateReply) -> Self {
        Self {
            key_pem: key_pem.to_owned(),
            certificate_pem: reply.certificate_pem,
            authority_pem: reply.authority_pem,
            serial: reply.serial,
        }
    }

    pub async fn connect(&self, console: &Console) -> Result<Channel, tonic::transport::Error> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.authority_pem.as_bytes()).unwrap())
            .unwrap();
        let certificate = CertificateDer::from_pem_slice(self.certificate_pem.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).unwrap();
        let config = builder(&[&rustls::version::TLS13])
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)
            .unwrap();
        connect(console.address, config).await
    }
}

pub fn builder(
    versions: &[&'static SupportedProtocolVersion],
) -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
}

/// Connects and proves that the other side takes this end: with TLS 1.3 a client learns of a refused
/// certificate only when it reads.
pub async fn connect(
    address: SocketAddr,
    mut config: ClientConfig,
) -> Result<Channel, tonic::transport::Error> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    Endpoint::from_static("http://node.aios.internal")
        .connect_with_connector(tower::service_fn(move |_| {
            let connector = connector.clone();
            async move {
                let name = "node.aios.internal".try_into().unwrap();
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, stream).await?))
            }
        }))
        .await
}

/// Waits until something holds, for five seconds at most.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..250 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never came true: {what}");
}
