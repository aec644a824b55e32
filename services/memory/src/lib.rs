//! The machine's memory: operational (a bounded ring of events in RAM) and working (SQLite), behind
//! the `Memory` service of the protocol.
//!
//! Invariants: a commit is acknowledged only when it is durable and is stored whole or not at all;
//! the orchestrator alone writes records; a damaged database is reported, never replaced.

pub mod access;
pub mod apply;
pub mod error;
pub mod pattern;
pub mod query;
pub mod ring;
pub mod schema;
pub mod serve;
pub mod service;
pub mod store;
pub mod watch;
pub mod writer;

pub use error::StoreError;
pub use serve::serve;
