//! `aios-tools`: the only way in which anything in aiOS touches the machine.
//!
//! Every call goes one way: validate → authorise → record the intent → save what was there → execute
//! → check → record the outcome → reply. A record is on the disk before the next step is taken, so
//! that after a crash at any point the ledger says what may have happened, and a repeated call with
//! the same key never acts twice.
//!
//! Calls that only read have no effect that could be lost, so their intent and outcome are recorded
//! together, in one commit, after they ran and before they are answered.

pub mod access;
mod act;
pub mod agents;
pub mod authorise;
pub mod calls;
pub mod catalogue;
mod ending;
pub mod engine;
pub mod families;
pub mod grants;
mod in_flight;
pub mod ledger;
pub mod outcome;
mod pipeline;
pub mod policy;
mod prepare;
pub mod redact;
mod resolve;
mod rollback;
mod room;
mod server;
mod service;

pub use engine::{Engine, StartError};
pub use server::serve;
