//! `cargo image test`: format, lints, every test; then the tests in virtual machines.

use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::{binaries, build, command, host_packages, package_source, workspace};

/// The package whose tests start virtual machines.
const VM_TESTS: &str = "aios-tests-vm";

/// The options of `cargo image test`.
#[derive(Debug, clap::Args)]
pub struct TestArgs {
    /// Leave the tests in virtual machines out
    #[arg(long)]
    fast: bool,
    /// Only tests whose name contains this
    #[arg(value_name = "FILTER")]
    filter: Option<String>,
}

/// Runs the tests; the number is the exit code.
///
/// # Errors
/// When something cannot be built.
pub fn test(args: &TestArgs) -> Result<u8> {
    host_packages::ensure(&[
        host_packages::BUILD,
        host_packages::RUN,
        host_packages::TEST,
    ])?;
    let started = Instant::now();
    let log = workspace::cache()?.join("log");

    if args.filter.is_none() {
        command::run(
            "checking the format (cargo fmt --check)",
            binaries::cargo()?.args(["fmt", "--all", "--check"]),
            &log.join("fmt.log"),
        )?;
        command::say("Checking the lints …");
        command::run(
            "checking the lints (cargo clippy)",
            binaries::cargo()?.args([
                "clippy",
                "--release",
                "--locked",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ]),
            &log.join("clippy.log"),
        )?;
        command::say_done("format and lints", started);
    }

    // The tests between processes start the real programs, so those are built first.
    let product = if args.fast {
        binaries::build()?;
        None
    } else {
        Some(build::build()?)
    };

    let mut tests = binaries::cargo()?;
    tests.args([
        "test",
        "--release",
        "--locked",
        "--workspace",
        "--exclude",
        VM_TESTS,
        "--no-fail-fast",
    ]);
    if let Some(filter) = &args.filter {
        tests.arg(filter);
    }
    let step = Instant::now();
    let mut passed = tests.status().context("cannot start cargo")?.success();
    command::say_done("tests", step);

    if let Some(product) = product {
        let step = Instant::now();
        let packages = package_source::build(&["nginx"], &product.dpkg_status)?;
        let mut machines = binaries::cargo()?;
        machines
            .args([
                "test",
                "--release",
                "--locked",
                "--package",
                VM_TESTS,
                "--no-fail-fast",
            ])
            .env("AIOS_TEST_ISO", &product.iso)
            .env("AIOS_TEST_KERNEL", &product.kernel)
            .env("AIOS_TEST_CLI", product.binaries.aios())
            .env("AIOS_TEST_PACKAGES", packages);
        if let Some(filter) = &args.filter {
            machines.arg(filter);
        }
        // One machine with two processors at a time: the host has two.
        machines.args(["--", "--test-threads=1", "--nocapture"]);
        passed &= machines.status().context("cannot start cargo")?.success();
        command::say_done("tests in virtual machines", step);
    }
    command::say(format!(
        "{} after {}",
        if passed {
            "All tests passed"
        } else {
            "Some tests failed"
        },
        command::human(started.elapsed())
    ));
    Ok(u8::from(!passed))
}
