//! The front process: everything but computing.
//!
//! `access` says who may call what, `request` what may be asked, `queue` in which order it is done;
//! `catalog` and `trust` say which model files there are and whether they are what they should be;
//! `process`, `slot`, `driver` and `threads` keep a worker alive per
//! loaded model; `daemon` holds it all together and
//! `service` puts it on the wire.

pub mod access;
pub mod answer;
pub mod catalog;
pub mod daemon;
mod driver;
pub mod process;
pub mod queue;
pub mod request;
pub mod service;
pub mod slot;
pub mod threads;
pub mod trust;
