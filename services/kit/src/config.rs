//! `/etc/aios/config.toml`: the settings of the machine as a whole. Every key has a default, every
//! key is honoured by somebody, and an unknown one is an error.
//!
//! A file that is wrong does not take the machine down: [`SystemConfig::load_or_safe`] gives every
//! daemon the same safe settings instead, and the error to report.

use std::{fs, io, path::Path};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::error::{Category, Error};

/// Most days that a client certificate may be set to be valid.
const MAX_CERTIFICATE_DAYS: u32 = 3650;

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
    #[serde(deserialize_with = "at_least_one")]
    pub context_tokens: u32,
    /// Threads; 0: one per core.
    pub threads: u32,
    /// Requests that may wait before new ones are refused.
    #[serde(deserialize_with = "at_least_one")]
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
    #[serde(deserialize_with = "at_least_one")]
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
    #[serde(deserialize_with = "address_and_port")]
    pub listen: String,
    /// Days that a client certificate is valid, unless less is asked for.
    #[serde(deserialize_with = "certificate_days")]
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
    #[serde(deserialize_with = "at_least_one")]
    pub max_running: usize,
    /// Times that a task is tried before its goal fails.
    #[serde(deserialize_with = "at_least_one")]
    pub max_attempts: u32,
    /// Seconds that an approval may be waited for.
    #[serde(deserialize_with = "at_least_one")]
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

/// A number of which none at all makes no sense.
fn at_least_one<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default + PartialEq,
{
    let value = T::deserialize(deserializer)?;
    if value == T::default() {
        return Err(D::Error::custom("must be at least 1"));
    }
    Ok(value)
}

/// A certificate outlives no machine, and its end must be a date that the format can say.
fn certificate_days<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let days = u32::deserialize(deserializer)?;
    if !(1..=MAX_CERTIFICATE_DAYS).contains(&days) {
        return Err(D::Error::custom(format!(
            "must be from 1 to {MAX_CERTIFICATE_DAYS}"
        )));
    }
    Ok(days)
}

fn address_and_port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    let usable = text
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if !usable {
        return Err(D::Error::custom(
            "must be an address and a port, as in `[::]:9090` or `127.0.0.1:9090`",
        ));
    }
    Ok(text)
}

/// The settings that a daemon goes by.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// What the file says or, when it cannot be used, the safe settings.
    pub config: SystemConfig,
    /// Why the file cannot be used, and what to do.
    pub problem: Option<Error>,
}

impl Loaded {
    /// What a daemon tells PID 1 when it is ready: `usual`, or what is wrong with the file.
    #[must_use]
    pub fn status(&self, usual: &str) -> String {
        self.problem.as_ref().map_or_else(
            || usual.to_owned(),
            |problem| format!("degraded: {problem}"),
        )
    }
}

impl SystemConfig {
    /// Reads the file; when there is none, everything has its default.
    ///
    /// # Errors
    /// When the file exists and is not right; the message names file, line and nearest key.
    pub fn load(path: &Path) -> Result<Self, Error> {
        // Only what is certainly not there is absent: a link that leads nowhere, or a directory
        // that cannot be searched, may hide a stricter setting than the default.
        if let Err(error) = fs::symlink_metadata(path)
            && error.kind() == io::ErrorKind::NotFound
        {
            return Ok(Self::default());
        }
        aios_config::load(path).map_err(|error| {
            Error::new(Category::Validation, error.to_string())
                .hint("correct the file, or remove the line to get the default")
        })
    }

    /// Reads the file, and goes by [`SystemConfig::safe`] when it cannot be used, so that the
    /// machine still answers. The problem is logged here and is for the health report.
    #[must_use]
    pub fn load_or_safe(path: &Path) -> Loaded {
        match Self::load(path) {
            Ok(config) => Loaded {
                config,
                problem: None,
            },
            Err(error) => {
                let problem = Error::new(Category::Validation, error.message()).hint(
                    "correct the file and restart the machine; until then the defaults hold, \
                     and whatever changes something needs an approval",
                );
                tracing::error!(%problem, "the settings cannot be used");
                Loaded {
                    config: Self::safe(),
                    problem: Some(problem),
                }
            }
        }
    }

    /// What holds while the file cannot be used: the defaults, but since a stricter level of
    /// autonomy may have stood there, the strictest.
    #[must_use]
    pub fn safe() -> Self {
        let mut config = Self::default();
        config.system.autonomy_level = AutonomyLevel::Manual;
        config
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

    #[test]
    fn a_file_that_cannot_be_used_gives_safe_settings_and_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        for (text, place) in [
            ("[system]\nautonomy_levle = \"manual\"\n", ":2:1: "),
            ("[system]\nautonomy_level = \"ful\"\n", ":2:18: "),
            ("[system\n", ":1:8: "),
            ("[goals]\n\nmax_running = 0\n", ":3:15: "),
            ("[management]\nlisten = \"9090\"\n", ":2:10: "),
            ("[memory]\noperational_max_entries = -1\n", ":2:27: "),
            (
                "[management]\nclient_certificate_days = 4294967295\n",
                ":2:27: ",
            ),
            ("\"a\\nREADY=1\\u001b[2J\" = 1\n", ":1:1: "),
        ] {
            fs::write(&path, text).unwrap();
            let loaded = SystemConfig::load_or_safe(&path);
            assert_eq!(loaded.config, SystemConfig::safe(), "{text}");
            let status = loaded.status("fine");
            assert!(status.starts_with("degraded: "), "{status}");
            let named = format!("{}{place}", path.display());
            assert!(status.contains(&named), "{text}: {status}");
            assert!(status.contains("correct the file"), "{status}");
            // It is one field of a message to PID 1, and a line on a terminal.
            assert!(!status.chars().any(char::is_control), "{status:?}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_not_an_absent_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        fs::create_dir(&path).unwrap();
        assert!(SystemConfig::load_or_safe(&path).problem.is_some());
        fs::remove_dir(&path).unwrap();
        fs::write(&path, b"\xff\xfe").unwrap();
        assert!(SystemConfig::load_or_safe(&path).problem.is_some());
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        let loaded = SystemConfig::load_or_safe(&path);
        assert_eq!(loaded.config.system.autonomy_level, AutonomyLevel::Manual);
        fs::remove_file(&path).unwrap();
        let loaded = SystemConfig::load_or_safe(&path);
        assert_eq!(loaded.config, SystemConfig::default());
        assert_eq!(loaded.status("fine"), "fine");
    }
}
