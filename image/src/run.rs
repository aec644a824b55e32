//! `cargo image run`: boots the ISO, enrols this machine as its operator, and either leaves the
//! operator at the console or runs goals and commands and switches off.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::Product,
    command, enrolment,
    vm::{Accelerator, Console, Firmware, Options, Vm},
};

/// What the console says when the machine is ready.
pub const READY: &str = "aiOS READY";
/// What the initramfs says when it gives up.
pub const CANNOT_START: &str = "aiOS cannot start";
/// What PID 1 says when it opens its rescue console.
pub const RESCUE: &str = "aiOS RESCUE";

/// Under emulation on two slow, shared cores a boot takes up to a few minutes.
const BOOT_LIMIT: Duration = Duration::from_secs(600);
const ENROL_LIMIT: Duration = Duration::from_secs(120);
const POWER_OFF_LIMIT: Duration = Duration::from_secs(120);

/// The options of `cargo image run`.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Run this goal once the machine is ready, print what came of it, then switch off (repeatable)
    #[arg(long = "goal", value_name = "TEXT")]
    goals: Vec<String>,
    /// Run this command on this machine, with the client profile set, after the goals (repeatable)
    #[arg(long = "exec", value_name = "CMD")]
    commands: Vec<String>,
    /// Print one JSON object per goal and nothing else on standard output
    #[arg(long)]
    json: bool,
    /// How the machine starts
    #[arg(long, value_enum, default_value = "bios")]
    firmware: Firmware,
    /// Memory, e.g. 1G or 1536M
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = memory)]
    memory: u32,
    /// Virtual processors
    #[arg(long, value_name = "N", default_value_t = 2)]
    cpus: u32,
    /// Disk image that keeps what the machine writes; made when it does not exist
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Boot this ISO instead of the one that this checkout builds
    #[arg(long, value_name = "FILE")]
    iso: Option<PathBuf>,
    /// Hardware virtualisation or emulation
    #[arg(long, value_enum, default_value = "auto")]
    accel: Accelerator,
    /// Take packages from this Debian source (`deb URL ./`) instead of Debian's own mirrors; seen
    /// from the machine, this host is 10.0.2.2
    #[arg(long, value_name = "URL")]
    package_source: Option<String>,
}

/// Sizes as people write them, in MiB.
fn memory(text: &str) -> Result<u32, String> {
    let (number, unit) = text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    );
    let number: u32 = number
        .parse()
        .map_err(|_| format!("`{text}` is not a size; write e.g. 1G or 1536M"))?;
    match unit.to_ascii_lowercase().trim_end_matches("ib") {
        "" | "m" | "mb" => Some(number),
        "g" | "gb" => number.checked_mul(1024),
        _ => None,
    }
    .filter(|mib| *mib >= 64)
    .ok_or_else(|| format!("`{text}` is not a size of at least 64 MiB; write e.g. 1G or 1536M"))
}

impl RunArgs {
    /// Whether an ISO has to be built for this.
    #[must_use]
    pub fn iso(&self) -> Option<&Path> {
        self.iso.as_deref()
    }

    fn options(&self, iso: &Path, interactive: bool) -> Options {
        let mut options = Options::new(iso);
        options.firmware = self.firmware;
        options.memory_mib = self.memory;
        options.cpus = self.cpus;
        options.data.clone_from(&self.data);
        options.accelerator = self.accel;
        if let Some(source) = &self.package_source {
            options
                .parameters
                .push(("package-source".to_owned(), source.clone()));
        }
        if interactive {
            options.console = Console::Terminal;
            // The usual ports when they are free, so that the lines below stay the same.
            options.management_port = free_or_any(9090);
            options.ssh_port = free_or_any(2222);
        }
        options
    }
}

fn free_or_any(port: u16) -> u16 {
    if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
        port
    } else {
        0
    }
}

/// Runs the machine; the number is the exit code of the whole command.
///
/// # Errors
/// When the machine does not become ready or cannot be talked to.
pub fn run(args: &RunArgs, product: &Product) -> Result<u8> {
    let iso = args.iso.clone().unwrap_or_else(|| product.iso.clone());
    let unattended = !args.goals.is_empty() || !args.commands.is_empty();
    let mut vm = Vm::start(&args.options(&iso, !unattended))?;
    if unattended {
        run_goals(args, product, &mut vm)
    } else {
        run_console(product, &mut vm)
    }
}

