//! Procedures: typed plans with parameters, read from `/etc/aios/procedures/*.toml`, and the words
//! by which a goal asks for one.
//!
//! Invariants: a procedure only runs after the live catalogue accepted it; a broken one is left out
//! and named, and the others work; when two fit a goal equally well, none is taken.

pub mod clauses;
pub mod file;
pub mod library;
pub mod pattern;
pub mod value;
pub mod words;

pub use library::{Library, Match};
