//! The ISO boots under both firmwares, says what it lacks, and switches off in order.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    fs,
    io::{Seek as _, SeekFrom, Write as _},
    process::{Command, Stdio},
    time::Duration,
};

use aios_image::{
    run,
    vm::{Firmware, Vm},
};
use aios_tests_vm::{Machine, given, options};
use anyhow::ensure;
use serde_json::{Value, json};

#[test]
fn boots_under_bios_and_uefi_and_reports_itself() {
    for firmware in [Firmware::Bios, Firmware::Uefi] {
        let mut options = options().unwrap();
        options.firmware = firmware;
        let mut machine = Machine::boot(&options).unwrap();

        let status = machine.json(&["status"]).unwrap();
        assert_eq!(status["state"], "ready", "{status:#}");
        assert_eq!(status["agents_running"], 8, "{status:#}");
        assert_eq!(
            status["model_trained"], false,
            "the image's model must say that it is untrained"
        );

        let boot = machine.json(&["boot"]).unwrap();
        let phases: Vec<&str> = boot["phases"]
            .as_array()
            .unwrap()
            .iter()
            .map(|phase| phase["name"].as_str().unwrap())
            .collect();
        assert_eq!(
            phases,
            ["hardware", "runtime", "services", "agents", "autonomy"]
        );
        assert!(boot["ready_us"].as_u64().unwrap() > 0, "{boot:#}");
        if firmware == Firmware::Bios {
            assert_ssh(&machine);
            assert_layout(&machine);
        }
        machine.power_off().unwrap();
    }
}

/// A key lands in the aiOS prompt, where a command of the host is no command.
fn assert_ssh(machine: &Machine) {
    let ssh = |line: &str| {
        Command::new("ssh")
            .args([
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                "UserKnownHostsFile=/dev/null",
            ])
            .args([
                "-o",
                "BatchMode=yes",
                "-o",
                "ConnectTimeout=30",
                "-o",
                "LogLevel=ERROR",
            ])
            .arg("-i")
            .arg(machine.profile().join("ssh-key"))
            .args([
                "-p",
                &machine.vm.ssh_port.to_string(),
                "operator@127.0.0.1",
                line,
            ])
            .stdin(Stdio::null())
            .output()
            .unwrap()
    };
    // Host keys are made at first boot, after READY.
    let whoami = machine
        .eventually(Duration::from_secs(60), |_| {
            let output = ssh("whoami --json");
            ensure!(output.status.success(), "{output:?}");
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        })
        .unwrap();
    let whoami: Value = serde_json::from_str(&whoami).unwrap();
    assert_eq!(whoami["principal"], "local:operator", "{whoami:#}");
    assert_eq!(whoami["role"], "operator", "{whoami:#}");
    let shell = ssh("cat /etc/passwd");
    assert!(!shell.status.success(), "{shell:?}");
    assert!(
        !String::from_utf8_lossy(&shell.stdout).contains("root:"),
        "{shell:?}"
    );
}

/// Where things are, whose they are, and who may look.
fn assert_layout(machine: &Machine) {
    const EXPECTED: &str = "\
        aios-console 700 /var/lib/aios/console\n\
        aios-memory 700 /var/lib/aios/memory\n\
        aios-runtime 700 /var/lib/aios/models\n\
        root 700 /var/lib/aios/ledger\n\
        root 700 /var/lib/aios/preimages\n\
        root 755 /etc/aios\n\
        root 755 /home/workspaces\n\
        root 755 /usr/share/aios/models\n\
        root 755 /var/log/aios\n";
    machine
        .inside(
            "layout",
            "stat -c '%U %a %n' /var/lib/aios/console /var/lib/aios/memory /var/lib/aios/models \
             /var/lib/aios/ledger /var/lib/aios/preimages /etc/aios /home/workspaces \
             /usr/share/aios/models /var/log/aios | sort > /srv/layout.unfinished; \
             ps -e -o user:32=,comm= | grep aios- | sort -u > /srv/processes; \
             mv /srv/layout.unfinished /srv/layout",
        )
        .unwrap();
    let read = |path: &str| {
        machine
            .eventually(Duration::from_secs(30), |machine| {
                let read = machine.tool("fs.read", &json!({ "path": path }))?;
                Ok(read["content"].as_str().unwrap_or_default().to_owned())
            })
            .unwrap()
    };
    assert_eq!(read("/srv/layout"), EXPECTED);
    // Every process has the account that the table of identities gives it.
    let processes = read("/srv/processes");
    for (user, program) in [
        ("aios-runtime", "aios-runtime"),
        ("aios-memory", "aios-memory"),
        ("aios-orchestrator", "aios-orchestrat"),
        ("aios-console", "aios-console"),
        ("root", "aios-tools"),
        ("aios-agent-system", "aios-agent"),
        ("aios-agent-network", "aios-agent"),
        ("aios-agent-security", "aios-agent"),
        ("aios-agent-task", "aios-agent"),
        ("aios-agent-package", "aios-agent"),
        ("aios-agent-storage", "aios-agent"),
        ("aios-agent-monitor", "aios-agent"),
        ("aios-agent-dev", "aios-agent"),
    ] {
        assert!(
            processes.lines().any(|line| {
                let mut words = line.split_whitespace();
                words.next() == Some(user) && words.next() == Some(program)
            }),
            "no {program} of {user} in:\n{processes}"
        );
    }
}

#[test]
fn too_little_memory_is_said_on_the_console() {
    let mut options = options().unwrap();
    options.memory_mib = 256;
    let mut vm = Vm::start(&options).unwrap();
    vm.wait_for(&[run::RESCUE], Duration::from_secs(180), |_| {})
        .unwrap();
    let console = vm.console();
    assert!(
        console.contains("256 MiB") || console.to_lowercase().contains("memory"),
        "{console}"
    );
}

#[test]
fn a_cut_or_damaged_iso_says_so_and_what_to_do() {
    let iso = given("AIOS_TEST_ISO").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let damaged = dir.path().join("damaged.iso");
    fs::copy(&iso, &damaged).unwrap();
    // The list of files is text: another digit in a size makes the file look cut.
    let bytes = fs::read(&damaged).unwrap();
    let needle = b" aios/base.erofs\n";
    let place = bytes
        .windows(needle.len())
        .position(|window| window == needle)
        .expect("the ISO lists its files");
    let digit = bytes[place - 1];
    let other = if digit == b'1' { b'2' } else { b'1' };
    let mut file = fs::OpenOptions::new().write(true).open(&damaged).unwrap();
    file.seek(SeekFrom::Start(place as u64 - 1)).unwrap();
    file.write_all(&[other]).unwrap();
    drop(file);

    let mut options = options().unwrap();
    options.iso = damaged;
    let mut vm = Vm::start(&options).unwrap();
    vm.wait_for(&["Type `retry`"], Duration::from_secs(180), |_| {})
        .unwrap();
    let console = vm.console();
    assert!(
        console.contains("aios/base.erofs on the medium has"),
        "{console}"
    );
    assert!(
        console.contains("Write the ISO to the medium again"),
        "{console}"
    );
}
