//! `/etc/aios/agents/NAME.toml`: what one agent is for and what it holds.
//!
//! The agent tells the orchestrator of it; what the agent may really do is decided by the tools
//! daemon, which reads the same file itself.

use std::path::Path;

use aios_tool_api::CapabilityPattern;
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::error::AgentError;

/// Tasks that an agent may have in hand at most, whatever its file says.
pub const MAX_TASKS: u32 = 64;

/// The file of one agent.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// Short name, the same as the file's.
    pub name: String,
    /// What it is for, for people.
    pub description: String,
    /// Tool families that it is meant for; where several agents hold a capability, they come first.
    #[serde(default)]
    pub families: Vec<String>,
    /// What it holds, as `namespace:action[:resource]`.
    #[serde(deserialize_with = "capabilities")]
    pub capabilities: Vec<CapabilityPattern>,
    /// Tasks that it carries out at the same time, from 1 to [`MAX_TASKS`].
    #[serde(default = "usual_max_tasks", deserialize_with = "max_tasks")]
    pub max_tasks: u32,
}

fn usual_max_tasks() -> u32 {
    4
}

fn capabilities<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<CapabilityPattern>, D::Error> {
    Vec::<String>::deserialize(deserializer)?
        .iter()
        .map(|text| CapabilityPattern::parse(text).map_err(D::Error::custom))
        .collect()
}

fn max_tasks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    match u32::deserialize(deserializer)? {
        tasks @ 1..=MAX_TASKS => Ok(tasks),
        tasks => Err(D::Error::custom(format!(
            "{tasks} is not from 1 to {MAX_TASKS}"
        ))),
    }
}

impl AgentConfig {
    /// Reads the file of the agent `name` below the configuration directory.
    ///
    /// # Errors
    /// When the file is not right (with its place), or is about another agent.
    pub fn load(etc: &Path, name: &str) -> Result<Self, AgentError> {
        let path = etc.join("agents").join(format!("{name}.toml"));
        let config: Self = aios_config::load(&path)?;
        if config.name != name {
            return Err(AgentError::Name {
                path: path.display().to_string(),
                found: config.name,
                wanted: name.to_owned(),
            });
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<AgentConfig, AgentError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("agents")).unwrap();
        std::fs::write(dir.path().join("agents/network.toml"), text).unwrap();
        AgentConfig::load(dir.path(), "network")
    }

    const GOOD: &str = "name = \"network\"\ndescription = \"d\"\nfamilies = [\"net\"]\ncapabilities = [\"net:*\"]\n";

    #[test]
    fn a_file_is_read_and_has_defaults() {
        let config = load(GOOD).unwrap();
        assert_eq!(config.max_tasks, 4);
        assert_eq!(config.capabilities[0].to_string(), "net:*");
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let cases = [
            (
                GOOD.replace("families", "familys"),
                "network.toml:3:1",
                "did you mean `families`",
            ),
            (
                GOOD.replace("net:*", "net"),
                "network.toml:4:",
                "not a capability",
            ),
            (
                format!("{GOOD}max_tasks = 0\n"),
                "network.toml:5:13",
                "not from 1 to 64",
            ),
            (
                GOOD.replace("\"network\"", "\"dev\""),
                "network.toml",
                "name it dev.toml",
            ),
            (String::new(), "network.toml:1:1", "missing field"),
        ];
        for (text, place, what) in cases {
            let error = load(&text).unwrap_err().to_string();
            assert!(error.contains(place) && error.contains(what), "{error}");
        }
    }
}
