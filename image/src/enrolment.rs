//! A client profile for a machine that this program started: its port of first enrolment leads to
//! whoever owns the machine, and that is us.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{command, vm::Vm};

/// Asks the machine for an administrator's certificate and writes a profile with it, and an SSH key,
/// to `profile`.
///
/// # Errors
/// When the machine does not answer within `limit`, or the profile cannot be written.
pub fn enrol(aios: &Path, vm: &Vm, profile: &Path, limit: Duration) -> Result<()> {
    if let Some(parent) = profile.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    let _ = fs::remove_dir_all(profile);
    let key = vm.dir().join("ssh-key");
    command::output(
        Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "operator@aios", "-f"])
            .arg(&key),
    )?;
    let output = Command::new(aios)
        .arg("enroll")
        .arg("--port")
        .arg(vm.enrolment_socket())
        .args(["--name", "operator", "--role", "admin"])
        .args(["--endpoint", &format!("127.0.0.1:{}", vm.management_port)])
        .arg("--out")
        .arg(profile)
        .arg("--ssh-key")
        .arg(key.with_extension("pub"))
        .args(["--timeout", &limit.as_secs().to_string()])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", aios.display()))?;
    if !output.status.success() {
        bail!(
            "the machine did not give a client certificate: {}",
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    for name in ["ssh-key", "ssh-key.pub"] {
        let target = profile.join(name);
        fs::copy(vm.dir().join(name), &target)
            .with_context(|| format!("cannot write {}", target.display()))?;
    }
    wait_reachable(aios, profile, limit)
}

/// READY does not wait for the network, so the machine may get its address some seconds later.
fn wait_reachable(aios: &Path, profile: &Path, limit: Duration) -> Result<()> {
    let begun = Instant::now();
    loop {
        let output = Command::new(aios)
            .arg("whoami")
            .env("AIOS_PROFILE", profile)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot start {}", aios.display()))?;
        if output.status.success() {
            return Ok(());
        }
        if begun.elapsed() > limit {
            bail!(
                "the machine is ready, but its management port does not answer: {}",
                String::from_utf8_lossy(&output.stderr).trim_end()
            );
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// Where profiles are kept: `$XDG_CONFIG_HOME/aios/profiles`, or `~/.config/aios/profiles`.
///
/// # Errors
/// When neither variable is set.
pub fn profiles_dir() -> Result<PathBuf> {
    std::env::var_os("XDG_CONFIG_HOME")
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")))
        .map(|config| config.join("aios/profiles"))
        .context(
            "neither XDG_CONFIG_HOME nor HOME is set, so there is nowhere to keep a client profile",
        )
}

/// Makes `profile` the one that `aios` uses when it is told none, unless the operator has a default
/// of another kind.
///
/// # Errors
/// When the link cannot be written.
pub fn make_default(profile: &Path) -> Result<bool> {
    let link = profiles_dir()?.join("default");
    match fs::symlink_metadata(&link) {
        Ok(metadata) if !metadata.file_type().is_symlink() => return Ok(false),
        Ok(_) => fs::remove_file(&link)?,
        Err(_) => {}
    }
    std::os::unix::fs::symlink(profile, &link)
        .with_context(|| format!("cannot write {}", link.display()))?;
    Ok(true)
}
