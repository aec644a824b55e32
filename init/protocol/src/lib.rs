//! The control protocol of PID 1: one JSON object per line over `/run/aios/init.sock`, a request
//! answered by exactly one reply. Small, bounded and synchronous, so that PID 1 stays small.
//!
//! A request has at most [`MAX_REQUEST_BYTES`], a reply at most [`MAX_REPLY_BYTES`]. PID 1 reads the
//! caller's uid from the socket; what a caller may ask is decided there.

mod client;
mod message;

pub use client::{Client, ClientError};
pub use message::{
    BootReport, PhaseReport, PowerAction, Reply, Request, ServiceDefinition, UnitReport, UnitState,
    UnitTimes,
};

/// Where PID 1 listens.
pub const SOCKET: &str = "/run/aios/init.sock";
/// Longest request line, in bytes.
pub const MAX_REQUEST_BYTES: usize = 64 << 10;
/// Longest reply line, in bytes.
pub const MAX_REPLY_BYTES: usize = 4 << 20;
