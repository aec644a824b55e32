//! A blocking client of PID 1.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{MAX_REPLY_BYTES, Reply, Request};

/// Why PID 1 could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The socket could not be used.
    #[error("cannot talk to PID 1 on {}: {source}", path.display())]
    Socket {
        /// Where it was looked for.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What came back is not a reply.
    #[error("PID 1 answered with something that is no reply: {0}")]
    Malformed(#[from] serde_json::Error),
    /// PID 1 refused or failed.
    #[error("{message}")]
    Refused {
        /// `not_found`, `denied`, `invalid`, `conflict`, `failed` or `busy`.
        kind: String,
        /// What was wrong, and what to do.
        message: String,
    },
}

/// A client; it connects anew for every request, so it outlives restarts of PID 1's socket.
#[derive(Debug, Clone)]
pub struct Client {
    path: PathBuf,
    timeout: Duration,
}

impl Client {
    /// A client of the socket at `path`, waiting `timeout` for each reply.
    #[must_use]
    pub fn new(path: &Path, timeout: Duration) -> Self {
        Self {
            path: path.to_owned(),
            timeout,
        }
    }

    /// Asks, and waits for the reply. [`Reply::Error`] comes back as [`ClientError::Refused`].
    ///
    /// # Errors
    /// When PID 1 cannot be reached, does not answer in time, or refuses.
    pub fn call(&self, request: &Request) -> Result<Reply, ClientError> {
        let socket = |source| ClientError::Socket {
            path: self.path.clone(),
            source,
        };
        let mut stream = UnixStream::connect(&self.path).map_err(socket)?;
        stream
            .set_read_timeout(Some(self.timeout))
            .map_err(socket)?;
        stream
            .set_write_timeout(Some(self.timeout))
            .map_err(socket)?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line).map_err(socket)?;
        let mut reply = String::new();
        BufReader::new(stream.take(MAX_REPLY_BYTES as u64))
            .read_line(&mut reply)
            .map_err(socket)?;
        if reply.is_empty() {
            return Err(socket(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it closed the connection without an answer",
            )));
        }
        match serde_json::from_str(&reply)? {
            Reply::Error { kind, message } => Err(ClientError::Refused { kind, message }),
            reply => Ok(reply),
        }
    }
}
