//! Putting a saved tree back, and taking one apart: the two changes to the disk that whole trees
//! need. Both work through descriptors and create or remove nothing through a link.

use std::{
    ffi::{CStr, OsStr, OsString},
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStringExt as _,
    },
};

use aios_tool_api::Context;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid};

use crate::{
    content::Hashing,
    tree::{Data, Node, SavedTree, Tree},
};

/// Builds a saved tree under a new name; its contents are on the disk when this returns.
pub(crate) fn restore(
    dir: BorrowedFd<'_>,
    name: &str,
    saved: &SavedTree,
    tree: &Tree,
    context: &Context,
) -> io::Result<()> {
    let mut contents = context.blobs.open(&saved.contents)?;
    let mut at = 0u64;
    // The directories on the way to the current node, with what they are to become at the end.
    let mut open: Vec<(OwnedFd, &Node)> = Vec::new();
    for (index, node) in tree.nodes.iter().enumerate() {
        while open.len() > node.depth {
            finish(open.pop())?;
        }
        let name = if index == 0 {
            name.as_bytes().to_vec()
        } else {
            node.name.bytes()?
        };
        let name = OsString::from_vec(name);
        let parent = open.last().map_or(dir, |(fd, _)| fd.as_fd());
        match &node.data {
            Data::Directory => {
                rustix::fs::mkdirat(parent, &name, Mode::from_raw_mode(0o700))?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                open.push((
                    rustix::fs::openat(parent, &name, flags, Mode::empty())?,
                    node,
                ));
            }
            Data::File { bytes, sha256 } => {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let mut file = File::from(rustix::fs::openat(
                    parent,
                    &name,
                    flags,
                    Mode::from_raw_mode(0o600),
                )?);
                contents.seek(SeekFrom::Start(at))?;
                let mut part = Hashing::new((&contents).take(*bytes));
                io::copy(&mut part, &mut file)?;
                at += bytes;
                if part.finish() != *sha256 {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("the saved content of {} is damaged", name.display()),
                    ));
                }
                attributes(file.as_fd(), node)?;
            }
            Data::Symlink { target } => {
                rustix::fs::symlinkat(OsString::from_vec(target.bytes()?), parent, &name)?;
                own(parent, &name, node)?;
            }
            Data::Special { kind, device } => {
                let kind = FileType::from_raw_mode(*kind);
                rustix::fs::mknodat(parent, &name, kind, Mode::from_raw_mode(0o600), *device)?;
                own(parent, &name, node)?;
                rustix::fs::chmodat(
                    parent,
                    &name,
                    Mode::from_raw_mode(node.mode),
                    AtFlags::empty(),
                )?;
            }
        }
    }
    while !open.is_empty() {
        finish(open.pop())?;
    }
    rustix::fs::syncfs(dir)?;
    Ok(())
}

fn finish(directory: Option<(OwnedFd, &Node)>) -> io::Result<()> {
    directory.map_or(Ok(()), |(fd, node)| attributes(fd.as_fd(), node))
}

/// Owner, permissions and time of an open file or directory.
fn attributes(fd: BorrowedFd<'_>, node: &Node) -> io::Result<()> {
    rustix::fs::fchown(
        fd,
        Some(Uid::from_raw(node.uid)),
        Some(Gid::from_raw(node.gid)),
    )?;
    rustix::fs::fchmod(fd, Mode::from_raw_mode(node.mode))?;
    rustix::fs::futimens(fd, &times(node))?;
    Ok(())
}

/// Owner and time of something that cannot be opened.
fn own(dir: BorrowedFd<'_>, name: &OsStr, node: &Node) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
    rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    rustix::fs::utimensat(dir, name, &times(node), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

fn times(node: &Node) -> Timestamps {
    let time = Timespec {
        tv_sec: node.modified.0,
        tv_nsec: node.modified.1,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Removes a name and everything below it, never past a mount point.
pub(crate) fn remove(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<u64> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
        return Ok(1);
    }
    let mut removed = 1;
    let below = crate::walk::open_below(dir, name, ResolveFlags::NO_XDEV)?;
    for entry in crate::walk::names(&below)? {
        removed += remove(below.as_fd(), &entry)?;
    }
    rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?;
    Ok(removed)
}
