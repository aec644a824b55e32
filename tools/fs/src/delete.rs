//! `fs.delete`: removes a file, a link or a directory, after saving all of it.
//!
//! A tree is first renamed to a hidden name beside it and removed there, so that after a crash it is
//! under its own name whole, or not at all; undo builds it beside its place and renames it there.

use std::{
    ffi::CString,
    os::fd::{AsFd as _, BorrowedFd},
    time::Duration,
};

use aios_tool_api::{
    Capability, Context, PreImage, Registry, Risk, Spec, Tool, ToolError, ToolErrorKind, Undone,
    canonical,
};
use rustix::{
    fs::{AtFlags, RenameFlags},
    io::Errno,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    content,
    facts::Kind,
    rebuild,
    root::{self, Last, Root, path_error},
    tree::{self, SavedTree},
};

/// Directories without which the machine is no machine: never deleted themselves. What is in them
/// may be, as far as the caller's rights go.
const NEVER: &[&str] = &[
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/local",
    "/usr/sbin",
    "/usr/share",
    "/var",
    "/var/cache",
    "/var/lib",
    "/var/lib/dpkg",
    "/var/log",
    "/var/spool",
    "/var/tmp",
];

/// What to remove.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Args {
    /// Absolute path. Of a symbolic link the link itself is removed, never what it leads to.
    #[schemars(extend("format" = "path"))]
    pub path: String,
    /// Remove a directory with everything in it; without it only an empty one is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recursive: Option<bool>,
}

/// What was removed.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The path, with the links on the way to it resolved.
    pub path: String,
    /// What it was.
    pub kind: Kind,
    /// How many files, directories and links were removed.
    pub removed: u64,
}

struct FsDelete;

pub(crate) fn register(registry: &mut Registry) {
    registry.add(FsDelete);
}

impl Tool for FsDelete {
    type Args = Args;
    type Output = Output;

    fn spec(&self) -> Spec {
        Spec {
            name: "fs.delete",
            summary: "Removes a file, a symbolic link or a directory (with its contents only when \
                      `recursive`). Everything removed is kept for a rollback, so a tree of more \
                      than 50000 files or 1 GiB is refused; so are mount points and the directories \
                      of the system.",
            risk: Risk::High,
            undo: Some(
                "restores contents, permissions, owners, times and links from the pre-image store",
            ),
            idempotent: false,
            deadline: Duration::from_secs(120),
            capability: ("fs", "delete"),
        }
    }

    fn normalise(&self, args: Args, context: &Context) -> Result<Args, ToolError> {
        let path = Root::open(context)?.canonical(&args.path, Last::Keep)?;
        let kernel = ["/proc/", "/sys/"]
            .iter()
            .any(|below| path.starts_with(below));
        if path == "/" || kernel || NEVER.contains(&path.as_str()) {
            return Err(ToolError::invalid(format!(
                "{path} belongs to the system and is never deleted"
            ))
            .hint("name what is in it that should go"));
        }
        Ok(Args { path, ..args })
    }

    fn capabilities(&self, args: &Args) -> Vec<Capability> {
        vec![Capability::new("fs", "delete").on(&args.path)]
    }

    fn pre_image(&self, args: &Args, context: &Context) -> Result<Option<PreImage>, ToolError> {
        let path = args.path.as_str();
        let root = Root::open(context)?;
        let (dir, name) = root.parent(path)?;
        refuse_full(dir.as_fd(), name, args)?;
        let saved = tree::save(dir.as_fd(), name, path, context)?;
        let data = serde_json::to_value(saved)
            .map_err(|error| ToolError::new(ToolErrorKind::Internal, error.to_string()))?;
        Ok(Some(PreImage { data }))
    }

