//! A new content for a file, written beside it and put in its place when it is whole.
//!
//! Invariants: a file is replaced by a rename, so that after a crash it is the old one or the new
//! one, never something between; it is on the disk, with its name, when [`Draft::put`] returns; a
//! draft that is given up leaves nothing behind, and one that a crash left is removed by [`sweep`].

use std::{
    fs::File,
    io::Write as _,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicU64, Ordering},
};

use aios_tool_api::{ToolError, ToolErrorKind, canonical};
use rustix::{
    fs::{AtFlags, CWD, Gid, Mode, OFlags, RenameFlags, Uid},
    io::Errno,
};

use crate::{content, root::path_error};

/// Permissions and owner that a file is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) mode: u32,
    /// User and group; those of the process when left out.
    pub(crate) owner: Option<(u32, u32)>,
}

/// A file that is not in its place yet.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    dir: BorrowedFd<'a>,
    name: &'a str,
    path: &'a str,
    file: File,
    /// Its name until it is in its place; most file systems can do without.
    temporary: Option<String>,
}

impl<'a> Draft<'a> {
    /// A draft of the file `name` in an open directory; `path` is what errors call it.
    pub(crate) fn new(
        dir: BorrowedFd<'a>,
        name: &'a str,
        path: &'a str,
    ) -> Result<Self, ToolError> {
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        match rustix::fs::openat(dir, ".", flags, Mode::from_raw_mode(0o600)) {
            Ok(fd) => Ok(Self {
                dir,
                name,
                path,
                file: fd.into(),
                temporary: None,
            }),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => Self::named(dir, name, path),
            Err(errno) => Err(path_error("cannot create", path, errno)),
        }
    }

    /// A draft with a name of its own, for file systems without nameless files.
    fn named(dir: BorrowedFd<'a>, name: &'a str, path: &'a str) -> Result<Self, ToolError> {
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        let create =
            |temporary: &str| rustix::fs::openat(dir, temporary, flags, Mode::from_raw_mode(0o600));
        let (temporary, fd): (String, OwnedFd) = with_temporary(dir, name, create)
            .map_err(|errno| path_error("cannot create", path, errno))?;
        Ok(Self {
            dir,
            name,
            path,
            file: fd.into(),
            temporary: Some(temporary),
        })
    }

    /// Writes the content, sets owner and permissions, and puts the file in its place. Without
    /// `replace`, something that has the name by now is left alone and is an error.
    pub(crate) fn put(
        mut self,
        pieces: &[&[u8]],
        attributes: Attributes,
        replace: bool,
    ) -> Result<(), ToolError> {
        self.fill(pieces, attributes).map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            path_error("cannot write", self.path, errno)
        })?;
        let placed = match (&self.temporary, replace) {
            (None, false) => self.link(self.name),
            (None, true) => with_temporary(self.dir, self.name, |temporary| self.link(temporary))
                .and_then(|(temporary, ())| {
                    let from = self.temporary.insert(temporary).as_str();
                    rustix::fs::renameat(self.dir, from, self.dir, self.name)
                }),
            (Some(from), true) => {
                rustix::fs::renameat(self.dir, from.as_str(), self.dir, self.name)
            }
            (Some(from), false) => rustix::fs::renameat_with(
                self.dir,
                from.as_str(),
                self.dir,
                self.name,
                RenameFlags::NOREPLACE,
            ),
        };
        placed.map_err(|errno| match errno {
            Errno::EXIST => ToolError::new(
                ToolErrorKind::Conflict,
                format!("{} was created by something else meanwhile", self.path),
            )
            .hint("ask again to replace it"),
            errno => path_error("cannot put in its place", self.path, errno),
        })?;
        // It is in its place: there is no temporary name to be removed any more.
        self.temporary = None;
        content::sync(self.dir, self.path)
    }

    fn fill(&mut self, pieces: &[&[u8]], attributes: Attributes) -> std::io::Result<()> {
        for piece in pieces {
            self.file.write_all(piece)?;
        }
        if let Some((uid, gid)) = attributes.owner {
            rustix::fs::fchown(
                &self.file,
                Some(Uid::from_raw(uid)),
                Some(Gid::from_raw(gid)),
            )?;
        }
        // After the owner: changing the owner clears set-user-id and set-group-id.
        rustix::fs::fchmod(&self.file, Mode::from_raw_mode(attributes.mode))?;
        self.file.sync_all()
    }

    /// Gives the nameless file a name.
    fn link(&self, name: &str) -> Result<(), Errno> {
        let open = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        rustix::fs::linkat(CWD, open, self.dir, name, AtFlags::SYMLINK_FOLLOW)
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // The error that gave the draft up is the one to report.
            let _ = rustix::fs::unlinkat(self.dir, temporary.as_str(), AtFlags::empty());
        }
    }
}

