//! A whole aiOS without its kernel: the real daemons and agents, each under its own uid, in a
//! directory of their own, restarted when they end as PID 1 would restart them.
//!
//! Invariants: nothing outside of the directory is touched; every process ends with the test, also
//! with a test that is killed; every wait has a limit, and says what it waited for.
//!
//! The programs are those that `cargo build` has put beside the test; they must have been built.

mod binaries;
mod machine;
mod operator;
mod part;
mod probe;

pub use machine::Machine;
pub use operator::Operator;
pub use probe::{Method, as_uid, methods};
