//! The initramfs: one static program. It is small enough that compressing it would cost more time
//! at boot than it saves.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use crate::{binaries::Binaries, cpio::Archive};

/// Writes the initramfs to `path`.
///
/// # Errors
/// When the program cannot be read or the file not be written.
pub fn build(binaries: &Binaries, path: &Path) -> Result<()> {
    let program = binaries.path("aios-initramfs");
    let init = fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
    let mut archive = Archive::new(Vec::new());
    for directory in [
        "dev", "proc", "sys", "mnt", "mnt/iso", "mnt/data", "mnt/base", "mnt/aios", "mnt/live",
        "sysroot",
    ] {
        archive.directory(directory)?;
    }
    archive.file("init", 0o755, &init)?;
    fs::write(path, archive.finish()?).with_context(|| format!("cannot write {}", path.display()))
}
