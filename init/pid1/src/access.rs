//! Who may ask PID 1 what. The caller's uid is the kernel's word; whoever is not listed here, or
//! asks what is not listed for them, is refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use aios_init_protocol::Request;
use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentitiesFile {
    #[serde(default)]
    daemons: BTreeMap<String, u32>,
    #[serde(default)]
    agents: BTreeMap<String, u32>,
    #[serde(default)]
    operators: BTreeMap<String, u32>,
}

/// The table.
#[derive(Debug, Default)]
pub struct Access {
    console: Option<u32>,
    listed: BTreeSet<u32>,
}

impl Access {
    /// Reads `identities.toml`. Without it only root may ask anything.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn load(path: &Path) -> Result<Self, String> {
        if !path.exists() {
            return Ok(Self::default());
        }
        let file: IdentitiesFile = aios_config::load(path).map_err(|error| error.to_string())?;
        let all = file
            .daemons
            .values()
            .chain(file.agents.values())
            .chain(file.operators.values());
        Ok(Self {
            listed: all.copied().collect(),
            console: file.daemons.get("console").copied(),
        })
    }

    /// Whether this uid may ask this.
    pub fn allows(&self, uid: u32, request: &Request) -> bool {
        if uid == 0 {
            return true;
        }
        match request {
            Request::List | Request::Boot => self.listed.contains(&uid),
            Request::Status { .. } | Request::Logs { .. } | Request::Power { .. } => {
                self.console == Some(uid)
            }
            Request::Start { .. }
            | Request::Stop { .. }
            | Request::Restart { .. }
            | Request::Define { .. }
            | Request::Remove { .. }
            | Request::Definition { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use aios_init_protocol::{PowerAction, ServiceDefinition};

    use super::*;

    fn every_request() -> Vec<(&'static str, Request)> {
        let unit = || "memory".to_owned();
        vec![
            ("list", Request::List),
            ("boot", Request::Boot),
            ("status", Request::Status { unit: unit() }),
            (
                "logs",
                Request::Logs {
                    unit: unit(),
                    lines: 1,
                },
            ),
            (
                "power",
                Request::Power {
                    action: PowerAction::Reboot,
                    reason: String::new(),
                },
            ),
            ("start", Request::Start { unit: unit() }),
            ("stop", Request::Stop { unit: unit() }),
            ("restart", Request::Restart { unit: unit() }),
            ("remove", Request::Remove { unit: unit() }),
            ("definition", Request::Definition { unit: unit() }),
            (
                "define",
                Request::Define {
                    service: ServiceDefinition {
                        name: unit(),
                        command: String::new(),
                        args: vec![],
                        user: None,
                        restart: None,
                        after: vec![],
                    },
                },
            ),
        ]
    }

    #[test]
    fn each_party_may_ask_exactly_this() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identities.toml");
        let text = "[daemons]\nconsole = 905\nmemory = 902\n[agents]\ntask = 914\n[operators]\noperator = 1000\n";
        std::fs::write(&path, text).unwrap();
        let access = Access::load(&path).unwrap();
        let allowed = |uid: u32| -> Vec<&str> {
            every_request()
                .into_iter()
                .filter(|(_, request)| access.allows(uid, request))
                .map(|(name, _)| name)
                .collect()
        };
        assert_eq!(allowed(0).len(), every_request().len());
        assert_eq!(allowed(905), ["list", "boot", "status", "logs", "power"]);
        for listed in [902, 914, 1000] {
            assert_eq!(allowed(listed), ["list", "boot"], "{listed}");
        }
        for stranger in [1, 65_534, 4711] {
            assert!(allowed(stranger).is_empty(), "{stranger}");
        }
    }

    #[test]
    fn without_a_table_only_root_is_anybody() {
        let access = Access::load(Path::new("/nonexistent/identities.toml")).unwrap();
        assert!(access.allows(0, &Request::List));
        assert!(!access.allows(905, &Request::List));
    }

    #[test]
    fn a_broken_table_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identities.toml");
        std::fs::write(&path, "[daemon]\nconsole = 905\n").unwrap();
        assert!(
            Access::load(&path)
                .unwrap_err()
                .contains("did you mean `daemons`?")
        );
    }
}
