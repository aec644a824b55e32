//! Remote management: mutual TLS on port 9090, a local socket, roles, and nothing of its own will.
//!
//! The console terminates a caller's connection, establishes who it is (a certificate of this
//! machine's own authority, or the kernel's word on a local socket), looks the method up in one
//! table, has the call recorded, and passes it on to the daemon that owns it *as that caller*.
//!
//! Invariants: what a caller says about itself in metadata is dropped before anything reads it; a
//! method that is not in the table is denied; a call that changes something is in the ledger before
//! it is passed on; a certificate counts only while this machine's own table confirms it.

pub mod authority;
pub mod certificates;
mod durable;
mod frames;
mod gate;
mod host;
mod journal;
mod limits;
mod management;
mod peer;
mod proxy;
pub mod roles;
mod server;
pub mod ssh_keys;
mod tls;

pub use server::{Options, run};

/// The name that every client verifies the server's certificate against.
pub const SERVER_NAME: &str = "node.aios.internal";

/// Milliseconds since the Unix epoch.
fn now_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

/// Lower-case hexadecimal.
fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
