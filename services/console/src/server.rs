//! The listeners: TCP with mutual TLS, and the local socket. Each connection is served by the gate.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use aios_kit::{Category, Error, Identities, Paths, config::SystemConfig, server};
use aios_proto::v1::management_server::ManagementServer;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use time::OffsetDateTime;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixStream},
    sync::Semaphore,
    time::{Instant, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::StreamExt as _;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    authority::{Authority, SERVER_LIFETIME},
    certificates::Certificates,
    gate::Gate,
    host::{self, Init},
    journal::{Entry, Journal, Outcome},
    limits::{
        HANDSHAKE_TIMEOUT, HANDSHAKES_AT_ONCE, LOCAL_CONNECTIONS, Limits, REMOTE_CONNECTIONS,
        STREAMS_PER_CONNECTION,
    },
    management::ManagementService,
    now_ms,
    peer::Peer,
    proxy::Backends,
    roles::Backend,
    tls::{self, Presented, Rotating},
};

/// How often the clock is compared with the server certificate, so that a jump is noticed.
const RENEWAL_CHECK: Duration = Duration::from_secs(30);
/// How long open calls may go on after the console was asked to stop.
const DRAIN: Duration = Duration::from_secs(2);
/// Pause after the system could not accept a connection (out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Between two tries to listen for remote management.
const LISTEN_PAUSE: Duration = Duration::from_secs(3);
const MAX_HEADER_BYTES: u32 = 16 << 10;

/// What the console is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where things are.
    pub paths: Paths,
    /// Address and port instead of the configured ones.
    pub listen: Option<String>,
}

struct Server {
    gate: Gate,
    identities: Identities,
    tls: TlsAcceptor,
    handshakes: Arc<Semaphore>,
    remote: Arc<Semaphore>,
    local: Arc<Semaphore>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Serves until `stop` ends.
///
/// # Errors
/// When the identities, the authority or the local socket cannot be had. A daemon that is down, and
/// an address that cannot be listened on, are no error: the local socket says so.
pub async fn run(options: Options, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let Options { paths, listen } = options;
    let loaded = SystemConfig::load_or_safe(&paths.config_file());
    let config = &loaded.config;
    let identities = Identities::load(&paths.identities_file())?;
    let dir = paths.state.join("console");
    let authority = Arc::new(Authority::open(&dir)?);
    let certificates = Arc::new(Certificates::open(&dir.join("certificates.json"))?);
    let rotating =
        Rotating::new(authority.issue_server(&host::hostname(), OffsetDateTime::now_utc())?);
    let tls = tls::server_config(&authority, rotating.clone())?;
    let backends = Backends::new(&paths);
    let limits = Arc::new(Limits::new());
    let tools = backends
        .channel(Backend::Tools)
        .ok_or_else(|| Error::new(Category::Internal, "no channel to aios-tools"))?;
    let (journal, writer) = Journal::new(tools);
    let management = ManagementServer::new(ManagementService {
        init: Init::new(paths.socket("init")),
        authority: authority.clone(),
        certificates: certificates.clone(),
        backends: backends.clone(),
        certificate_days: config.management.client_certificate_days,
        paths: paths.clone(),
        settings_problem: loaded.problem.as_ref().map(ToString::to_string),
    })
    .max_decoding_message_size(server::MAX_MESSAGE_BYTES);
    let server = Arc::new(Server {
        gate: Gate {
            certificates,
            limits: limits.clone(),
            journal,
            backends,
            management,
        },
        identities,
        tls: TlsAcceptor::from(Arc::new(tls)),
        handshakes: Arc::new(Semaphore::new(HANDSHAKES_AT_ONCE)),
        remote: Arc::new(Semaphore::new(REMOTE_CONNECTIONS)),
        local: Arc::new(Semaphore::new(LOCAL_CONNECTIONS)),
        stop: CancellationToken::new(),
        tasks: TaskTracker::new(),
    });

    let listen = listen.unwrap_or_else(|| config.management.listen.clone());
    let local = server::bind(&paths.socket("console"))?;
    let listening = listen_tcp(&listen).await;
    let status = match &listening {
        Ok((_, address)) => {
            announce(*address);
            loaded.status(&format!("management on {address}"))
        }
        Err(error) => {
            tracing::error!(%error, "no remote management yet");
            loaded.status(&format!("degraded: {error}"))
        }
    };

    let writer = tokio::spawn(writer);
    let background = CancellationToken::new();
    tokio::spawn(
        background
            .clone()
            .run_until_cancelled_owned(renew(authority, rotating)),
    );
    tokio::spawn(
        background
            .clone()
            .run_until_cancelled_owned(forget_quiet(limits)),
    );
    let accepting = background.clone();
    let remote = server.clone();
    tokio::spawn(accepting.run_until_cancelled_owned(async move {
        let listener = match listening {
            Ok((listener, _)) => listener,
            Err(_) => {
                let (listener, address) = keep_listening(&listen, LISTEN_PAUSE).await;
                announce(address);
                server::notify_status(&loaded.status(&format!("management on {address}")));
                listener
            }
        };
        accept_tcp(remote, listener).await;
    }));
    let accepting = background.clone();
    tokio::spawn(accepting.run_until_cancelled_owned(accept_local(server.clone(), local)));
    server::notify_ready(&status);

    stop.await;
    background.cancel();
    server.stop.cancel();
    server.tasks.close();
    if timeout(DRAIN, server.tasks.wait()).await.is_err() {
        tracing::warn!("calls that are still open are cut off");
    }
    // The last journal goes with the server; the writer then empties its queue and ends.
    drop(server);
    let _ = timeout(DRAIN, writer).await;
    Ok(())
}

/// The first line on standard output names the address; it is how `--listen …:0` is found.
fn announce(address: SocketAddr) {
    tracing::info!(%address, "management listens");
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "listening on {address}");
    let _ = out.flush();
}

