//! What every call needs, put together once at start: the catalogue, the policy, the ledger, and the
//! bounds on how much happens at once.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use aios_kit::{Error, Paths};
use aios_tool_api::{BlobStore, Context, Registry};
use serde_json::json;
use tokio::sync::{Mutex, Semaphore, watch};

use crate::{
    agents::Agents,
    calls,
    catalogue::{BadTool, Catalogue},
    in_flight::InFlight,
    ledger::{Entry, Kind, Ledger, LedgerError, now_ms},
    policy::Policy,
    prepare::Prepared,
    room,
};

/// Calls of tools that only read that are worked on at once.
const READS: usize = 64;
/// Calls of tools that may change something that are worked on or wait for their family at once.
const CHANGES: usize = 32;
/// Calls that only read are forgotten (not their records) after this long.
const KEEP_CALLS: Duration = Duration::from_secs(7 * 24 * 3600);
/// Who this daemon is in its own records.
pub const SELF: &str = "daemon:tools";

/// Why the daemon cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A configuration file is not right.
    #[error("{0}")]
    Config(#[from] aios_config::ConfigError),
    /// `identities.toml` is not right, or the socket cannot be made.
    #[error("{0}")]
    Kit(#[from] aios_kit::Error),
    /// The ledger cannot be opened.
    #[error("{0}")]
    Ledger(#[from] LedgerError),
    /// A tool cannot be offered.
    #[error("{0}")]
    Tool(#[from] BadTool),
    /// The server ended.
    #[error("the server on {} failed: {message}", socket.display())]
    Serve {
        /// Its socket.
        socket: PathBuf,
        /// Why.
        message: String,
    },
}

/// What is known of the chain of records that was there at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chain {
    /// It is being recomputed.
    Checking,
    /// Every record fits.
    Intact,
    /// A record does not fit: nothing is changed any more.
    Broken {
        /// The first one that does not fit.
        seq: u64,
        /// What is wrong with it.
        problem: String,
    },
}

/// The engine.
pub struct Engine {
    /// The tools.
    pub catalogue: Catalogue,
    /// What roles may do.
    pub policy: Policy,
    /// What agents may do.
    pub agents: Agents,
    /// The ledger.
    pub ledger: Ledger,
    /// Pre-images.
    pub blobs: BlobStore,
    /// Calls that are being made, by key.
    pub in_flight: InFlight,
    /// Room for calls that only read.
    pub reads: Arc<Semaphore>,
    /// Room for calls that may change something.
    pub changes: Arc<Semaphore>,
    /// Calls that were cut short and have not been resolved.
    pub interrupted: AtomicU64,
    /// When the daemon started.
    pub started: Instant,
    families: BTreeMap<&'static str, Arc<Mutex<()>>>,
    chain: watch::Sender<Chain>,
    root: PathBuf,
    state: PathBuf,
    run_dir: PathBuf,
    init_socket: PathBuf,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("ledger", &self.ledger)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Reads the configuration, opens the ledger, marks the calls that an earlier process left
    /// unfinished, and begins to recompute the chain on a thread of its own. Blocks.
    ///
    /// # Errors
    /// [`StartError`] that says what to correct.
    pub fn start(paths: &Paths, registry: &Registry) -> Result<Arc<Self>, StartError> {
        let catalogue = Catalogue::new(registry)?;
        let policy = Policy::load(&paths.etc, &paths.state)?;
        let agents = Agents::load(&paths.etc)?;
        let ledger = Ledger::open(&paths.state.join("ledger"))?;
        let families = catalogue
            .iter()
            .map(|entry| (entry.family, Arc::default()))
            .collect();
        let engine = Arc::new(Self {
            catalogue,
            policy,
            agents,
            blobs: BlobStore::new(paths.state.join("preimages")),
            in_flight: InFlight::default(),
            reads: Arc::new(Semaphore::new(READS)),
            changes: Arc::new(Semaphore::new(CHANGES)),
            interrupted: AtomicU64::new(0),
            started: Instant::now(),
            families,
            chain: watch::channel(Chain::Checking).0,
            root: "/".into(),
            state: paths.state.clone(),
            run_dir: paths.run.clone(),
            init_socket: paths.socket("init"),
            ledger,
        });
        engine.recover()?;
        let checking = Arc::clone(&engine);
        std::thread::Builder::new()
            .name("chain-check".to_owned())
            .spawn(move || checking.check_chain())
            .map_err(|error| {
                StartError::Ledger(LedgerError::Database {
                    what: "be checked",
                    message: error.to_string(),
                })
            })?;
        Ok(engine)
    }

    /// Whether there is room on the disk for a change, beside the records.
    ///
    /// # Errors
    /// When there is not: what is full, and what to do.
    pub fn room_for(&self, prepared: &Prepared) -> Result<(), Error> {
        let arguments = prepared.args.to_string().len() as u64;
        room::check(&self.state, prepared.entry.spec.name, arguments)
    }

    fn recover(&self) -> Result<(), LedgerError> {
        let cut_short = self.ledger.read(calls::cut_short)?;
        if self.ledger.opened_without_head() {
            tracing::warn!("head.json is gone or unreadable: a cut tail could not be noticed");
            let detail = json!({
                "event": "ledger_head_missing",
                "meaning": "records that were cut off the end before this start cannot be noticed",
            });
            self.ledger
                .write_blocking(|batch| batch.append(Entry::new(Kind::Lifecycle, SELF, detail)))?;
        }
        let now = now_ms();
        let interrupted = self.ledger.write_blocking(move |batch| {
            for mut call in cut_short {
                let began = call.state == calls::State::Acting;
                call.outcome = if began { "unknown" } else { "failed" }.to_owned();
                let detail = json!({
                    "outcome": call.outcome,
                    "interrupted": true,
                    "began": began,
                    "intent_seq": call.intent_seq,
                    "can_be_undone": call.pre_image.is_some(),
                });
                call.outcome_seq = batch.append(call.entry(Kind::Outcome, detail))?;
                if began {
                    call.state = calls::State::Interrupted;
                }
                call.ended_ms = now;
                calls::put(batch, &call)?;
            }
            let old = now.saturating_sub(u64::try_from(KEEP_CALLS.as_millis()).unwrap_or(u64::MAX));
            calls::prune(batch, old)?;
            crate::grants::prune(batch, old)?;
            calls::count_interrupted(batch.connection())
        })?;
        self.interrupted
            .store(interrupted, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    fn check_chain(&self) {
        let started = Instant::now();
        let chain = match self.ledger.verify_as_opened() {
            Ok(verdict) => match verdict.bad {
                None => {
                    tracing::info!(records = verdict.records, elapsed = ?started.elapsed(), "ledger verified");
                    Chain::Intact
                }
                Some((seq, problem)) => Chain::Broken { seq, problem },
            },
            Err(error) => Chain::Broken {
                seq: 0,
                problem: error.to_string(),
            },
        };
        if let Chain::Broken { seq, problem } = &chain {
            tracing::error!(
                seq,
                problem,
                "the ledger does not verify: nothing will be changed"
            );
        }
        self.chain.send_replace(chain);
    }

    /// What is known of the chain.
    #[must_use]
    pub fn chain(&self) -> Chain {
        self.chain.borrow().clone()
    }

    /// Waits until the chain has been recomputed.
    pub async fn chain_checked(&self) -> Chain {
        let mut watch = self.chain.subscribe();
        watch
            .wait_for(|chain| *chain != Chain::Checking)
            .await
            .map_or(Chain::Checking, |chain| chain.clone())
    }

    /// The lock of a family.
    #[must_use]
    pub fn family(&self, name: &str) -> Option<Arc<Mutex<()>>> {
        self.families.get(name).cloned()
    }

    /// The surroundings of a call that may take so long.
    #[must_use]
    pub fn context(&self, limit: Duration) -> Context {
        let mut context = Context::new(self.blobs.clone(), limit);
        context.root.clone_from(&self.root);
        context.run_dir.clone_from(&self.run_dir);
        context.init_socket.clone_from(&self.init_socket);
        context.sensitive = Arc::clone(&self.policy.sensitive);
        context.protected = Arc::clone(&self.policy.protected);
        context
    }
}
