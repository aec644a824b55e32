//! What every daemon shares: where things are, who is calling, sockets, errors, retries, readiness
//! and logs.
//!
//! Invariants: a caller's identity is the kernel's word about the other end of the socket, never a
//! field of a message; errors carry a category and whether a retry may help; nothing here waits
//! without a limit.

pub mod access;
pub mod client;
pub mod config;
pub mod error;
pub mod identity;
mod inherited;
pub mod paths;
pub mod process;
pub mod retry;
pub mod server;
pub mod telemetry;

pub use error::{Category, Error};
pub use identity::{Identities, Principal};
pub use paths::{DaemonArgs, Paths};
