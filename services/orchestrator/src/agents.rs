//! The agents: who has registered with what, who is alive, and who gets which task.
//!
//! Invariants: an agent's name is the kernel's word; no task goes to an agent that has not been
//! heard of in time, or that holds no pattern for the capability; a change of state is committed, a
//! heartbeat is not.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use aios_kit::{Category, Error as KitError};
use aios_proto::v1::{AgentInfo, AgentState, HeartbeatRequest, RegisterAgentRequest};
use aios_tool_api::{Capability, CapabilityPattern};
use tokio::sync::{mpsc, oneshot};

use crate::{
    schedule::{self, Room, Waiting},
    state::AgentStatus,
    store::now_ms,
};

/// How often an agent is to be heard of.
pub const HEARTBEAT: Duration = Duration::from_secs(2);
/// After how many missed heartbeats it counts as failed.
const MISSED: u32 = 5;
/// How long after a start agents that were there before may take to be heard of again.
const SETTLE: Duration = Duration::from_secs(10);
/// Tasks of one agent at most, whatever it says.
const MAX_TASKS: u32 = 64;
/// Patterns and families that one agent may bring.
const MAX_ITEMS: usize = 1_000;

#[derive(Debug)]
struct Agent {
    status: AgentStatus,
    patterns: Vec<CapabilityPattern>,
    families: BTreeSet<String>,
    max: usize,
    leased: usize,
    session: String,
    heard: Option<Instant>,
    heard_ms: u64,
    // Not to be used until it is heard of again, because a call to it just failed.
    suspect: bool,
    health: String,
    restarts: u32,
    done: u64,
    failed: u64,
}

#[derive(Debug, Default)]
struct State {
    agents: BTreeMap<String, Agent>,
    waiting: Vec<(Waiting, oneshot::Sender<Lease>)>,
    next: u64,
}

/// All agents of this machine.
#[derive(Debug, Clone)]
pub struct Agents {
    started: Instant,
    state: Arc<Mutex<State>>,
    changed: mpsc::UnboundedSender<AgentState>,
}

/// A task's place with an agent; dropping it frees the place.
#[derive(Debug)]
pub struct Lease {
    /// The agent.
    pub agent: String,
    agents: Agents,
}

