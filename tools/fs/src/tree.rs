//! A whole tree (or one file) saved so that it can be put back exactly: names, kinds, contents,
//! permissions, owners, times and link targets.
//!
//! The contents of all files go into one blob, one after the other, and the description of the tree
//! into a second, so that saving costs two syncs however many files there are. Extended attributes
//! and the fact that two names were hard links of one file are not kept; both are counted, and undo
//! says so.

use std::{
    ffi::{CString, OsStr, OsString},
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use aios_tool_api::{BlobId, Context, ToolError, ToolErrorKind};
use base64::Engine as _;
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, StatxAttributes, StatxFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use crate::{
    content::Hashing,
    facts, root,
    root::path_error,
    walk::{Next, Walk},
};

/// Most files and directories in one tree.
pub(crate) const MAX_ENTRIES: usize = 50_000;
/// Most bytes of content in one tree.
pub(crate) const MAX_BYTES: u64 = 1 << 30;

/// A name; one that is not UTF-8 is kept in base64, since it must come back byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Name {
    Text(String),
    Bytes { base64: String },
}

impl Name {
    fn new(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes {
                base64: base64::engine::general_purpose::STANDARD.encode(bytes),
            },
        }
    }

    pub(crate) fn bytes(&self) -> io::Result<Vec<u8>> {
        match self {
            Self::Text(text) => Ok(text.clone().into_bytes()),
            Self::Bytes { base64 } => base64::engine::general_purpose::STANDARD
                .decode(base64)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
}

/// What a node is besides its attributes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Data {
    File {
        bytes: u64,
        sha256: String,
    },
    Directory,
    Symlink {
        target: Name,
    },
    /// A FIFO, socket or device: its raw kind and device number.
    Special {
        kind: u32,
        device: u64,
    },
}

/// One file, directory or link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Node {
    /// 0 for the top.
    pub(crate) depth: usize,
    pub(crate) name: Name,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds since 1970.
    pub(crate) modified: (i64, i64),
    pub(crate) data: Data,
}

/// A tree in the order of a walk: a directory before what is in it, names in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tree {
    pub(crate) nodes: Vec<Node>,
    /// Files that have extended attributes.
    xattrs: u64,
    /// Files that have further names.
    hard_links: u64,
}

/// Where a saved tree is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedTree {
    tree: BlobId,
    pub(crate) contents: BlobId,
    /// Entries, the top included.
    pub(crate) entries: u64,
}

impl Tree {
    /// What undo cannot put back, as words; empty when it can put back everything.
    pub(crate) fn losses(&self) -> String {
        let mut losses = String::new();
        if self.xattrs > 0 {
            losses.push_str(&format!(
                "; extended attributes of {} files are not kept",
                self.xattrs
            ));
        }
        if self.hard_links > 0 {
            losses.push_str(&format!(
                "; {} hard-linked files come back as copies",
                self.hard_links
            ));
        }
        losses
    }

    /// Whether two trees are the same in all that is put back, times excepted: a directory's time
    /// changes whenever something in it does.
    pub(crate) fn same(&self, other: &Self) -> bool {
        self.nodes.len() == other.nodes.len()
            && self
                .nodes
                .iter()
                .zip(&other.nodes)
                .enumerate()
                .all(|(at, (one, two))| {
                    let comparable = |node: &Node| Node {
                        modified: (0, 0),
                        name: if at == 0 {
                            Name::new(b"")
                        } else {
                            node.name.clone()
                        },
                        ..node.clone()
                    };
                    comparable(one) == comparable(two)
                })
    }
}

/// What stands at a name now, contents hashed but not saved.
pub(crate) fn look(
    dir: BorrowedFd<'_>,
    name: &str,
    path: &str,
    context: &Context,
) -> Result<Tree, ToolError> {
    let (mut tree, paths) = scan(dir, name, path, context)?;
    let mut pack = Pack::new(dir, &mut tree.nodes, &paths, context);
    io::copy(&mut pack, &mut io::sink()).map_err(|error| cannot_read(path, &error))?;
    Ok(tree)
}

