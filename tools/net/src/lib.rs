//! The `net.*` tools: addresses, ports and HTTP requests.
//!
//! Invariants: every wait is bounded by the call's deadline; a closed port and an HTTP error status
//! are results, not errors; HTTP requests never reach the machine's own management port or
//! link-local addresses, whatever name or redirect leads there, because the requests come from the
//! machine and would borrow its place in the network.

mod guard;
mod host;
mod http;
mod interfaces;
mod port;

#[cfg(test)]
mod tests;

pub use http::{HttpArgs, HttpReply, HttpRequest};
pub use interfaces::{Interface, Interfaces, Listed, NoArgs};
pub use port::{CheckPort, PortArgs, PortState};

use aios_tool_api::Registry;

/// Adds every tool of the family.
pub fn register(registry: &mut Registry) {
    registry.add(Interfaces);
    registry.add(CheckPort);
    registry.add(HttpRequest);
}
