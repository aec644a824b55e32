//! The command line.

use std::path::PathBuf;

/// What `--help` prints.
pub const USAGE: &str = "\
PID 1 of aiOS.

Usage:
  aios-init                        bring the machine up (as process 1)
  aios-init --container [OPTIONS]  the same as process 1 of a PID namespace, touching no mounts
  aios-init --check DIR [--root R] check the unit files of DIR; with a root file system R also
                                   whether their programs and accounts exist there
  aios-init --help | --version

Options:
  --etc DIR      configuration            [/etc/aios]
  --run DIR      sockets                  [/run/aios]
  --state DIR    durable state            [/var/lib/aios]
  --log DIR      logs of the units        [/var/log/aios]
  --cgroup DIR   control groups           [/sys/fs/cgroup/aios]";

/// Where things are, and what kind of machine this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Configuration.
    pub etc: PathBuf,
    /// Sockets.
    pub run: PathBuf,
    /// Durable state.
    pub state: PathBuf,
    /// Logs of the units.
    pub log: PathBuf,
    /// The control group below which each unit has its own.
    pub cgroup: PathBuf,
    /// Process 1 of a namespace on somebody else's machine: no mounts, no host name, no reboot.
    pub container: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            etc: "/etc/aios".into(),
            run: "/run/aios".into(),
            state: "/var/lib/aios".into(),
            log: "/var/log/aios".into(),
            cgroup: "/sys/fs/cgroup/aios".into(),
            container: false,
        }
    }
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Be PID 1.
    Run(Options),
    /// Check a directory of unit files.
    Check {
        /// Which.
        dir: PathBuf,
        /// The root file system that they are for.
        root: Option<PathBuf>,
    },
    /// Explain.
    Help,
    /// Say the version.
    Version,
}

/// Reads the command line. With `lenient`, what is not understood is passed over: the kernel hands
/// its own unknown parameters to PID 1.
///
/// # Errors
/// What is wrong with it.
pub fn parse(arguments: &[String], lenient: bool) -> Result<Command, String> {
    let mut options = Options::default();
    let mut check = None;
    let mut root = None;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || {
            rest.next()
                .map(PathBuf::from)
                .ok_or_else(|| format!("{argument} needs a directory"))
        };
        match argument.as_str() {
            "--help" | "-h" => return Ok(Command::Help),
            "--version" | "-V" => return Ok(Command::Version),
            "--container" => options.container = true,
            "--etc" => options.etc = value()?,
            "--run" => options.run = value()?,
            "--state" => options.state = value()?,
            "--log" => options.log = value()?,
            "--cgroup" => options.cgroup = value()?,
            "--check" => check = Some(value()?),
            "--root" => root = Some(value()?),
            _ if lenient => {}
            other => return Err(format!("`{other}` is unknown")),
        }
    }
    match (check, root) {
        (Some(dir), root) => Ok(Command::Check { dir, root }),
        (None, Some(_)) if !lenient => Err("--root goes with --check".to_owned()),
        _ => Ok(Command::Run(options)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_kernel_may_pass_words_of_its_own() {
        let command = parse(&words("splash BOOT_IMAGE=/x single"), true);
        assert_eq!(command, Ok(Command::Run(Options::default())));
        assert!(parse(&words("splash"), false).is_err());
    }

    #[test]
    fn a_check_takes_a_root() {
        let command = parse(&words("--check etc/services --root /tmp/r"), false);
        let expected = Command::Check {
            dir: "etc/services".into(),
            root: Some("/tmp/r".into()),
        };
        assert_eq!(command, Ok(expected));
        assert!(parse(&words("--root /tmp/r"), false).is_err());
        assert!(parse(&words("--check"), false).is_err());
    }
}
