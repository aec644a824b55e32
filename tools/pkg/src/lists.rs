//! The lists of the package sources: when they are refreshed, and what they offer.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use aios_tool_api::{Context, ToolError};

use crate::{apt::Apt, failure};

/// Age at which lists are refreshed before an installation.
const OLD: Duration = Duration::from_secs(24 * 3600);

/// Says when lists were last refreshed. The lists themselves carry the times of the server.
/// It ends with the boot, so that the first installation after one looks for news.
fn stamp(context: &Context) -> PathBuf {
    context.run_dir.join("packages-refreshed")
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}

/// The newest change to the package sources.
fn sources_changed(apt: &Apt) -> Option<SystemTime> {
    let folder = apt.etc.join("sources.list.d");
    let in_folder = fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| modified(&entry.path()));
    in_folder
        .chain(modified(&apt.etc.join("sources.list")))
        .chain(modified(&folder))
        .max()
}

/// Whether there is no list at all.
pub(crate) fn is_empty(apt: &Apt) -> bool {
    fs::read_dir(&apt.lists)
        .into_iter()
        .flatten()
        .flatten()
        .all(|entry| !entry.file_name().to_string_lossy().contains("_Packages"))
}

/// Whether the lists should be refreshed before something is installed.
pub(crate) fn are_old(apt: &Apt, context: &Context) -> bool {
    let Some(refreshed) = modified(&stamp(context)) else {
        return true;
    };
    let fresh = SystemTime::now()
        .duration_since(refreshed)
        .is_ok_and(|age| age < OLD);
    !fresh || is_empty(apt) || sources_changed(apt).is_some_and(|changed| changed > refreshed)
}

/// Gets the lists anew.
pub(crate) fn refresh(apt: &Apt, context: &Context) -> Result<(), ToolError> {
    let ran = apt.get("update", &[], &[], context)?;
    if !ran.ok {
        return Err(failure::of("cannot refresh the package lists", &ran));
    }
    // Without the stamp the next installation refreshes again, which is slower and nothing worse.
    let _ = fs::create_dir_all(&context.run_dir).and_then(|()| fs::write(stamp(context), ""));
    Ok(())
}

/// The version that would be installed; `None` when no source has the package.
pub(crate) fn candidate(
    apt: &Apt,
    name: &str,
    context: &Context,
) -> Result<Option<String>, ToolError> {
    let ran = apt.cache(
        &["policy".to_owned(), "--".to_owned(), name.to_owned()],
        context,
    )?;
    if !ran.ok {
        return Err(failure::of(&format!("cannot look {name} up"), &ran));
    }
    Ok(candidate_in(&ran.stdout, name))
}

fn candidate_in(policy: &str, name: &str) -> Option<String> {
    let mut lines = policy
        .lines()
        .skip_while(|line| line.strip_suffix(':') != Some(name));
    lines
        .find_map(|line| line.trim().strip_prefix("Candidate: "))
        .filter(|version| *version != "(none)")
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_candidate_is_read() {
        let policy = "nginx:\n  Installed: (none)\n  Candidate: 1.22.1-9\n  Version table:\n";
        assert_eq!(candidate_in(policy, "nginx").as_deref(), Some("1.22.1-9"));
        assert_eq!(candidate_in(policy, "apache2"), None);
        assert_eq!(candidate_in("x-y:\n  Candidate: (none)\n", "x-y"), None);
        assert_eq!(candidate_in("", "nginx"), None);
    }
}
