//! GGUF files without C: reading the header of any of them, writing small ones, and the stand-in
//! model that an image carries until a trained one exists.
//!
//! Invariants: what is read is untrusted, so every length is checked before memory is taken for it and
//! garbage is an error, never a panic; what is written is a function of its input alone, byte for byte,
//! so that two builds of an image agree on the hash.

mod format;
pub mod header;
pub mod manifest;
pub mod untrained;
pub mod writer;

pub use format::{GgufError, TensorType, ValueType};
pub use header::Header;
pub use manifest::{Manifest, ManifestEntry};