impl Agents {
    /// The agents that are expected; their changes of state are sent to `changed`.
    #[must_use]
    pub fn new(expected: &[String], changed: mpsc::UnboundedSender<AgentState>) -> Self {
        let agents = expected
            .iter()
            .map(|name| {
                let agent = Agent {
                    status: AgentStatus::Starting,
                    patterns: Vec::new(),
                    families: BTreeSet::new(),
                    max: 0,
                    leased: 0,
                    session: String::new(),
                    heard: None,
                    heard_ms: 0,
                    suspect: false,
                    health: "never heard of".to_owned(),
                    restarts: 0,
                    done: 0,
                    failed: 0,
                };
                (name.clone(), agent)
            })
            .collect();
        Self {
            started: Instant::now(),
            state: Arc::new(Mutex::new(State {
                agents,
                ..State::default()
            })),
            changed,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over counters that were stored before a restart.
    pub fn restore(&self, stored: &[AgentState]) {
        let mut state = self.lock();
        for old in stored {
            if let Some(agent) = state.agents.get_mut(&old.name) {
                agent.done = agent.done.max(old.tasks_done);
                agent.failed = agent.failed.max(old.tasks_failed);
            }
        }
    }

    /// An agent has come, or come back.
    ///
    /// # Errors
    /// When it is not expected, or what it brings is malformed.
    pub fn register(
        &self,
        name: &str,
        request: &RegisterAgentRequest,
        session: &str,
    ) -> Result<(), KitError> {
        let invalid = |message: String| Err(KitError::new(Category::Validation, message));
        if request.capabilities.len() > MAX_ITEMS || request.tool_families.len() > MAX_ITEMS {
            return invalid(format!(
                "agent {name} brings more than {MAX_ITEMS} capabilities or families"
            ));
        }
        let patterns = request
            .capabilities
            .iter()
            .map(|text| CapabilityPattern::parse(text))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| {
                KitError::new(Category::Validation, format!("agent {name}: {error}"))
            })?;
        {
            let mut state = self.lock();
            let Some(agent) = state.agents.get_mut(name) else {
                return Err(KitError::new(
                    Category::Auth,
                    format!("no agent {name} is expected on this machine"),
                ));
            };
            if !agent.session.is_empty() {
                agent.restarts = agent.restarts.saturating_add(1);
            }
            agent.patterns = patterns;
            agent.families = request.tool_families.iter().cloned().collect();
            agent.max = usize::try_from(request.max_tasks.clamp(1, MAX_TASKS)).unwrap_or(1);
            session.clone_into(&mut agent.session);
            agent.health = "ok".to_owned();
            self.heard(name, agent, "registered");
        }
        self.pump();
        Ok(())
    }

    fn heard(&self, name: &str, agent: &mut Agent, why: &str) {
        agent.heard = Some(Instant::now());
        agent.heard_ms = now_ms();
        agent.suspect = false;
        if agent.status != AgentStatus::Running
            && let Ok(status) = agent.status.to(AgentStatus::Running)
        {
            self.moved(name, agent, status, why);
        }
    }

    fn moved(&self, name: &str, agent: &mut Agent, status: AgentStatus, why: &str) {
        agent.status = status;
        tracing::info!(
            agent = name,
            state = status.name(),
            why,
            "an agent has changed its state"
        );
        let record = AgentState {
            name: name.to_owned(),
            state: status.name().to_owned(),
            detail: why.to_owned(),
            updated_ms: now_ms(),
            tasks_done: agent.done,
            tasks_failed: agent.failed,
        };
        // The receiver lives as long as the daemon.
        drop(self.changed.send(record));
    }

    /// An agent says that it is alive.
    ///
    /// # Errors
    /// When it has not registered with this orchestrator; it has to register again.
    pub fn heartbeat(&self, name: &str, request: &HeartbeatRequest) -> Result<(), KitError> {
        {
            let mut state = self.lock();
            let agent = state
                .agents
                .get_mut(name)
                .filter(|agent| !agent.session.is_empty() && agent.session == request.session);
            let Some(agent) = agent else {
                return Err(KitError::new(
                    Category::Conflict,
                    format!("agent {name} has no session of that name"),
                )
                .hint("register again"));
            };
            agent.health = if request.detail.is_empty() {
                request.health.clone()
            } else {
                format!("{}: {}", request.health, request.detail)
            };
            self.heard(name, agent, "heard of again");
        }
        self.pump();
        Ok(())
    }

    /// Marks those that have not been heard of for too long. Called once per heartbeat.
    pub fn look(&self) {
        let mut state = self.lock();
        for (name, agent) in &mut state.agents {
            let late = agent
                .heard
                .is_some_and(|heard| heard.elapsed() > HEARTBEAT * MISSED);
            if late && agent.status == AgentStatus::Running {
                self.moved(
                    name,
                    agent,
                    AgentStatus::Failed,
                    "not heard of for three heartbeats",
                );
            }
        }
    }

    /// A call to this agent failed below the level of tasks: it gets nothing more until it is heard of.
    pub fn suspect(&self, name: &str) {
        if let Some(agent) = self.lock().agents.get_mut(name) {
            agent.suspect = true;
        }
    }

    /// A task of this agent has ended.
    pub fn ended(&self, name: &str, well: bool) {
        if let Some(agent) = self.lock().agents.get_mut(name) {
            let counter = if well {
                &mut agent.done
            } else {
                &mut agent.failed
            };
            *counter = counter.saturating_add(1);
        }
    }

    /// Whether every agent that is expected has been heard of since this daemon started, or has had
    /// the time for it. Until then, what the others hold does not say who may do a thing.
    #[must_use]
    pub fn are_settled(&self) -> bool {
        self.started.elapsed() > SETTLE
            || self
                .lock()
                .agents
                .values()
                .all(|agent| agent.heard.is_some())
    }

    /// The agents that hold a pattern for this capability, the best for it first: those that name the
    /// tool's family, those that are running, those with the least to do.
    #[must_use]
    pub fn candidates(&self, capability: &str) -> Vec<String> {
        let state = self.lock();
        let mut found: Vec<_> = state
            .agents
            .iter()
            .filter(|(_, agent)| agent.covers(capability))
            .map(|(name, agent)| {
                let family = capability.split(':').next().unwrap_or_default();
                (
                    !agent.usable(),
                    !agent.families.contains(family),
                    agent.leased,
                    name.clone(),
                )
            })
            .collect();
        found.sort();
        found.into_iter().map(|(.., name)| name).collect()
    }

    /// Waits for a place with an agent that holds all that is needed, on the very resources: an agent
    /// that holds the same right elsewhere would only be denied. Dropping the wait gives up the turn.
    pub async fn lease(
        &self,
        priority: u32,
        since_ms: u64,
        needed: &[String],
        prefer: &str,
    ) -> Lease {
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = self.lock();
            state.next += 1;
            let waiting = Waiting {
                id: state.next,
                priority,
                since_ms,
                needed: needed.to_vec(),
                prefer: prefer.to_owned(),
            };
            state.waiting.push((waiting, sender));
        }
        self.pump();
        match receiver.await {
            Ok(lease) => lease,
            // The sender is dropped only together with the whole registry.
            Err(_) => std::future::pending().await,
        }
    }

