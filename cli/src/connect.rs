//! The way to a machine: its own socket, or TLS with a client profile.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use aios_proto::v1::{
    management_client::ManagementClient, memory_client::MemoryClient,
    orchestrator_client::OrchestratorClient, runtime_client::RuntimeClient,
    tools_client::ToolsClient,
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::{
    Response, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    cli::Global,
    failure::{Failure, interrupted},
    profile::{self, Profile},
};

/// The name in every machine's server certificate.
const SERVER_NAME: &str = "node.aios.internal";
/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a daemon that is being restarted is waited for.
const PATIENCE: Duration = Duration::from_secs(4);
/// Largest answer that is taken, in bytes.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Where the machine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// This machine, by its console's socket.
    Local(PathBuf),
    /// Another one, by a profile's directory.
    Remote(PathBuf),
}

impl Target {
    /// `--profile`, `$AIOS_PROFILE`, this machine, the default profile: the first that there is.
    pub(crate) fn choose(global: &Global) -> Result<Self, Failure> {
        let named = global.profile.clone().or_else(|| {
            std::env::var("AIOS_PROFILE")
                .ok()
                .filter(|value| !value.is_empty())
        });
        if let Some(named) = named {
            return Ok(Self::Remote(profile::directory(&named)?));
        }
        // The directory is there on an aiOS machine even while its console is not.
        if global.run.is_dir() {
            return Ok(Self::Local(global.run.join("console.sock")));
        }
        let default = profile::directory("default")?;
        if default.exists() {
            return Ok(Self::Remote(default));
        }
        Err(Failure::unreachable(format!(
            "no machine to talk to: this is not an aiOS machine ({} does not exist), and there is no \
             profile at {}",
            global.run.display(),
            default.display()
        ))
        .hint("give one with --profile, or get one with `aios enroll`"))
    }
}

/// An open way to a machine. The clients reconnect by themselves.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    /// `HOST:PORT` of a remote machine; empty for this one.
    pub(crate) endpoint: String,
    channel: Channel,
}

impl Machine {
    /// Connects, so that what is wrong with the way is said before anything is asked.
    pub(crate) async fn connect(global: &Global) -> Result<Self, Failure> {
        Self::open(Target::choose(global)?).await
    }

    /// Connects to this machine, whatever profiles there are.
    pub(crate) async fn connect_local(global: &Global) -> Result<Self, Failure> {
        Self::open(Target::Local(global.run.join("console.sock"))).await
    }

    async fn open(target: Target) -> Result<Self, Failure> {
        let base = Endpoint::from_static("http://node.aios.internal")
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20));
        let (endpoint, channel) = match &target {
            Target::Local(socket) => (String::new(), local(&base, socket).await?),
            Target::Remote(dir) => {
                let profile = Profile::read(dir)?;
                let channel = remote(&base, dir, &profile).await?;
                (profile.endpoint, channel)
            }
        };
        Ok(Self { endpoint, channel })
    }

    pub(crate) fn management(&self) -> ManagementClient<Channel> {
        ManagementClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(crate) fn orchestrator(&self) -> OrchestratorClient<Channel> {
        OrchestratorClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(crate) fn tools(&self) -> ToolsClient<Channel> {
        ToolsClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(crate) fn memory(&self) -> MemoryClient<Channel> {
        MemoryClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(crate) fn runtime(&self) -> RuntimeClient<Channel> {
        RuntimeClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }
}

/// Makes a call that may be made twice (it only looks, or carries an idempotency key), waiting for a
/// daemon that is being restarted.
pub(crate) async fn repeatable<T, F, Fut>(mut call: F) -> Result<T, Failure>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Response<T>, Status>>,
{
    let until = tokio::time::Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(50);
    loop {
        match call().await {
            Ok(reply) => return Ok(reply.into_inner()),
            Err(status) if interrupted(&status) && tokio::time::Instant::now() < until => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
            Err(status) => return Err(status.into()),
        }
    }
}

async fn local(base: &Endpoint, socket: &Path) -> Result<Channel, Failure> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    });
    base.connect_with_connector(connector)
        .await
        .map_err(|error| {
            Failure::unreachable(format!(
                "aios-console does not answer on {}: {}",
                socket.display(),
                innermost(&error)
            ))
            .hint("PID 1 restarts it; try again in a moment")
        })
}

async fn remote(base: &Endpoint, dir: &Path, profile: &Profile) -> Result<Channel, Failure> {
    let connector = TlsConnector::from(Arc::new(tls_config(dir, profile)?));
    let name = ServerName::try_from(SERVER_NAME)
        .map_err(|error| Failure::failed(format!("{SERVER_NAME}: {error}")))?;
    let endpoint = profile.endpoint.clone();
    let connect = tower::service_fn(move |_| {
        let (connector, name, endpoint) = (connector.clone(), name.clone(), endpoint.clone());
        async move {
            let stream = TcpStream::connect(&endpoint).await?;
            stream.set_nodelay(true)?;
            Ok::<_, io::Error>(TokioIo::new(connector.connect(name, stream).await?))
        }
    });
    base.connect_with_connector(connect).await.map_err(|error| {
        let cause = innermost(&error);
        let failure = Failure::unreachable(format!("{} cannot be reached: {cause}", profile.endpoint));
        if cause.contains("invalid peer certificate") {
            failure.hint(
                "this is not the machine that the profile belongs to, or it was set up anew; enrol again",
            )
        } else if cause.contains("fatal alert") {
            failure.hint("the machine does not accept this profile's certificate; get a new one")
        } else {
            failure.hint("is the machine running, and is the address in the profile right?")
        }
    })
}

fn tls_config(dir: &Path, profile: &Profile) -> Result<ClientConfig, Failure> {
    let read = |name: &str| {
        let path = dir.join(name);
        let pem = fs::read(&path).map_err(|error| Failure::file(&path, &error))?;
        Ok::<_, Failure>((path, pem))
    };
    let broken = |path: &Path, error: &dyn std::fmt::Display| {
        Failure::failed(format!("{}: {error}", path.display())).hint("enrol again")
    };
    let mut roots = RootCertStore::empty();
    let (path, pem) = read(&profile.ca)?;
    let authority = CertificateDer::from_pem_slice(&pem).map_err(|error| broken(&path, &error))?;
    roots
        .add(authority)
        .map_err(|error| broken(&path, &error))?;
    let (path, pem) = read(&profile.certificate)?;
    let chain = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| broken(&path, &error))?;
    let (path, pem) = read(&profile.key)?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| broken(&path, &error))?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| broken(&path, &error))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|error| broken(&path, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut current = error;
    while let Some(source) = current.source() {
        current = source;
    }
    current.to_string()
}
