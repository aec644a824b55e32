//! A worker process: one model, one socket (descriptor 0), the model file (descriptor 1, read-only),
//! log lines on descriptor 2. It ends when the socket does.
//!
//! One thread computes, one reads the socket so that a cancel is heard during a computation.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    process::ExitCode,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use crate::{
    engine::{
        embed::Embedder,
        generate::Writer,
        llama::{LlamaError, Model},
        stop::Stop,
    },
    protocol::{self, Failure, FromWorker, Loaded, Outcome, Task, ToWorker},
};

/// Less context is of no use: a test prompt and a short answer must fit.
const MIN_CONTEXT: u32 = 256;

/// How a worker is started.
#[derive(Debug, Clone, clap::Args)]
pub struct WorkerArgs {
    /// Context in tokens; the model's own limit applies too
    #[arg(long)]
    pub context_tokens: u32,
}

/// Work that the reading thread hands over.
struct Job {
    id: u64,
    threads: u32,
    task: Task,
}

/// Runs a worker until its socket ends.
///
/// # Errors
/// When the process was not started by the front, with the descriptors that it expects.
pub fn run(args: &WorkerArgs) -> io::Result<ExitCode> {
    // When memory runs out, this process is the one that the machine can do without for a moment.
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "300") {
        tracing::debug!(%error, "cannot offer itself to the out-of-memory killer");
    }
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let file: OwnedFd = io::stdout().as_fd().try_clone_to_owned()?;
    let mut answers = socket.try_clone()?;
    let stop = Arc::new(Stop::default());

    let started = Instant::now();
    let mut engine = match Engine::load(File::from(file), args.context_tokens, &stop) {
        Ok(engine) => engine,
        Err(error) => {
            let reason = error.to_string();
            protocol::send(&mut answers, &FromWorker::LoadFailed { reason })?;
            return Ok(ExitCode::FAILURE);
        }
    };
    let load_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    protocol::send(&mut answers, &FromWorker::Loaded(engine.describe(load_ms)))?;

    let (jobs, queue) = mpsc::channel();
    let reader_stop = Arc::clone(&stop);
    thread::Builder::new()
        .name("socket".to_owned())
        .spawn(move || read_socket(socket, &reader_stop, &jobs))?;
    for job in queue {
        let id = job.id;
        let mut lost = None;
        let outcome = engine.run(&job, &mut |text| {
            if lost.is_none() {
                lost = protocol::send(&mut answers, &FromWorker::Text { id, text }).err();
            }
        });
        if let Some(error) = lost {
            return Err(error);
        }
        protocol::send(&mut answers, &FromWorker::Done { id, outcome })?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Arms and cancels at once, and hands work over. When the front is gone, so is the reason for this
/// process, whatever it computes.
fn read_socket(mut socket: UnixStream, stop: &Stop, jobs: &mpsc::Sender<Job>) {
    loop {
        match protocol::receive(&mut socket) {
            Ok(ToWorker::Run {
                id,
                threads,
                deadline_ms,
                task,
            }) => {
                stop.arm(id, Duration::from_millis(deadline_ms));
                if jobs.send(Job { id, threads, task }).is_err() {
                    return;
                }
            }
            Ok(ToWorker::Cancel { id }) => stop.cancel(id),
            Err(error) => {
                if error.kind() != io::ErrorKind::UnexpectedEof {
                    tracing::warn!(%error, "the front sent nonsense, or the socket broke");
                }
                std::process::exit(0);
            }
        }
    }
}

/// A model and what is needed to use it.
struct Engine {
    model: Arc<Model>,
    stop: Arc<Stop>,
    writer: Writer,
    /// Made when it is first wanted.
    embedder: Option<Embedder>,
}

impl Engine {
    fn load(file: File, context_tokens: u32, stop: &Arc<Stop>) -> Result<Self, LlamaError> {
        let model = Arc::new(Model::load(file)?);
        let wanted = context_tokens.max(MIN_CONTEXT);
        let tokens = match model.trained_context() {
            0 => wanted,
            trained => trained.min(wanted),
        };
        let writer = Writer::new(&model, tokens, stop)?;
        Ok(Self {
            model,
            stop: Arc::clone(stop),
            writer,
            embedder: None,
        })
    }

    fn describe(&self, load_ms: u64) -> Loaded {
        Loaded {
            parameters: self.model.parameters(),
            context_tokens: self.writer.context_tokens(),
            generates: self.writer.generates(),
            load_ms,
        }
    }

    fn run(&mut self, job: &Job, show: &mut dyn FnMut(String)) -> Outcome {
        let result = match &job.task {
            Task::Generate(request) => self
                .writer
                .run(request, job.threads, show)
                .map(Outcome::Generated),
            Task::Embed { texts } => self
                .embed(texts, job.threads)
                .map(|vectors| Outcome::Embedded { vectors }),
            Task::Tokenize { text } => self
                .model
                .tokenize(text)
                .map(|tokens| Outcome::Tokenized { tokens })
                .map_err(Failure::from),
        };
        result.unwrap_or_else(Outcome::Failed)
    }

    fn embed(&mut self, texts: &[String], threads: u32) -> Result<Vec<Vec<f32>>, Failure> {
        let embedder = match &mut self.embedder {
            Some(embedder) => embedder,
            none => none.insert(Embedder::new(&self.model, &self.stop)?),
        };
        embedder.run(texts, threads)
    }
}
