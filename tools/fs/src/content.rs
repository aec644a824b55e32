//! A file's content as a whole: hashing it, saving it in the pre-image store, replacing it.
//!
//! Invariants: a file is replaced by a rename, so that after a crash it is the old one or the new
//! one, never something between; it is on the disk, with its name, when the call returns.

use std::{
    fs::File,
    io::{self, Read, Write as _},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicU64, Ordering},
};

use aios_tool_api::{BlobId, Context, ToolError, ToolErrorKind, canonical};
use rustix::{
    fs::{AtFlags, Gid, Mode, OFlags, Stat, Uid},
    io::Errno,
};
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

/// Permissions and owner that a file is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) mode: u32,
    pub(crate) owner: Option<(u32, u32)>,
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
pub(crate) fn save(fd: OwnedFd, stat: &Stat, path: &str, context: &Context) -> Result<Saved, ToolError> {
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
        ToolError::io(format!("cannot read the saved content {}", saved.content.sha256), &error)
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

/// What the temporary names of one file begin with: short whatever the name, and its own.
fn temporary_prefix(name: &str) -> String {
    let hash = canonical::sha256_hex(name.as_bytes());
    format!(".aios-write-{}-", hash.get(..16).unwrap_or_default())
}

/// Puts `pieces` in the place of `name`, whole and durable. With `replace` false, something that has
/// that name by now is left alone and is an error.
pub(crate) fn put(
    dir: BorrowedFd<'_>,
    name: &str,
    path: &str,
    pieces: &[&[u8]],
    attributes: Attributes,
    replace: bool,
) -> Result<(), ToolError> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let failed = |what: &'static str| move |errno: Errno| path_error(what, path, errno);
    let (file, temporary) = nameless(dir, name).map_err(failed("cannot create a file for"))?;
    let mut file = File::from(file);
    let written = (|| {
        for piece in pieces {
            file.write_all(piece)?;
        }
        if let Some((uid, gid)) = attributes.owner {
            rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        // After the owner: changing the owner clears set-user-id and set-group-id.
        rustix::fs::fchmod(&file, Mode::from_raw_mode(attributes.mode))?;
        file.sync_all()
    })();
    if let Err(error) = written {
        if let Some(temporary) = &temporary {
            let _ = rustix::fs::unlinkat(dir, temporary.as_str(), AtFlags::empty());
        }
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        return Err(path_error("cannot write", path, errno));
    }
    if !replace {
        let linked = match &temporary {
            Some(temporary) => rustix::fs::renameat_with(
                dir,
                temporary.as_str(),
                dir,
                name,
                rustix::fs::RenameFlags::NOREPLACE,
            ),
            None => link_open(&file, dir, name),
        };
        if let (Err(_), Some(temporary)) = (&linked, &temporary) {
            let _ = rustix::fs::unlinkat(dir, temporary.as_str(), AtFlags::empty());
        }
        linked.map_err(|errno| match errno {
            Errno::EXIST => ToolError::new(
                ToolErrorKind::Conflict,
                format!("{path} was created by something else meanwhile"),
            )
            .hint("ask again to replace it"),
            errno => path_error("cannot create", path, errno),
        })?;
    } else {
        let temporary = match temporary {
            Some(temporary) => temporary,
            None => {
                let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
                let temporary = format!("{}{}-{unique}", temporary_prefix(name), std::process::id());
                link_open(&file, dir, &temporary).map_err(failed("cannot create a file beside"))?;
                temporary
            }
        };
        if let Err(errno) = rustix::fs::renameat(dir, temporary.as_str(), dir, name) {
            let _ = rustix::fs::unlinkat(dir, temporary.as_str(), AtFlags::empty());
            return Err(path_error("cannot replace", path, errno));
        }
    }
    sync(dir, path)
}

/// A file without a name in the directory, or, where the file system has none, one with a
/// temporary name.
fn nameless(dir: BorrowedFd<'_>, name: &str) -> Result<(OwnedFd, Option<String>), Errno> {
    let mode = Mode::from_raw_mode(0o600);
    match rustix::fs::openat(dir, ".", OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, mode) {
        Ok(fd) => Ok((fd, None)),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
            let temporary = format!("{}{}-named", temporary_prefix(name), std::process::id());
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
            Ok((rustix::fs::openat(dir, temporary.as_str(), flags, mode)?, Some(temporary)))
        }
        Err(errno) => Err(errno),
    }
}

/// Gives a nameless open file a name.
fn link_open(file: &File, dir: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    rustix::fs::linkat(
        rustix::fs::CWD,
        format!("/proc/self/fd/{}", file.as_raw_fd()),
        dir,
        name,
        AtFlags::SYMLINK_FOLLOW,
    )
}

/// Makes the names in a directory durable.
pub(crate) fn sync(dir: impl AsFd, path: &str) -> Result<(), ToolError> {
    rustix::fs::fsync(dir).map_err(|errno| path_error("cannot make durable the directory of", path, errno))
}

/// Removes the temporary names that interrupted replacements of `name` left.
pub(crate) fn sweep(dir: BorrowedFd<'_>, name: &str) {
    let prefix = temporary_prefix(name);
    for found in crate::walk::names(dir).unwrap_or_default() {
        if found.to_bytes().starts_with(prefix.as_bytes()) {
            let _ = rustix::fs::unlinkat(dir, found.as_c_str(), AtFlags::empty());
        }
    }
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
