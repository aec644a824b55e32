//! The machine: directories as the image has them, and all processes.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use aios_kit::{Identities, Paths};
use anyhow::{Context as _, bail, ensure};

use crate::{
    binaries,
    operator::Operator,
    part::{GROUP, Part, Spec},
};

/// Longest wait for a socket of a process that was just started.
const UP: Duration = Duration::from_secs(20);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// A running aiOS.
#[derive(Debug)]
pub struct Machine {
    // Ends before the directory goes.
    parts: Vec<Part>,
    paths: Paths,
    identities: Identities,
    dir: tempfile::TempDir,
}

fn directory(path: &Path, uid: u32, gid: u32, mode: u32) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    chown(path, Some(uid), Some(gid))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    directory(to, 0, 0, 0o755)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
            fs::set_permissions(&target, fs::Permissions::from_mode(0o644))?;
        }
    }
    Ok(())
}

impl Machine {
    /// Starts every daemon and every agent, with the configuration that the image ships, and waits
    /// until all of them answer.
    ///
    /// # Errors
    /// When a program is missing, does not start, or does not listen in time; the message has the
    /// end of its log.
    pub fn start() -> anyhow::Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "these tests start each process under its own account and have to run as root"
        );
        let dir = tempfile::Builder::new().prefix("aios-system-").tempdir()?;
        directory(dir.path(), 0, 0, 0o755)?;
        let paths = Paths::below(dir.path());
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        copy_tree(&repository.join("etc"), &paths.etc)?;
        let identities = Identities::load(&paths.identities_file())?;
        let mut machine = Self {
            parts: Vec::new(),
            paths,
            identities,
            dir,
        };
        machine.make_directories()?;
        for daemon in ["memory", "tools", "orchestrator", "console"] {
            let more: &[&str] = if daemon == "console" {
                &["--listen", "127.0.0.1:0"]
            } else {
                &[]
            };
            machine.launch(
                daemon,
                &format!("aios-{daemon}"),
                more,
                machine.paths.socket(daemon),
            )?;
        }
        for agent in machine.identities.agents() {
            let name = format!("agent-{agent}");
            machine.launch(
                &name,
                "aios-agent",
                &[&agent],
                machine.paths.agent_socket(&agent),
            )?;
        }
        for part in &machine.parts {
            machine.wait_for_socket(part)?;
        }
        Ok(machine)
    }

    fn make_directories(&self) -> anyhow::Result<()> {
        // As PID 1 makes them: shared ones are sticky, so that nobody replaces another's socket.
        directory(&self.paths.run, 0, GROUP, 0o1775)?;
        directory(&self.paths.run.join("agents"), 0, GROUP, 0o1775)?;
        directory(&self.paths.state, 0, 0, 0o755)?;
        for daemon in ["memory", "console"] {
            directory(
                &self.paths.state.join(daemon),
                self.uid(daemon)?,
                GROUP,
                0o700,
            )?;
        }
        directory(&self.dir.path().join("log"), 0, 0, 0o755)?;
        directory(&self.work(), 0, 0, 0o755)
    }

    /// The uid of a daemon or agent (`agent-NAME`); tools run as root.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn uid(&self, name: &str) -> anyhow::Result<u32> {
        if name == "tools" {
            return Ok(0);
        }
        if let Some(agent) = name.strip_prefix("agent-") {
            return self
                .identities
                .agent_uid(agent)
                .with_context(|| format!("no agent {agent}"));
        }
        let wanted = aios_kit::Principal::Daemon(name.to_owned());
        (901..1000)
            .find(|uid| self.identities.principal(*uid) == wanted)
            .with_context(|| format!("no daemon {name}"))
    }

    fn launch(
        &mut self,
        name: &str,
        binary: &str,
        more: &[&str],
        socket: PathBuf,
    ) -> anyhow::Result<()> {
        let roots = [
            ("--etc", &self.paths.etc),
            ("--run", &self.paths.run),
            ("--state", &self.paths.state),
        ];
        let mut args: Vec<String> = more.iter().map(|word| (*word).to_owned()).collect();
        for (option, path) in roots {
            args.extend([option.to_owned(), path.display().to_string()]);
        }
        let part = Part::start(Spec {
            name: name.to_owned(),
            binary: binaries::open(binary)?,
            args,
            uid: self.uid(name)?,
            socket,
            log: self.dir.path().join("log").join(format!("{name}.log")),
        })?;
        self.parts.push(part);
        Ok(())
    }

    fn part(&self, name: &str) -> anyhow::Result<&Part> {
        self.parts
            .iter()
            .find(|part| part.name == name)
            .with_context(|| format!("no part {name}"))
    }

    fn wait_for_socket(&self, part: &Part) -> anyhow::Result<()> {
        let begin = Instant::now();
        // One that ends again and again will not listen in the end.
        let hopeless = part.starts() + 5;
        while UnixStream::connect(&part.socket).is_err() {
            if begin.elapsed() > UP || part.starts() > hopeless {
                bail!(
                    "{} does not listen; its log ends with:\n{}",
                    part.name,
                    self.log(&part.name)
                );
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// The end of a part's log.
    #[must_use]
    pub fn log(&self, name: &str) -> String {
        let text = self
            .part(name)
            .ok()
            .and_then(|part| fs::read_to_string(&part.log).ok())
            .unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines
            .get(lines.len().saturating_sub(30)..)
            .unwrap_or_default()
            .join("\n")
    }

    /// Kills a part (SIGKILL). It is started again by itself.
    ///
    /// # Errors
    /// When it is not running.
    pub fn kill(&self, name: &str) -> anyhow::Result<()> {
        self.part(name)?.kill()
    }

    /// How often a part was started.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn starts(&self, name: &str) -> anyhow::Result<u32> {
        Ok(self.part(name)?.starts())
    }

    /// Waits until a part has been started `starts` times and listens.
    ///
    /// # Errors
    /// When that takes too long.
    pub fn wait_restarted(&self, name: &str, starts: u32) -> anyhow::Result<Duration> {
        let part = self.part(name)?;
        let begin = Instant::now();
        while part.starts() < starts {
            ensure!(begin.elapsed() < UP, "{name} was not started again");
            std::thread::sleep(LOOK);
        }
        self.wait_for_socket(part)?;
        Ok(begin.elapsed())
    }

    /// The names of all parts.
    #[must_use]
    pub fn parts(&self) -> Vec<String> {
        self.parts.iter().map(|part| part.name.clone()).collect()
    }

    /// The socket of a part.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn socket(&self, name: &str) -> anyhow::Result<PathBuf> {
        Ok(self.part(name)?.socket.clone())
    }

    /// Where the machine's state lies.
    #[must_use]
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// A directory that goals may work in.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    /// Somebody who states goals, as local root.
    #[must_use]
    pub fn operator(&self) -> Operator {
        Operator::new(&self.paths)
    }
}
