//! Where file tools touch the disk: every path goes through [`Root`].
//!
//! The rule, which is why a swapped symbolic link cannot redirect a call: symbolic links are
//! resolved **once**, in `normalise`, by the kernel itself (`openat2` with `RESOLVE_IN_ROOT`, so that
//! nothing leads out of the root). The path that comes out has no link in it; it is what is
//! authorised and recorded. From then on it is only ever opened with `RESOLVE_NO_SYMLINKS`, and
//! what is changed is changed through the descriptor of its parent directory. If a link has appeared
//! anywhere on the path since, the call fails instead of following it.

use std::{
    io::Read as _,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use aios_tool_api::{Accounts, Context, ToolError, ToolErrorKind};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};

/// Longest path, in bytes, that the kernel takes.
const PATH_MAX: usize = 4095;
/// Longest name of one file, in bytes.
const NAME_MAX: usize = 255;
/// A resolution that raced with a rename is tried again this often.
const RACE_RETRIES: usize = 16;

/// What to do with a symbolic link in the last place of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Last {
    /// The call is about what the link leads to.
    Follow,
    /// The call is about the link itself.
    Keep,
}

/// The root of the file system that the tools work in.
#[derive(Debug)]
pub(crate) struct Root {
    fd: OwnedFd,
    path: PathBuf,
}

impl Root {
    /// Opens the context's root.
    pub(crate) fn open(context: &Context) -> Result<Self, ToolError> {
        let what = || format!("cannot open the root {}", context.root.display());
        let path = context
            .root
            .canonicalize()
            .map_err(|error| ToolError::io(what(), &error))?;
        let fd = rustix::fs::open(
            &path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| ToolError::io(what(), &errno.into()))?;
        Ok(Self { fd, path })
    }

    /// The canonical form of a path: absolute, no empty, `.` or `..` component, and no symbolic link
    /// in the part that exists (the last component excepted with [`Last::Keep`]). The part that does
    /// not exist yet is taken as it stands.
    pub(crate) fn canonical(&self, text: &str, last: Last) -> Result<String, ToolError> {
        let components = components(text)?;
        let (kept, mut existing) = match (last, components.split_last()) {
            (Last::Keep, Some((name, parents))) => (Some(*name), parents),
            _ => (None, components.as_slice()),
        };
        let mut missing: Vec<&str> = Vec::new();
        let resolved = loop {
            match self.resolve(existing) {
                Ok(path) => break path,
                Err(Errno::NOENT) => {
                    self.refuse_dangling(text, existing)?;
                    let Some((name, parents)) = existing.split_last() else {
                        return Err(ToolError::io(
                            format!("cannot resolve {text}"),
                            &Errno::NOENT.into(),
                        ));
                    };
                    missing.push(name);
                    existing = parents;
                }
                Err(errno) => return Err(path_error("cannot resolve", text, errno)),
            }
        };
        let mut path = resolved;
        for name in missing.into_iter().rev().chain(kept) {
            if path != "/" {
                path.push('/');
            }
            path.push_str(name);
        }
        if path.len() > PATH_MAX {
            return Err(ToolError::invalid(format!(
                "the path {text} leads to one that is longer than {PATH_MAX} bytes"
            )));
        }
        Ok(path)
    }

