//! `fs.mkdir`: makes a directory, and those on the way to it that are missing.

use std::{os::fd::AsFd as _, time::Duration};

use aios_tool_api::{
    Capability, Context, FileMode, PreImage, Registry, Risk, Spec, Tool, ToolError, ToolErrorKind,
    Undone,
};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags},
    io::Errno,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    content,
    root::{self, Last, Root},
    walk,
};

/// Permissions of a new directory when none are asked for.
const DEFAULT_MODE: u32 = 0o755;

/// Which directory.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Args {
    /// Absolute path. Missing directories on the way are made too.
    #[schemars(extend("format" = "path"))]
    pub path: String,
    /// Permissions of the last directory; 0755 when left out. Those on the way get 0755.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<FileMode>,
}

/// The directory as it is now.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The directory, with links resolved.
    pub path: String,
    /// The directories that the call made, outermost first; empty when it was there already.
    pub created: Vec<String>,
    /// Permissions in octal.
    pub mode: FileMode,
}

struct FsMkdir;

pub(crate) fn register(registry: &mut Registry) {
    registry.add(FsMkdir);
}

impl Tool for FsMkdir {
    type Args = Args;
    type Output = Output;

    fn spec(&self) -> Spec {
        Spec {
            name: "fs.mkdir",
            summary: "Makes a directory and the missing ones on the way to it. One that is there \
                      already is left as it is.",
            risk: Risk::Medium,
            undo: Some("removes the directories that the call made, if they are still empty"),
            idempotent: true,
            deadline: Duration::from_secs(10),
            capability: ("fs", "write"),
        }
    }

    fn normalise(&self, args: Args, context: &Context) -> Result<Args, ToolError> {
        let path = Root::open(context)?.canonical(&args.path, Last::Follow)?;
        Ok(Args { path, ..args })
    }

    fn capabilities(&self, args: &Args) -> Vec<Capability> {
        vec![Capability::new("fs", "write").on(&args.path)]
    }

    /// A call that was cut short is undone before it is made again, or the directories that it had
    /// made would be taken for ones that were there before.
    fn idempotent(&self, _args: &Args) -> bool {
        false
    }

    fn pre_image(&self, args: &Args, context: &Context) -> Result<Option<PreImage>, ToolError> {
        let missing = missing(args, &Root::open(context)?)?;
        Ok(Some(PreImage {
            data: json!({ "missing": missing }),
        }))
    }

    fn execute(&self, args: &Args, context: &Context) -> Result<Output, ToolError> {
        let root = Root::open(context)?;
        let mut created = Vec::new();
        if let Err(error) = make(args, &root, &mut created) {
            // A call that failed leaves nothing, or its repetition would not know what it made.
            for path in created.iter().rev() {
                if let Ok((dir, name)) = root.parent(path) {
                    let _ = rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR);
                }
            }
            return Err(error);
        }
        let mode = mode_of(&root, &args.path)?;
        match args.mode {
            Some(wanted) if wanted != mode => Err(ToolError::new(
                ToolErrorKind::Conflict,
                format!(
                    "{} exists already, with mode {mode} instead of {wanted}",
                    args.path
                ),
            )
            .hint("leave mode out to take it as it is")),
            _ => Ok(Output {
                path: args.path.clone(),
                created,
                mode,
            }),
        }
    }

    fn check(&self, args: &Args, output: &Output, context: &Context) -> Result<(), ToolError> {
        let mode = mode_of(&Root::open(context)?, &args.path)?;
        if mode == output.mode {
            Ok(())
        } else {
            Err(ToolError::new(
                ToolErrorKind::Unverified,
                format!("{} has mode {mode} instead of {}", args.path, output.mode),
            ))
        }
    }

    fn undo(
        &self,
        _args: &Args,
        pre_image: &PreImage,
        output: Option<&Output>,
        context: &Context,
    ) -> Result<Undone, ToolError> {
        #[derive(Deserialize)]
        struct Before {
            missing: Vec<String>,
        }
        let before: Before = serde_json::from_value(pre_image.data.clone()).map_err(|error| {
            ToolError::new(
                ToolErrorKind::Internal,
                format!("pre-image of fs.mkdir: {error}"),
            )
        })?;
        let made = output.map_or(before.missing, |output| output.created.clone());
        let root = Root::open(context)?;
        let mut there = Vec::new();
        for path in made {
            match root.open_path(&path, OFlags::RDONLY | OFlags::DIRECTORY) {
                Ok(dir) => there.push((path, dir)),
                Err(Errno::NOENT) => break,
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    return Ok(Undone::Refused(format!("{path} is no directory any more")));
                }
                Err(errno) => return Err(root::path_error("cannot open", &path, errno)),
            }
        }
        // All of them are looked at before the first is removed: each may hold only the next.
        for (at, (path, dir)) in there.iter().enumerate() {
            let names = walk::names(dir.as_fd())
                .map_err(|errno| root::path_error("cannot read", path, errno))?;
            let next = there
                .get(at + 1)
                .and_then(|(next, _)| root::split(next))
                .map(|(_, name)| name);
            if names
                .iter()
                .any(|name| Some(name.to_bytes()) != next.map(str::as_bytes))
            {
                return Ok(Undone::Refused(format!(
                    "{path} is not empty any more; remove what was put into it first"
                )));
            }
        }
        if there.is_empty() {
            return Ok(Undone::Nothing(
                "the directories are not there any more".to_owned(),
            ));
        }
        let mut removed = Vec::new();
        for (path, _) in there.iter().rev() {
            let (dir, name) = root.parent(path)?;
            match rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::NOTEMPTY) => {
                    return Ok(Undone::Refused(format!(
                        "{path} is not empty any more; removed so far: {}",
                        removed.join(", ")
                    )));
                }
                Err(errno) => return Err(root::path_error("cannot remove", path, errno)),
            }
            content::sync(&dir, path)?;
            removed.push(path.as_str());
        }
        Ok(Undone::Undone(format!("removed {}", removed.join(", "))))
    }
}

