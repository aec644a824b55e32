//! The orchestrator: goals become plans, plans become tasks, tasks are given to agents, and the
//! person who asked gets a result with everything that led to it.
//!
//! Invariants: a state is committed to memory before it is acted on; nothing here touches the host
//! (agents and tools do, and only under a grant that was opened for one exact action); what a
//! planner writes is data until the live catalogue, the registry's own check and the policy have
//! passed it; whatever kills this process, the next one goes on from the committed state.

pub mod access;
pub mod agents;
pub mod approval;
pub mod catalogue;
pub mod chain;
pub mod clients;
pub mod context;
pub mod engine;
pub mod error;
pub mod expect;
pub mod plan;
pub mod planner;
pub mod policy;
pub mod procedure;
pub mod runner;
pub mod schedule;
pub mod serve;
pub mod service;
pub mod slots;
pub mod state;
pub mod store;
pub mod template;
pub mod watch;

pub use serve::serve;