/// An address that is not there yet, or a port that something else holds, may be had later.
async fn keep_listening(listen: &str, pause: Duration) -> (TcpListener, SocketAddr) {
    loop {
        tokio::time::sleep(pause).await;
        match listen_tcp(listen).await {
            Ok(listening) => return listening,
            Err(error) => tracing::debug!(%error, "still no remote management"),
        }
    }
}

async fn listen_tcp(listen: &str) -> Result<(TcpListener, SocketAddr), Error> {
    let result = match TcpListener::bind(listen).await {
        // A kernel without IPv6 still has every IPv4 address.
        Err(error) if error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) => {
            TcpListener::bind(listen.replacen("[::]", "0.0.0.0", 1)).await
        }
        other => other,
    };
    result
        .and_then(|listener| {
            let address = listener.local_addr()?;
            Ok((listener, address))
        })
        .map_err(|error| {
            Error::new(
                Category::Network,
                format!("cannot listen on {listen} for management: {error}"),
            )
            .hint(
                "set management.listen in config.toml to a free address and port of this machine; \
                 it is tried again every few seconds",
            )
        })
}

/// Replaces the server certificate at half of its life, and whenever the clock left its validity.
async fn renew(authority: Arc<Authority>, rotating: Arc<Rotating>) {
    let half = SERVER_LIFETIME / 2;
    let mut issued = OffsetDateTime::now_utc();
    loop {
        tokio::time::sleep(RENEWAL_CHECK).await;
        let now = OffsetDateTime::now_utc();
        if now >= issued && now < issued + half {
            continue;
        }
        match authority.issue_server(&host::hostname(), now) {
            Ok(next) => {
                rotating.replace(next);
                issued = now;
                tracing::info!("the server certificate was replaced");
            }
            Err(error) => tracing::error!(%error, "the server certificate could not be replaced"),
        }
    }
}

async fn forget_quiet(limits: Arc<Limits>) {
    loop {
        tokio::time::sleep(Duration::from_secs(60)).await;
        limits.forget_quiet();
    }
}

async fn accept_tcp(server: Arc<Server>, listener: TcpListener) {
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if !server.gate.limits.handshake(address.ip()) {
            tracing::debug!(%address, "too many handshakes");
            continue;
        }
        let task = remote_connection(server.clone(), stream, address);
        server.tasks.spawn(task);
    }
}

