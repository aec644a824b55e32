//! Configuration files of packages, kept before a purge deletes them.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use aios_tool_api::{BlobId, Context, ToolError, ToolErrorKind};
use nix::libc::O_NOFOLLOW;
use serde::{Deserialize, Serialize};

use crate::apt::Apt;

/// Largest configuration of all packages of a call together, in bytes.
const MAX_TOTAL: u64 = 64 << 20;

/// A configuration file as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Saved {
    path: PathBuf,
    content: BlobId,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// The absolute paths in dpkg's field `Conffiles` (a path, a checksum and flags a line).
fn paths(field: &str) -> Vec<PathBuf> {
    field
        .lines()
        .filter_map(|line| {
            let line = line.trim();
            let line = line.strip_suffix(" remove-on-upgrade").unwrap_or(line);
            let line = line.strip_suffix(" obsolete").unwrap_or(line);
            let (path, _checksum) = line.rsplit_once(' ')?;
            Some(PathBuf::from(path))
        })
        .filter(|path| {
            path.is_absolute() && !path.components().any(|part| part.as_os_str() == "..")
        })
        .collect()
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Puts the configuration files of the packages into the store.
pub(crate) fn save(
    apt: &Apt,
    names: &[String],
    context: &Context,
) -> Result<Vec<Saved>, ToolError> {
    let mut saved = Vec::new();
    let mut total = 0;
    for name in names {
        for path in paths(&apt.field("Conffiles", name, context)?) {
            context.check_alive()?;
            let there = below(&context.root, &path);
            let fail = |error: &io::Error| {
                ToolError::io(format!("cannot keep {}", there.display()), error)
            };
            let metadata = match fs::symlink_metadata(&there) {
                Ok(metadata) if metadata.is_file() => metadata,
                Ok(_) => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(fail(&error)),
            };
            total += metadata.len();
            if total > MAX_TOTAL {
                return Err(ToolError::new(
                    ToolErrorKind::Filesystem,
                    format!(
                        "the configuration of {} is too large to be kept",
                        names.join(", ")
                    ),
                )
                .hint("remove without `purge`, which leaves the configuration in place"));
            }
            let content = OpenOptions::new()
                .read(true)
                .custom_flags(O_NOFOLLOW)
                .open(&there)
                .and_then(|file| context.blobs.put(file))
                .map_err(|error| fail(&error))?;
            saved.push(Saved {
                path,
                content,
                mode: metadata.permissions().mode() & 0o7777,
                uid: metadata.uid(),
                gid: metadata.gid(),
            });
        }
    }
    Ok(saved)
}

/// Puts the files back in place, each in one step, and returns their paths.
pub(crate) fn restore(saved: &[Saved], context: &Context) -> Result<Vec<PathBuf>, ToolError> {
    let mut restored = Vec::new();
    for file in saved {
        context.check_alive()?;
        let there = below(&context.root, &file.path);
        put_back(file, &there, context).map_err(|error| {
            ToolError::io(format!("cannot restore {}", there.display()), &error)
        })?;
        restored.push(file.path.clone());
    }
    Ok(restored)
}

fn put_back(file: &Saved, there: &Path, context: &Context) -> io::Result<()> {
    let parent = there.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent)?;
    let temporary = parent.join(format!(".aios-restore-{}", std::process::id()));
    let written = write(file, &temporary, context).and_then(|()| fs::rename(&temporary, there));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written?;
    File::open(parent)?.sync_all()
}

fn write(file: &Saved, temporary: &Path, context: &Context) -> io::Result<()> {
    let mut content = context.blobs.open(&file.content)?;
    let mut copy = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(O_NOFOLLOW)
        .open(temporary)?;
    io::copy(&mut content, &mut copy)?;
    chown(temporary, Some(file.uid), Some(file.gid))?;
    copy.set_permissions(fs::Permissions::from_mode(file.mode))?;
    copy.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_with_their_flags_and_spaces() {
        let field = "\n /etc/a b/c.conf 0123\n /etc/old 0123 obsolete\n ../etc/x 1\n /etc/../x 1\n /etc/new 1 remove-on-upgrade\n";
        let expected: Vec<PathBuf> = ["/etc/a b/c.conf", "/etc/old", "/etc/new"]
            .iter()
            .map(PathBuf::from)
            .collect();
        assert_eq!(paths(field), expected);
    }
}
