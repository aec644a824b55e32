//! The `hw` family: what is built into the machine, read from `/sys` and `/proc`.
//!
//! Invariants: nothing is probed or woken up, only what the kernel already knows is read; a file that
//! is missing or makes no sense leaves a field out and never fails the call; readings are below a
//! root, so that tests describe machines that are not there.

mod cpu;
mod disks;
mod info;
mod network;
mod pci;
mod platform;
mod source;

pub use cpu::Cpu;
pub use disks::Disk;
pub use network::Nic;
pub use pci::Gpu;
pub use platform::{Firmware, Machine};

/// Adds the tools of this family.
pub fn register(registry: &mut aios_tool_api::Registry) {
    info::register(registry);
}