/// Does something with a temporary name that is free. One that is taken was left by a crash of a
/// process that had this one's id, and is removed.
fn with_temporary<T>(
    dir: BorrowedFd<'_>,
    name: &str,
    create: impl Fn(&str) -> Result<T, Errno>,
) -> Result<(String, T), Errno> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
    let temporary = format!("{}{}-{unique}", prefix(name), std::process::id());
    let created = match create(&temporary) {
        Err(Errno::EXIST) => {
            rustix::fs::unlinkat(dir, temporary.as_str(), AtFlags::empty())?;
            create(&temporary)?
        }
        other => other?,
    };
    Ok((temporary, created))
}

/// What the temporary names of one file begin with: short whatever the name, and its own.
fn prefix(name: &str) -> String {
    let hash = canonical::sha256_hex(name.as_bytes());
    format!(".aios-write-{}-", hash.get(..16).unwrap_or_default())
}

/// Removes the temporary names that interrupted replacements of `name` left.
pub(crate) fn sweep(dir: BorrowedFd<'_>, name: &str) {
    let prefix = prefix(name);
    for found in crate::walk::names(dir).unwrap_or_default() {
        if found.to_bytes().starts_with(prefix.as_bytes()) {
            // What stays is rubbish, not a wrong file; the next call tries again.
            let _ = rustix::fs::unlinkat(dir, found.as_c_str(), AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::fd::AsFd as _};

    use super::*;

    const PLAIN: Attributes = Attributes {
        mode: 0o640,
        owner: None,
    };

    fn names(dir: &std::path::Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn begin<'a>(named: bool, dir: &'a File, name: &'a str) -> Draft<'a> {
        if named {
            Draft::named(dir.as_fd(), name, name).unwrap()
        } else {
            Draft::new(dir.as_fd(), name, name).unwrap()
        }
    }

    #[test]
    fn both_ways_of_drafting_do_the_same() {
        for named in [false, true] {
            let temp = tempfile::tempdir().unwrap();
            let dir = fs::File::open(temp.path()).unwrap();
            begin(named, &dir, "f")
                .put(&[b"one ", b"two"], PLAIN, false)
                .unwrap();
            assert_eq!(
                fs::read_to_string(temp.path().join("f")).unwrap(),
                "one two"
            );
            let error = begin(named, &dir, "f")
                .put(&[b"x"], PLAIN, false)
                .unwrap_err();
            assert_eq!(error.kind, ToolErrorKind::Conflict);
            begin(named, &dir, "f")
                .put(&[b"three"], PLAIN, true)
                .unwrap();
            assert_eq!(fs::read_to_string(temp.path().join("f")).unwrap(), "three");
            drop(begin(named, &dir, "g"));
            assert_eq!(names(temp.path()), ["f"]);
        }
    }

    #[test]
    fn a_name_that_a_crash_left_is_no_obstacle() {
        let temp = tempfile::tempdir().unwrap();
        let dir = fs::File::open(temp.path()).unwrap();
        for unique in 0..200 {
            let left = format!("{}{}-{unique}", prefix("f"), std::process::id());
            fs::write(temp.path().join(left), "left").unwrap();
        }
        for named in [false, true] {
            begin(named, &dir, "f").put(&[b"new"], PLAIN, true).unwrap();
        }
        sweep(dir.as_fd(), "f");
        assert_eq!(names(temp.path()), ["f"]);
        assert_eq!(fs::read_to_string(temp.path().join("f")).unwrap(), "new");
    }
}
