//! `aios-runtime`: local inference for the daemons of this machine.
//!
//! Two kinds of process are built from this crate. The *front* speaks gRPC, decides who may ask what,
//! keeps the queue and checks the hash of every model. A *worker* holds llama.cpp and exactly one
//! model; it gets its model as an open file and its requests over one socket, and it may die at any
//! instant – llama.cpp ends the process when it finds itself in a wrong state – without more harm
//! than a short pause.
//!
//! Invariants: no model is loaded unless its hash is the one that its manifest or its first use
//! recorded; no text of a model is interpreted here; every request ends by its deadline; the same
//! request with the same seed gives the same text.

pub mod engine;
pub mod front;
pub mod protocol;
pub mod worker;
