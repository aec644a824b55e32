//! The control socket: bounded, one request line at a time, one reply each.
//!
//! Invariants: a connection never blocks the loop; it has at most one request under way; a line that
//! is too long, a client that is too slow and a connection too many are turned away; a reply that
//! takes time is kept by its token and lost with its connection.

use std::{
    collections::BTreeMap,
    io,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::{
            fs::PermissionsExt as _,
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
};

use aios_init_core::Micros;
use aios_init_protocol::{MAX_REPLY_BYTES, MAX_REQUEST_BYTES, Reply, Request};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::io::Errno;

/// Connections at the same time.
const MAX_CONNECTIONS: usize = 64;
/// Of those, from one uid other than root.
const MAX_PER_UID: usize = 8;
/// How long a client may take for its next line, or to take a reply.
const PATIENCE: Micros = 10_000_000;

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    uid: u32,
    input: Vec<u8>,
    output: Vec<u8>,
    /// A request whose reply is still to come.
    pending: Option<u64>,
    closing: bool,
    deadline: Micros,
}

/// The listening socket and its connections.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    connections: BTreeMap<u64, Connection>,
    next: u64,
}

/// A request line that was understood.
#[derive(Debug)]
pub struct Asked {
    /// To answer it by.
    pub token: u64,
    /// Who asked.
    pub uid: u32,
    /// What.
    pub request: Request,
}

impl Control {
    /// Listens. Everybody may connect: what they may ask depends on who they are.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn listen(path: &Path) -> io::Result<Self> {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
        Ok(Self {
            listener,
            connections: BTreeMap::new(),
            next: 1,
        })
    }

    /// Everything to wait for, and whether it is waited for to become writable.
    pub fn fds(&self) -> Vec<(BorrowedFd<'_>, bool)> {
        let mut fds = vec![(self.listener.as_fd(), false)];
        for connection in self.connections.values() {
            // While a reply is due nothing more is read: the client's next line waits in the kernel.
            if !connection.output.is_empty() {
                fds.push((connection.stream.as_fd(), true));
            } else if connection.pending.is_none() {
                fds.push((connection.stream.as_fd(), false));
            }
        }
        fds
    }

    /// When the next client has been too slow.
    pub fn next_deadline(&self) -> Option<Micros> {
        self.connections
            .values()
            .filter(|connection| connection.pending.is_none())
            .map(|connection| connection.deadline)
            .min()
    }

    /// Takes in and gives out whatever can be, and returns what is asked.
    pub fn turn(&mut self, now: Micros) -> Vec<Asked> {
        self.accept(now);
        let mut asked = Vec::new();
        let tokens: Vec<u64> = self.connections.keys().copied().collect();
        for id in tokens {
            let Some(mut connection) = self.connections.remove(&id) else {
                continue;
            };
            let mut alive = connection.write(now);
            if alive && connection.pending.is_none() && connection.output.is_empty() {
                alive = connection.read(now);
                if let Some(line) = connection.line() {
                    alive = true;
                    match line.and_then(|line| understand(&line)) {
                        Ok(request) => {
                            connection.pending = Some(id);
                            asked.push(Asked {
                                token: id,
                                uid: connection.uid,
                                request,
                            });
                        }
                        Err(message) => {
                            connection.closing = true;
                            connection.put(&error("invalid", message), now);
                            alive = connection.write(now);
                        }
                    }
                }
            }
            let slow = connection.pending.is_none() && connection.deadline <= now;
            if alive && !slow {
                self.connections.insert(id, connection);
            }
        }
        asked
    }

    fn accept(&mut self, now: Micros) {
        // Bounded, so that somebody who connects in a loop cannot hold PID 1.
        for _ in 0..MAX_CONNECTIONS {
            let Ok((stream, _)) = self.listener.accept() else {
                return;
            };
            let Ok(credentials) = getsockopt(&stream, PeerCredentials) else {
                continue;
            };
            let uid = credentials.uid();
            let same = self
                .connections
                .values()
                .filter(|other| other.uid == uid)
                .count();
            let full =
                self.connections.len() >= MAX_CONNECTIONS || (uid != 0 && same >= MAX_PER_UID);
            let mut connection = Connection {
                stream,
                uid,
                input: Vec::new(),
                output: Vec::new(),
                pending: None,
                closing: full,
                deadline: now.saturating_add(PATIENCE),
            };
            if connection.stream.set_nonblocking(true).is_err() {
                continue;
            }
            if full {
                let message = "PID 1 has too many callers; try again in a moment".to_owned();
                connection.put(&error("busy", message), now);
                connection.write(now);
                continue;
            }
            self.connections.insert(self.next, connection);
            self.next += 1;
        }
    }

    /// Answers a request. If its connection is gone, so is the reply.
    pub fn reply(&mut self, token: u64, reply: &Reply, now: Micros) {
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.pending = None;
            connection.put(reply, now);
            if !connection.write(now) {
                self.connections.remove(&token);
            }
        }
    }
}

impl Connection {
    /// Reads what is there. Whether the connection lives.
    fn read(&mut self, now: Micros) -> bool {
        let mut buffer = [0; 16 << 10];
        while self.input.len() <= MAX_REQUEST_BYTES && !self.input.contains(&b'\n') {
            match rustix::io::read(&self.stream, &mut buffer) {
                Ok(0) => return false,
                Ok(count) => {
                    if self.input.is_empty() {
                        self.deadline = now.saturating_add(PATIENCE);
                    }
                    self.input
                        .extend_from_slice(buffer.get(..count).unwrap_or_default());
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
        true
    }

    /// The next line, once it is whole, or why there will be none.
    fn line(&mut self) -> Option<Result<Vec<u8>, String>> {
        let end = self.input.iter().position(|byte| *byte == b'\n');
        match end {
            Some(end) if end <= MAX_REQUEST_BYTES => {
                let rest = self.input.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.input, rest);
                line.pop();
                Some(Ok(line))
            }
            None if self.input.len() <= MAX_REQUEST_BYTES => None,
            _ => Some(Err(format!(
                "a request has at most {MAX_REQUEST_BYTES} bytes"
            ))),
        }
    }

    fn put(&mut self, reply: &Reply, now: Micros) {
        let mut line = serde_json::to_vec(reply).unwrap_or_default();
        if line.len() >= MAX_REPLY_BYTES {
            let message = "the answer is too long; ask for less".to_owned();
            line = serde_json::to_vec(&error("failed", message)).unwrap_or_default();
        }
        self.output.extend_from_slice(&line);
        self.output.push(b'\n');
        self.deadline = now.saturating_add(PATIENCE);
    }

    /// Writes what it can. Whether the connection lives.
    fn write(&mut self, now: Micros) -> bool {
        while !self.output.is_empty() {
            let flags = rustix::net::SendFlags::NOSIGNAL;
            match rustix::net::send(&self.stream, &self.output, flags) {
                Ok(count) => {
                    self.output.drain(..count);
                    self.deadline = now.saturating_add(PATIENCE);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
        !self.closing
    }
}

fn understand(line: &[u8]) -> Result<Request, String> {
    serde_json::from_slice(line).map_err(|error| format!("this is no request: {error}"))
}

/// An error reply.
pub fn error(kind: &str, message: String) -> Reply {
    Reply::Error {
        kind: kind.to_owned(),
        message,
    }
}
