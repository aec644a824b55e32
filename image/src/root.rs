//! The root file system: a `base` layer of Debian packages, slow and cached, and an `aios` layer of
//! our own files, made anew at every build. Both are read-only EROFS images; `aios-initramfs` lays
//! the writable overlay on top of them.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::{
    binaries::{self, Binaries},
    cache::{self, Key},
    command, workspace,
};

/// Where packages come from; the host's apt decides how to reach it.
const MIRROR: [&str; 3] = [
    "deb http://deb.debian.org/debian bookworm main",
    "deb http://deb.debian.org/debian bookworm-updates main",
    "deb http://deb.debian.org/debian-security bookworm-security main",
];

/// Left out of packages: what nobody reads on a server. Licences stay.
const EXCLUDED: [&str; 5] = [
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
];

/// The two layers.
#[derive(Debug, Clone)]
pub struct Root {
    /// Debian's files.
    pub base: PathBuf,
    /// Our files.
    pub aios: PathBuf,
    /// dpkg's list of what the base layer has.
    pub dpkg_status: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Identities {
    daemons: BTreeMap<String, u32>,
    agents: BTreeMap<String, u32>,
    operators: BTreeMap<String, u32>,
}

/// The lines that the image's account files get, derived from `etc/identities.toml`, so that a uid
/// means the same to PID 1, to the sockets and to the file system.
#[derive(Debug, Default, PartialEq, Eq)]
struct Accounts {
    passwd: String,
    group: String,
    shadow: String,
}

fn accounts(identities: &Identities) -> Accounts {
    let mut accounts = Accounts {
        group: "aios:x:900:\n".to_owned(),
        ..Accounts::default()
    };
    let mut add = |name: &str, uid: u32, home: &str, shell: &str| {
        accounts
            .passwd
            .push_str(&format!("{name}:x:{uid}:{uid}::{home}:{shell}\n"));
        accounts.group.push_str(&format!("{name}:x:{uid}:\n"));
        // `*`: no password ever matches, but the account is not locked (keys work over SSH).
        accounts
            .shadow
            .push_str(&format!("{name}:*:20000:0:99999:7:::\n"));
    };
    for (name, uid) in &identities.daemons {
        add(
            &format!("aios-{name}"),
            *uid,
            "/nonexistent",
            "/usr/sbin/nologin",
        );
    }
    for (name, uid) in &identities.agents {
        add(
            &format!("aios-agent-{name}"),
            *uid,
            "/nonexistent",
            "/usr/sbin/nologin",
        );
    }
    for (name, uid) in &identities.operators {
        add(
            name,
            *uid,
            &format!("/home/{name}"),
            "/usr/libexec/aios/login-shell",
        );
    }
    accounts
}

/// Puts our layer on top of a base layer made by [`base`].
///
/// # Errors
/// When a file is missing or an image cannot be made.
pub fn build(base: &Path, binaries: &Binaries) -> Result<Root> {
    Ok(Root {
        base: base.join("base.erofs"),
        dpkg_status: base.join("dpkg-status"),
        aios: aios_layer(binaries)?,
    })
}

/// Builds the layer of Debian packages, or finds it in the cache; returns its folder.
///
/// # Errors
/// When a package cannot be had or the image cannot be made.
pub fn base() -> Result<PathBuf> {
    let started = Instant::now();
    let root = workspace::root()?;
    let packages: Vec<String> = fs::read_to_string(root.join("rootfs/packages.txt"))
        .context("cannot read rootfs/packages.txt")?
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    let identities: Identities = toml::from_str(
        &fs::read_to_string(root.join("etc/identities.toml"))
            .context("cannot read etc/identities.toml")?,
    )
    .context("etc/identities.toml")?;
    let accounts = accounts(&identities);

    let mut key = Key::new("base layer 2");
    key.text("packages", &packages.join(","));
    key.text("mirror", &MIRROR.join("\n"));
    key.text("excluded", &EXCLUDED.join("\n"));
    for text in [&accounts.passwd, &accounts.group, &accounts.shadow] {
        key.text("accounts", text);
    }
    let (dir, cached) = cache::product("base", &key.finish(), |dir| {
        command::say("Building the Debian layer (about 3 minutes, once) …");
        bootstrap(dir, &packages, &identities, &accounts)
    })?;
    command::say_done(
        if cached {
            "Debian layer (cached)"
        } else {
            "Debian layer"
        },
        started,
    );
    Ok(dir)
}

fn bootstrap(
    dir: &Path,
    packages: &[String],
    identities: &Identities,
    accounts: &Accounts,
) -> Result<()> {
    let log = workspace::cache()?.join("log/base.log");
    let tar = dir.join("base.tar");
    let lines = dir.join("accounts");
    fs::create_dir(&lines)?;
    let mut hooks = Vec::new();
    for (name, text) in [
        ("passwd", &accounts.passwd),
        ("group", &accounts.group),
        ("shadow", &accounts.shadow),
    ] {
        let file = lines.join(name);
        fs::write(&file, text)?;
        // mmdebstrap's hooks are shell text; both paths are ours and hold no special characters.
        hooks.push(format!("cat '{}' >> \"$1/etc/{name}\"", file.display()));
    }
    for (name, uid) in &identities.operators {
        hooks.push(format!(
            "mkdir -p \"$1/home/{name}\" && chown {uid}:{uid} \"$1/home/{name}\" && chmod 700 \"$1/home/{name}\""
        ));
    }
    // Keys are made at first boot; lists, caches and the machine's id are not for sharing.
    hooks.push(
        "rm -rf \"$1\"/etc/ssh/ssh_host_*_key* \"$1\"/var/cache/apt/*.bin \"$1\"/var/lib/apt/lists/* \
         \"$1\"/var/log/*.log \"$1\"/var/log/apt \"$1\"/etc/machine-id \"$1\"/etc/hostname \"$1\"/etc/resolv.conf"
            .to_owned(),
    );
    // mmdebstrap refuses to share its working directory with other users of /tmp only by accident:
    // give it a place that is ours.
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap
        .arg("--variant=apt")
        .arg(format!("--include={}", packages.join(",")))
        .arg("--aptopt=Apt::Install-Recommends \"false\"")
        .args(EXCLUDED.iter().map(|option| format!("--dpkgopt={option}")))
        .args(hooks.iter().map(|hook| format!("--customize-hook={hook}")))
        .arg("bookworm")
        .arg(&tar)
        .args(MIRROR);
    command::run("mmdebstrap", &mut mmdebstrap, &log)?;

    let tree = dir.join("tree");
    fs::create_dir(&tree)?;
    // One fakeroot session, so that owners and device files survive when this is not root.
    let script = "set -eu\n\
         tar -C \"$1\" --numeric-owner -xpf \"$2\"\n\
         cp \"$1/var/lib/dpkg/status\" \"$3/dpkg-status\"\n\
         mkfs.erofs -zlz4hc,9 -T1767225600 -U00000000-0000-0000-0000-000000000001 \"$3/base.erofs\" \"$1\"\n";
    let mut pack = as_root("sh");
    pack.args(["-c", script, "pack"])
        .arg(&tree)
        .arg(&tar)
        .arg(dir);
    command::run("packing the Debian layer", &mut pack, &log)?;
    let mut remove = as_root("rm");
    remove.arg("-rf").arg(&tree).arg(&tar).arg(&lines);
    command::run("cleaning up", &mut remove, &log)
}

fn as_root(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        Command::new(program)
    } else {
        let mut fakeroot = Command::new("fakeroot");
        fakeroot.arg(program);
        fakeroot
    }
}

