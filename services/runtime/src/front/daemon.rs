//! The state of the front: which models there are, which are loaded, which one is operational, and
//! how well that went.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use aios_kit::{Category, Error, config::Models};
use aios_proto::v1::{HealthReply, ModelInfo, RuntimeHealthReply};

use super::{
    answer::whole_text,
    catalog::{Catalog, Entry, Folders},
    process::Program,
    request::Checked,
    slot::{Condition, Slot},
    threads::Threads,
};
use crate::protocol::{Finish, Generate, Task};

/// Models that may be loaded at the same time; each has a process and its context in memory.
pub const MAX_LOADED: usize = 4;
/// What the operational model is asked at start, with a fixed seed; it must answer twice the same.
const TEST_PROMPT: &str = "The machine is ready when";
const TEST_TOKENS: u32 = 4;
const TEST_SEED: u64 = 20_240_229;
const TEST_LIMIT: Duration = Duration::from_secs(60);

/// What the daemon was started with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where models lie.
    pub folders: Folders,
    /// `[models]` of the configuration.
    pub models: Models,
    /// How workers are started.
    pub program: Program,
    /// Cores of this machine that may be used.
    pub cores: u32,
    /// Why the settings are the safe ones, if they are.
    pub settings_problem: Option<String>,
}

#[derive(Debug, Clone)]
struct LoadedModel {
    entry: Entry,
    slot: Slot,
}

#[derive(Debug, Default)]
struct State {
    loaded: BTreeMap<String, LoadedModel>,
    operational: Option<String>,
    /// Why a model that was tried is not loaded, by its name.
    failures: BTreeMap<String, String>,
    /// What is not as it should be.
    notes: Vec<String>,
    test: Option<TestResult>,
    starting: bool,
}

#[derive(Debug, Clone)]
struct TestResult {
    output: String,
    passed: bool,
}

/// The front.
#[derive(Debug)]
pub struct Daemon {
    settings: Settings,
    threads: Arc<Threads>,
    started: Instant,
    state: Mutex<State>,
    /// Held while models are loaded or unloaded, so that it happens one after the other.
    changing: tokio::sync::Mutex<()>,
}

