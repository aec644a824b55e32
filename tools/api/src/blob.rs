//! Content-addressed store of what was there before a call: a file's name is the SHA-256 of its
//! content, it is durable before its name is given out, and it never changes.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The name of a stored content: SHA-256 in hexadecimal, and its size in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BlobId {
    /// SHA-256 in hexadecimal.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

/// The store.
#[derive(Debug, Clone)]
pub struct BlobStore {
    dir: PathBuf,
}

impl BlobStore {
    /// A store in a directory, which is made when the first content is put.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Stores a content and returns its name once it is on the disk.
    ///
    /// # Errors
    /// When the content cannot be read or the disk cannot take it; nothing half-written stays.
    pub fn put(&self, mut content: impl Read) -> io::Result<BlobId> {
        // What was in files is as secret as the files were: for root only.
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)?;
        let temporary = self.dir.join(format!(
            ".incoming-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        let result = self.write_then_name(&mut content, &temporary);
        if result.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        result
    }

    fn write_then_name(&self, content: &mut impl Read, temporary: &Path) -> io::Result<BlobId> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(temporary)?;
        let mut hasher = Sha256::new();
        let mut size = 0u64;
        let mut buffer = vec![0u8; 64 << 10];
        loop {
            let count = content.read(&mut buffer)?;
            let Some(chunk) = buffer.get(..count).filter(|chunk| !chunk.is_empty()) else {
                break;
            };
            hasher.update(chunk);
            file.write_all(chunk)?;
            size += chunk.len() as u64;
        }
        file.sync_all()?;
        let id = BlobId {
            sha256: crate::canonical::hex(&hasher.finalize()),
            size,
        };
        fs::rename(temporary, self.dir.join(&id.sha256))?;
        File::open(&self.dir)?.sync_all()?;
        Ok(id)
    }

    /// Opens a stored content.
    ///
    /// # Errors
    /// When it is not there (any more), or is not what its name says in size.
    pub fn open(&self, id: &BlobId) -> io::Result<File> {
        if id.sha256.len() != 64 || !id.sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a blob name",
            ));
        }
        let file = File::open(self.dir.join(&id.sha256))?;
        if file.metadata()?.len() != id.size {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("stored content {} is damaged", id.sha256),
            ));
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_comes_back_and_is_stored_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = BlobStore::new(dir.path().join("blobs"));
        let first = store.put(&b"welcome"[..]).unwrap();
        let second = store.put(&b"welcome"[..]).unwrap();
        assert_eq!(first, second);
        let mut text = String::new();
        store
            .open(&first)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "welcome");
        assert_eq!(fs::read_dir(dir.path().join("blobs")).unwrap().count(), 1);
    }

    #[test]
    fn a_name_that_is_a_path_is_refused() {
        let store = BlobStore::new("/");
        let id = BlobId {
            sha256: "../etc/passwd".into(),
            size: 1,
        };
        assert!(store.open(&id).is_err());
    }

    #[test]
    fn a_cut_content_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let store = BlobStore::new(dir.path());
        let id = store.put(&b"abc"[..]).unwrap();
        fs::write(dir.path().join(&id.sha256), "ab").unwrap();
        assert!(store.open(&id).is_err());
    }
}
