//! From a checkout to an ISO.

use std::{path::PathBuf, time::Instant};

use anyhow::{Context as _, Result};

use crate::{
    binaries::{self, Binaries},
    command, host_packages, initramfs, iso, kernel, root, workspace,
};

/// What a build leaves.
#[derive(Debug, Clone)]
pub struct Product {
    /// The hybrid ISO.
    pub iso: PathBuf,
    /// The kernel that is on it.
    pub kernel: PathBuf,
    /// Our programs; `aios` runs on this machine too.
    pub binaries: Binaries,
    /// dpkg's list of what the root has, for making package sources that fit.
    pub dpkg_status: PathBuf,
}

/// Builds everything that is not in the cache.
///
/// # Errors
/// When a step fails; the error says which and where its log is.
pub fn build() -> Result<Product> {
    let started = Instant::now();
    host_packages::ensure(&[host_packages::BUILD, host_packages::RUN])?;
    let build = workspace::build_dir()?;
    std::fs::create_dir_all(&build).with_context(|| format!("cannot make {}", build.display()))?;
    // The Debian layer waits for the network and the kernel for the processor: side by side.
    let (kernel, binaries, base) = std::thread::scope(|scope| {
        let base = scope.spawn(root::base);
        let kernel = kernel::build()?;
        let binaries = binaries::build()?;
        let base = match base.join() {
            Ok(base) => base?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        anyhow::Ok((kernel, binaries, base))
    })?;
    let root = root::build(&base, &binaries)?;
    let initramfs = build.join("initramfs");
    initramfs::build(&binaries, &initramfs)?;
    let iso = build.join("aios.iso");
    iso::build(&kernel, &initramfs, &root, &iso)?;
    let size = std::fs::metadata(&iso)?.len() / (1 << 20);
    command::say(format!(
        "{} ({size} MiB) is ready after {}",
        iso.display(),
        command::human(started.elapsed())
    ));
    Ok(Product {
        iso,
        kernel,
        binaries,
        dpkg_status: root.dpkg_status,
    })
}