impl Daemon {
    /// A front without models; [`Daemon::start`] loads them.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            threads: Arc::new(match settings.models.threads {
                0 => Threads::automatic(settings.cores),
                threads => Threads::fixed(threads, settings.cores),
            }),
            settings,
            started: Instant::now(),
            state: Mutex::new(State {
                starting: true,
                ..State::default()
            }),
            changing: tokio::sync::Mutex::new(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn scan(&self) -> Catalog {
        let folders = self.settings.folders.clone();
        tokio::task::spawn_blocking(move || Catalog::scan(&folders))
            .await
            .unwrap_or_else(|error| Catalog {
                entries: Vec::new(),
                problems: vec![format!("looking for models failed: {error}")],
            })
    }

    /// Loads the operational model and tries it. What comes back is the status for PID 1: it begins
    /// with `degraded:` when something is not as it should be.
    pub async fn start(&self) -> String {
        let _changing = self.changing.lock().await;
        let catalog = self.scan().await;
        let configured = self.settings.models.operational.as_str();
        let mut notes = catalog.problems.clone();
        if !configured.is_empty() && catalog.find(configured).is_none() {
            notes.push(format!(
                "models.operational is {configured:?}, but no such model is in {} or {}",
                self.settings.folders.machine.display(),
                self.settings.folders.image.display()
            ));
        }
        let mut chosen = None;
        for entry in catalog.candidates(configured) {
            match self.bring_up(entry).await {
                Ok(model) => {
                    chosen = Some(model);
                    break;
                }
                Err(error) => {
                    tracing::error!(model = entry.name, %error, "cannot use this model");
                    notes.push(error.to_string());
                    self.state()
                        .failures
                        .insert(entry.name.clone(), error.to_string());
                }
            }
        }
        if chosen.is_none() {
            notes.push(format!(
                "there is no model in {} or {} that can be used: put a GGUF file into the first and \
                 restart the machine",
                self.settings.folders.machine.display(),
                self.settings.folders.image.display()
            ));
        }
        let settings_problem = self.settings.settings_problem.as_ref();
        // The status has room for a few lines; every other daemon that reads the settings says in
        // these very words what is wrong with them.
        let status = match (chosen, settings_problem) {
            (None, _) => format!("degraded: no model answers: {}", notes.join("; ")),
            (Some(name), _) if !notes.is_empty() => {
                format!("degraded: {}; using {name}", notes.join("; "))
            }
            (Some(_), Some(problem)) => format!("degraded: {problem}"),
            (Some(name), None) => format!("model {name} answers"),
        };
        let mut state = self.state();
        state.starting = false;
        state.notes = settings_problem.into_iter().cloned().chain(notes).collect();
        status
    }

    /// Loads a model, tries it and makes it the operational one.
    async fn bring_up(&self, entry: &Entry) -> Result<String, Error> {
        let slot = self.load_slot(entry).await?;
        let Condition::Up(loaded) = slot.condition() else {
            return Err(Error::new(Category::Internal, "the engine died at once"));
        };
        if !loaded.generates {
            slot.close();
            return Err(Error::new(
                Category::Validation,
                format!("{}: it makes vectors and cannot write text", entry.file),
            ));
        }
        let test = match self.test(&slot).await {
            Ok(test) => test,
            Err(error) => {
                slot.close();
                let message = format!("{}: the test prompt failed: {error}", entry.file);
                return Err(Error::new(Category::Conflict, message));
            }
        };
        let mut state = self.state();
        let passed = test.passed;
        state.test = Some(test);
        if !passed {
            slot.close();
            let message = format!(
                "{}: it answered the same test prompt differently with the same seed",
                entry.file
            );
            return Err(Error::new(Category::Conflict, message));
        }
        self.admit(&mut state, entry, slot);
        state.operational = Some(entry.name.clone());
        Ok(entry.name.clone())
    }

    fn admit(&self, state: &mut State, entry: &Entry, slot: Slot) {
        state.failures.remove(&entry.name);
        let model = LoadedModel {
            entry: entry.clone(),
            slot,
        };
        state.loaded.insert(entry.name.clone(), model);
    }

    async fn load_slot(&self, entry: &Entry) -> Result<Slot, Error> {
        let settings = &self.settings;
        Slot::load(
            entry,
            &settings.program,
            &self.threads,
            settings.models.queue,
        )
        .await
    }

    async fn test(&self, slot: &Slot) -> Result<TestResult, Error> {
        let first = self.test_once(slot).await?;
        let second = self.test_once(slot).await?;
        Ok(TestResult {
            passed: first == second,
            output: first,
        })
    }

    async fn test_once(&self, slot: &Slot) -> Result<String, Error> {
        let work = Checked {
            task: Task::Generate(Generate {
                prompt: TEST_PROMPT.to_owned(),
                max_tokens: TEST_TOKENS,
                seed: TEST_SEED,
                temperature: 0.8,
                stop: Vec::new(),
                constraint: None,
            }),
            limit: TEST_LIMIT,
        };
        let (text, generated, _) = whole_text(slot, 0, work).await?;
        match generated.finish {
            Finish::Stop | Finish::Length => Ok(text),
            Finish::Cancelled | Finish::Deadline => Err(Error::new(
                Category::Timeout,
                format!("no answer in {} s", TEST_LIMIT.as_secs()),
            )),
        }
    }

    /// The loaded model of that name; empty means the operational one.
    ///
    /// # Errors
    /// When there is none, or it is not loaded.
    pub fn slot(&self, name: &str) -> Result<Slot, Error> {
        let state = self.state();
        let wanted = match (name.is_empty(), &state.operational) {
            (false, _) => name,
            (true, Some(operational)) => operational,
            (true, None) if state.starting => {
                return Err(
                    Error::new(Category::Network, "the operational model is being loaded")
                        .with_retry_after(Duration::from_millis(500)),
                );
            }
            (true, None) => {
                return Err(Error::new(
                    Category::Conflict,
                    format!("there is no operational model: {}", state.notes.join("; ")),
                ));
            }
        };
        let by_file = || {
            state
                .loaded
                .values()
                .find(|model| model.entry.file == wanted)
        };
        state
            .loaded
            .get(wanted)
            .or_else(by_file)
            .map(|model| model.slot.clone())
            .ok_or_else(|| {
                Error::new(
                    Category::Conflict,
                    format!("the model {wanted:?} is not loaded"),
                )
                .hint("`aios model list` shows what there is, `aios model load` loads one")
            })
    }

    /// Loads a model. Without a working operational one, it becomes that.
    ///
    /// # Errors
    /// When there is no such model, it is refused, or too many are loaded.
    pub async fn load(&self, name: &str) -> Result<ModelInfo, Error> {
        let _changing = self.changing.lock().await;
        let catalog = self.scan().await;
        let entry = catalog.find(name).ok_or_else(|| {
            Error::new(Category::Validation, format!("there is no model {name:?}")).hint(format!(
                "put it into {}",
                self.settings.folders.machine.display()
            ))
        })?;
        let (known, count, headless) = {
            let state = self.state();
            (
                state.loaded.contains_key(&entry.name),
                state.loaded.len(),
                state.operational.is_none(),
            )
        };
        if !known {
            if count >= MAX_LOADED {
                return Err(Error::new(
                    Category::Conflict,
                    format!("{count} models are loaded, which is as many as may"),
                )
                .hint("unload one first"));
            }
            let result = if headless && entry.operational {
                self.bring_up(entry)
                    .await
                    .map(|_| self.state().notes.clear())
            } else {
                self.load_slot(entry)
                    .await
                    .map(|slot| self.admit(&mut self.state(), entry, slot))
            };
            if let Err(error) = result {
                self.state()
                    .failures
                    .insert(entry.name.clone(), error.to_string());
                return Err(error);
            }
        }
        Ok(self.info(&self.state(), entry))
    }

    /// Unloads a model; its requests end.
    ///
    /// # Errors
    /// When it is not loaded.
    pub async fn unload(&self, name: &str) -> Result<(), Error> {
        let _changing = self.changing.lock().await;
        let slot = self.slot(name)?;
        slot.close();
        let mut state = self.state();
        state.loaded.remove(slot.name());
        if state.operational.as_deref() == Some(slot.name()) {
            state.operational = None;
            state.test = None;
            state.notes = vec![format!(
                "the operational model {} was unloaded",
                slot.name()
            )];
        }
        Ok(())
    }

    /// Every model file and how it is.
    pub async fn list(&self) -> Vec<ModelInfo> {
        let catalog = self.scan().await;
        let state = self.state();
        catalog
            .entries
            .iter()
            .map(|entry| self.info(&state, entry))
            .collect()
    }

    fn info(&self, state: &State, entry: &Entry) -> ModelInfo {
        let mut info = ModelInfo {
            name: entry.name.clone(),
            path: entry.path.display().to_string(),
            sha256: entry.expected.sha256().to_owned(),
            size_bytes: entry.size,
            state: "available".to_owned(),
            reason: String::new(),
            parameters: entry.parameters,
            context_tokens: entry.context_tokens,
            trained: entry.trained,
            operational: state.operational.as_deref() == Some(entry.name.as_str()),
        };
        let failure = state.failures.get(&entry.name).or(entry.problem.as_ref());
        match state
            .loaded
            .get(&entry.name)
            .map(|model| model.slot.condition())
        {
            Some(Condition::Up(loaded)) => {
                info.state = "loaded".to_owned();
                info.parameters = loaded.parameters;
                info.context_tokens = loaded.context_tokens;
            }
            Some(Condition::Down(reason)) => {
                info.state = "failed".to_owned();
                info.reason = reason;
            }
            None => {
                if let Some(reason) = failure {
                    info.state = "failed".to_owned();
                    info.reason.clone_from(reason);
                }
            }
        }
        info
    }

    /// How it goes.
    #[must_use]
    pub fn health(&self) -> RuntimeHealthReply {
        let state = self.state();
        let operational = state
            .operational
            .as_ref()
            .and_then(|name| state.loaded.get(name));
        let (condition, reason) = match operational.map(|model| model.slot.condition()) {
            _ if state.starting => (
                "degraded",
                "the operational model is being loaded".to_owned(),
            ),
            None => ("failed", state.notes.join("; ")),
            Some(Condition::Down(reason)) => ("failed", reason),
            Some(Condition::Up(_)) if !state.notes.is_empty() => {
                ("degraded", state.notes.join("; "))
            }
            Some(Condition::Up(_)) => ("ok", String::new()),
        };
        let (mut queued, mut running) = (0, 0);
        for model in state.loaded.values() {
            let (waits, runs) = model.slot.load_figures();
            queued += waits;
            running += runs;
        }
        let test = state.test.clone();
        RuntimeHealthReply {
            health: Some(HealthReply {
                state: condition.to_owned(),
                reason,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
                resident_bytes: resident_bytes(),
            }),
            operational: operational.map(|model| self.info(&state, &model.entry)),
            test_output: test
                .as_ref()
                .map(|test| test.output.clone())
                .unwrap_or_default(),
            test_passed: test.is_some_and(|test| test.passed),
            queued,
            running,
        }
    }
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}