    /// The machine's name of what these components lead to.
    fn resolve(&self, components: &[&str]) -> Result<String, Errno> {
        let relative = relative(components);
        let mut tries = 0;
        let fd = loop {
            let opened = rustix::fs::openat2(
                &self.fd,
                relative.as_str(),
                OFlags::PATH | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
            );
            match opened {
                Err(Errno::AGAIN | Errno::INTR) if tries < RACE_RETRIES => tries += 1,
                other => break other?,
            }
        };
        let name = rustix::fs::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new())?;
        let name = name.into_string().map_err(|_| Errno::ILSEQ)?;
        let below = PathBuf::from(name);
        // What is not below the root by name (an unlinked file, a name that was moved away) is gone.
        let below = below.strip_prefix(&self.path).map_err(|_| Errno::NOENT)?;
        Ok(format!("/{}", below.display()))
    }

    /// A link that leads nowhere would be taken for a missing file; writing "through" it is refused.
    fn refuse_dangling(&self, text: &str, components: &[&str]) -> Result<(), ToolError> {
        let Some((name, parents)) = components.split_last() else {
            return Ok(());
        };
        let Ok(parent) = self.resolve(parents) else {
            return Ok(());
        };
        let Ok(dir) = self.open_path(&parent, OFlags::PATH) else {
            return Ok(());
        };
        match rustix::fs::readlinkat(&dir, *name, Vec::new()) {
            Ok(target) => Err(ToolError::new(
                ToolErrorKind::NotFound,
                format!(
                    "{text} goes through the symbolic link {name}, which leads to {}, which does not exist",
                    target.to_string_lossy()
                ),
            )
            .hint("name the place that is meant, or remove the link with fs.delete")),
            Err(_) => Ok(()),
        }
    }

    /// Opens a canonical path; a symbolic link anywhere on it is an error.
    pub(crate) fn open_path(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let relative = relative(
            &path
                .split('/')
                .filter(|part| !part.is_empty())
                .collect::<Vec<_>>(),
        );
        rustix::fs::openat2(
            &self.fd,
            relative.as_str(),
            flags | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        )
    }

    /// The directory that a canonical path lies in, opened, and the path's last name.
    pub(crate) fn parent<'a>(&self, path: &'a str) -> Result<(OwnedFd, &'a str), ToolError> {
        let (parent, name) = split(path).ok_or_else(|| {
            ToolError::invalid("this call needs a path below `/`, not `/` itself")
        })?;
        let fd = self
            .open_path(parent, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|errno| match errno {
                Errno::NOENT => ToolError::new(
                    ToolErrorKind::NotFound,
                    format!("the directory {parent} does not exist"),
                )
                .hint(format!("make it first: fs.mkdir with path {parent}")),
                errno => path_error("cannot open the directory", parent, errno),
            })?;
        Ok((fd, name))
    }

    /// Opens a directory for reading its entries.
    pub(crate) fn directory(&self, path: &str) -> Result<OwnedFd, ToolError> {
        self.open_path(path, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|errno| match errno {
                Errno::NOTDIR => ToolError::invalid(format!("{path} is not a directory"))
                    .hint("fs.stat says what it is, fs.read reads a file"),
                errno => path_error("cannot open the directory", path, errno),
            })
    }

    /// Opens a regular file for reading. Anything else is refused before it is opened, since opening
    /// a device can have effects and opening a FIFO can wait for ever.
    pub(crate) fn regular(&self, path: &str) -> Result<(OwnedFd, Stat), ToolError> {
        let handle = self
            .open_path(path, OFlags::PATH)
            .map_err(|errno| path_error("cannot open", path, errno))?;
        let stat =
            rustix::fs::fstat(&handle).map_err(|errno| path_error("cannot stat", path, errno))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::RegularFile {
            return Err(not_regular(path, kind));
        }
        let fd = reopen(handle.as_fd(), OFlags::RDONLY | OFlags::NONBLOCK)
            .map_err(|errno| path_error("cannot open", path, errno))?;
        Ok((fd, stat))
    }

    /// The names of users and groups of this root; empty when the files cannot be read.
    pub(crate) fn accounts(&self) -> Accounts {
        Accounts::parse(
            &self.small_text("/etc/passwd"),
            &self.small_text("/etc/group"),
        )
    }

    fn small_text(&self, path: &str) -> String {
        let mut text = String::new();
        if let Ok((fd, _)) = self
            .canonical(path, Last::Follow)
            .and_then(|path| self.regular(&path))
        {
            // A file that is not UTF-8 or cannot be read only means that numbers are shown.
            let _ = std::fs::File::from(fd)
                .take(1 << 20)
                .read_to_string(&mut text);
        }
        text
    }
}

/// Opens again, with other flags, what a descriptor stands for; no path is walked.
pub(crate) fn reopen(fd: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::open(
        format!("/proc/self/fd/{}", fd.as_raw_fd()),
        flags | OFlags::CLOEXEC | OFlags::NOCTTY,
        Mode::empty(),
    )
}

