//! The `fs` family: files and directories.
//!
//! Invariants: every path goes through [`root`](mod@root)'s rule (links resolved once, then never
//! followed); a file is replaced whole or not at all; what a call changes can be put back exactly,
//! and is put back only if nobody has changed it since; results are read back from the disk.

mod content;
#[cfg(test)]
mod contract_tests;
mod delete;
#[cfg(test)]
mod delete_tests;
mod disk_usage;
mod draft;
mod facts;
mod glob;
mod list;
mod mkdir;
#[cfg(test)]
mod mkdir_tests;
mod read;
mod rebuild;
mod root;
mod search;
#[cfg(test)]
mod search_tests;
mod stat;
#[cfg(test)]
mod testing;
mod tree;
mod walk;
mod write;
#[cfg(test)]
mod write_tests;

pub use facts::{Entry, Kind};

/// Adds the tools of this family.
pub fn register(registry: &mut aios_tool_api::Registry) {
    delete::register(registry);
    disk_usage::register(registry);
    list::register(registry);
    mkdir::register(registry);
    read::register(registry);
    search::register(registry);
    stat::register(registry);
    write::register(registry);
}
