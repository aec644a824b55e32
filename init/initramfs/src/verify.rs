//! Whether the files of the medium are what was put on it. Sizes are compared at every boot, since
//! that costs nothing and catches a cut download; contents when the boot menu asks for it.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};

use sha2::{Digest as _, Sha256};

/// Why the medium cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The list itself is missing or unreadable.
    #[error("the medium has no readable list of its files (aios/SHA256SUMS): {0}")]
    List(io::Error),
    /// A line of the list makes no sense.
    #[error("the medium's list of files is damaged in line {0}")]
    Line(usize),
    /// A file is missing or unreadable.
    #[error("{name} on the medium cannot be read: {source}")]
    File {
        /// Which file.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// A file has another size.
    #[error("{name} on the medium has {found} bytes instead of {expected}")]
    Size {
        /// Which file.
        name: String,
        /// Bytes that it should have.
        expected: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// A file has another content.
    #[error("{name} on the medium is damaged: its SHA-256 is not the one that was recorded")]
    Content {
        /// Which file.
        name: String,
    },
}

/// Compares the files below `medium` with its list; with `contents`, every byte of them.
pub fn medium(medium: &Path, contents: bool) -> Result<(), VerifyError> {
    let list = fs::read_to_string(medium.join("aios/SHA256SUMS")).map_err(VerifyError::List)?;
    for (index, line) in list.lines().enumerate() {
        let mut words = line.splitn(3, ' ');
        let (Some(sum), Some(size), Some(name)) = (words.next(), words.next(), words.next()) else {
            return Err(VerifyError::Line(index + 1));
        };
        let expected: u64 = size.parse().map_err(|_| VerifyError::Line(index + 1))?;
        let file = |source| VerifyError::File {
            name: name.to_owned(),
            source,
        };
        let path = medium.join(name);
        let found = fs::metadata(&path).map_err(file)?.len();
        if found != expected {
            return Err(VerifyError::Size {
                name: name.to_owned(),
                expected,
                found,
            });
        }
        if contents && sha256(&path).map_err(file)? != sum {
            return Err(VerifyError::Content {
                name: name.to_owned(),
            });
        }
    }
    Ok(())
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        let count = file.read(&mut buffer)?;
        match buffer.get(..count) {
            Some(chunk) if !chunk.is_empty() => hasher.update(chunk),
            _ => break,
        }
    }
    Ok(hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_file(content: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("aios")).unwrap();
        fs::write(dir.path().join("aios/base"), content).unwrap();
        // SHA-256 of "hello".
        let sum = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        fs::write(
            dir.path().join("aios/SHA256SUMS"),
            format!("{sum} 5 aios/base\n"),
        )
        .unwrap();
        dir
    }

    #[test]
    fn a_whole_medium_passes() {
        medium(with_file("hello").path(), true).unwrap();
    }

    #[test]
    fn a_cut_file_is_found_without_reading_it() {
        let error = medium(with_file("hell").path(), false).unwrap_err();
        assert_eq!(
            error.to_string(),
            "aios/base on the medium has 4 bytes instead of 5"
        );
    }

    #[test]
    fn a_changed_byte_is_found_when_contents_are_read() {
        let dir = with_file("hallo");
        medium(dir.path(), false).unwrap();
        assert!(matches!(
            medium(dir.path(), true),
            Err(VerifyError::Content { .. })
        ));
    }
}
