//! What each agent holds: `/etc/aios/agents/NAME.toml`, of which this daemon needs the capabilities.

use std::{collections::BTreeMap, path::Path};

use aios_config::ConfigError;
use serde::Deserialize;

use crate::policy::{Pattern, Rights};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AgentFile {
    name: String,
    #[serde(default, rename = "description")]
    _description: String,
    #[serde(default, rename = "families")]
    _families: Vec<String>,
    capabilities: Vec<Pattern>,
    #[serde(default, rename = "max_tasks")]
    _max_tasks: Option<u32>,
}

/// All agents by name.
#[derive(Debug, Clone, Default)]
pub struct Agents(BTreeMap<String, Rights>);

impl Agents {
    /// Reads every agent below the configuration directory.
    ///
    /// # Errors
    /// When a file is not right, or its name is not the agent's.
    pub fn load(etc: &Path) -> Result<Self, ConfigError> {
        let mut agents = BTreeMap::new();
        for path in aios_config::toml_files(&etc.join("agents"))? {
            let file: AgentFile = aios_config::load(&path)?;
            if path
                .file_stem()
                .is_none_or(|stem| stem != file.name.as_str())
            {
                return Err(ConfigError::Invalid {
                    message: format!("this file is about the agent `{}`", file.name),
                    hint: format!("; name it {}.toml", file.name),
                    path,
                    line: 1,
                    column: 1,
                });
            }
            let rights = Rights {
                capabilities: file.capabilities,
                deny: Vec::new(),
            };
            agents.insert(file.name, rights);
        }
        Ok(Self(agents))
    }

    /// What an agent holds; an agent without a file holds nothing.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Rights> {
        self.0.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(name: &str, text: &str) -> Result<Agents, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("agents")).unwrap();
        std::fs::write(dir.path().join("agents").join(name), text).unwrap();
        Agents::load(dir.path())
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let error = load("a.toml", "name = \"a\"\ncapabilites = []\n")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("a.toml:2:1") && error.contains("`capabilities`"),
            "{error}"
        );
        let error = load("a.toml", "name = \"a\"\ncapabilities = [\"fs\"]\n")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("a.toml:2:") && error.contains("namespace:action"),
            "{error}"
        );
        let error = load("b.toml", "name = \"a\"\ncapabilities = []\n")
            .unwrap_err()
            .to_string();
        assert!(error.contains("name it a.toml"), "{error}");
    }

    #[test]
    fn an_agent_holds_what_its_file_says() {
        let text = "name = \"a\"\ndescription = \"d\"\nfamilies = [\"fs\"]\ncapabilities = [\"fs:read\"]\nmax_tasks = 2\n";
        let agents = load("a.toml", text).unwrap();
        assert!(agents.get("a").unwrap().may_give("fs", "read"));
        assert!(!agents.get("a").unwrap().may_give("fs", "write"));
        assert!(agents.get("b").is_none());
    }

    #[test]
    fn every_tool_is_held_by_an_agent_that_is_shipped() {
        let etc = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../etc");
        let agents = Agents::load(&etc).unwrap();
        for tool in crate::families::registry().iter() {
            let (namespace, action) = tool.spec().capability;
            let held = agents
                .0
                .values()
                .any(|rights| rights.may_give(namespace, action));
            assert!(held, "no agent can call {}", tool.spec().name);
        }
    }
}