/// Saves what stands at a name.
pub(crate) fn save(
    dir: BorrowedFd<'_>,
    name: &str,
    path: &str,
    context: &Context,
) -> Result<SavedTree, ToolError> {
    let (mut tree, paths) = scan(dir, name, path, context)?;
    let contents = context
        .blobs
        .put(Pack::new(dir, &mut tree.nodes, &paths, context))
        .map_err(|error| ToolError::io(format!("cannot save {path} before the change"), &error))?;
    let described = serde_json::to_vec(&tree)
        .map_err(|error| ToolError::new(ToolErrorKind::Internal, error.to_string()))?;
    let entries = tree.nodes.len() as u64;
    let tree = context
        .blobs
        .put(described.as_slice())
        .map_err(|error| ToolError::io(format!("cannot save {path} before the change"), &error))?;
    Ok(SavedTree {
        tree,
        contents,
        entries,
    })
}

/// Reads the description of a saved tree.
pub(crate) fn load(saved: &SavedTree, context: &Context) -> Result<Tree, ToolError> {
    let damaged = |error: io::Error| ToolError::io("cannot read the saved tree", &error);
    let mut text = String::new();
    context
        .blobs
        .open(&saved.tree)
        .and_then(|mut file| file.read_to_string(&mut text))
        .map_err(damaged)?;
    serde_json::from_str(&text).map_err(|error| damaged(error.into()))
}

fn cannot_read(path: &str, error: &io::Error) -> ToolError {
    ToolError::io(format!("cannot read {path}"), error)
}

/// Describes a tree without its contents; refuses what could not be put back or must not be touched.
fn scan(
    dir: BorrowedFd<'_>,
    name: &str,
    path: &str,
    context: &Context,
) -> Result<(Tree, Vec<PathBuf>), ToolError> {
    let top = CString::new(name).map_err(|_| ToolError::invalid("path contains a NUL byte"))?;
    let stat =
        rustix::fs::statat(dir, top.as_c_str(), AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| {
            match errno {
                Errno::NOENT => crate::stat::missing(path),
                errno => path_error("cannot stat", path, errno),
            }
        })?;
    let mut tree = Tree {
        nodes: Vec::new(),
        xattrs: 0,
        hard_links: 0,
    };
    let mut paths: Vec<PathBuf> = Vec::new();
    let mut bytes = 0;
    let mut add = |dir: BorrowedFd<'_>,
                   name: &std::ffi::CStr,
                   stat: &Stat,
                   depth: usize,
                   shown: &str| {
        guard(dir, name, shown, context, depth)?;
        let node = node(dir, name, stat, depth, shown)?;
        if matches!(node.data, Data::File { .. }) {
            bytes += facts::size(stat);
            tree.hard_links += u64::from(stat.st_nlink > 1);
        }
        let in_dir = format!("/proc/self/fd/{}/", dir.as_raw_fd());
        let mut place = OsString::from(in_dir);
        place.push(OsStr::from_bytes(name.to_bytes()));
        if rustix::fs::llistxattr_query(place.as_os_str()).is_ok_and(|length| length > 0) {
            tree.xattrs += 1;
        }
        if tree.nodes.len() >= MAX_ENTRIES || bytes > MAX_BYTES {
            return Err(ToolError::invalid(format!(
                "{path} holds more than can be kept for a rollback: at most {MAX_ENTRIES} files and {MAX_BYTES} bytes"
            ))
            .hint("delete it in smaller parts"));
        }
        // A parent comes before its children, and there is one at each smaller depth.
        let parent = tree
            .nodes
            .iter()
            .rposition(|known| known.depth + 1 == depth);
        let below = parent
            .and_then(|at| paths.get(at))
            .cloned()
            .unwrap_or_default();
        paths.push(below.join(OsStr::from_bytes(name.to_bytes())));
        tree.nodes.push(node);
        Ok(())
    };
    add(dir, &top, &stat, 0, path)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        let below = crate::walk::open_below(dir, &top, ResolveFlags::empty())
            .map_err(|errno| path_error("cannot open", path, errno))?;
        let mut walk = Walk::new(context, path);
        walk.run(below, &mut |visit| {
            let shown = root::join(path, visit.relative);
            add(visit.dir, visit.name, visit.stat, visit.depth, &shown)?;
            Ok(Next::Into)
        })?;
        if let Some(skipped) = walk.skipped.first() {
            return Err(ToolError::new(
                ToolErrorKind::Filesystem,
                format!(
                    "{} cannot be read ({}), so it could not be put back",
                    skipped.path, skipped.reason
                ),
            ));
        }
    }
    Ok((tree, paths))
}

