//! A worker process as the front sees it: started with its model and one socket, spoken to in
//! messages, and killed rather than waited for.

use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as StdUnixStream},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    net::{UnixStream, unix::OwnedWriteHalf},
    process::{Child, Command},
    sync::mpsc,
    time::timeout,
};

use crate::protocol::{self, FromWorker, Loaded, ToWorker};

/// The longest that loading a model may take.
const LOAD_LIMIT: Duration = Duration::from_secs(120);
/// The longest that a message may wait to be taken; a worker that reads nothing is as good as dead.
const SEND_LIMIT: Duration = Duration::from_secs(5);
/// The longest that a killed process may take to be gone.
const REAP_LIMIT: Duration = Duration::from_secs(5);
/// Messages of a worker that wait for the front; then the worker waits.
const WAITING_MESSAGES: usize = 256;

/// How workers are started.
#[derive(Debug, Clone)]
pub struct Program {
    /// This binary.
    pub path: PathBuf,
    /// Context in tokens.
    pub context_tokens: u32,
}

/// Why a worker did not come up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It could not be started.
    #[error("cannot start {}: {source}", program.display())]
    Spawn {
        /// Which program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It started and cannot use the model.
    #[error("{0}")]
    Model(String),
    /// It ended without a word.
    #[error(
        "the engine died while it loaded the model ({0}); the file is damaged, or memory ran out"
    )]
    Died(String),
    /// It takes too long.
    #[error("loading the model took longer than {} s", LOAD_LIMIT.as_secs())]
    TooSlow,
}

/// A running worker. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    to: OwnedWriteHalf,
    from: mpsc::Receiver<FromWorker>,
}

impl Process {
    /// Starts a worker on an open model file and waits until it has loaded it.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(program: &Program, model: File) -> Result<(Self, Loaded), StartError> {
        let mut process = Self::spawn(program, model).map_err(|source| StartError::Spawn {
            program: program.path.clone(),
            source,
        })?;
        match timeout(LOAD_LIMIT, process.receive()).await {
            Err(_) => {
                process.end().await;
                Err(StartError::TooSlow)
            }
            Ok(Some(FromWorker::Loaded(loaded))) => Ok((process, loaded)),
            Ok(Some(FromWorker::LoadFailed { reason })) => {
                process.end().await;
                Err(StartError::Model(reason))
            }
            Ok(_) => Err(StartError::Died(process.end().await)),
        }
    }

    fn spawn(program: &Program, model: File) -> io::Result<Self> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut command = Command::new(&program.path);
        command
            .arg("worker")
            .arg("--context-tokens")
            .arg(program.context_tokens.to_string())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(model))
            .current_dir(Path::new("/"))
            // Nothing of our environment reaches llama.cpp: GGML_BACKEND_PATH would load any library.
            .env_clear()
            // On an assertion it would start a debugger to print a backtrace.
            .env("GGML_NO_BACKTRACE", "1")
            .kill_on_drop(true);
        if let Some(filter) = std::env::var_os("AIOS_LOG") {
            command.env("AIOS_LOG", filter);
        }
        let child = command.spawn()?;
        let (mut reader, to) = UnixStream::from_std(ours)?.into_split();
        let (sender, from) = mpsc::channel(WAITING_MESSAGES);
        tokio::spawn(async move {
            loop {
                match protocol::receive_async(&mut reader).await {
                    Ok(message) => {
                        if sender.send(message).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        if error.kind() != io::ErrorKind::UnexpectedEof {
                            tracing::warn!(%error, "what the engine sent cannot be read");
                        }
                        return;
                    }
                }
            }
        });
        Ok(Self { child, to, from })
    }

    /// The next message; none when the worker is gone. May be cancelled without loss.
    pub async fn receive(&mut self) -> Option<FromWorker> {
        self.from.recv().await
    }

    /// Sends a message.
    ///
    /// # Errors
    /// When the worker is gone or does not read.
    pub async fn send(&mut self, message: &ToWorker) -> io::Result<()> {
        timeout(SEND_LIMIT, protocol::send_async(&mut self.to, message))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the engine does not read"))?
    }

    /// Kills the worker, if it is not dead already, and says how it ended.
    pub async fn end(mut self) -> String {
        // One that just died of itself has a moment to say so.
        let own = timeout(Duration::from_millis(200), self.child.wait()).await;
        let status = match own {
            Ok(status) => status,
            Err(_) => {
                if let Err(error) = self.child.start_kill() {
                    tracing::warn!(%error, "cannot kill the engine");
                }
                match timeout(REAP_LIMIT, self.child.wait()).await {
                    Ok(status) => status,
                    Err(_) => return "it cannot be killed".to_owned(),
                }
            }
        };
        status.map_or_else(|error| error.to_string(), describe)
    }
}

fn describe(status: ExitStatus) -> String {
    status.to_string()
}
