//! `/etc/aios/security/policy.toml`: what the role of a person may have done, and which paths stand
//! apart.
//!
//! Invariants: what is not written down is denied; `deny` wins over `capabilities`; a sensitive or
//! protected path is given only by a capability that spells it out. The file is required: a machine
//! without a policy does nothing for anybody.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use aios_config::ConfigError;
use aios_tool_api::{Capability, CapabilityPattern, PathSet};
use serde::Deserialize;

/// A capability pattern in a file; a malformed one is an error at its line.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern(pub CapabilityPattern);

impl TryFrom<String> for Pattern {
    type Error = aios_tool_api::capability::BadPattern;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        CapabilityPattern::parse(&text).map(Self)
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
struct PathText(String);

impl TryFrom<String> for PathText {
    type Error = aios_tool_api::sensitive::BadPathPattern;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        PathSet::parse([&text])?;
        Ok(Self(text))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    roles: Roles,
    sensitive: Paths,
    protected: Paths,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Roles {
    admin: Rights,
    operator: Rights,
    reader: Rights,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Paths {
    paths: Vec<PathText>,
}

/// What somebody holds.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rights {
    /// What they may have done.
    pub capabilities: Vec<Pattern>,
    /// What they may not have done whatever `capabilities` says.
    #[serde(default)]
    pub deny: Vec<Pattern>,
}

impl Rights {
    /// Whether these rights give a capability. `named` says that only a pattern that spells the
    /// resource out gives it.
    #[must_use]
    pub fn give(&self, needed: &Capability, named: bool) -> bool {
        let denied = self
            .deny
            .iter()
            .any(|pattern| pattern.0.gives(needed, false));
        !denied
            && self
                .capabilities
                .iter()
                .any(|pattern| pattern.0.gives(needed, named))
    }

    /// Whether these rights give an action on anything at all.
    #[must_use]
    pub fn may_give(&self, namespace: &str, action: &str) -> bool {
        self.capabilities
            .iter()
            .any(|pattern| pattern.0.may_give(namespace, action))
    }
}

/// The whole policy.
#[derive(Debug, Clone)]
pub struct Policy {
    path: PathBuf,
    admin: Rights,
    operator: Rights,
    reader: Rights,
    /// What must not be read.
    pub sensitive: Arc<PathSet>,
    /// What must not be changed.
    pub protected: Arc<PathSet>,
}

impl Policy {
    /// Reads the policy below the configuration directory. The state directory of this machine is
    /// sensitive and its configuration protected wherever they are, whatever the file says.
    ///
    /// # Errors
    /// When the file is missing or not right; the message names file and line.
    pub fn load(etc: &Path, state: &Path) -> Result<Self, ConfigError> {
        let path = etc.join("security").join("policy.toml");
        let file: PolicyFile = aios_config::load(&path)?;
        let set = |listed: &Paths, own: &Path| {
            let own = std::fs::canonicalize(own).unwrap_or_else(|_| own.to_owned());
            let own = format!("{}/**", own.display());
            let texts = listed.paths.iter().map(|path| path.0.as_str());
            PathSet::parse(texts.chain([own.as_str()])).map_err(|error| ConfigError::Invalid {
                path: path.clone(),
                line: 1,
                column: 1,
                message: error.to_string(),
                hint: String::new(),
            })
        };
        Ok(Self {
            sensitive: Arc::new(set(&file.sensitive, state)?),
            protected: Arc::new(set(&file.protected, etc)?),
            admin: file.roles.admin,
            operator: file.roles.operator,
            reader: file.roles.reader,
            path,
        })
    }

    /// What a role holds; a role that does not exist holds nothing.
    #[must_use]
    pub fn role(&self, name: &str) -> Option<&Rights> {
        match name {
            "admin" => Some(&self.admin),
            "operator" => Some(&self.operator),
            "reader" => Some(&self.reader),
            _ => None,
        }
    }

    /// The file that the policy was read from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The pattern because of which a capability must be spelled out, if one does. `changes` says
    /// that the call may change what is there: then protected paths count, and so does a directory
    /// from which a sensitive or protected path can be reached.
    #[must_use]
    pub fn stands_apart(&self, needed: &Capability, changes: bool) -> Option<String> {
        let path = Path::new(needed.resource.as_deref()?);
        if !path.is_absolute() {
            return None;
        }
        let sensitive = |pattern: &str| format!("{pattern} is sensitive");
        let protected = |pattern: &str| format!("{pattern} is protected");
        if let Some(pattern) = self.sensitive.matching(path) {
            return Some(sensitive(pattern));
        }
        if !changes {
            return None;
        }
        if let Some(pattern) = self.protected.matching(path) {
            return Some(protected(pattern));
        }
        // Only a directory that is there has anything below it that a change could reach.
        if !path.is_dir() {
            return None;
        }
        self.sensitive
            .reached_from(path)
            .map(sensitive)
            .or_else(|| self.protected.reached_from(path).map(protected))
    }
}

#[cfg(test)]
mod tests;
