//! What PID 1 decides, apart from what it does.
//!
//! [`Supervisor`] takes [`Event`]s with the time at which they happened and answers with
//! [`Action`]s; it reads no clock, no file and no process table. [`drive`] carries the actions out
//! against a [`Kernel`], which is Linux in PID 1 and a simulation in the tests, so a crash loop of
//! an hour is tested in a millisecond.
//!
//! Times are microseconds since the kernel started ([`Micros`]).

mod account;
mod backoff;
mod definition;
mod graph;
mod hardware;
mod kernel;
mod load;
mod notify;
mod supervisor;
mod unit;
mod values;

pub use account::{Account, AccountError, resolve};
pub use backoff::{Backoff, Jitter};
pub use definition::{from_definition, valid_name};
pub use graph::{Problem, check_graph, stop_order};
pub use hardware::{
    Cpu, Inventory, MINIMUM_RAM_KIB, Minimum, missing, parse_cpuinfo, parse_meminfo_total_kib,
    pci_class_name,
};
pub use kernel::{Kernel, Spawn, drive};
pub use load::{Loaded, UnitSet, load_units};
pub use notify::{MAX_NOTIFICATION_BYTES, Notification};
pub use supervisor::{
    Action, Event, Exit, Level, Operation, Origin, Refusal, Settings, Supervisor,
};
pub use unit::{Directories, Phase, Readiness, Resources, Restart, Security, Unit, parse_unit};
pub use values::{AbsolutePath, Bounded, Bytes, CAPABILITIES, Capability, RelativePath, Span};

/// Microseconds since the kernel started.
pub type Micros = u64;
