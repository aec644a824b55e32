//! Paths that stand apart: what must not be read (`/etc/shadow`, keys, the ledger) and what must not
//! be changed (the configuration and programs of aiOS) without a capability that names it exactly.
//!
//! The registry denies a call *on* such a path. A tool that walks a tree looks at many paths that no
//! capability named: before it opens a file for its content it asks [`Context::may_read`], before it
//! changes one [`Context::may_change`], and passes over (and counts) what it may not touch. Names
//! and sizes in a listing of an ordinary directory are not secrets.
//!
//! Invariants: matching is on canonical paths (absolute, no symbolic link, no `.` or `..`); a path
//! that is not canonical is looked at as it would be after `.` and `..` are resolved by text, so that
//! a careless caller errs towards a match; an unreadable pattern is refused, never ignored.
//!
//! [`Context::may_read`]: crate::Context::may_read
//! [`Context::may_change`]: crate::Context::may_change

use std::path::{Component, Path};

/// A set of path patterns. A pattern is absolute; `*` stands for any part of one name; a last
/// component `**` takes in the directory itself and everything below.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PathSet {
    patterns: Vec<PathPattern>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct PathPattern {
    text: String,
    names: Vec<String>,
    below: bool,
}

/// A pattern that names no path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{pattern}` is not a path pattern: write an absolute path, with `*` inside one name or `/**` \
     at the end, e.g. `/etc/ssh/ssh_host_*_key` or `/root/.ssh/**`"
)]
pub struct BadPathPattern {
    /// What was written.
    pub pattern: String,
}

impl PathSet {
    /// Reads patterns.
    ///
    /// # Errors
    /// [`BadPathPattern`] for the first one that is relative, has `.` or `..`, or a `**` that is not
    /// its last name.
    pub fn parse<T: AsRef<str>>(
        patterns: impl IntoIterator<Item = T>,
    ) -> Result<Self, BadPathPattern> {
        let mut set = Self::default();
        for pattern in patterns {
            set.insert(pattern.as_ref())?;
        }
        Ok(set)
    }

    /// Adds one pattern.
    ///
    /// # Errors
    /// As [`PathSet::parse`].
    pub fn insert(&mut self, text: &str) -> Result<(), BadPathPattern> {
        let bad = || BadPathPattern {
            pattern: text.to_owned(),
        };
        let relative = text.strip_prefix('/').ok_or_else(bad)?;
        let mut names: Vec<String> = relative.split('/').map(str::to_owned).collect();
        let below = names.last().is_some_and(|name| name == "**");
        if below {
            names.pop();
        }
        let wrong =
            |name: &String| name.is_empty() || name == "." || name == ".." || name.contains("**");
        if names.iter().any(wrong) || (names.is_empty() && !below) {
            return Err(bad());
        }
        self.patterns.push(PathPattern {
            text: text.to_owned(),
            names,
            below,
        });
        Ok(())
    }

    /// Whether the path is in the set.
    #[must_use]
    pub fn contains(&self, path: &Path) -> bool {
        self.matching(path).is_some()
    }

    /// The first pattern that takes the path in.
    #[must_use]
    pub fn matching(&self, path: &Path) -> Option<&str> {
        let names = lexical(path);
        self.patterns
            .iter()
            .find(|pattern| pattern.takes_in(&names))
            .map(|pattern| pattern.text.as_str())
    }

    /// The first pattern that may have a path at or below this one: what a change of a whole tree
    /// (deleting, changing modes) could reach.
    #[must_use]
    pub fn reached_from(&self, path: &Path) -> Option<&str> {
        let names = lexical(path);
        self.patterns
            .iter()
            .find(|pattern| pattern.takes_in(&names) || pattern.lies_below(&names))
            .map(|pattern| pattern.text.as_str())
    }
}

impl PathPattern {
    fn takes_in(&self, names: &[String]) -> bool {
        let long_enough = if self.below {
            names.len() >= self.names.len()
        } else {
            names.len() == self.names.len()
        };
        long_enough
            && self
                .names
                .iter()
                .zip(names)
                .all(|(glob, name)| matches(glob, name))
    }

    fn lies_below(&self, names: &[String]) -> bool {
        names.len() <= self.names.len()
            && self
                .names
                .iter()
                .zip(names)
                .all(|(glob, name)| matches(glob, name))
    }
}

/// The names of a path with `.` and `..` resolved by text alone.
fn lexical(path: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_string_lossy().into_owned()),
            Component::ParentDir => {
                names.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    names
}

/// Whether a name fits a glob whose only special sign is `*`.
fn matches(glob: &str, name: &str) -> bool {
    let Some((first, rest)) = glob.split_once('*') else {
        return glob == name;
    };
    let Some(mut name) = name.strip_prefix(first) else {
        return false;
    };
    let mut pieces = rest.split('*').peekable();
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return name.ends_with(piece);
        }
        match name.find(piece) {
            Some(at) => name = name.get(at + piece.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set() -> PathSet {
        PathSet::parse([
            "/etc/shadow",
            "/etc/ssh/ssh_host_*_key",
            "/root/.ssh/**",
            "/proc/*/environ",
        ])
        .unwrap()
    }

    #[test]
    fn patterns_take_in_what_they_say() {
        for path in [
            "/etc/shadow",
            "/etc/../etc/./shadow",
            "//etc/shadow",
            "/etc/ssh/ssh_host_ed25519_key",
            "/root/.ssh",
            "/root/.ssh/id_ed25519",
            "/root/.ssh/a/b",
            "/proc/1/environ",
            "/proc/self/environ",
        ] {
            assert!(set().contains(Path::new(path)), "{path}");
        }
        for path in [
            "/",
            "/etc",
            "/etc/shadow2",
            "/etc/shadow/x",
            "/etc/ssh/ssh_host_ed25519_key.pub",
            "/etc/ssh/sub/ssh_host_rsa_key",
            "/root/.sshx",
            "/proc/1/task/1/environ",
        ] {
            assert!(!set().contains(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn a_tree_reaches_what_lies_below_it() {
        for path in ["/", "/etc", "/etc/ssh", "/root", "/root/.ssh/x", "/proc/77"] {
            assert!(set().reached_from(Path::new(path)).is_some(), "{path}");
        }
        for path in ["/srv", "/etc/nginx", "/proc/77/fd"] {
            assert!(set().reached_from(Path::new(path)).is_none(), "{path}");
        }
    }

    #[test]
    fn unusable_patterns_are_refused() {
        for text in [
            "",
            "etc/shadow",
            "/etc/../shadow",
            "/a//b",
            "/a/**/b",
            "/a**",
            "/",
            "/a/",
        ] {
            assert!(PathSet::parse([text]).is_err(), "{text}");
        }
        assert!(PathSet::parse(["/**"]).unwrap().contains(Path::new("/")));
    }

    proptest! {
        #[test]
        fn globs_agree_with_a_slow_matcher(glob in "[ab*]{0,6}", name in "[ab]{0,7}") {
            fn slow(glob: &[u8], name: &[u8]) -> bool {
                match (glob.split_first(), name.split_first()) {
                    (None, None) => true,
                    (Some((b'*', rest)), _) => {
                        slow(rest, name) || name.split_first().is_some_and(|(_, tail)| slow(glob, tail))
                    }
                    (Some((a, rest)), Some((b, tail))) => a == b && slow(rest, tail),
                    _ => false,
                }
            }
            prop_assert_eq!(matches(&glob, &name), slow(glob.as_bytes(), name.as_bytes()));
        }
    }
}