fn run_goals(args: &RunArgs, product: &Product, vm: &mut Vm) -> Result<u8> {
    command::say(format!(
        "Booting {} …",
        args.iso.as_deref().unwrap_or(&product.iso).display()
    ));
    wait_ready(vm, |line| command::say(format!("  | {line}")))?;
    let profile = vm.dir().join("profile");
    let aios = product.binaries.aios();
    enrolment::enrol(&aios, vm, &profile, ENROL_LIMIT)?;

    let mut failed = 0u32;
    for goal in &args.goals {
        command::say(format!("\n> {goal}"));
        if !run_goal(&aios, &profile, goal, args.json)? {
            failed += 1;
        }
    }
    for line in &args.commands {
        command::say(format!("\n$ {line}"));
        if !run_command(line, &aios, &profile, vm, args.json)? {
            failed += 1;
        }
    }
    command::say("\nSwitching the machine off …");
    power_off(&aios, &profile, vm)?;
    Ok(u8::from(failed > 0))
}

/// Waits for READY, which a degraded machine says too.
///
/// # Errors
/// When the machine says that it cannot start, ends, or takes too long.
pub fn wait_ready(vm: &mut Vm, each_line: impl FnMut(&str)) -> Result<()> {
    match vm.wait_for(&[READY, CANNOT_START, RESCUE], BOOT_LIMIT, each_line)? {
        0 => Ok(()),
        _ => {
            // The lines after it say why and what to do.
            std::thread::sleep(Duration::from_secs(1));
            bail!("the machine cannot start; {}", vm.last_words())
        }
    }
}

fn run_goal(aios: &Path, profile: &Path, goal: &str, json: bool) -> Result<bool> {
    let mut command = Command::new(aios);
    command.args(["goal", "run"]);
    if json {
        command.arg("--json");
    }
    command
        .arg("--")
        .arg(goal)
        .env("AIOS_PROFILE", profile)
        .stdin(Stdio::null());
    if !json {
        let status = command
            .status()
            .with_context(|| format!("cannot start {}", aios.display()))?;
        return Ok(status.success());
    }
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", aios.display()))?;
    // Whatever the command printed, standard output gets exactly one object on one line.
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
        serde_json::json!({
            "goal": goal,
            "status": "failed",
            "result": "the goal could not be submitted; standard error says why",
            "steps": [],
        })
    });
    writeln!(std::io::stdout().lock(), "{object}")?;
    Ok(output.status.success())
}

/// The line is the operator's own, on the operator's own machine, so their shell reads it.
fn run_command(line: &str, aios: &Path, profile: &Path, vm: &Vm, json: bool) -> Result<bool> {
    let mut command = Command::new("sh");
    command
        .args(["-c", line])
        .env("AIOS_PROFILE", profile)
        .env("AIOS_MANAGEMENT_PORT", vm.management_port.to_string())
        .env("AIOS_SSH_PORT", vm.ssh_port.to_string())
        .env("AIOS_SSH_KEY", profile.join("ssh-key"))
        .stdin(Stdio::null());
    if let Some(dir) = aios.parent() {
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", dir.display()));
    }
    if json {
        command.stdout(std::io::stderr());
    }
    Ok(command.status().context("cannot start sh")?.success())
}

fn power_off(aios: &Path, profile: &Path, vm: &mut Vm) -> Result<()> {
    if vm.is_running() {
        let output = Command::new(aios)
            .args(["power", "off"])
            .env("AIOS_PROFILE", profile)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot start {}", aios.display()))?;
        if !output.status.success() {
            bail!(
                "the machine refuses to switch off: {}",
                String::from_utf8_lossy(&output.stderr).trim_end()
            );
        }
    }
    vm.wait_exit(POWER_OFF_LIMIT)?;
    Ok(())
}

fn run_console(product: &Product, vm: &mut Vm) -> Result<u8> {
    command::say("Booting; this terminal is the machine's console. Type `power off` there to end.");
    let started = Instant::now();
    let aios = product.binaries.aios();
    // QEMU shares this terminal: what it prints is shown by itself, so lines are not repeated here.
    wait_ready(vm, |_| {})?;
    let profile = enrolment::profiles_dir()?.join("vm");
    enrolment::enrol(&aios, vm, &profile, ENROL_LIMIT)?;
    let default = enrolment::make_default(&profile)?;
    let profile_option = if default { "" } else { "--profile vm " };
    eprint!(
        "\r\nReady after {}. In a second terminal:\r\n\
         \r\n  export PATH=\"{}:$PATH\"\
         \r\n  aios {profile_option}status\
         \r\n  aios {profile_option}goal \"which process uses the most memory?\"\
         \r\n  ssh -p {} -i {} operator@127.0.0.1\r\n\r\n",
        command::human(started.elapsed()),
        aios.parent().unwrap_or(&aios).display(),
        vm.ssh_port,
        profile.join("ssh-key").display(),
    );
    // The operator ends the machine when they have had enough of it.
    while vm.is_running() {
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::memory;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(memory("1G"), Ok(1024));
        assert_eq!(memory("1536"), Ok(1536));
        assert_eq!(memory("512MiB"), Ok(512));
        assert!(memory("1T").is_err());
        assert!(memory("a lot").is_err());
        assert!(memory("5000000G").is_err());
    }
}
