//! Who is calling, as the kernel says it.
//!
//! The uid at the other end of a Unix socket (`SO_PEERCRED`) is looked up in
//! `/etc/aios/identities.toml`, which the image fixes. A uid that is not listed is a plain local
//! user, who may do nothing unless a daemon says so by name.

use std::{collections::BTreeMap, fmt, path::Path};

use serde::Deserialize;
use tonic::{Request, Status, transport::server::UdsConnectInfo};

use crate::error::{Category, Error};

/// A party that calls.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Principal {
    /// A daemon of aiOS by its short name (`orchestrator`).
    Daemon(String),
    /// An agent by its short name (`network`).
    Agent(String),
    /// The superuser of this machine.
    Root,
    /// Any other local user.
    User(u32),
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Daemon(name) => write!(f, "daemon:{name}"),
            Self::Agent(name) => write!(f, "agent:{name}"),
            Self::Root => f.write_str("local:root"),
            Self::User(uid) => write!(f, "local:{uid}"),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentitiesFile {
    #[serde(default)]
    daemons: BTreeMap<String, u32>,
    #[serde(default)]
    agents: BTreeMap<String, u32>,
    #[serde(default)]
    operators: BTreeMap<String, u32>,
}

/// The fixed table of uids.
#[derive(Debug, Clone, Default)]
pub struct Identities {
    by_uid: BTreeMap<u32, Principal>,
    operators: BTreeMap<u32, String>,
}

impl Identities {
    /// Reads `identities.toml`.
    ///
    /// # Errors
    /// When the file cannot be read, has an unknown key, or gives one uid two names.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let file: IdentitiesFile = aios_config::load(path)
            .map_err(|error| Error::new(Category::Validation, error.to_string()))?;
        let mut by_uid = BTreeMap::new();
        let daemons = file
            .daemons
            .into_iter()
            .map(|(name, uid)| (uid, Principal::Daemon(name)));
        let agents = file
            .agents
            .into_iter()
            .map(|(name, uid)| (uid, Principal::Agent(name)));
        for (uid, principal) in daemons.chain(agents) {
            if let Some(other) = by_uid.insert(uid, principal.clone()) {
                return Err(Error::new(
                    Category::Validation,
                    format!(
                        "{}: uid {uid} is both {other} and {principal}",
                        path.display()
                    ),
                ));
            }
        }
        let operators = file
            .operators
            .into_iter()
            .map(|(name, uid)| (uid, name))
            .collect();
        Ok(Self { by_uid, operators })
    }

    /// The principal that a uid stands for.
    #[must_use]
    pub fn principal(&self, uid: u32) -> Principal {
        match self.by_uid.get(&uid) {
            Some(principal) => principal.clone(),
            None if uid == 0 => Principal::Root,
            None => Principal::User(uid),
        }
    }

    /// The account name of a local operator, if the uid is one.
    #[must_use]
    pub fn operator(&self, uid: u32) -> Option<&str> {
        self.operators.get(&uid).map(String::as_str)
    }

    /// The uid of an agent.
    #[must_use]
    pub fn agent_uid(&self, name: &str) -> Option<u32> {
        self.by_uid
            .iter()
            .find(|(_, principal)| matches!(principal, Principal::Agent(agent) if agent == name))
            .map(|(uid, _)| *uid)
    }

    /// The names of all agents, sorted.
    #[must_use]
    pub fn agents(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .by_uid
            .values()
            .filter_map(|principal| match principal {
                Principal::Agent(name) => Some(name.clone()),
                _ => None,
            })
            .collect();
        names.sort();
        names
    }

    /// The principal at the other end of the Unix socket that a request came by.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` when the kernel does not say who it is.
    pub fn caller<T>(&self, request: &Request<T>) -> Result<Principal, Status> {
        request
            .extensions()
            .get::<UdsConnectInfo>()
            .and_then(|info| info.peer_cred)
            .map(|credentials| self.principal(credentials.uid()))
            .ok_or_else(|| Status::unauthenticated("the caller of this socket is not known"))
    }
}

/// Metadata by which `console` and `orchestrator` say on whose behalf they call.
pub const ON_BEHALF_PRINCIPAL: &str = "aios-principal";
/// Metadata that carries the role of [`ON_BEHALF_PRINCIPAL`]: `admin`, `operator` or `reader`.
pub const ON_BEHALF_ROLE: &str = "aios-role";

/// A caller, and the person for whom it calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The process at the other end.
    pub process: Principal,
    /// The person, as text for the ledger: `cert:NAME`, `local:root`, or the process itself.
    pub principal: String,
    /// `admin`, `operator`, `reader`; empty for a process that acts for nobody (deny by default).
    pub role: String,
}

impl Identities {
    /// The caller and the person behind it. The metadata is believed from the console and the
    /// orchestrator only; from anyone else it is ignored.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` when the kernel does not say who calls, or when a forwarding daemon names
    /// nobody.
    pub fn caller_on_behalf<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let process = self.caller(request)?;
        let text = |key: &str| {
            request
                .metadata()
                .get(key)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
                .to_owned()
        };
        let (principal, role) = match &process {
            Principal::Daemon(name) if name == "console" || name == "orchestrator" => {
                let principal = text(ON_BEHALF_PRINCIPAL);
                if principal.is_empty() {
                    (process.to_string(), String::new())
                } else {
                    (principal, text(ON_BEHALF_ROLE))
                }
            }
            Principal::Root => (process.to_string(), "admin".to_owned()),
            other => (other.to_string(), String::new()),
        };
        Ok(Caller {
            process,
            principal,
            role,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Identities {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identities.toml");
        std::fs::write(&path, "[daemons]\nconsole = 905\n[agents]\nnetwork = 912\n").unwrap();
        Identities::load(&path).unwrap()
    }

    #[test]
    fn an_unlisted_uid_is_nobody_in_particular() {
        assert_eq!(table().principal(4711), Principal::User(4711));
        assert_eq!(table().principal(0), Principal::Root);
        assert_eq!(table().principal(912), Principal::Agent("network".into()));
    }

    #[test]
    fn one_uid_with_two_names_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identities.toml");
        std::fs::write(&path, "[daemons]\na = 1\n[agents]\nb = 1\n").unwrap();
        let error = Identities::load(&path).unwrap_err().to_string();
        assert!(error.contains("uid 1 is both"), "{error}");
    }

    #[test]
    fn a_caller_without_credentials_is_refused() {
        let error = table().caller(&Request::new(())).unwrap_err();
        assert_eq!(error.code(), tonic::Code::Unauthenticated);
    }
}
