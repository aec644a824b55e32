//! The hybrid ISO: boots from CD and from a USB stick (`dd`), under BIOS and under UEFI.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result};

use crate::{cache, command, root::Root, workspace};

/// The volume label by which `aios-initramfs` knows its medium.
pub const LABEL: &str = "AIOS";

/// Kernel arguments of every entry. The serial console comes last, so that it is `/dev/console`.
const ARGUMENTS: &str = "console=tty0 console=ttyS0,115200 quiet panic=10";

/// Makes the ISO from a kernel, an initramfs and the layers of the root.
///
/// # Errors
/// When a file cannot be copied or GRUB's program fails.
pub fn build(kernel: &Path, initramfs: &Path, root: &Root, iso: &Path) -> Result<()> {
    let started = Instant::now();
    let tree = workspace::build_dir()?.join("iso");
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    let files: [(&Path, PathBuf); 4] = [
        (kernel, tree.join("boot/vmlinuz")),
        (initramfs, tree.join("boot/initramfs")),
        (&root.base, tree.join("aios/base.erofs")),
        (&root.aios, tree.join("aios/aios.erofs")),
    ];
    let mut sums = String::new();
    for (from, to) in &files {
        let parent = to.parent().context("a file without a directory")?;
        fs::create_dir_all(parent)?;
        fs::copy(from, to)
            .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
        let name = to.strip_prefix(&tree)?.display().to_string();
        let size = fs::metadata(to)?.len();
        sums.push_str(&format!("{} {size} {name}\n", cache::sha256_file(to)?));
    }
    fs::write(tree.join("aios/SHA256SUMS"), sums)?;
    let grub = tree.join("boot/grub");
    fs::create_dir_all(&grub)?;
    fs::write(grub.join("grub.cfg"), grub_config())?;

    let unfinished = iso.with_extension("unfinished");
    command::run(
        "making the ISO",
        Command::new("grub-mkrescue")
            .args(["--compress=no", "--fonts=", "--locales=", "--themes="])
            .arg("--install-modules=linux normal iso9660 search serial terminal part_gpt part_msdos fat all_video configfile echo test")
            .arg("-o")
            .arg(&unfinished)
            .arg(&tree)
            .args(["--", "-volid", LABEL]),
        &workspace::cache()?.join("log/iso.log"),
    )?;
    fs::rename(&unfinished, iso)?;
    fs::remove_dir_all(&tree)?;
    command::say_done("ISO", started);
    Ok(())
}

/// One second is enough to press a key, and little to wait for when nobody is there.
fn grub_config() -> String {
    let entry = |title: &str, extra: &str| {
        format!(
            "menuentry \"{title}\" {{\n  linux /boot/vmlinuz {ARGUMENTS}{extra}\n  initrd /boot/initramfs\n}}\n"
        )
    };
    format!(
        "serial --unit=0 --speed=115200\n\
         terminal_input serial console\n\
         terminal_output serial console\n\
         set default=0\n\
         set timeout=1\n\
         set timeout_style=hidden\n\
         {}{}{}",
        entry("aiOS", ""),
        entry("aiOS, after checking the medium", " aios.check-medium"),
        entry("aiOS, rescue console", " aios.rescue"),
    )
}
