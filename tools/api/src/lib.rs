//! What a tool is: typed arguments and results with JSON Schemas derived from the types, a risk, the
//! capability that a call needs, a pre-image that lets it be undone, and a check of its outcome.
//!
//! Invariants: a tool never decides whether it may run (the registry does, from
//! [`Tool::capabilities`]); it reads back what it reports from the machine and never echoes the
//! request; it takes argv, never a shell string; arguments with unknown fields are refused.
//! Tools are blocking code; the registry runs each call on a thread of its own with a deadline.

pub mod accounts;
pub mod blob;
pub mod canonical;
pub mod capability;
pub mod context;
pub mod error;
pub mod registry;
pub mod sensitive;
pub mod tool;
pub mod units;

pub use accounts::Accounts;
pub use blob::{BlobId, BlobStore};
pub use capability::{Capability, CapabilityPattern};
pub use context::Context;
pub use error::{ToolError, ToolErrorKind};
pub use registry::{DynTool, Registry};
pub use sensitive::PathSet;
pub use tool::{PreImage, Risk, Spec, Tool, Undone};
pub use units::{FileMode, Size, Span};
