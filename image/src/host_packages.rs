//! The Debian packages that a build needs on this machine, installed when they are missing.

use std::{env, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{command, workspace};

/// A file that shows that a package is there, and the package.
type Need = (&'static str, &'static str);

/// What building the image needs.
pub const BUILD: &[Need] = &[
    ("/usr/bin/gcc", "gcc"),
    ("/usr/bin/g++", "g++"),
    ("/usr/bin/make", "make"),
    ("/usr/bin/cmake", "cmake"),
    ("/usr/include/clang-c/Index.h", "libclang-dev"),
    ("/usr/bin/flex", "flex"),
    ("/usr/bin/bison", "bison"),
    ("/usr/bin/bc", "bc"),
    ("/usr/include/libelf.h", "libelf-dev"),
    ("/usr/include/openssl/ssl.h", "libssl-dev"),
    ("/usr/bin/xz", "xz-utils"),
    ("/usr/bin/lz4", "lz4"),
    ("/usr/bin/perl", "perl"),
    ("/usr/bin/mmdebstrap", "mmdebstrap"),
    ("/usr/bin/fakeroot", "fakeroot"),
    ("/usr/bin/mkfs.erofs", "erofs-utils"),
    ("/usr/bin/grub-mkrescue", "grub-common"),
    ("/usr/lib/grub/i386-pc/linux.mod", "grub-pc-bin"),
    ("/usr/lib/grub/x86_64-efi/linux.mod", "grub-efi-amd64-bin"),
    ("/usr/bin/xorriso", "xorriso"),
    ("/usr/bin/mcopy", "mtools"),
    ("/usr/src/linux-source-6.12.tar.xz", "linux-source-6.12"),
];

/// What running the image needs.
pub const RUN: &[Need] = &[
    ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf"),
    ("/sbin/mke2fs", "e2fsprogs"),
    ("/usr/bin/ssh-keygen", "openssh-client"),
];

/// What the tests need on top: a real package archive is made of real packages.
pub const TEST: &[Need] = &[("/usr/bin/apt-ftparchive", "apt-utils")];

/// Some files moved to `/usr` on merged systems; both places count.
fn present(path: &str) -> bool {
    Path::new(path).exists()
        || Path::new(&format!("/usr{path}")).exists()
        // libclang's headers lie below the version's own folder.
        || (path.contains("clang-c") && clang_headers())
}

fn clang_headers() -> bool {
    std::fs::read_dir("/usr/lib").is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            entry.file_name().to_string_lossy().starts_with("llvm-")
                && entry.path().join("include/clang-c/Index.h").exists()
        })
    })
}

/// Installs what is missing of `needs`, with `sudo` unless this is root.
///
/// # Errors
/// When apt is not there or fails.
pub fn ensure(needs: &[&[Need]]) -> Result<()> {
    let missing: Vec<&str> = needs
        .iter()
        .flat_map(|needs| needs.iter())
        .filter(|(file, _)| !present(file))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!(
            "these programs are missing and this is not Debian, so install what gives them: {}",
            missing.join(", ")
        );
    }
    command::say(format!("Installing what is missing: {}", missing.join(" ")));
    let log = workspace::cache()?.join("log/apt.log");
    command::run("apt-get update", apt().arg("update"), &log)?;
    command::run(
        "apt-get install",
        apt()
            .args(["install", "--yes", "--no-install-recommends"])
            .args(&missing),
        &log,
    )
    .context("apt could not install what the build needs")
}

fn apt() -> Command {
    let root = rustix::process::geteuid().is_root();
    let mut command = if root {
        Command::new("apt-get")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg("apt-get");
        sudo
    };
    command.env("DEBIAN_FRONTEND", "noninteractive");
    if env::var_os("PATH").is_none() {
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    }
    command
}
