//! The messages and services that aiOS processes speak, generated from `proto/aios/v1/*.proto`.
//!
//! Every message also serialises with serde, so that `--json` output is the message itself.
//! [`FILE_DESCRIPTOR_SET`] lets a test enumerate every method of every service.

/// Version 1 of the protocol.
#[allow(
    missing_docs,
    clippy::all,
    reason = "generated; documented in the .proto files"
)]
pub mod v1 {
    tonic::include_proto!("aios.v1");
}

/// The encoded `google.protobuf.FileDescriptorSet` of the protocol.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/aios.bin"));
