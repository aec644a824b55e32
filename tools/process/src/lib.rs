//! The `process` family: what runs on the machine. Everything comes from `/proc`, read by number.
//!
//! Invariants: a process that ends while it is looked at is left out or reported as gone, never
//! half described; environments are never read, since they hold secrets.

mod info;
mod list;
mod snapshot;

pub use snapshot::Process;

/// Adds the tools of this family.
pub fn register(registry: &mut aios_tool_api::Registry) {
    info::register(registry);
    list::register(registry);
}
