//! `/etc/aios/config.toml`: the settings of the machine as a whole. Every key has a default, every
//! key is honoured by somebody, and an unknown one is an error.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Category, Error};

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SystemConfig {
    /// The machine and how much it may do by itself.
    pub system: System,
    /// Which models are used.
    pub models: Models,
    /// Sizes of the memory tiers.
    pub memory: Memory,
    /// Remote management.
    pub management: Management,
    /// How goals are run.
    pub goals: Goals,
}

/// `[system]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct System {
    /// Host name. Read at boot.
    pub hostname: String,
    /// How much happens without asking. Needs a restart of the orchestrator.
    pub autonomy_level: AutonomyLevel,
}

impl Default for System {
    fn default() -> Self {
        Self {
            hostname: "aios".to_owned(),
            autonomy_level: AutonomyLevel::Full,
        }
    }
}

/// How much the machine does without asking (requirement I-27).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AutonomyLevel {
    /// Ask only before critical actions.
    Full,
    /// Ask before high and critical ones.
    Supervised,
    /// Ask before everything that changes anything.
    Manual,
}

impl AutonomyLevel {
    /// The name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Supervised => "supervised",
            Self::Manual => "manual",
        }
    }
}

/// `[models]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Models {
    /// File name below the models folder of the operational model; empty: the largest trained one
    /// found, or else the one that the image carries.
    pub operational: String,
    /// Context in tokens.
    pub context_tokens: u32,
    /// Threads; 0: one per core.
    pub threads: u32,
    /// Requests that may wait before new ones are refused.
    pub queue: usize,
}

impl Default for Models {
    fn default() -> Self {
        Self {
            operational: String::new(),
            context_tokens: 2048,
            threads: 0,
            queue: 64,
        }
    }
}

/// `[memory]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Memory {
    /// Events that operational memory holds (requirement I-31).
    pub operational_max_entries: usize,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            operational_max_entries: 10_000,
        }
    }
}

/// `[management]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Management {
    /// Address and port of remote management (mutual TLS).
    pub listen: String,
    /// Days that a client certificate is valid, unless less is asked for.
    pub client_certificate_days: u32,
}

impl Default for Management {
    fn default() -> Self {
        Self {
            listen: "[::]:9090".to_owned(),
            client_certificate_days: 90,
        }
    }
}

/// `[goals]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Goals {
    /// Goals that run at the same time; the others wait by priority.
    pub max_running: usize,
    /// Times that a task is tried before its goal fails.
    pub max_attempts: u32,
    /// Seconds that an approval may be waited for.
    pub approval_timeout_s: u64,
}

impl Default for Goals {
    fn default() -> Self {
        Self {
            max_running: 4,
            max_attempts: 5,
            approval_timeout_s: 86_400,
        }
    }
}

impl SystemConfig {
    /// Reads the file; when there is none, everything has its default.
    ///
    /// # Errors
    /// When the file exists and is not right; the message names file, line and nearest key.
    pub fn load(path: &Path) -> Result<Self, Error> {
        if !path.exists() {
            return Ok(Self::default());
        }
        aios_config::load(path).map_err(|error| {
            Error::new(Category::Validation, error.to_string())
                .hint("correct the file, or remove the line to get the default")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_file_says_the_defaults() {
        let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../../etc/config.toml");
        let shipped = SystemConfig::load(Path::new(shipped)).unwrap();
        assert_eq!(shipped, SystemConfig::default());
    }

    #[test]
    fn a_mistyped_key_is_named_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, "[system]\nhostnane = \"x\"\n").unwrap();
        let text = SystemConfig::load(&path).unwrap_err().to_string();
        assert!(text.contains(":2:"), "{text}");
        assert!(text.contains("did you mean `hostname`?"), "{text}");
    }

    #[test]
    fn an_absent_file_means_defaults() {
        let config = SystemConfig::load(Path::new("/nonexistent/config.toml")).unwrap();
        assert_eq!(config, SystemConfig::default());
    }
}
