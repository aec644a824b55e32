//! `head.json`: the number and hash of the newest record, kept outside of the database so that a
//! database whose tail was cut off (or that was replaced by an older copy) is noticed.
//!
//! It is written in place, in one small write after each commit, and not synced: after a power loss
//! it may be older than the database, never newer, so it never accuses wrongly.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
};

use serde::{Deserialize, Serialize};

/// Length of the file: the write stays within one sector.
const BYTES: usize = 128;

/// The newest record that was committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Its number.
    pub seq: u64,
    /// Its hash.
    pub hash: String,
}

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// There is none, or it was never filled.
    Absent,
    /// It cannot be read as a head.
    Unreadable,
    /// The head.
    Head(Head),
}

/// The open file.
#[derive(Debug)]
pub struct HeadFile(File);

impl HeadFile {
    /// Opens the file, making it if there is none, and reads what it says.
    pub fn open(path: &Path) -> io::Result<(Self, Stored)> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        let mut text = String::new();
        let stored = match file.by_ref().take(4096).read_to_string(&mut text) {
            Ok(_) if text.trim_matches(['\0', ' ', '\n']).is_empty() => Stored::Absent,
            Ok(_) => serde_json::from_str(text.trim()).map_or(Stored::Unreadable, Stored::Head),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Stored::Unreadable,
            Err(error) => return Err(error),
        };
        Ok((Self(file), stored))
    }

    /// Takes the ledger for this process; the kernel gives it back when the process ends.
    pub fn lock(&self) -> io::Result<()> {
        self.0.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::new(
                io::ErrorKind::WouldBlock,
                "another aios-tools has this ledger open",
            ),
            TryLockError::Error(error) => error,
        })
    }

    /// Replaces what the file says.
    pub fn write(&self, seq: u64, hash: &str) -> io::Result<()> {
        let text = format!(r#"{{"seq":{seq},"hash":"{hash}"}}"#);
        self.0
            .write_all_at(format!("{text:<width$}\n", width = BYTES - 1).as_bytes(), 0)
    }
}
