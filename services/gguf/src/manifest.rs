//! `manifest.toml`: what lies in a models folder, and the hash that each file must have. Whoever makes
//! a folder writes it; the runtime believes a model file only as far as its entry goes.

use serde::{Deserialize, Serialize};

/// The name of the file within a models folder.
pub const FILE_NAME: &str = "manifest.toml";

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// One entry per model file.
    #[serde(default, rename = "model")]
    pub models: Vec<ManifestEntry>,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestEntry {
    /// File name within the folder.
    pub file: String,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// What people call it; empty: the file name without its ending.
    #[serde(default)]
    pub name: String,
    /// False for a stand-in whose words mean nothing.
    #[serde(default = "yes")]
    pub trained: bool,
    /// Whether it may become the operational model by itself.
    #[serde(default = "yes")]
    pub operational: bool,
    /// For people.
    #[serde(default)]
    pub description: String,
}

fn yes() -> bool {
    true
}

impl Manifest {
    /// The entry of a file.
    #[must_use]
    pub fn entry(&self, file: &str) -> Option<&ManifestEntry> {
        self.models.iter().find(|entry| entry.file == file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_has_a_default_and_a_wrong_key_is_an_error() {
        let manifest: Manifest =
            toml::from_str("[[model]]\nfile = \"a.gguf\"\nsha256 = \"00\"\n").unwrap();
        let entry = manifest.entry("a.gguf").unwrap();
        assert!(entry.trained && entry.operational && entry.name.is_empty());
        assert!(manifest.entry("b.gguf").is_none());
        assert!(toml::from_str::<Manifest>("[[model]]\nfile = \"a\"\nsha = \"00\"\n").is_err());
    }
}
