//! Getting a client certificate: over the enrolment port of a virtual machine, or on the machine.
//!
//! The key is made here and never leaves; what is sent is a signing request. The enrolment port is a
//! serial port that only the owner of the (virtual) hardware can open, so whoever can speak on it
//! already possesses the machine.

use std::{
    fs,
    io::{BufRead as _, BufReader, ErrorKind, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use aios_proto::v1::{AuthorizeSshKeyRequest, IssueCertificateRequest};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use serde::{Deserialize, Serialize};

use crate::{
    cli::{EnrolArgs, Global},
    connect::Machine,
    failure::{Exit, Failure},
    output,
    profile::{self, NewProfile},
};

/// Longest line on the port, in bytes.
pub(crate) const MAX_LINE_BYTES: usize = 64 << 10;
/// How long an answer is waited for before the request is sent again.
const RESEND: Duration = Duration::from_secs(3);
/// Pause between attempts to open the port.
const REOPEN: Duration = Duration::from_millis(300);

/// What is sent over the port, as one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PortRequest {
    /// Chosen by the asker; the answer carries it, and the same request again gets the same answer.
    pub(crate) id: String,
    pub(crate) csr_pem: String,
    pub(crate) name: String,
    pub(crate) role: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ssh_public_key: Option<String>,
}

/// What comes back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PortReply {
    #[serde(default)]
    pub(crate) id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) certificate_pem: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) authority_pem: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// Whether the same request may succeed later (the machine is still starting).
    #[serde(default)]
    pub(crate) retryable: bool,
}

/// A key and the request to sign it.
pub(crate) struct Asked {
    pub(crate) key_pem: String,
    pub(crate) csr_pem: String,
}

/// Makes a key (ECDSA P-256) and a signing request. The request holds nothing but the key, for
/// nothing else in it would be used.
pub(crate) fn ask() -> Result<Asked, Failure> {
    let fail = |error: rcgen::Error| Failure::failed(format!("cannot make a key: {error}"));
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(fail)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(fail)?;
    Ok(Asked {
        key_pem: key.serialize_pem(),
        csr_pem: request.pem().map_err(fail)?,
    })
}

/// `aios enroll`
pub(crate) async fn run(global: &Global, arguments: &EnrolArgs) -> Result<Exit, Failure> {
    let asked = ask()?;
    let ssh_public_key = match &arguments.ssh_key {
        Some(path) => Some(fs::read_to_string(path).map_err(|error| Failure::file(path, &error))?),
        None => None,
    };
    let endpoint = match (&arguments.endpoint, arguments.local) {
        (Some(endpoint), _) => endpoint.clone(),
        (None, true) => format!("{}:9090", first_address(global).await?),
        (None, false) => return Err(Failure::usage("--endpoint HOST:PORT is missing")),
    };
    let (certificate, authority) = match &arguments.port {
        Some(port) => {
            let request = PortRequest {
                id: uuid::Uuid::now_v7().to_string(),
                csr_pem: asked.csr_pem,
                name: arguments.name.clone(),
                role: arguments.role.clone(),
                ssh_public_key,
            };
            let (port, limit) = (port.clone(), arguments.timeout);
            let reply = tokio::task::spawn_blocking(move || over_port(&port, &request, limit))
                .await
                .map_err(|error| Failure::failed(error.to_string()))??;
            (
                reply.certificate_pem.unwrap_or_default(),
                reply.authority_pem.unwrap_or_default(),
            )
        }
        None => issue_locally(global, arguments, asked.csr_pem, ssh_public_key).await?,
    };
    profile::write(
        &arguments.out,
        &NewProfile {
            endpoint: &endpoint,
            name: &arguments.name,
            role: &arguments.role,
            authority_pem: &authority,
            certificate_pem: &certificate,
            key_pem: &asked.key_pem,
        },
    )?;
    if global.json {
        output::json(&serde_json::json!({
            "profile": arguments.out,
            "endpoint": endpoint,
            "name": arguments.name,
            "role": arguments.role,
        }));
    } else {
        output::line(format!(
            "enrolled as {} ({}); try: aios --profile {} status",
            arguments.name,
            arguments.role,
            arguments.out.display()
        ));
    }
    Ok(Exit::Ok)
}

async fn first_address(global: &Global) -> Result<String, Failure> {
    let machine = Machine::connect_local(global).await?;
    let status = machine
        .management()
        .status(aios_proto::v1::Empty {})
        .await?
        .into_inner();
    let address = status.addresses.first().ok_or_else(|| {
        Failure::failed("the machine has no address yet").hint("give one with --endpoint HOST:PORT")
    })?;
    Ok(if address.contains(':') {
        format!("[{address}]")
    } else {
        address.clone()
    })
}

async fn issue_locally(
    global: &Global,
    arguments: &EnrolArgs,
    csr_pem: String,
    ssh_public_key: Option<String>,
) -> Result<(String, String), Failure> {
    let mut management = Machine::connect_local(global).await?.management();
    if let Some(public_key) = ssh_public_key {
        management
            .authorize_ssh_key(AuthorizeSshKeyRequest { public_key })
            .await?;
    }
    let reply = management
        .issue_certificate(IssueCertificateRequest {
            csr_pem,
            name: arguments.name.clone(),
            role: arguments.role.clone(),
            days: 0,
        })
        .await?
        .into_inner();
    Ok((reply.certificate_pem, reply.authority_pem))
}

