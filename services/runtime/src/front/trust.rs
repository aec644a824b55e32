//! Whether a model file is what it should be. Its hash must be the one of its manifest, or else the
//! one that it had when it was first used, which is recorded then.
//!
//! What was checked is an open file, and that very file goes to the worker: nobody can put another one
//! in its place in between.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use aios_gguf::{Manifest, ManifestEntry};
use sha2::{Digest as _, Sha256};

use super::catalog::{self, Entry, Expected};

/// The file in the machine's folder that records the hash at first use, in the manifest's format.
pub const FIRST_USES: &str = "first-use.toml";

/// Why a model file is not used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The scan found a fault already.
    #[error("{file}: {problem}")]
    Unusable {
        /// Which file.
        file: String,
        /// What the fault is.
        problem: String,
    },
    /// The file cannot be read.
    #[error("{file}: cannot read it: {source}")]
    Read {
        /// Which file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// The hash is not the manifest's.
    #[error(
        "{file}: refused, its SHA-256 is {actual}, but the manifest says {expected}: copy the file again, or correct the manifest"
    )]
    Manifest {
        /// Which file.
        file: String,
        /// What it should be.
        expected: String,
        /// What it is.
        actual: String,
    },
    /// The file changed since it was first used.
    #[error(
        "{file}: refused, its SHA-256 is {actual}, but it was {expected} when it was first used: if you replaced it, remove its entry from {FIRST_USES} in the models folder"
    )]
    Changed {
        /// Which file.
        file: String,
        /// What it was.
        expected: String,
        /// What it is.
        actual: String,
    },
    /// The first use cannot be recorded.
    #[error("{file}: its hash cannot be recorded, so it is not used: {message}")]
    Record {
        /// Which file.
        file: String,
        /// Why.
        message: String,
    },
}

/// An open model file whose hash was right.
#[derive(Debug)]
pub struct Verified {
    file: File,
    stamp: Stamp,
    sha256: String,
}

/// What changes when a file's content does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

impl Verified {
    /// The hash, in hexadecimal.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The file for a worker, or none when somebody wrote to it since it was checked.
    ///
    /// # Errors
    /// What the system says.
    pub fn file(&self) -> io::Result<Option<File>> {
        if Stamp::of(&self.file)? != self.stamp {
            return Ok(None);
        }
        self.file.try_clone().map(Some)
    }
}

/// Opens and checks a model file; reads all of it.
///
/// # Errors
/// [`TrustError`], whose text says what to do.
pub fn verify(entry: &Entry) -> Result<Verified, TrustError> {
    let file = || entry.file.clone();
    if let Some(problem) = &entry.problem {
        return Err(TrustError::Unusable {
            file: file(),
            problem: problem.clone(),
        });
    }
    let read = |source| TrustError::Read {
        file: file(),
        source,
    };
    let opened = catalog::open(&entry.path).map_err(read)?;
    let stamp = Stamp::of(&opened).map_err(read)?;
    let actual = hash(&opened).map_err(read)?;
    match &entry.expected {
        Expected::Manifest(expected) if *expected != actual => {
            return Err(TrustError::Manifest {
                file: file(),
                expected: expected.clone(),
                actual,
            });
        }
        Expected::FirstUse(expected) if *expected != actual => {
            return Err(TrustError::Changed {
                file: file(),
                expected: expected.clone(),
                actual,
            });
        }
        Expected::Manifest(_) | Expected::FirstUse(_) => {}
        Expected::Unknown => record(entry, &actual).map_err(|message| TrustError::Record {
            file: file(),
            message,
        })?,
    }
    Ok(Verified {
        file: opened,
        stamp,
        sha256: actual,
    })
}

fn hash(mut file: &File) -> io::Result<String> {
    file.seek(SeekFrom::Start(0))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    Ok(hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// Adds a hash to the record, durable before the model is used.
fn record(entry: &Entry, sha256: &str) -> Result<(), String> {
    let folder = entry.path.parent().ok_or("it lies in no folder")?;
    let path = folder.join(FIRST_USES);
    let mut uses: Manifest = if path.exists() {
        aios_config::load(&path).map_err(|error| error.to_string())?
    } else {
        Manifest::default()
    };
    uses.models.retain(|used| used.file != entry.file);
    uses.models.push(ManifestEntry {
        file: entry.file.clone(),
        sha256: sha256.to_owned(),
        name: String::new(),
        trained: entry.trained,
        operational: entry.operational,
        description: String::new(),
    });
    let text = toml::to_string(&uses).map_err(|error| error.to_string())?;
    replace(folder, &path, &text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Writes a file so that a crash leaves the old one or the new one.
fn replace(folder: &Path, path: &Path, text: &str) -> io::Result<()> {
    let fresh = path.with_extension("toml.new");
    let mut file = File::create(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use aios_gguf::untrained;

    use super::*;
    use crate::front::catalog::{Catalog, Folders};

    fn machine() -> (tempfile::TempDir, Folders) {
        let root = tempfile::tempdir().unwrap();
        let folders = Folders {
            image: root.path().join("image"),
            machine: root.path().join("machine"),
        };
        fs::create_dir_all(&folders.machine).unwrap();
        fs::write(folders.machine.join("m.gguf"), untrained::model().unwrap()).unwrap();
        (root, folders)
    }

    fn entry(folders: &Folders) -> Entry {
        Catalog::scan(folders).find("m").unwrap().clone()
    }

    #[test]
    fn the_first_use_is_recorded_and_a_change_is_refused() {
        let (_root, folders) = machine();
        let hash = verify(&entry(&folders)).unwrap().sha256().to_owned();
        assert_eq!(entry(&folders).expected, Expected::FirstUse(hash));
        verify(&entry(&folders)).unwrap();
        let mut bytes = untrained::model().unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(folders.machine.join("m.gguf"), bytes).unwrap();
        let error = verify(&entry(&folders)).unwrap_err().to_string();
        assert!(
            error.contains("refused") && error.contains(FIRST_USES),
            "{error}"
        );
    }

    #[test]
    fn the_manifest_goes_before_the_record() {
        let (_root, folders) = machine();
        verify(&entry(&folders)).unwrap();
        let wrong = "0".repeat(64);
        fs::write(
            folders.machine.join("manifest.toml"),
            format!("[[model]]\nfile = \"m.gguf\"\nsha256 = \"{wrong}\"\n"),
        )
        .unwrap();
        let error = verify(&entry(&folders)).unwrap_err().to_string();
        assert!(
            error.contains(&wrong) && error.contains("manifest"),
            "{error}"
        );
    }

    #[test]
    fn a_file_that_is_written_to_later_is_not_handed_out() {
        let (_root, folders) = machine();
        let verified = verify(&entry(&folders)).unwrap();
        assert!(verified.file().unwrap().is_some());
        let path = folders.machine.join("m.gguf");
        let mut bytes = fs::read(&path).unwrap();
        bytes.push(0);
        fs::write(&path, bytes).unwrap();
        assert!(verified.file().unwrap().is_none());
    }

    #[test]
    fn a_file_that_was_put_in_its_place_is_not_the_one_that_is_handed_out() {
        let (_root, folders) = machine();
        let verified = verify(&entry(&folders)).unwrap();
        let path = folders.machine.join("m.gguf");
        fs::write(folders.machine.join("other"), b"something else").unwrap();
        fs::rename(folders.machine.join("other"), path).unwrap();
        // The rename takes a link from the old file, which changes its time of change.
        assert!(verified.file().unwrap().is_none());
    }
}