/// Makes what is missing, and notes what it made.
fn make(args: &Args, root: &Root, created: &mut Vec<String>) -> Result<(), ToolError> {
    for path in missing(args, root)? {
        let wanted = match args.mode {
            Some(mode) if path == args.path => mode.bits(),
            _ => DEFAULT_MODE,
        };
        let (dir, name) = root.parent(&path)?;
        match rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o700)) {
            Ok(()) => created.push(path.clone()),
            // Somebody else made it meanwhile: it is theirs, and undo must leave it.
            Err(Errno::EXIST) => continue,
            Err(errno) => return Err(root::path_error("cannot make the directory", &path, errno)),
        }
        let failed = |errno| root::path_error("cannot set up the directory", &path, errno);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&dir, name, flags, Mode::empty()).map_err(failed)?;
        // Not through mkdirat, where the process's umask would have a say.
        rustix::fs::fchmod(&made, Mode::from_raw_mode(wanted)).map_err(failed)?;
        content::sync(&made, &path)?;
        content::sync(&dir, &path)?;
    }
    Ok(())
}

/// The directories that would have to be made, outermost first.
fn missing(args: &Args, root: &Root) -> Result<Vec<String>, ToolError> {
    let mut missing = Vec::new();
    let mut path = args.path.as_str();
    loop {
        match root.open_path(path, OFlags::PATH) {
            Ok(found) => {
                let stat = rustix::fs::fstat(&found)
                    .map_err(|errno| root::path_error("cannot stat", path, errno))?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    return Err(ToolError::new(
                        ToolErrorKind::Conflict,
                        format!("{path} exists and is not a directory"),
                    )
                    .hint("choose another path, or remove it with fs.delete"));
                }
                break;
            }
            Err(Errno::NOENT) => missing.push(path.to_owned()),
            // The file that is in the way is named when the loop gets to it.
            Err(Errno::NOTDIR) => {}
            Err(errno) => return Err(root::path_error("cannot open", path, errno)),
        }
        let Some((parent, _)) = root::split(path) else {
            break;
        };
        path = parent;
    }
    missing.reverse();
    Ok(missing)
}

fn mode_of(root: &Root, path: &str) -> Result<FileMode, ToolError> {
    let dir = root.directory(path)?;
    let stat =
        rustix::fs::fstat(dir).map_err(|errno| root::path_error("cannot stat", path, errno))?;
    Ok(FileMode::from_bits(stat.st_mode))
}
