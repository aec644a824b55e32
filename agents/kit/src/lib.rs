//! What an agent is: a process with an identity of its own that carries out one tool call per task,
//! and nothing else.
//!
//! Invariants: only the orchestrator may tell an agent anything; an agent touches the machine only
//! by asking the tools daemon, under the task's idempotency key; it reads its configuration once
//! and opens no other file ([`confine`]); the same task is never carried out twice at once.

pub mod access;
pub mod agent;
pub mod config;
pub mod confine;
pub mod error;
pub mod lifecycle;
pub mod service;
pub mod session;
pub mod tasks;

pub use agent::{Agent, run};
pub use config::AgentConfig;
pub use error::AgentError;
