//! What is installed, as dpkg and apt know it.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The fields that [`parse`] reads, one package a line.
pub(crate) const FORMAT: &str = "-f=${db:Status-Abbrev}\\t${Package}\\t${Architecture}\\t${Version}\
                                 \\t${Essential}\\t${Protected}\\t${Priority}\\n";

/// What aiOS itself is made of or cannot be repaired without, beyond what Debian calls essential.
const NEEDED: [&str; 11] = [
    "apt",
    "ca-certificates",
    "dpkg",
    "e2fsprogs",
    "init-system-helpers",
    "iproute2",
    "kmod",
    "libc6",
    "nftables",
    "openssh-server",
    "procps",
];

/// A package and its version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Package {
    /// Name, with `:architecture` when it is not the machine's own.
    pub name: String,
    /// Version.
    pub version: String,
}

/// How far a package is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// Unpacked and configured.
    Installed,
    /// Removed, its configuration files are left.
    ConfigFiles,
    /// An earlier run was interrupted.
    Unfinished,
}

/// One package that dpkg knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) version: String,
    pub(crate) stage: Stage,
    /// Installed only because another package needs it.
    pub(crate) auto: bool,
    /// Debian or aiOS cannot do without it.
    pub(crate) needed: bool,
}

/// Every package that dpkg knows, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Packages(pub(crate) BTreeMap<String, Entry>);

impl Packages {
    /// The entry of a package that is installed.
    pub(crate) fn installed(&self, name: &str) -> Option<&Entry> {
        self.0
            .get(name)
            .filter(|entry| entry.stage == Stage::Installed)
    }

    /// Whether an earlier run was interrupted.
    pub(crate) fn unfinished(&self) -> Vec<String> {
        let unfinished = |(name, entry): (&String, &Entry)| {
            (entry.stage == Stage::Unfinished).then(|| name.clone())
        };
        self.0.iter().filter_map(unfinished).collect()
    }

    /// Packages that are installed here and not in `other`.
    pub(crate) fn installed_beyond(&self, other: &Self) -> Vec<Package> {
        self.0
            .iter()
            .filter(|(name, entry)| {
                entry.stage == Stage::Installed && other.installed(name).is_none()
            })
            .map(|(name, entry)| Package {
                name: name.clone(),
                version: entry.version.clone(),
            })
            .collect()
    }
}

/// The machine's own architecture in Debian's words.
fn native() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Reads the output of dpkg-query in [`FORMAT`] and the names that `apt-mark showauto` prints.
/// Lines that are not of that form are left out.
pub(crate) fn parse(query: &str, auto: &str) -> Packages {
    let auto: BTreeSet<&str> = auto.lines().map(str::trim).collect();
    let line = |line: &str| {
        let mut fields = line.split('\t');
        let abbreviation = fields.next()?;
        let (package, architecture, version) = (fields.next()?, fields.next()?, fields.next()?);
        let (essential, protected, priority) = (fields.next()?, fields.next()?, fields.next()?);
        let stage = match abbreviation.chars().nth(1)? {
            'i' => Stage::Installed,
            'c' => Stage::ConfigFiles,
            'n' => return None,
            _ => Stage::Unfinished,
        };
        let name = if architecture == native() || architecture == "all" {
            package.to_owned()
        } else {
            format!("{package}:{architecture}")
        };
        let needed = essential == "yes"
            || protected == "yes"
            || priority == "required"
            || NEEDED.contains(&package);
        let auto = auto.contains(name.as_str());
        Some((
            name,
            Entry {
                version: version.to_owned(),
                stage,
                auto,
                needed,
            },
        ))
    };
    Packages(query.lines().filter_map(line).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stages_flags_and_architectures_are_read() {
        let native = native();
        let query = format!(
            "ii \tnginx\t{native}\t1.22\t\t\thttpd\n\
             iF \tredis\tall\t7\t\t\toptional\n\
             rc \told\tall\t1\t\t\toptional\n\
             un \tnone\t\t\t\t\t\n\
             ii \tlibc6\tother\t2.36\t\t\toptional\n\
             hi \tdash\tall\t0.5\tyes\t\trequired\n"
        );
        let packages = parse(&query, "redis\nlibc6:other\n");
        assert_eq!(packages.0.len(), 5);
        assert!(!packages.installed("nginx").unwrap().auto);
        assert_eq!(packages.unfinished(), ["redis"]);
        assert_eq!(packages.0["old"].stage, Stage::ConfigFiles);
        let libc = packages.installed("libc6:other").unwrap();
        assert!(libc.auto && libc.needed);
        assert!(packages.installed("dash").unwrap().needed);
    }

    #[test]
    fn the_difference_is_what_was_installed() {
        let before = parse("ii \ta-a\tall\t1\t\t\t\nrc \tb-b\tall\t1\t\t\t\n", "");
        let after = parse("ii \ta-a\tall\t2\t\t\t\nii \tb-b\tall\t1\t\t\t\n", "");
        let names: Vec<String> = after
            .installed_beyond(&before)
            .into_iter()
            .map(|package| package.name)
            .collect();
        assert_eq!(names, ["b-b"]);
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser(text in "(\\PC|\t|\n){0,200}") {
            let _ = parse(&text, &text);
        }
    }
}
