//! The part that computes; it lives in worker processes only.
//!
//! `llama` is the safe border to llama.cpp, `generate` and `embed` are what is done with it, and
//! `sampler`, `text` and `stop` are pure.

pub mod embed;
pub mod generate;
pub mod llama;
pub mod sampler;
pub mod stop;
pub mod text;
