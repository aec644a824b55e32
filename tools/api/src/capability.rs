//! Capabilities: `namespace:action[:resource]`, what a call needs and what an agent or role holds.
//!
//! Invariants: nothing is held that is not written down; a pattern's `*` never reaches a sensitive
//! resource (`/etc/shadow`, keys, the ledger), which needs a pattern that spells it out; an empty or
//! malformed pattern matches nothing and is refused when it is read.

use std::fmt;

/// What one call needs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Capability {
    /// Tool family, e.g. `fs`.
    pub namespace: String,
    /// What is done, e.g. `read`.
    pub action: String,
    /// On what, in canonical form; `None` when the call is not about one thing.
    pub resource: Option<String>,
}

impl Capability {
    /// A capability without a resource.
    pub fn new(namespace: impl Into<String>, action: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            action: action.into(),
            resource: None,
        }
    }

    /// The same on one resource.
    #[must_use]
    pub fn on(mut self, resource: impl Into<String>) -> Self {
        self.resource = Some(resource.into());
        self
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.namespace, self.action)?;
        if let Some(resource) = &self.resource {
            write!(f, ":{resource}")?;
        }
        Ok(())
    }
}

/// A malformed pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{pattern}` is not a capability: write `namespace:action` or `namespace:action:resource`, \
     e.g. `fs:read` or `fs:write:/srv/**`"
)]
pub struct BadPattern {
    /// What was written.
    pub pattern: String,
}

/// What is held: `*` stands for any namespace or action; a resource may end in `/**` (everything
/// below, and the directory itself) or be `*` (anything that is not sensitive), otherwise it is
/// exact. Without a resource the pattern covers every resource that is not sensitive.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CapabilityPattern {
    namespace: String,
    action: String,
    resource: Option<String>,
}

impl CapabilityPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`BadPattern`] when it has no action, an empty part, or a star where none may be.
    pub fn parse(text: &str) -> Result<Self, BadPattern> {
        let bad = || BadPattern {
            pattern: text.to_owned(),
        };
        let mut parts = text.splitn(3, ':');
        let namespace = parts.next().unwrap_or_default();
        let action = parts.next().ok_or_else(bad)?;
        let resource = parts.next();
        let word = |part: &str| {
            part == "*"
                || (!part.is_empty()
                    && part.bytes().all(|byte| {
                        byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'
                    }))
        };
        let star_is_at_the_end = |resource: &str| {
            resource == "*"
                || !resource
                    .strip_suffix("/**")
                    .unwrap_or(resource)
                    .contains('*')
        };
        if !word(namespace)
            || !word(action)
            || resource.is_some_and(|resource| resource.is_empty() || !star_is_at_the_end(resource))
        {
            return Err(bad());
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            action: action.to_owned(),
            resource: resource.map(str::to_owned),
        })
    }

    /// Whether this pattern gives the action on anything at all; what a list of usable tools is cut
    /// to.
    #[must_use]
    pub fn may_give(&self, namespace: &str, action: &str) -> bool {
        (self.namespace == "*" || self.namespace == namespace)
            && (self.action == "*" || self.action == action)
    }

    /// Whether this pattern gives `needed`; `sensitive` says whether its resource is one that no
    /// star gives.
    #[must_use]
    pub fn gives(&self, needed: &Capability, sensitive: bool) -> bool {
        let word = |pattern: &str, word: &str| pattern == "*" || pattern == word;
        if !word(&self.namespace, &needed.namespace) || !word(&self.action, &needed.action) {
            return false;
        }
        match (&self.resource, &needed.resource) {
            (Some(pattern), Some(resource)) if sensitive => pattern == resource,
            (None | Some(_), Some(_)) if sensitive => false,
            (None, _) => true,
            (Some(pattern), None) => pattern == "*",
            (Some(pattern), Some(resource)) => {
                pattern == "*"
                    || pattern == resource
                    || pattern.strip_suffix("/**").is_some_and(|parent| {
                        resource == parent
                            || resource
                                .strip_prefix(parent)
                                .is_some_and(|below| below.starts_with('/'))
                    })
            }
        }
    }
}

impl fmt::Display for CapabilityPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.namespace, self.action)?;
        if let Some(resource) = &self.resource {
            write!(f, ":{resource}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn gives(pattern: &str, needed: &Capability) -> bool {
        CapabilityPattern::parse(pattern)
            .unwrap()
            .gives(needed, false)
    }

    #[test]
    fn patterns_cover_what_they_say() {
        let motd = Capability::new("fs", "write").on("/srv/motd.txt");
        assert!(gives("fs:write", &motd));
        assert!(gives("fs:*", &motd));
        assert!(gives("fs:write:/srv/**", &motd));
        assert!(gives("fs:write:/srv/motd.txt", &motd));
        assert!(!gives("fs:read", &motd));
        assert!(!gives("fs:write:/srv", &motd));
        assert!(!gives("fs:write:/sr/**", &motd));
        assert!(!gives("net:write", &motd));
    }

    #[test]
    fn no_star_gives_a_sensitive_resource() {
        let shadow = Capability::new("fs", "read").on("/etc/shadow");
        for pattern in [
            "*:*",
            "fs:*",
            "fs:read",
            "fs:read:*",
            "fs:read:/etc/**",
            "fs:read:/**",
        ] {
            let pattern = CapabilityPattern::parse(pattern).unwrap();
            assert!(!pattern.gives(&shadow, true), "{pattern}");
        }
        let exact = CapabilityPattern::parse("fs:read:/etc/shadow").unwrap();
        assert!(exact.gives(&shadow, true));
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for text in [
            "",
            "fs",
            "fs:",
            ":read",
            "fs:read:",
            "fs:re*d",
            "FS:read",
            "fs:read:/a*b",
        ] {
            assert!(CapabilityPattern::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_prints_back(text in ".{0,40}") {
            if let Ok(pattern) = CapabilityPattern::parse(&text) {
                prop_assert_eq!(pattern.to_string(), text);
            }
        }
    }
}
