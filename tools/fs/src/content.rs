//! A file's content as a whole: hashing it, saving it in the pre-image store, reading it back.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use aios_tool_api::{BlobId, Context, ToolError, ToolErrorKind, canonical};
use rustix::fs::{Mode, OFlags, Stat};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::root::{self, path_error};

/// Largest file that can be replaced: its content is kept so that the call can be undone.
pub(crate) const PRE_IMAGE_LIMIT: u64 = 64 << 20;

/// A saved file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Saved {
    /// Its content.
    pub(crate) content: BlobId,
    /// Permission bits.
    pub(crate) mode: u32,
    /// Owner.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
}

/// Reads what the hash is made of, with the hash at the end.
pub(crate) struct Hashing<R> {
    inner: R,
    hasher: Sha256,
    pub(crate) bytes: u64,
}

impl<R: Read> Hashing<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
            bytes: 0,
        }
    }

    pub(crate) fn finish(self) -> String {
        canonical::hex(&self.hasher.finalize())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(buffer.get(..count).unwrap_or_default());
        self.bytes += count as u64;
        Ok(count)
    }
}

/// SHA-256 of a whole file.
pub(crate) fn hash(fd: OwnedFd, path: &str) -> Result<String, ToolError> {
    let mut reader = Hashing::new(File::from(fd));
    io::copy(&mut reader, &mut io::sink())
        .map_err(|error| ToolError::io(format!("cannot read {path}"), &error))?;
    Ok(reader.finish())
}

/// Puts a file into the pre-image store.
pub(crate) fn save(
    fd: OwnedFd,
    stat: &Stat,
    path: &str,
    context: &Context,
) -> Result<Saved, ToolError> {
    let size = crate::facts::size(stat);
    if size > PRE_IMAGE_LIMIT {
        return Err(ToolError::invalid(format!(
            "{path} has {size} bytes; a file of more than {PRE_IMAGE_LIMIT} bytes is not replaced, \
             since its content could not be kept for a rollback"
        ))
        .hint("delete it first, or write to another path"));
    }
    let content = context
        .blobs
        .put(File::from(fd))
        .map_err(|error| ToolError::io(format!("cannot save {path} before the change"), &error))?;
    Ok(Saved {
        content,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
    })
}

/// A saved content, whole.
pub(crate) fn saved_bytes(saved: &Saved, context: &Context) -> Result<Vec<u8>, ToolError> {
    let broken = |error: io::Error| {
        ToolError::io(
            format!("cannot read the saved content {}", saved.content.sha256),
            &error,
        )
    };
    let mut bytes = Vec::new();
    context
        .blobs
        .open(&saved.content)
        .map_err(broken)?
        .read_to_end(&mut bytes)
        .map_err(broken)?;
    if canonical::sha256_hex(&bytes) != saved.content.sha256 {
        return Err(ToolError::new(
            ToolErrorKind::Filesystem,
            format!("the saved content {} is damaged", saved.content.sha256),
        ));
    }
    Ok(bytes)
}

/// Makes the names in a directory durable.
pub(crate) fn sync(dir: impl AsFd, path: &str) -> Result<(), ToolError> {
    rustix::fs::fsync(dir)
        .map_err(|errno| path_error("cannot make durable the directory of", path, errno))
}

/// Opens a regular file that is directly in an open directory.
pub(crate) fn open_regular(
    dir: BorrowedFd<'_>,
    name: impl rustix::path::Arg,
    path: &str,
) -> Result<(OwnedFd, Stat), ToolError> {
    let failed = |errno| path_error("cannot open", path, errno);
    let handle = rustix::fs::openat(
        dir,
        name,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(failed)?;
    let stat = rustix::fs::fstat(&handle).map_err(failed)?;
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    if kind != rustix::fs::FileType::RegularFile {
        return Err(root::not_regular(path, kind));
    }
    let fd = root::reopen(handle.as_fd(), OFlags::RDONLY | OFlags::NONBLOCK).map_err(failed)?;
    Ok((fd, stat))
}
