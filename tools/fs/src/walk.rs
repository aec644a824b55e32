//! One walk through a tree for every tool that reads trees: by descriptors, in the order of names,
//! never through a symbolic link, bounded in depth and in time.

use std::{
    ffi::{CStr, CString},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use aios_tool_api::{Context, ToolError};
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Deepest nesting that is walked; each level holds a descriptor.
pub(crate) const MAX_DEPTH: usize = 200;
/// How many unreadable places are reported by name.
const MAX_SKIPPED: usize = 20;

/// A place that could not be looked at, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Skipped {
    /// Where.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// What is at hand when an entry is visited.
pub(crate) struct Visit<'a> {
    /// Path of the entry below the start, with `/` between names; lossy where it is not UTF-8.
    pub(crate) relative: &'a str,
    /// The entry's last name.
    pub(crate) name: &'a CStr,
    /// The open directory that it is in.
    pub(crate) dir: BorrowedFd<'a>,
    /// Its facts, a link not followed.
    pub(crate) stat: &'a Stat,
    /// 1 for what is directly in the start.
    pub(crate) depth: usize,
}

/// What to do after an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Go on; into it, if it is a directory.
    Into,
    /// Go on past it.
    Past,
}

/// A walk: its limits, and what could not be seen.
pub(crate) struct Walk<'a> {
    context: &'a Context,
    start: &'a str,
    /// Places that could not be looked at; at most a handful, see [`Walk::skipped_count`].
    pub(crate) skipped: Vec<Skipped>,
    /// How many places could not be looked at.
    pub(crate) skipped_count: u64,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(context: &'a Context, start: &'a str) -> Self {
        Self {
            context,
            start,
            skipped: Vec::new(),
            skipped_count: 0,
        }
    }

    /// Visits everything below an open directory.
    pub(crate) fn run(
        &mut self,
        dir: OwnedFd,
        visit: &mut impl FnMut(&Visit<'_>) -> Result<Next, ToolError>,
    ) -> Result<(), ToolError> {
        self.level(dir, "", 1, visit)
    }

    /// Notes a place that could not be looked at.
    pub(crate) fn skip(&mut self, relative: &str, reason: impl ToString) {
        self.skipped_count += 1;
        if self.skipped.len() < MAX_SKIPPED {
            let path = if relative.is_empty() {
                self.start.to_owned()
            } else {
                crate::root::join(self.start, relative)
            };
            self.skipped.push(Skipped {
                path,
                reason: reason.to_string(),
            });
        }
    }

    fn level(
        &mut self,
        dir: OwnedFd,
        prefix: &str,
        depth: usize,
        visit: &mut impl FnMut(&Visit<'_>) -> Result<Next, ToolError>,
    ) -> Result<(), ToolError> {
        let names = match names(dir.as_fd()) {
            Ok(names) => names,
            Err(errno) => {
                self.skip(prefix, errno);
                return Ok(());
            }
        };
        for name in names {
            self.context.check_alive()?;
            let shown = name.to_string_lossy();
            let relative = if prefix.is_empty() {
                shown.into_owned()
            } else {
                format!("{prefix}/{shown}")
            };
            let stat = match rustix::fs::statat(&dir, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // It went away between the look at the directory and the look at it.
                Err(Errno::NOENT) => continue,
                Err(errno) => {
                    self.skip(&relative, errno);
                    continue;
                }
            };
            let next = visit(&Visit {
                relative: &relative,
                name: &name,
                dir: dir.as_fd(),
                stat: &stat,
                depth,
            })?;
            if next == Next::Past || FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                continue;
            }
            if depth >= MAX_DEPTH {
                self.skip(
                    &relative,
                    format!("nested deeper than {MAX_DEPTH} directories"),
                );
                continue;
            }
            match open_below(dir.as_fd(), &name, ResolveFlags::empty()) {
                Ok(below) => self.level(below, &relative, depth + 1, visit)?,
                Err(Errno::NOENT) => {}
                Err(errno) => self.skip(&relative, errno),
            }
        }
        Ok(())
    }
}

/// Opens a directory that is directly in an open one; a link is not followed.
pub(crate) fn open_below(
    dir: BorrowedFd<'_>,
    name: &CStr,
    more: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    rustix::fs::openat2(
        dir,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | more,
    )
}

/// The names in an open directory, in the order of their bytes.
pub(crate) fn names(dir: impl AsFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Recognises where the kernel's own file systems (proc, sysfs, cgroups …) begin in a tree. They are
/// endless, and what is in them is not files.
pub(crate) struct PseudoFileSystems {
    start_device: u64,
}

impl PseudoFileSystems {
    /// For a walk from this directory; one that begins in such a file system stays in it.
    pub(crate) fn from(dir: impl AsFd, path: &str) -> Result<Self, ToolError> {
        let stat = rustix::fs::fstat(dir)
            .map_err(|errno| crate::root::path_error("cannot stat", path, errno))?;
        Ok(Self {
            start_device: stat.st_dev,
        })
    }

    /// Whether the entry is the top of one.
    pub(crate) fn begins_at(&self, visit: &Visit<'_>) -> bool {
        visit.stat.st_dev != self.start_device
            && FileType::from_raw_mode(visit.stat.st_mode) == FileType::Directory
            && open_below(visit.dir, visit.name, ResolveFlags::empty())
                .and_then(rustix::fs::fstatfs)
                .is_ok_and(|file_system| is_kernels(&file_system))
    }
}

/// Whether a file system is an interface of the kernel: its files cannot be replaced, and walking it
/// finds no files of anybody's.
pub(crate) fn is_kernels(file_system: &rustix::fs::StatFs) -> bool {
    // proc, sysfs, cgroup, cgroup2, debugfs, tracefs, securityfs, bpf, pstore, efivarfs, devpts
    const KINDS: [u32; 11] = [
        0x9fa0,
        0x6265_6572,
        0x0027_e0eb,
        0x6367_7270,
        0x6462_6720,
        0x7472_6163,
        0x7363_6673,
        0xcafe_4a11,
        0x6165_676c,
        0xde5e_81e4,
        0x1cd1,
    ];
    // The field's type differs between architectures; the magic numbers are its low 32 bits.
    KINDS.contains(&(file_system.f_type as u32))
}