/// Asks over the port until there is an answer. The machine may not be up yet, may restart, and may
/// have left half an answer to somebody else in the port.
fn over_port(port: &Path, request: &PortRequest, limit: Duration) -> Result<PortReply, Failure> {
    let line = serde_json::to_string(request)
        .map_err(|error| Failure::failed(format!("cannot write the request: {error}")))?;
    let until = Instant::now() + limit;
    let mut last = "the port could not be opened".to_owned();
    while Instant::now() < until {
        match exchange(port, &line, &request.id, until) {
            Ok(reply) if reply.certificate_pem.is_some() && reply.authority_pem.is_some() => {
                return Ok(reply);
            }
            Ok(reply) if reply.retryable => {
                last = reply.error.unwrap_or_default();
                std::thread::sleep(REOPEN);
            }
            Ok(reply) => {
                return Err(Failure::failed(format!(
                    "the machine refused: {}",
                    reply
                        .error
                        .unwrap_or_else(|| "it gave no reason".to_owned())
                )));
            }
            Err(error) => {
                last = error.to_string();
                std::thread::sleep(REOPEN);
            }
        }
    }
    Err(Failure::new(
        Exit::Timeout,
        aios_kit::Category::Timeout,
        format!(
            "no answer on the enrolment port {} within {} s ({last})",
            port.display(),
            limit.as_secs()
        ),
    )
    .hint("is the machine up? `aios serve-enrolment-port` has to run on it"))
}

/// One connection: sends the request again every few seconds until its own answer comes.
fn exchange(port: &Path, line: &str, id: &str, until: Instant) -> std::io::Result<PortReply> {
    let stream = UnixStream::connect(port)?;
    stream.set_write_timeout(Some(RESEND))?;
    stream.set_read_timeout(Some(RESEND))?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let mut buffer = Vec::new();
    loop {
        // The leading line break ends whatever an interrupted sender left on the way.
        writer.write_all(format!("\n{line}\n").as_bytes())?;
        let resend = Instant::now() + RESEND;
        while Instant::now() < resend {
            if Instant::now() >= until {
                return Err(ErrorKind::TimedOut.into());
            }
            let taken = match reader.fill_buf() {
                Ok([]) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(bytes) => {
                    let end = bytes.iter().position(|byte| *byte == b'\n');
                    let taken = end.map_or(bytes.len(), |end| end + 1);
                    buffer.extend_from_slice(bytes.get(..taken).unwrap_or_default());
                    taken
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            reader.consume(taken);
            if buffer.len() > MAX_LINE_BYTES {
                buffer.clear();
            }
            if buffer.ends_with(b"\n") {
                let reply = serde_json::from_slice::<PortReply>(&buffer);
                buffer.clear();
                if let Ok(reply) = reply
                    && reply.id == id
                {
                    return Ok(reply);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn request() -> PortRequest {
        PortRequest {
            id: "7".into(),
            csr_pem: "csr".into(),
            name: "a".into(),
            role: "admin".into(),
            ssh_public_key: None,
        }
    }

    #[test]
    fn stale_and_broken_answers_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let port = dir.path().join("port");
        let listener = UnixListener::bind(&port).unwrap();
        let machine = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let asked = loop {
                let line = lines.next().unwrap().unwrap();
                if !line.is_empty() {
                    break serde_json::from_str::<PortRequest>(&line).unwrap();
                }
            };
            let mut stream = stream;
            stream
                .write_all(b"half of an old ans\n{\"id\":\"6\",\"error\":\"old\"}\n")
                .unwrap();
            stream
                .write_all(b"{\"id\":\"7\",\"certificate_pem\":\"c\",\"authority_pem\":\"a\"}\n")
                .unwrap();
            asked
        });
        let reply = over_port(&port, &request(), Duration::from_secs(10)).unwrap();
        assert_eq!(reply.certificate_pem.as_deref(), Some("c"));
        assert_eq!(machine.join().unwrap(), request());
    }

    #[test]
    fn a_refusal_ends_it_and_silence_ends_it_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let port = dir.path().join("port");
        let none = over_port(&port, &request(), Duration::from_millis(400)).unwrap_err();
        assert_eq!(none.exit, Exit::Timeout);
        let listener = UnixListener::bind(&port).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream
                .write_all(b"{\"id\":\"7\",\"error\":\"no such role\"}\n")
                .unwrap();
            std::thread::sleep(Duration::from_secs(1));
        });
        let refused = over_port(&port, &request(), Duration::from_secs(10)).unwrap_err();
        assert!(refused.to_string().contains("no such role"), "{refused}");
    }

    #[test]
    fn a_request_names_nobody() {
        let asked = ask().unwrap();
        assert!(
            asked
                .csr_pem
                .starts_with("-----BEGIN CERTIFICATE REQUEST-----")
        );
        assert!(asked.key_pem.starts_with("-----BEGIN PRIVATE KEY-----"));
    }
}