async fn remote_connection(server: Arc<Server>, stream: TcpStream, address: SocketAddr) {
    let Ok(handshaking) = server.handshakes.clone().try_acquire_owned() else {
        return;
    };
    let _ = stream.set_nodelay(true);
    let accepted = timeout(HANDSHAKE_TIMEOUT, server.tls.accept(stream)).await;
    drop(handshaking);
    let identified = match accepted {
        Ok(Ok(stream)) => {
            let leaf = stream
                .get_ref()
                .1
                .peer_certificates()
                .and_then(<[_]>::first);
            match leaf.map(Presented::read) {
                Some(Ok(presented)) => Ok((stream, presented)),
                Some(Err(error)) => Err(error.to_string()),
                None => Err("the client gave no certificate".to_owned()),
            }
        }
        Ok(Err(error)) => Err(format!("the TLS handshake failed: {error}")),
        Err(_) => Err("the TLS handshake took too long".to_owned()),
    };
    let (stream, presented) = match identified {
        Ok(identified) => identified,
        Err(reason) => {
            refuse_connection(&server, address, reason);
            return;
        }
    };
    let (Ok(_place), Some(_share)) = (
        server.remote.clone().try_acquire_owned(),
        server.gate.limits.connection(&presented.fingerprint),
    ) else {
        tracing::warn!(%address, name = presented.name, "too many connections");
        return;
    };
    let expires = Duration::from_millis(presented.not_after_ms.saturating_sub(now_ms()));
    let peer = Peer::Remote {
        presented: Arc::new(presented),
        address,
    };
    let mut changes = server.gate.certificates.changes();
    let no_longer_valid = async {
        let end = Instant::now().checked_add(expires);
        loop {
            let expired = async {
                match end {
                    Some(end) => tokio::time::sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = expired => break,
                changed = changes.changed() => if changed.is_err() { std::future::pending().await },
            }
            if peer.caller(&server.gate.certificates).is_err() {
                break;
            }
        }
    };
    // Calls that are open when a certificate stops to count are cut off, streams included.
    tokio::select! {
        () = serve(&server, stream, peer.clone()) => {}
        () = no_longer_valid => tracing::info!(%address, "connection closed: certificate no longer valid"),
    }
}

fn refuse_connection(server: &Server, address: SocketAddr, reason: String) {
    tracing::info!(%address, reason, "connection refused");
    server.gate.journal.later(Entry {
        outcome: Outcome::Refused,
        principal: "unauthenticated".to_owned(),
        role: String::new(),
        method: String::new(),
        peer: address.ip().to_canonical().to_string(),
        fingerprint: String::new(),
        reason,
        request_sha256: String::new(),
    });
}

async fn accept_local(
    server: Arc<Server>,
    mut incoming: tokio_stream::wrappers::UnixListenerStream,
) {
    while let Some(accepted) = incoming.next().await {
        match accepted {
            Ok(stream) => {
                let server = server.clone();
                server.clone().tasks.spawn(local_connection(server, stream));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a local connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn local_connection(server: Arc<Server>, stream: UnixStream) {
    let uid = match stream.peer_cred() {
        Ok(credentials) => credentials.uid(),
        Err(error) => {
            tracing::warn!(%error, "the kernel does not say who calls");
            return;
        }
    };
    let peer = Peer::local(&server.identities, uid);
    let (Ok(_place), Some(_share)) = (
        server.local.clone().try_acquire_owned(),
        server.gate.limits.connection(&peer.principal()),
    ) else {
        tracing::warn!(uid, "too many local connections");
        return;
    };
    serve(&server, stream, peer).await;
}

async fn serve<S>(server: &Arc<Server>, stream: S, peer: Peer)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = {
        let server = server.clone();
        service_fn(move |request| {
            let server = server.clone();
            let peer = peer.clone();
            async move { server.gate.answer(&peer, request).await }
        })
    };
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .max_header_list_size(MAX_HEADER_BYTES)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = server.stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended");
    }
}
