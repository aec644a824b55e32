//! Our own programs, built by cargo in release form: what PID 1's side needs is linked statically,
//! since it runs before and beneath the root file system.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use crate::{command, workspace};

/// Programs linked against the image's C library: package and binary.
const DYNAMIC: &[(&str, &str)] = &[
    ("aios-runtime", "aios-runtime"),
    ("aios-memory", "aios-memory"),
    ("aios-tools", "aios-tools"),
    ("aios-orchestrator", "aios-orchestrator"),
    ("aios-console", "aios-console"),
    ("aios-agent", "aios-agent"),
    ("aios-cli", "aios"),
];

/// Programs linked statically.
const STATIC: &[(&str, &str)] = &[
    ("aios-init", "aios-init"),
    ("aios-initramfs", "aios-initramfs"),
];

/// The target of the static programs; naming it keeps their flags away from build scripts.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Binaries {
    dynamic: PathBuf,
    fixed: PathBuf,
}

impl Binaries {
    /// The path of a program.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        if STATIC.iter().any(|(_, binary)| *binary == name) {
            self.fixed.join(name)
        } else {
            self.dynamic.join(name)
        }
    }

    /// The operator's command, to be run on this machine.
    #[must_use]
    pub fn aios(&self) -> PathBuf {
        self.path("aios")
    }
}

/// Cargo's output directory: shared by all checkouts, so that llama.cpp and the other dependencies
/// are compiled once; cargo itself knows them by the hash of their inputs.
///
/// # Errors
/// When there is no cache directory.
pub fn target_dir() -> Result<PathBuf> {
    match env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => Ok(PathBuf::from(dir)),
        None => Ok(workspace::cache()?.join("cargo")),
    }
}

/// A cargo command in the checkout.
///
/// # Errors
/// When the checkout or the cache is gone.
pub fn cargo() -> Result<Command> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(workspace::root()?)
        .env("CARGO_TARGET_DIR", target_dir()?)
        // Set by the cargo that runs this program; meant for it alone.
        .env_remove("CARGO_MANIFEST_DIR")
        .env_remove("RUSTFLAGS");
    Ok(command)
}

/// Builds all programs.
///
/// # Errors
/// When cargo fails.
pub fn build() -> Result<Binaries> {
    let started = Instant::now();
    command::say("Building the daemons (the first time about 10 minutes on 2 fast cores) …");
    let log = workspace::cache()?.join("log");
    let mut dynamic = cargo()?;
    dynamic.args(["build", "--release", "--locked"]);
    for (package, binary) in DYNAMIC {
        dynamic.args(["--package", package, "--bin", binary]);
    }
    command::run(
        "building the daemons",
        &mut dynamic,
        &log.join("daemons.log"),
    )?;

    let mut fixed = cargo()?;
    fixed
        .args(["build", "--release", "--locked", "--target", TARGET])
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    for (package, binary) in STATIC {
        fixed.args(["--package", package, "--bin", binary]);
    }
    command::run("building PID 1", &mut fixed, &log.join("init.log"))?;

    let target = target_dir()?;
    let binaries = Binaries {
        dynamic: target.join("release"),
        fixed: target.join(TARGET).join("release"),
    };
    for (_, binary) in DYNAMIC.iter().chain(STATIC) {
        let path = binaries.path(binary);
        if !path.exists() {
            bail!("cargo did not leave {}", path.display());
        }
    }
    command::say_done("daemons", started);
    Ok(binaries)
}

/// Names of the daemons as they are installed in `/usr/libexec/aios`.
pub fn daemons() -> impl Iterator<Item = &'static str> {
    DYNAMIC
        .iter()
        .map(|(_, binary)| *binary)
        .filter(|binary| *binary != "aios")
}

/// A content hash over programs, for the key of what contains them.
///
/// # Errors
/// When one cannot be read.
pub fn hash(path: &Path) -> Result<String> {
    crate::cache::sha256_file(path).context("hashing a program")
}