fn aios_layer(binaries: &Binaries) -> Result<PathBuf> {
    let started = Instant::now();
    let root = workspace::root()?;
    let build = workspace::build_dir()?;
    let stage = build.join("stage");
    if stage.exists() {
        fs::remove_dir_all(&stage).with_context(|| format!("cannot empty {}", stage.display()))?;
    }
    copy_tree(&root.join("rootfs/files"), &stage)?;
    copy_tree(&root.join("etc"), &stage.join("etc/aios"))?;
    for name in binaries::daemons() {
        install(
            &binaries.path(name),
            &stage.join("usr/libexec/aios").join(name),
            0o755,
        )?;
    }
    install(
        &binaries.path("aios-init"),
        &stage.join("usr/sbin/aios-init"),
        0o755,
    )?;
    install(&binaries.aios(), &stage.join("usr/bin/aios"), 0o755)?;
    std::os::unix::fs::symlink("/usr/sbin/aios-init", stage.join("usr/sbin/init"))?;
    for licence in ["LICENSE-APACHE", "LICENSE-MIT"] {
        install(
            &root.join(licence),
            &stage.join("usr/share/doc/aios").join(licence),
            0o644,
        )?;
    }
    // apt's own list, kept so that a source given at one boot can be taken back at the next.
    install(
        &root.join("rootfs/files/etc/apt/sources.list"),
        &stage.join("usr/share/aios/sources.list"),
        0o644,
    )?;
    aios_gguf::untrained::write(&stage.join("usr/share/aios/models"))
        .context("cannot write the untrained model")?;
    for dir in [
        "media/aios/iso",
        "media/aios/data",
        "var/lib/aios",
        "var/log/aios",
        "home/workspaces",
        "srv",
    ] {
        fs::create_dir_all(stage.join(dir))?;
    }
    let image = build.join("aios.erofs");
    let _ = fs::remove_file(&image);
    command::run(
        "packing our layer",
        Command::new("mkfs.erofs")
            .args([
                "-zlz4",
                "-T1767225600",
                "-U00000000-0000-0000-0000-000000000002",
                "--all-root",
            ])
            .arg(&image)
            .arg(&stage),
        &workspace::cache()?.join("log/layer.log"),
    )?;
    command::say_done("aiOS layer", started);
    Ok(image)
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            // What git keeps of a mode is whether it is a program; nothing else should matter.
            let program = entry.metadata()?.permissions().mode() & 0o100 != 0;
            install(&entry.path(), &target, if program { 0o755 } else { 0o644 })?;
        }
    }
    Ok(())
}

fn install(from: &Path, to: &Path, mode: u32) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    fs::copy(from, to)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_identity_has_an_account_that_nobody_can_log_in_to_with_a_password() {
        let text =
            fs::read_to_string(workspace::root().unwrap().join("etc/identities.toml")).unwrap();
        let identities: Identities = toml::from_str(&text).unwrap();
        let accounts = accounts(&identities);
        assert!(
            accounts
                .passwd
                .contains("aios-memory:x:902:902::/nonexistent:/usr/sbin/nologin\n")
        );
        assert!(accounts.passwd.contains("aios-agent-network:x:912:912:"));
        assert!(
            accounts
                .passwd
                .contains("operator:x:1000:1000::/home/operator:/usr/libexec/aios/login-shell\n")
        );
        let names = accounts.passwd.lines().count();
        assert_eq!(accounts.shadow.lines().count(), names);
        assert!(
            accounts
                .shadow
                .lines()
                .all(|line| line.split(':').nth(1) == Some("*"))
        );
    }
}
