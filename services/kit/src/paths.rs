//! Where aiOS keeps its things. Tests move the three roots; nothing else may name a path twice.

use std::path::{Path, PathBuf};

/// The command-line options that every daemon has.
#[derive(Debug, Clone, clap::Args)]
pub struct DaemonArgs {
    /// Configuration
    #[arg(long, value_name = "DIR", default_value = "/etc/aios")]
    pub etc: PathBuf,
    /// Sockets and other things that end with the boot
    #[arg(long, value_name = "DIR", default_value = "/run/aios")]
    pub run: PathBuf,
    /// Durable state
    #[arg(long, value_name = "DIR", default_value = "/var/lib/aios")]
    pub state: PathBuf,
}

impl DaemonArgs {
    /// The same as [`Paths`].
    #[must_use]
    pub fn paths(&self) -> Paths {
        Paths {
            etc: self.etc.clone(),
            run: self.run.clone(),
            state: self.state.clone(),
        }
    }
}

/// The three roots below which everything of aiOS lies.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Configuration, `/etc/aios`.
    pub etc: PathBuf,
    /// Sockets, `/run/aios`.
    pub run: PathBuf,
    /// State, `/var/lib/aios`.
    pub state: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            etc: "/etc/aios".into(),
            run: "/run/aios".into(),
            state: "/var/lib/aios".into(),
        }
    }
}

impl Paths {
    /// All three roots below one directory, as tests have them.
    #[must_use]
    pub fn below(root: &Path) -> Self {
        Self {
            etc: root.join("etc"),
            run: root.join("run"),
            state: root.join("state"),
        }
    }

    /// The socket of a daemon: `runtime`, `memory`, `tools`, `orchestrator`, `console`, `init`.
    #[must_use]
    pub fn socket(&self, daemon: &str) -> PathBuf {
        self.run.join(format!("{daemon}.sock"))
    }

    /// The socket of an agent by its short name.
    #[must_use]
    pub fn agent_socket(&self, agent: &str) -> PathBuf {
        self.run.join("agents").join(format!("{agent}.sock"))
    }

    /// `config.toml`.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.etc.join("config.toml")
    }

    /// `identities.toml`.
    #[must_use]
    pub fn identities_file(&self) -> PathBuf {
        self.etc.join("identities.toml")
    }
}
