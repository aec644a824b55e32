//! Builds aiOS (kernel, root, ISO) and runs it in QEMU. The `image` binary is the one entry point
//! for people; the tests of virtual machines use the same code.
//!
//! Invariants: this crate needs nothing but Rust to compile; what is slow is cached by the hash of
//! everything that went into it; a product appears in the cache complete or not at all; standard
//! output carries results only, progress goes to standard error.

pub mod bench;
pub mod binaries;
pub mod build;
pub mod cache;
pub mod command;
pub mod cpio;
pub mod enrolment;
pub mod host_packages;
pub mod initramfs;
pub mod iso;
pub mod kernel;
pub mod package_source;
pub mod root;
pub mod run;
pub mod test;
pub mod vm;
pub mod workspace;