/// The kind and facts of a name in an open directory, a link not followed; `None` when there is none.
pub(crate) fn stat_at(dir: impl AsFd, name: &str, path: &str) -> Result<Option<Stat>, ToolError> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(path_error("cannot stat", path, errno)),
    }
}

/// The parent and the last name of a canonical path; `None` for `/`.
pub(crate) fn split(path: &str) -> Option<(&str, &str)> {
    let (parent, name) = path.rsplit_once('/')?;
    if name.is_empty() {
        return None;
    }
    Some((if parent.is_empty() { "/" } else { parent }, name))
}

/// `parent/name` for a canonical parent.
pub(crate) fn join(parent: &str, name: &str) -> String {
    if parent == "/" {
        format!("/{name}")
    } else {
        format!("{parent}/{name}")
    }
}

/// The components of a path that a caller wrote.
fn components(text: &str) -> Result<Vec<&str>, ToolError> {
    if !text.starts_with('/') {
        return Err(
            ToolError::invalid(format!("path `{}` is not absolute", text.escape_debug()))
                .hint("write the whole path, beginning with `/`"),
        );
    }
    if text.contains('\0') {
        return Err(ToolError::invalid(
            "path contains a NUL byte, which no file name has",
        ));
    }
    let parts: Vec<&str> = text
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    if parts.contains(&"..") {
        return Err(
            ToolError::invalid(format!("path `{}` contains `..`", text.escape_debug()))
                .hint("write the path that is meant, without `..`"),
        );
    }
    if text.len() > PATH_MAX || parts.iter().any(|part| part.len() > NAME_MAX) {
        return Err(ToolError::invalid(format!(
            "path is too long: at most {PATH_MAX} bytes, and {NAME_MAX} in each name"
        )));
    }
    Ok(parts)
}

fn relative(components: &[&str]) -> String {
    if components.is_empty() {
        ".".to_owned()
    } else {
        components.join("/")
    }
}

/// A failed system call on a path, as an error that says what to do where that is known.
pub(crate) fn path_error(what: &str, path: &str, errno: Errno) -> ToolError {
    match errno {
        Errno::LOOP => ToolError::new(
            ToolErrorKind::Conflict,
            format!("{what} {path}: there is a symbolic link on it that must not be followed"),
        )
        .hint("links are resolved once, when a call is checked; if the path has changed since, ask again"),
        Errno::NOTDIR => ToolError::new(
            ToolErrorKind::Conflict,
            format!("{what} {path}: something on the way to it is not a directory"),
        ),
        Errno::NOSPC | Errno::DQUOT => ToolError::io(format!("{what} {path}"), &errno.into())
            .hint("fs.disk_usage and monitor.disk show what takes the space"),
        Errno::ROFS => ToolError::io(format!("{what} {path}"), &errno.into())
            .hint("that file system is mounted read-only"),
        Errno::ILSEQ => ToolError::invalid(format!(
            "{path} leads to a file whose name is not UTF-8, which cannot be named here"
        )),
        errno => ToolError::io(format!("{what} {path}"), &errno.into()),
    }
}

