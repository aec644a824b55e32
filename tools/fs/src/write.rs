//! `fs.write`: puts a text into a file, or appends it. The file is replaced as a whole.

use std::{os::fd::AsFd as _, time::Duration};

use aios_tool_api::{
    Capability, Context, FileMode, PreImage, Registry, Risk, Spec, Tool, ToolError, ToolErrorKind,
    Undone, canonical,
};
use rustix::fs::{FileType, Stat};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    content::{self, Saved},
    draft::{self, Attributes, Draft},
    root::{self, Last, Root},
};

/// Permissions of a new file when none are asked for.
const DEFAULT_MODE: u32 = 0o644;

/// What to write where.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Args {
    /// Absolute path of the file. Its directory must exist.
    #[schemars(extend("format" = "path"))]
    pub path: String,
    /// The text, exactly; no line end is added.
    pub content: String,
    /// Permissions; left out, an existing file keeps its own and a new one gets 0644.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<FileMode>,
    /// Put the text after what is in the file instead of in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub append: Option<bool>,
}

/// The file as it is now.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The file, with links resolved.
    pub path: String,
    /// Size of the whole file in bytes.
    pub bytes: u64,
    /// SHA-256 of the whole file in hexadecimal.
    pub sha256: String,
    /// Permissions in octal.
    pub mode: FileMode,
    /// Whether there was no such file before.
    pub created: bool,
}

/// What undo needs.
#[derive(Debug, Serialize, Deserialize)]
struct Before {
    /// The file as it was; none when there was none.
    file: Option<Saved>,
    /// SHA-256 that the call leaves.
    after_sha256: String,
}

struct FsWrite;

pub(crate) fn register(registry: &mut Registry) {
    registry.add(FsWrite);
}

impl Tool for FsWrite {
    type Args = Args;
    type Output = Output;

    fn spec(&self) -> Spec {
        Spec {
            name: "fs.write",
            summary: "Creates a text file or replaces its content, or appends to it. The directory \
                      must exist (fs.mkdir makes one). Owner and permissions of an existing file \
                      stay, set-user-id excepted; hard links to the old content keep it.",
            risk: Risk::Medium,
            undo: Some("restores the previous content, mode and owner, or removes the new file"),
            // Appending twice is not appending once, and this word is about every call.
            idempotent: false,
            deadline: Duration::from_secs(30),
            capability: ("fs", "write"),
        }
    }

    fn normalise(&self, args: Args, context: &Context) -> Result<Args, ToolError> {
        if args.mode.is_some_and(|mode| mode.bits() & 0o6000 != 0) {
            return Err(ToolError::invalid(
                "mode has set-user-id or set-group-id, which a written file never gets",
            ));
        }
        if args.path.ends_with('/') {
            return Err(ToolError::invalid(format!(
                "path {} names a directory, not a file",
                args.path
            ))
            .hint("write the path of the file without a `/` at the end"));
        }
        if args.content.len() as u64 > content::PRE_IMAGE_LIMIT {
            return Err(ToolError::invalid(format!(
                "content has more than {} bytes",
                content::PRE_IMAGE_LIMIT
            )));
        }
        let path = Root::open(context)?.canonical(&args.path, Last::Follow)?;
        if path == "/" {
            return Err(ToolError::invalid("path is `/`, which is a directory"));
        }
        Ok(Args { path, ..args })
    }

    fn capabilities(&self, args: &Args) -> Vec<Capability> {
        vec![Capability::new("fs", "write").on(&args.path)]
    }

    fn pre_image(&self, args: &Args, context: &Context) -> Result<Option<PreImage>, ToolError> {
        let before = match existing(args, context)? {
            None => Before {
                file: None,
                after_sha256: canonical::sha256_hex(args.content.as_bytes()),
            },
            Some((fd, stat)) => {
                let saved = content::save(fd, &stat, &args.path, context)?;
                let mut after = if args.append == Some(true) {
                    content::saved_bytes(&saved, context)?
                } else {
                    Vec::new()
                };
                after.extend_from_slice(args.content.as_bytes());
                Before {
                    file: Some(saved),
                    after_sha256: canonical::sha256_hex(&after),
                }
            }
        };
        let data = serde_json::to_value(before)
            .map_err(|error| ToolError::new(ToolErrorKind::Internal, error.to_string()))?;
        Ok(Some(PreImage { data }))
    }

    fn execute(&self, args: &Args, context: &Context) -> Result<Output, ToolError> {
        let path = args.path.as_str();
        let root = Root::open(context)?;
        let (dir, name) = root.parent(path)?;
        let existing = existing(args, context)?;
        let created = existing.is_none();
        let mut before = Vec::new();
        let mut attributes = Attributes {
            mode: args.mode.map_or(DEFAULT_MODE, FileMode::bits),
            owner: None,
        };
        if let Some((fd, stat)) = existing {
            if args.append == Some(true) {
                use std::io::Read as _;
                std::fs::File::from(fd)
                    .take(content::PRE_IMAGE_LIMIT)
                    .read_to_end(&mut before)
                    .map_err(|error| ToolError::io(format!("cannot read {path}"), &error))?;
            }
            attributes = Attributes {
                // As the kernel does when a file is written to: no set-user-id for a new content.
                mode: args.mode.map_or(stat.st_mode & 0o1777, FileMode::bits),
                owner: Some((stat.st_uid, stat.st_gid)),
            };
        }
        let pieces = [before.as_slice(), args.content.as_bytes()];
        Draft::new(dir.as_fd(), name, path)?.put(&pieces, attributes, !created)?;
        let (fd, stat) = content::open_regular(dir.as_fd(), name, path)?;
        Ok(Output {
            path: args.path.clone(),
            bytes: crate::facts::size(&stat),
            sha256: content::hash(fd, path)?,
            mode: FileMode::from_bits(stat.st_mode),
            created,
        })
    }