    fn execute(&self, args: &Args, context: &Context) -> Result<Output, ToolError> {
        let path = args.path.as_str();
        let root = Root::open(context)?;
        let (dir, name) = root.parent(path)?;
        let kind = refuse_full(dir.as_fd(), name, args)?;
        let failed = |errno| path_error("cannot delete", path, errno);
        let removed = match (kind, args.recursive) {
            (Kind::Directory, Some(true)) => {
                let hidden = hidden("delete", name)?;
                clear(dir.as_fd(), &hidden)
                    .map_err(|error| ToolError::io(format!("cannot delete {path}"), &error))?;
                rustix::fs::renameat(&dir, name, &dir, hidden.as_c_str()).map_err(failed)?;
                content::sync(&dir, path)?;
                rebuild::remove(dir.as_fd(), &hidden).map_err(|error| {
                    ToolError::io(
                        format!(
                            "{path} was taken away, but what is left of it, {}, cannot be removed",
                            hidden.to_string_lossy()
                        ),
                        &error,
                    )
                })?
            }
            (Kind::Directory, _) => {
                rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR).map_err(failed)?;
                1
            }
            _ => {
                rustix::fs::unlinkat(&dir, name, AtFlags::empty()).map_err(failed)?;
                1
            }
        };
        content::sync(&dir, path)?;
        Ok(Output {
            path: args.path.clone(),
            kind,
            removed,
        })
    }

    fn check(&self, args: &Args, _output: &Output, context: &Context) -> Result<(), ToolError> {
        let root = Root::open(context)?;
        let (dir, name) = root.parent(&args.path)?;
        match root::stat_at(&dir, name, &args.path)? {
            None => Ok(()),
            Some(_) => Err(ToolError::new(
                ToolErrorKind::Unverified,
                format!("{} is there (again) after it was deleted", args.path),
            )),
        }
    }

    fn undo(
        &self,
        args: &Args,
        pre_image: &PreImage,
        _output: Option<&Output>,
        context: &Context,
    ) -> Result<Undone, ToolError> {
        let saved: SavedTree = serde_json::from_value(pre_image.data.clone()).map_err(|error| {
            ToolError::new(
                ToolErrorKind::Internal,
                format!("pre-image of fs.delete: {error}"),
            )
        })?;
        let path = args.path.as_str();
        let root = Root::open(context)?;
        let (dir, name) = match root.parent(path) {
            Err(error)
                if matches!(
                    error.kind,
                    ToolErrorKind::NotFound | ToolErrorKind::Conflict
                ) =>
            {
                return Ok(Undone::Refused(format!(
                    "{error}; undo that first, then {path} can come back"
                )));
            }
            other => other?,
        };
        let failed =
            |what: &str, error: &std::io::Error| ToolError::io(format!("{what} {path}"), error);
        let before = tree::load(&saved, context)?;
        let (left, fresh) = (hidden("delete", name)?, hidden("restore", name)?);
        clear(dir.as_fd(), &fresh).map_err(|error| failed("cannot restore", &error))?;
        if root::stat_at(&dir, name, path)?.is_some() {
            let same =
                tree::look(dir.as_fd(), name, path, context).is_ok_and(|now| now.same(&before));
            return Ok(if same {
                Undone::Nothing(format!("{path} is there as it was before the call"))
            } else {
                Undone::Refused(format!(
                    "something else is at {path} now; move or delete it first, then the old one can come back"
                ))
            });
        }
        let fresh_name = fresh.to_string_lossy();
        let built = rebuild::restore(dir.as_fd(), &fresh_name, &saved, &before, context)
            .map_err(|error| failed("cannot restore", &error))
            .and_then(|()| tree::look(dir.as_fd(), &fresh_name, path, context))
            .and_then(|now| {
                if now.same(&before) {
                    rustix::fs::renameat_with(&dir, fresh.as_c_str(), &dir, name, RenameFlags::NOREPLACE)
                        .map_err(|errno| path_error("cannot restore", path, errno))
                } else {
                    Err(ToolError::new(
                        ToolErrorKind::Unverified,
                        format!("{path} was rebuilt, but is not what it was; it was not put in its place"),
                    ))
                }
            });
        if let Err(error) = built {
            // The reason is what counts; what cannot be cleared now is cleared by the next attempt.
            let _ = clear(dir.as_fd(), &fresh);
            return Err(error);
        }
        clear(dir.as_fd(), &left)
            .map_err(|error| failed("restored, but cannot clear what was left of", &error))?;
        content::sync(&dir, path)?;
        Ok(Undone::Undone(format!(
            "put back {path} with {} entries{}",
            saved.entries,
            before.losses()
        )))
    }
}

/// The name beside `name` under which it is taken apart or built.
fn hidden(what: &str, name: &str) -> Result<CString, ToolError> {
    let hash = canonical::sha256_hex(name.as_bytes());
    CString::new(format!(
        ".aios-{what}-{}",
        hash.get(..16).unwrap_or_default()
    ))
    .map_err(|error| ToolError::new(ToolErrorKind::Internal, error.to_string()))
}

/// Removes what an interrupted call left under such a name.
fn clear(dir: BorrowedFd<'_>, hidden: &CString) -> std::io::Result<()> {
    match rebuild::remove(dir, hidden) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What is there; an error when it is a directory that would take other things with it unasked.
fn refuse_full(dir: BorrowedFd<'_>, name: &str, args: &Args) -> Result<Kind, ToolError> {
    let path = args.path.as_str();
    let stat = root::stat_at(dir, name, path)?.ok_or_else(|| crate::stat::missing(path))?;
    let kind = Kind::of(&stat);
    if kind == Kind::Directory && args.recursive != Some(true) {
        let c_name =
            CString::new(name).map_err(|_| ToolError::invalid("path contains a NUL byte"))?;
        let below = crate::walk::open_below(dir, &c_name, rustix::fs::ResolveFlags::empty())
            .map_err(|errno| path_error("cannot open", path, errno))?;
        let names = crate::walk::names(&below)
            .map_err(|errno: Errno| path_error("cannot read", path, errno))?;
        if !names.is_empty() {
            return Err(ToolError::new(
                ToolErrorKind::Conflict,
                format!("{path} is a directory with {} entries", names.len()),
            )
            .hint("set recursive to delete it with everything in it"));
        }
    }
    Ok(kind)
}