/// Says what is there instead of a regular file.
pub(crate) fn not_regular(path: &str, kind: FileType) -> ToolError {
    let (is, hint) = match kind {
        FileType::Directory => ("a directory", "fs.list shows what is in it"),
        FileType::Symlink => (
            "a symbolic link",
            "ask again: the path has changed since it was checked",
        ),
        FileType::Fifo => ("a FIFO", "only regular files can be read and written"),
        FileType::Socket => ("a socket", "only regular files can be read and written"),
        FileType::CharacterDevice | FileType::BlockDevice => {
            ("a device", "only regular files can be read and written")
        }
        _ => (
            "not a regular file",
            "only regular files can be read and written",
        ),
    };
    let error_kind = match kind {
        FileType::Symlink => ToolErrorKind::Conflict,
        _ => ToolErrorKind::Invalid,
    };
    ToolError::new(error_kind, format!("{path} is {is}")).hint(hint)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use proptest::prelude::*;

    use super::*;
    use crate::testing::Machine;

    #[test]
    fn links_are_resolved_inside_the_root() {
        let machine = Machine::new();
        fs::create_dir_all(machine.path("/real/deep")).unwrap();
        symlink("/real", machine.path("/alias")).unwrap();
        symlink("../../../../../../real/deep", machine.path("/real/up")).unwrap();
        let root = Root::open(&machine.context).unwrap();
        let follow = |path: &str| root.canonical(path, Last::Follow).unwrap();
        assert_eq!(follow("/alias/deep/new/file"), "/real/deep/new/file");
        assert_eq!(follow("//alias/./deep/"), "/real/deep");
        assert_eq!(follow("/real/up"), "/real/deep");
        assert_eq!(follow("/"), "/");
        assert_eq!(root.canonical("/alias", Last::Keep).unwrap(), "/alias");
        assert_eq!(root.canonical("/alias/up", Last::Keep).unwrap(), "/real/up");
    }

    #[test]
    fn what_is_no_path_is_refused() {
        let machine = Machine::new();
        let root = Root::open(&machine.context).unwrap();
        let long = format!("/{}", "x".repeat(256));
        let deep = "/x".repeat(2500);
        for wrong in ["", "srv", "./x", "/a/../b", "/..", "/a\0b", &long, &deep] {
            let error = root.canonical(wrong, Last::Follow).unwrap_err();
            assert_eq!(error.kind, ToolErrorKind::Invalid, "{wrong:?}: {error}");
        }
    }

    #[test]
    fn loops_dangling_links_and_files_on_the_way_are_errors() {
        let machine = Machine::new();
        symlink("/loop", machine.path("/loop")).unwrap();
        symlink("/nowhere/at/all", machine.path("/dangling")).unwrap();
        fs::write(machine.path("/file"), "x").unwrap();
        let root = Root::open(&machine.context).unwrap();
        for wrong in ["/loop", "/loop/x", "/dangling", "/dangling/x", "/file/x"] {
            assert!(root.canonical(wrong, Last::Follow).is_err(), "{wrong}");
        }
        assert_eq!(
            root.canonical("/dangling", Last::Keep).unwrap(),
            "/dangling"
        );
    }

    #[test]
    fn a_link_that_appears_later_is_not_followed() {
        let machine = Machine::new();
        fs::create_dir_all(machine.path("/safe/dir")).unwrap();
        fs::create_dir_all(machine.path("/secret")).unwrap();
        fs::write(machine.path("/secret/key"), "s").unwrap();
        let root = Root::open(&machine.context).unwrap();
        let path = root.canonical("/safe/dir/key", Last::Follow).unwrap();
        fs::remove_dir(machine.path("/safe/dir")).unwrap();
        symlink("/secret", machine.path("/safe/dir")).unwrap();
        let error = root.regular(&path).unwrap_err();
        assert_eq!(error.kind, ToolErrorKind::Conflict, "{error}");
        assert!(root.parent(&path).is_err());
    }

    #[test]
    fn magic_links_lead_nowhere() {
        let context = Machine::new().context_at("/");
        let root = Root::open(&context).unwrap();
        assert!(root.canonical("/proc/self/exe", Last::Follow).is_err());
        assert!(root.canonical("/proc/self/root/etc", Last::Follow).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn canonical_is_a_fixed_point(text in "(/(a|b|link|\\.|x y|ü)){0,6}/?") {
            let machine = Machine::new();
            fs::create_dir_all(machine.path("/a/b")).unwrap();
            symlink("/a", machine.path("/link")).unwrap();
            let root = Root::open(&machine.context).unwrap();
            if let Ok(path) = root.canonical(&text, Last::Follow) {
                prop_assert_eq!(root.canonical(&path, Last::Follow).unwrap(), path.clone());
                prop_assert!(path == "/" || !path.ends_with('/'));
                prop_assert!(path != "/link" && !path.starts_with("/link/"));
            }
        }
    }
}
