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
    time::Duration,
};

use aios_image::{
    run,
    vm::{Firmware, Vm},
};
use aios_tests_vm::{Machine, given, options};

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
        machine.power_off().unwrap();
    }
}

#[test]
fn too_little_memory_is_said_on_the_console() {
    let mut options = options().unwrap();
    options.memory_mib = 256;
    let mut vm = Vm::start(&options).unwrap();
    vm.wait_for(&[run::RESCUE], Duration::from_secs(300), |_| {})
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
    vm.wait_for(&["Type `retry`"], Duration::from_secs(300), |_| {})
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
