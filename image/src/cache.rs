//! Products by the hash of their inputs. A product is a directory; it is made under a temporary name
//! and renamed when it is complete, so that an interrupted build leaves nothing that looks finished.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rustix::fs::FlockOperation;
use sha2::{Digest as _, Sha256};

use crate::workspace;

/// Collects everything that a product depends on.
#[derive(Debug, Default)]
pub struct Key(Sha256);

impl Key {
    /// Starts a key. Change `recipe` when the way of building changes.
    #[must_use]
    pub fn new(recipe: &str) -> Self {
        let mut key = Self::default();
        key.text("recipe", recipe);
        key
    }

    /// Adds a named text. Lengths are hashed too, so that no two lists of inputs collide.
    pub fn text(&mut self, name: &str, text: &str) {
        self.bytes(name, text.as_bytes());
    }

    /// Adds named bytes.
    pub fn bytes(&mut self, name: &str, bytes: &[u8]) {
        for part in [name.as_bytes(), bytes] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
    }

    /// Adds the name and content of a file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn file(&mut self, path: &Path) -> Result<()> {
        let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        self.bytes(&name, &content);
        Ok(())
    }

    /// The key as 24 hexadecimal digits.
    #[must_use]
    pub fn finish(self) -> String {
        let hash = self.0.finalize();
        hash.iter()
            .take(12)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// SHA-256 of a file in hexadecimal.
///
/// # Errors
/// When it cannot be read.
pub fn sha256_file(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hasher = Sha256::new();
    std::io::copy(&mut file, &mut HashWriter(&mut hasher))
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

struct HashWriter<'a>(&'a mut Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Returns the directory of a product, making it with `build` if it is not there yet. One build of
/// a kind at a time, across processes.
///
/// # Errors
/// When the cache cannot be written or `build` fails.
pub fn product(
    kind: &str,
    key: &str,
    build: impl FnOnce(&Path) -> Result<()>,
) -> Result<(PathBuf, bool)> {
    let dir = workspace::cache()?.join(kind);
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let finished = dir.join(key);
    if finished.exists() {
        return Ok((finished, true));
    }
    let lock_path = dir.join("lock");
    let lock = File::create(&lock_path)
        .with_context(|| format!("cannot write {}", lock_path.display()))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)
        .with_context(|| format!("cannot lock {}", lock_path.display()))?;
    if finished.exists() {
        return Ok((finished, true));
    }
    let unfinished = dir.join(format!("{key}.unfinished"));
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)
            .with_context(|| format!("cannot remove {}", unfinished.display()))?;
    }
    fs::create_dir(&unfinished).with_context(|| format!("cannot make {}", unfinished.display()))?;
    build(&unfinished)?;
    fs::rename(&unfinished, &finished)
        .with_context(|| format!("cannot name {}", finished.display()))?;
    Ok((finished, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_when_the_border_between_inputs_moves() {
        let key = |pairs: &[(&str, &str)]| {
            let mut key = Key::new("r");
            for (name, text) in pairs {
                key.text(name, text);
            }
            key.finish()
        };
        assert_eq!(key(&[("a", "bc")]), key(&[("a", "bc")]));
        assert_ne!(key(&[("a", "bc")]), key(&[("ab", "c")]));
        assert_ne!(key(&[("a", "b"), ("c", "")]), key(&[("a", "bc")]));
    }
}