    fn check(&self, args: &Args, output: &Output, context: &Context) -> Result<(), ToolError> {
        let (fd, stat) = Root::open(context)?.regular(&args.path)?;
        let wrong = |message: String| Err(ToolError::new(ToolErrorKind::Unverified, message));
        if content::hash(fd, &args.path)? != output.sha256 {
            return wrong(format!(
                "{} does not hold what was written to it",
                args.path
            ));
        }
        if args.append != Some(true)
            && output.sha256 != canonical::sha256_hex(args.content.as_bytes())
        {
            return wrong(format!(
                "{} holds something other than the content asked for",
                args.path
            ));
        }
        match args.mode {
            Some(mode) if mode != FileMode::from_bits(stat.st_mode) => wrong(format!(
                "{} has mode {} instead of {mode}",
                args.path,
                FileMode::from_bits(stat.st_mode)
            )),
            _ => Ok(()),
        }
    }

    fn undo(
        &self,
        args: &Args,
        pre_image: &PreImage,
        output: Option<&Output>,
        context: &Context,
    ) -> Result<Undone, ToolError> {
        let before: Before = serde_json::from_value(pre_image.data.clone()).map_err(|error| {
            ToolError::new(
                ToolErrorKind::Internal,
                format!("pre-image of fs.write: {error}"),
            )
        })?;
        let path = args.path.as_str();
        let root = Root::open(context)?;
        let (dir, name) = match root.parent(path) {
            Ok(found) => found,
            Err(error) if error.kind == ToolErrorKind::NotFound && before.file.is_none() => {
                return Ok(Undone::Nothing(format!("{path} is not there any more")));
            }
            Err(error) => return Err(error),
        };
        if output.is_none() {
            draft::sweep(dir.as_fd(), name);
        }
        let now = match root::stat_at(&dir, name, path)? {
            None => None,
            Some(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile => {
                return Ok(Undone::Refused(format!(
                    "{path} is no regular file any more"
                )));
            }
            Some(_) => {
                let (fd, stat) = content::open_regular(dir.as_fd(), name, path)?;
                Some((content::hash(fd, path)?, stat))
            }
        };
        match (before.file, now) {
            (None, None) => Ok(Undone::Nothing(format!(
                "{path} is not there, as before the call"
            ))),
            (Some(saved), Some((hash, stat))) if is_as_saved(&saved, &hash, &stat) => Ok(
                Undone::Nothing(format!("{path} is as it was before the call")),
            ),
            (Some(_), None) => Ok(Undone::Refused(format!(
                "{path} was removed after the call; undo that removal first"
            ))),
            (_, Some((hash, _))) if hash != before.after_sha256 => Ok(Undone::Refused(format!(
                "{path} was changed after the call: it now has SHA-256 {hash}, the call left {}; \
                 undo the later change first",
                before.after_sha256
            ))),
            (None, Some(_)) => {
                rustix::fs::unlinkat(&dir, name, rustix::fs::AtFlags::empty())
                    .map_err(|errno| root::path_error("cannot remove", path, errno))?;
                content::sync(&dir, path)?;
                Ok(Undone::Undone(format!(
                    "removed {path}, which the call had created"
                )))
            }
            (Some(saved), Some(_)) => {
                let bytes = content::saved_bytes(&saved, context)?;
                let attributes = Attributes {
                    mode: saved.mode,
                    owner: Some((saved.uid, saved.gid)),
                };
                Draft::new(dir.as_fd(), name, path)?.put(&[&bytes], attributes, true)?;
                let (fd, stat) = content::open_regular(dir.as_fd(), name, path)?;
                if !is_as_saved(&saved, &content::hash(fd, path)?, &stat) {
                    return Err(ToolError::new(
                        ToolErrorKind::Unverified,
                        format!("{path} was put back, but is not what it was"),
                    ));
                }
                Ok(Undone::Undone(format!(
                    "put back the {} bytes that {path} had, with mode {} and its owner",
                    bytes.len(),
                    FileMode::from_bits(saved.mode)
                )))
            }
        }
    }

    fn redacted(&self) -> &'static [&'static str] {
        &["/content"]
    }
}

fn is_as_saved(saved: &Saved, hash: &str, stat: &Stat) -> bool {
    saved.content.sha256 == hash
        && saved.mode == stat.st_mode & 0o7777
        && (saved.uid, saved.gid) == (stat.st_uid, stat.st_gid)
}

/// The file that is there, opened; an error when something is there that cannot be written to.
fn existing(
    args: &Args,
    context: &Context,
) -> Result<Option<(std::os::fd::OwnedFd, Stat)>, ToolError> {
    let path = args.path.as_str();
    let (dir, name) = Root::open(context)?.parent(path)?;
    let file_system = rustix::fs::fstatfs(&dir)
        .map_err(|errno| root::path_error("cannot look at", path, errno))?;
    if crate::walk::is_kernels(&file_system) {
        return Err(ToolError::invalid(format!(
            "{path} is an interface of the kernel, not a file that can be replaced"
        )));
    }
    if root::stat_at(&dir, name, path)?.is_none() {
        return Ok(None);
    }
    content::open_regular(dir.as_fd(), name, path).map(Some)
}