/// Refuses what a call on a tree must not reach.
fn guard(
    dir: BorrowedFd<'_>,
    name: &std::ffi::CStr,
    shown: &str,
    context: &Context,
    depth: usize,
) -> Result<(), ToolError> {
    // The top was named by the call and authorised under its name.
    if depth > 0 && !context.may_change(Path::new(shown)) {
        return Err(ToolError::new(
            ToolErrorKind::Permission,
            format!("{shown} may only be changed by a call that names it"),
        )
        .hint("delete the other things one by one"));
    }
    let statx = rustix::fs::statx(
        dir,
        name,
        AtFlags::SYMLINK_NOFOLLOW,
        StatxFlags::BASIC_STATS,
    )
    .map_err(|errno| path_error("cannot stat", shown, errno))?;
    if statx.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Err(
            ToolError::new(ToolErrorKind::Conflict, format!("{shown} is a mount point"))
                .hint("unmount it first (storage.unmount)"),
        );
    }
    if statx
        .stx_attributes
        .intersects(StatxAttributes::IMMUTABLE | StatxAttributes::APPEND)
    {
        return Err(ToolError::new(
            ToolErrorKind::Permission,
            format!("{shown} is marked immutable or append-only"),
        ));
    }
    Ok(())
}

fn node(
    dir: BorrowedFd<'_>,
    name: &std::ffi::CStr,
    stat: &Stat,
    depth: usize,
    shown: &str,
) -> Result<Node, ToolError> {
    let data = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Data::Directory,
        // The hash is filled in when the content is read.
        FileType::RegularFile => Data::File {
            bytes: 0,
            sha256: String::new(),
        },
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(dir, name, Vec::new())
                .map_err(|errno| path_error("cannot read the link", shown, errno))?;
            Data::Symlink {
                target: Name::new(target.to_bytes()),
            }
        }
        kind => Data::Special {
            kind: kind.as_raw_mode(),
            device: stat.st_rdev,
        },
    };
    Ok(Node {
        depth,
        name: Name::new(name.to_bytes()),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified: (
            stat.st_mtime,
            i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
        ),
        data,
    })
}

/// Reads the contents of all files of a tree one after the other, and notes length and hash of each.
struct Pack<'a> {
    dir: BorrowedFd<'a>,
    nodes: &'a mut [Node],
    paths: &'a [PathBuf],
    context: &'a Context,
    next: usize,
    open: Option<Hashing<File>>,
}

impl<'a> Pack<'a> {
    fn new(
        dir: BorrowedFd<'a>,
        nodes: &'a mut [Node],
        paths: &'a [PathBuf],
        context: &'a Context,
    ) -> Self {
        Self {
            dir,
            nodes,
            paths,
            context,
            next: 0,
            open: None,
        }
    }

    fn open_next(&self, path: &PathBuf) -> io::Result<File> {
        let handle = rustix::fs::openat2(
            self.dir,
            path,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        )?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&handle)?.st_mode);
        if kind != FileType::RegularFile {
            return Err(io::Error::other(format!(
                "{} changed while it was read",
                path.display()
            )));
        }
        Ok(root::reopen(handle.as_fd(), OFlags::RDONLY | OFlags::NONBLOCK)?.into())
    }
}

impl Read for Pack<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(file) = &mut self.open {
                let count = file.read(buffer)?;
                if count > 0 {
                    if file.bytes > MAX_BYTES {
                        return Err(io::Error::other(
                            "a file grew past the limit while it was read",
                        ));
                    }
                    return Ok(count);
                }
                if let (Some(done), Some(node)) = (self.open.take(), self.nodes.get_mut(self.next))
                {
                    node.data = Data::File {
                        bytes: done.bytes,
                        sha256: done.finish(),
                    };
                }
                self.next += 1;
            }
            self.context
                .check_alive()
                .map_err(|error| io::Error::new(io::ErrorKind::TimedOut, error))?;
            let is_file = |node: &Node| matches!(node.data, Data::File { .. });
            match self.nodes.iter().skip(self.next).position(is_file) {
                None => return Ok(0),
                Some(further) => self.next += further,
            }
            if let Some(path) = self.paths.get(self.next) {
                self.open = Some(Hashing::new(self.open_next(path)?));
            }
        }
    }
}