    /// Hands out what is free.
    fn pump(&self) {
        let mut given = Vec::new();
        {
            let mut state = self.lock();
            let state = &mut *state;
            state.waiting.retain(|(_, sender)| !sender.is_closed());
            let rooms: Vec<Room> = state
                .agents
                .iter()
                .filter(|(_, agent)| agent.usable())
                .map(|(name, agent)| Room {
                    name: name.clone(),
                    running: agent.leased,
                    max: agent.max,
                })
                .collect();
            let waiting: Vec<Waiting> = state
                .waiting
                .iter()
                .map(|(waiting, _)| waiting.clone())
                .collect();
            let agents = &state.agents;
            // Among those that hold the capability, those that name the tool's family are asked alone.
            let fits = |waiting: &Waiting, name: &str| {
                let family = waiting
                    .needed
                    .first()
                    .and_then(|needed| needed.split(':').next())
                    .unwrap_or_default();
                let holds =
                    |agent: &Agent| waiting.needed.iter().all(|needed| agent.covers(needed));
                let specialist = |agent: &Agent| {
                    agent.usable() && holds(agent) && agent.families.contains(family)
                };
                agents.get(name).is_some_and(|agent| {
                    holds(agent) && (specialist(agent) || !agents.values().any(specialist))
                })
            };
            for (id, name) in schedule::assign(&waiting, &rooms, fits) {
                let Some(position) = state
                    .waiting
                    .iter()
                    .position(|(waiting, _)| waiting.id == id)
                else {
                    continue;
                };
                let (_, sender) = state.waiting.swap_remove(position);
                if let Some(agent) = state.agents.get_mut(&name) {
                    agent.leased += 1;
                    given.push((
                        sender,
                        Lease {
                            agent: name,
                            agents: self.clone(),
                        },
                    ));
                }
            }
        }
        // Outside of the lock: a lease that nobody takes comes back through its drop.
        for (sender, lease) in given {
            drop(sender.send(lease));
        }
    }

    /// All of them, for the operator.
    #[must_use]
    pub fn infos(&self) -> Vec<AgentInfo> {
        self.lock()
            .agents
            .iter()
            .map(|(name, agent)| AgentInfo {
                name: name.clone(),
                state: agent.status.name().to_owned(),
                capabilities: agent.patterns.iter().map(ToString::to_string).collect(),
                tools: agent.families.iter().cloned().collect(),
                running_tasks: u32::try_from(agent.leased).unwrap_or(u32::MAX),
                max_tasks: u32::try_from(agent.max).unwrap_or(u32::MAX),
                tasks_done: agent.done,
                tasks_failed: agent.failed,
                last_heartbeat_ms: agent.heard_ms,
                restarts: agent.restarts,
                health: agent.health.clone(),
            })
            .collect()
    }

    /// How many are running, and how many are expected.
    #[must_use]
    pub fn counts(&self) -> (u32, u32) {
        let state = self.lock();
        let running = state
            .agents
            .values()
            .filter(|agent| agent.status == AgentStatus::Running)
            .count();
        (
            u32::try_from(running).unwrap_or(u32::MAX),
            u32::try_from(state.agents.len()).unwrap_or(u32::MAX),
        )
    }
}

impl Agent {
    fn usable(&self) -> bool {
        self.status == AgentStatus::Running && !self.suspect
    }

    /// Whether it holds this capability; one without a resource is held by whoever holds it on any.
    fn covers(&self, capability: &str) -> bool {
        let mut parts = capability.splitn(3, ':');
        let (Some(namespace), Some(action)) = (parts.next(), parts.next()) else {
            return false;
        };
        let asked = parts.next();
        self.patterns.iter().any(|pattern| {
            let text = pattern.to_string();
            // Without a resource of its own, the pattern's own is what is asked for.
            let resource = asked
                .or_else(|| text.splitn(3, ':').nth(2))
                .map(str::to_owned);
            pattern.gives(
                &Capability {
                    namespace: namespace.to_owned(),
                    action: action.to_owned(),
                    resource,
                },
                false,
            )
        })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(agent) = self.agents.lock().agents.get_mut(&self.agent) {
            agent.leased = agent.leased.saturating_sub(1);
        }
        self.agents.pump();
    }
}

#[cfg(test)]
#[path = "agents_tests.rs"]
mod tests;
