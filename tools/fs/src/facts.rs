//! What is said about a file: one form for every tool of the family.

use std::os::fd::AsFd;

use aios_tool_api::{Accounts, FileMode};
use rustix::fs::{FileType, Stat};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a name in a directory stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// A block or character device.
    Device,
}

impl Kind {
    pub(crate) fn of(stat: &Stat) -> Self {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::BlockDevice | FileType::CharacterDevice => Self::Device,
            _ => Self::File,
        }
    }
}

/// The facts about one file, directory or link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Entry {
    /// Its name, or its path below the directory that was asked for.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Bytes of content (of a link: of its target's name).
    pub size: u64,
    /// Permissions in octal.
    pub mode: FileMode,
    /// Owner's name, or number when it has no name.
    pub owner: String,
    /// Group's name, or number when it has no name.
    pub group: String,
    /// Last change of the content, in milliseconds since 1970.
    pub modified_ms: i64,
    /// Where a symbolic link leads, as it is written in the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

impl Entry {
    pub(crate) fn new(
        name: String,
        stat: &Stat,
        accounts: &Accounts,
        target: Option<String>,
    ) -> Self {
        Self {
            name,
            kind: Kind::of(stat),
            size: size(stat),
            mode: FileMode::from_bits(stat.st_mode),
            owner: accounts.user(stat.st_uid),
            group: accounts.group(stat.st_gid),
            modified_ms: modified_ms(stat),
            target,
        }
    }
}

pub(crate) fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// Last change of the content, in milliseconds since 1970.
pub(crate) fn modified_ms(stat: &Stat) -> i64 {
    milliseconds(stat.st_mtime, stat.st_mtime_nsec)
}

pub(crate) fn milliseconds(seconds: i64, nanoseconds: impl TryInto<i64>) -> i64 {
    seconds
        .saturating_mul(1000)
        .saturating_add(nanoseconds.try_into().unwrap_or(0) / 1_000_000)
}

/// Where a link in an open directory leads; `None` when it is none.
pub(crate) fn target(dir: impl AsFd, name: impl rustix::path::Arg) -> Option<String> {
    rustix::fs::readlinkat(dir, name, Vec::new())
        .ok()
        .map(|target| target.to_string_lossy().into_owned())
}

/// Bytes that a value takes in a JSON result.
pub(crate) fn json_size(value: &impl Serialize) -> usize {
    serde_json::to_vec(value).map_or(usize::MAX, |bytes| bytes.len())
}
