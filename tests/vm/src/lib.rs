//! What the tests in virtual machines share: a booted aiOS with an operator's profile, driven by the
//! same `aios` command that people use.
//!
//! `cargo image test` builds the ISO and says where things are: `AIOS_TEST_ISO`, `AIOS_TEST_CLI` and
//! `AIOS_TEST_PACKAGES` (a folder with real Debian packages). Without them the tests fail and say so.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use aios_image::{
    enrolment,
    package_source::PackageSource,
    run,
    vm::{Options, Vm},
};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// How long the machine may take to hand out its first certificate.
const ENROL_LIMIT: Duration = Duration::from_secs(180);

/// Where `cargo image test` put something.
///
/// # Errors
/// When it did not say.
pub fn given(variable: &str) -> Result<PathBuf> {
    env::var_os(variable)
        .map(PathBuf::from)
        .with_context(|| format!("{variable} is not set: run these tests with `cargo image test`"))
}

/// Options for a machine that boots the ISO under test.
///
/// # Errors
/// When it is not known where the ISO is.
pub fn options() -> Result<Options> {
    Ok(Options::new(&given("AIOS_TEST_ISO")?))
}

/// A package source with the real packages, served on loopback.
///
/// # Errors
/// When it is not known where the packages are, or no port is free.
pub fn package_source() -> Result<PackageSource> {
    PackageSource::serve(&given("AIOS_TEST_PACKAGES")?)
}

/// A booted and enrolled machine.
#[derive(Debug)]
pub struct Machine {
    /// The machine itself.
    pub vm: Vm,
    profile: PathBuf,
    cli: PathBuf,
}

/// What one `aios` command came to.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// Standard output as JSON.
    ///
    /// # Errors
    /// When it is not JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("no JSON: {self:?}"))
    }
}

impl Machine {
    /// Boots, waits for READY and enrols.
    ///
    /// # Errors
    /// When the machine does not come up; the error holds the end of its console.
    pub fn boot(options: &Options) -> Result<Self> {
        let mut vm = Vm::start(options)?;
        run::wait_ready(&mut vm, |_| {})?;
        let cli = given("AIOS_TEST_CLI")?;
        let profile = vm.dir().join("profile");
        enrolment::enrol(&cli, &vm, &profile, ENROL_LIMIT).with_context(|| vm.last_words())?;
        Ok(Self { vm, profile, cli })
    }

    /// The operator's profile.
    #[must_use]
    pub fn profile(&self) -> &Path {
        &self.profile
    }

    /// An `aios` command with the profile set.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.cli);
        command
            .args(args)
            .env("AIOS_PROFILE", &self.profile)
            .stdin(Stdio::null());
        command
    }

    /// Runs an `aios` command to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn aios(&self, args: &[&str]) -> Result<Outcome> {
        let output = self.command(args).output().context("cannot start aios")?;
        Ok(Outcome {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs an `aios` command that must succeed and prints JSON.
    ///
    /// # Errors
    /// When it fails or prints no JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let args = [&["--json"], args].concat();
        let outcome = self.aios(&args)?;
        ensure!(
            outcome.code == 0,
            "aios {args:?}: {outcome:?}\n{}",
            self.vm.last_words()
        );
        outcome.json()
    }

    /// Runs a goal and returns the object that `aios goal run --json` prints, whatever came of it.
    ///
    /// # Errors
    /// When the command prints no JSON.
    pub fn goal(&self, text: &str) -> Result<Value> {
        self.aios(&["goal", "run", "--json", "--", text])?
            .json()
            .with_context(|| self.vm.last_words())
    }

    /// Runs a goal that must complete.
    ///
    /// # Errors
    /// When it does not.
    pub fn completes(&self, text: &str) -> Result<Value> {
        let goal = self.goal(text)?;
        ensure!(
            goal["status"] == "completed",
            "`{text}` ended as {goal:#}\n{}",
            self.vm.last_words()
        );
        Ok(goal)
    }

    /// Calls a tool as the operator and returns its result.
    ///
    /// # Errors
    /// When the call is not ok.
    pub fn tool(&self, name: &str, args: &Value) -> Result<Value> {
        let reply = self.json(&["tool", "call", name, "--args", &args.to_string()])?;
        Ok(reply["result"].clone())
    }

    /// Runs a shell line inside the machine, as root: an administrator can define a service, and a
    /// service is a program. Returns when it has ended.
    ///
    /// # Errors
    /// When the service cannot be defined, started, or does not end in time.
    pub fn inside(&self, name: &str, line: &str) -> Result<()> {
        let define = serde_json::json!({
            "name": name, "command": "/bin/sh", "args": ["-c", line], "restart": "never",
        });
        self.tool("service.define", &define)?;
        // A program that ends at once may have ended before its start is confirmed.
        let start = serde_json::json!({ "name": name }).to_string();
        self.aios(&["tool", "call", "service.start", "--args", &start])?;
        Ok(())
    }

    /// Tries until it is so.
    ///
    /// # Errors
    /// The last error when the limit passes first.
    pub fn eventually<T>(
        &self,
        limit: Duration,
        mut attempt: impl FnMut(&Self) -> Result<T>,
    ) -> Result<T> {
        let begun = Instant::now();
        loop {
            match attempt(self) {
                Ok(value) => return Ok(value),
                Err(error) if begun.elapsed() > limit => return Err(error),
                Err(_) => thread::sleep(Duration::from_millis(500)),
            }
        }
    }

    /// Switches the machine off in order.
    ///
    /// # Errors
    /// When it does not switch off.
    pub fn power_off(&mut self) -> Result<()> {
        let outcome = self.aios(&["power", "off"])?;
        ensure!(outcome.code == 0, "power off: {outcome:?}");
        self.vm.wait_exit(Duration::from_secs(120))?;
        Ok(())
    }
}
