//! Compiles the `.proto` files in pure Rust (protox), so that no `protoc` is needed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 7] = [
    "aios/v1/common.proto",
    "aios/v1/runtime.proto",
    "aios/v1/memory.proto",
    "aios/v1/tools.proto",
    "aios/v1/orchestrator.proto",
    "aios/v1/agent.proto",
    "aios/v1/management.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    fs::write(out.join("aios.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .type_attribute(".", "#[derive(serde::Serialize)]")
        .compile_fds(descriptors)?;
    Ok(())
}
