//! The machine's side of first enrolment: answers on the virtio serial port `aios.enrolment`.
//!
//! Runs as root. Whoever holds the other end of that port owns the (virtual) hardware, and could
//! read the machine's memory; so its word is as good as the physical console's. Without such a port
//! there is nothing to do, and it ends at once.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use aios_kit::server::{notify_ready, notify_status};
use aios_proto::v1::{AuthorizeSshKeyRequest, IssueCertificateRequest};

use crate::{
    cli::Global,
    connect::Machine,
    enrol::{MAX_LINE_BYTES, PortReply, PortRequest},
    failure::{Exit, Failure},
    output,
};

const PORTS: &str = "/sys/class/virtio-ports";
const NAME: &str = "aios.enrolment";
/// Pause while nobody holds the other end.
const NOBODY: Duration = Duration::from_millis(250);
/// Longest time that one request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(20);

/// `aios serve-enrolment-port`
pub(crate) fn serve(global: &Global, device: Option<PathBuf>) -> Result<Exit, Failure> {
    let Some(device) = device.or_else(|| find(Path::new(PORTS))) else {
        notify_ready("no enrolment port");
        return Ok(Exit::Ok);
    };
    let mut port = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&device)
        .map_err(|error| Failure::file(&device, &error))?;
    let runtime = crate::runtime()?;
    notify_ready(&format!("enrolment on {}", device.display()));
    let mut last: Option<(PortRequest, PortReply)> = None;
    let mut lines = Lines::default();
    loop {
        let line = lines
            .next(&mut port)
            .map_err(|error| Failure::file(&device, &error))?;
        let reply = answer(&line, &mut last, |request| {
            runtime.block_on(async {
                tokio::time::timeout(REQUEST_LIMIT, issue(global, request))
                    .await
                    .unwrap_or_else(|_| Err(Failure::unreachable("the console took too long")))
            })
        });
        if let Some(error) = &reply.error {
            output::note(format!("enrolment: {error}"));
        }
        let mut text = serde_json::to_vec(&reply)
            .map_err(|error| Failure::failed(format!("cannot write an answer: {error}")))?;
        text.push(b'\n');
        if let Err(error) = port.write_all(&text) {
            output::note(format!("enrolment: cannot answer: {error}"));
        }
        notify_status("enrolment port served");
    }
}

/// The device of the port with our name.
fn find(ports: &Path) -> Option<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(ports).ok()?.flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    entries
        .into_iter()
        .find(|entry| {
            fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim() == NAME)
        })
        .map(|entry| Path::new("/dev").join(entry.file_name()))
}

/// Answers one line. The same request again gets the same answer, so that an asker who sends twice
/// does not get two certificates.
fn answer(
    line: &[u8],
    last: &mut Option<(PortRequest, PortReply)>,
    mut issue: impl FnMut(&PortRequest) -> Result<PortReply, Failure>,
) -> PortReply {
    let request: PortRequest = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(error) => {
            return PortReply {
                error: Some(format!("not an enrolment request: {error}")),
                ..PortReply::default()
            };
        }
    };
    if let Some((known, reply)) = last
        && *known == request
    {
        return reply.clone();
    }
    match issue(&request) {
        Ok(mut reply) => {
            reply.id.clone_from(&request.id);
            *last = Some((request, reply.clone()));
            reply
        }
        Err(failure) => PortReply {
            id: request.id,
            error: Some(failure.to_string()),
            retryable: failure.exit == Exit::Unreachable,
            ..PortReply::default()
        },
    }
}

async fn issue(global: &Global, request: &PortRequest) -> Result<PortReply, Failure> {
    let mut management = Machine::connect_local(global).await?.management();
    if let Some(public_key) = request.ssh_public_key.clone() {
        management
            .authorize_ssh_key(AuthorizeSshKeyRequest { public_key })
            .await?;
    }
    let reply = management
        .issue_certificate(IssueCertificateRequest {
            csr_pem: request.csr_pem.clone(),
            name: request.name.clone(),
            role: request.role.clone(),
            days: 0,
        })
        .await?
        .into_inner();
    Ok(PortReply {
        certificate_pem: Some(reply.certificate_pem),
        authority_pem: Some(reply.authority_pem),
        ..PortReply::default()
    })
}

