//! Kernel start to READY, beside Debian 12 with systemd reaching sshd, on the same kernel with the
//! same QEMU flags, in virtual time: one nanosecond per instruction of the guest, so that the load
//! of the host does not matter.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    bench::Row,
    build::Product,
    cache::{self, Key},
    command, run,
    vm::{Options, Vm},
    workspace,
};

/// Virtual time runs several times slower than the wall here.
const LIMIT: Duration = Duration::from_secs(1200);
/// What the peer prints once sshd listens, followed by `/proc/uptime`.
const MARK: &str = "PEER-SSHD-UP";

/// Boots both.
pub(super) fn measure(product: &Product) -> Result<Vec<Row>> {
    let ours = ours(product)?;
    let peer = peer(product)?;
    Ok(vec![Row::new(
        "kernel start to READY (virtual time)",
        "s",
        ours,
        Some((peer, "Debian 12 + systemd to sshd")),
    )])
}

fn ours(product: &Product) -> Result<f64> {
    let mut options = Options::new(&product.iso);
    options.instruction_clock = true;
    options.cpus = 1;
    let mut vm = Vm::start(&options)?;
    let mut ready = None;
    vm.wait_for(
        &[run::READY, run::CANNOT_START, run::RESCUE],
        LIMIT,
        |line| {
            if let Some((_, rest)) = line.split_once(run::READY) {
                ready = rest
                    .split_whitespace()
                    .find_map(|word| word.parse::<f64>().ok());
            }
        },
    )?;
    ready.with_context(|| format!("READY came without a time; {}", vm.last_words()))
}

fn peer(product: &Product) -> Result<f64> {
    let disk = peer_disk()?;
    let dir = workspace::build_dir()?;
    let console = dir.join("peer-console.log");
    let _ = fs::remove_file(&console);
    let mut qemu = Command::new("qemu-system-x86_64")
        .args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-M",
            "q35",
            "-m",
            "1024",
            "-smp",
            "1",
        ])
        .args([
            "-accel",
            "tcg,thread=single",
            "-icount",
            "shift=0,sleep=off",
            "-cpu",
            "max",
        ])
        .args([
            "-device",
            "virtio-rng-pci",
            "-netdev",
            "user,id=net",
            "-device",
            "virtio-net-pci,netdev=net,romfile=",
        ])
        .arg("-drive")
        .arg(format!(
            "if=virtio,format=raw,snapshot=on,file={}",
            disk.display()
        ))
        .arg("-kernel")
        .arg(&product.kernel)
        .args([
            "-append",
            "console=ttyS0 quiet root=/dev/vda rw net.ifnames=0 panic=-1",
        ])
        .args(["-serial", &format!("file:{}", console.display())])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(dir.join("peer-qemu.log"))?)
        .spawn()
        .context("cannot start qemu-system-x86_64")?;
    let begun = Instant::now();
    let result = loop {
        let text = fs::read(&console)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default();
        let seconds = text
            .split_once(MARK)
            .and_then(|(_, rest)| rest.split_once('\n'))
            .and_then(|(line, _)| line.split_whitespace().next()?.parse::<f64>().ok());
        if let Some(seconds) = seconds {
            break Ok(seconds);
        }
        if qemu.try_wait()?.is_some() || begun.elapsed() > LIMIT {
            break Err(anyhow::anyhow!(
                "the peer did not reach sshd; its console: {}",
                console.display()
            ));
        }
        thread::sleep(Duration::from_millis(100));
    };
    let _ = qemu.kill();
    let _ = qemu.wait();
    result
}

/// A Debian 12 with systemd and sshd on ext4, which says on the serial line when sshd listens.
fn peer_disk() -> Result<PathBuf> {
    const UNIT: &str = "[Unit]\nDescription=say that sshd is up\nAfter=ssh.service\nRequires=ssh.service\n\
        [Service]\nType=oneshot\nStandardOutput=tty\nTTYPath=/dev/ttyS0\n\
        ExecStart=/bin/sh -c 'read up rest < /proc/uptime; echo \"PEER-SSHD-UP $up\"'\n\
        [Install]\nWantedBy=multi-user.target\n";
    let mut key = Key::new("peer disk 1");
    key.text("unit", UNIT);
    let (dir, _) = cache::product("peer", &key.finish(), |dir| {
        if !rustix::process::geteuid().is_root() {
            bail!("making the peer's disk needs root: run the boot benchmark with sudo");
        }
        command::say("Building the peer, Debian 12 with systemd (about 3 minutes, once) …");
        let tree = dir.join("tree");
        fs::write(dir.join("unit"), UNIT)?;
        let hook = format!(
            "install -m644 '{}' \"$1/etc/systemd/system/peer-mark.service\" && \
             ln -s ../peer-mark.service \"$1/etc/systemd/system/multi-user.target.wants/peer-mark.service\" && \
             printf '/dev/vda / ext4 rw,noatime 0 0\\n' > \"$1/etc/fstab\" && \
             printf '[Match]\\nName=eth0\\n[Network]\\nDHCP=yes\\n' > \"$1/etc/systemd/network/eth0.network\"",
            dir.join("unit").display()
        );
        command::run(
            "mmdebstrap (peer)",
            Command::new("mmdebstrap")
                .args([
                    "--variant=apt",
                    "--include=systemd-sysv,dbus,openssh-server,iproute2,ca-certificates",
                ])
                .arg("--aptopt=Apt::Install-Recommends \"false\"")
                .arg(format!("--customize-hook={hook}"))
                .arg("bookworm")
                .arg(&tree)
                .arg("deb http://deb.debian.org/debian bookworm main"),
            &workspace::cache()?.join("log/peer.log"),
        )?;
        make_ext4(&tree, &dir.join("peer.ext4"))?;
        fs::remove_dir_all(&tree)?;
        Ok(())
    })?;
    Ok(dir.join("peer.ext4"))
}

fn make_ext4(tree: &Path, image: &Path) -> Result<()> {
    command::run(
        "making the peer's disk",
        Command::new("/sbin/mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-d"])
            .arg(tree)
            .arg(image)
            .arg("1024M"),
        &workspace::cache()?.join("log/peer-disk.log"),
    )
}