/// Lines from a port that may have nobody at its other end, and anything at all coming in.
#[derive(Debug, Default)]
struct Lines {
    pending: Vec<u8>,
    /// In the middle of a line that is too long to be a request.
    skipping: bool,
}

impl Lines {
    fn next(&mut self, port: &mut File) -> io::Result<Vec<u8>> {
        let mut chunk = [0_u8; 4096];
        loop {
            if let Some(line) = self.take() {
                return Ok(line);
            }
            match port.read(&mut chunk) {
                Ok(0) => std::thread::sleep(NOBODY),
                Ok(count) => self.push(chunk.get(..count).unwrap_or_default()),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                    ) =>
                {
                    std::thread::sleep(NOBODY);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The next whole line that is neither empty nor too long.
    fn take(&mut self) -> Option<Vec<u8>> {
        while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
            let mut line: Vec<u8> = self.pending.drain(..=end).collect();
            line.pop();
            let skipped = std::mem::take(&mut self.skipping);
            if !skipped && line.len() <= MAX_LINE_BYTES && !line.iter().all(u8::is_ascii_whitespace)
            {
                return Some(line);
            }
        }
        if self.pending.len() > MAX_LINE_BYTES {
            self.pending.clear();
            self.skipping = true;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: &str) -> PortRequest {
        PortRequest {
            id: id.into(),
            csr_pem: "csr".into(),
            name: "a".into(),
            role: "admin".into(),
            ssh_public_key: None,
        }
    }

    #[test]
    fn the_port_is_found_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(find(&dir.path().join("none")), None);
        for (port, name) in [
            ("vport1p1", "org.qemu.guest_agent.0"),
            ("vport2p3", "aios.enrolment"),
        ] {
            fs::create_dir(dir.path().join(port)).unwrap();
            fs::write(dir.path().join(port).join("name"), format!("{name}\n")).unwrap();
        }
        assert_eq!(find(dir.path()), Some("/dev/vport2p3".into()));
    }

    #[test]
    fn the_same_request_gets_the_same_certificate() {
        let mut issued = 0;
        let mut last = None;
        let mut ask = |request: &PortRequest| {
            let line = serde_json::to_vec(request).unwrap();
            answer(&line, &mut last, |_| {
                issued += 1;
                Ok(PortReply {
                    certificate_pem: Some(issued.to_string()),
                    ..PortReply::default()
                })
            })
        };
        let first = ask(&request("1"));
        assert_eq!(first.id, "1");
        assert_eq!(ask(&request("1")), first);
        assert_eq!(ask(&request("2")).certificate_pem.as_deref(), Some("2"));
    }

    #[test]
    fn a_failure_is_answered_and_not_remembered() {
        let mut last = None;
        let line = serde_json::to_vec(&request("1")).unwrap();
        let down = answer(&line, &mut last, |_| Err(Failure::unreachable("down")));
        assert!(down.retryable && down.error.is_some() && last.is_none());
        let denied = answer(&line, &mut last, |_| Err(Failure::usage("no such role")));
        assert!(!denied.retryable);
        assert!(
            answer(b"\xff{", &mut last, |_| unreachable!())
                .error
                .is_some()
        );
    }

    #[test]
    fn garbage_and_endless_lines_cost_nothing() {
        let mut lines = Lines::default();
        lines.push(b"\n  \n\x00\xff\nabc");
        assert_eq!(lines.take().unwrap(), b"\x00\xff");
        assert_eq!(lines.take(), None);
        lines.push(b"def\n");
        assert_eq!(lines.take().unwrap(), b"abcdef");
        for _ in 0..100 {
            lines.push(&[b'x'; 4096]);
            assert_eq!(lines.take(), None);
            assert!(lines.pending.len() <= MAX_LINE_BYTES + 4096);
        }
        lines.push(b"tail\nnext\n");
        assert_eq!(lines.take().unwrap(), b"next");
    }
}
