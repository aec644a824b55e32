//! Room for the records: a change that takes space is refused while there is still enough to record
//! everything else, so that a full disk is something that can be looked at, recorded and repaired,
//! and not the end of all work. The ledger, the memory and what calls write share one disk.

use std::path::Path;

use aios_kit::{Category, Error};

/// What is kept free of calls that bring content or install something, in bytes.
const RESERVE: u64 = 8 << 20;
/// What is kept free of small changes, in bytes: with these a disk is put in order.
const LAST_RESERVE: u64 = 2 << 20;
/// Arguments of at most so many bytes make a small change.
const SMALL: u64 = 4096;
/// Tools that give space back, or take none.
const FREEING: &[&str] = &["fs.delete", "pkg.remove", "service.stop"];
/// Tools that take more space than their arguments say.
const TAKING: &[&str] = &["pkg.install"];

/// How full the disk of the records is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Usage {
    free: u64,
    total: u64,
}

/// Refuses a change of a tool, with so many bytes of arguments, for which there is no room on the
/// disk that holds the state directory. A disk that cannot be asked is not held against the call.
///
/// # Errors
/// When there is no room: what is full, and what to do.
pub fn check(state: &Path, tool: &str, arguments: u64) -> Result<(), Error> {
    let Ok(stat) = rustix::fs::statvfs(state) else {
        return Ok(());
    };
    let usage = Usage {
        free: stat.f_bavail.saturating_mul(stat.f_frsize),
        total: stat.f_blocks.saturating_mul(stat.f_frsize),
    };
    if usage.free >= needed(tool, arguments) {
        return Ok(());
    }
    Err(refusal(state, tool, usage))
}

fn needed(tool: &str, arguments: u64) -> u64 {
    if FREEING.contains(&tool) {
        0
    } else if arguments <= SMALL && !TAKING.contains(&tool) {
        LAST_RESERVE
    } else {
        // The content is kept for a repetition as well as written.
        RESERVE.saturating_add(arguments.saturating_mul(2))
    }
}

fn refusal(state: &Path, tool: &str, usage: Usage) -> Error {
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    Error::new(
        Category::Filesystem,
        format!(
            "the disk is full: {} of {} are left where {} is, and {tool} would take the space in \
             which everything is recorded; nothing was done",
            mib(usage.free),
            mib(usage.total),
            state.display()
        ),
    )
    .hint(
        "monitor.disk and fs.disk_usage show what takes the space; remove packages or files that \
         are not needed, or give the machine a larger data disk",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_space_is_refused_first_and_what_gives_it_back_never() {
        let takes = |tool, arguments, free| needed(tool, arguments) > free;
        for (tool, arguments, full, nearly_full) in [
            ("fs.write", 100_000, true, true),
            ("pkg.install", 20, true, true),
            ("fs.write", 20, true, false),
            ("service.define", 200, true, false),
            ("fs.delete", 20, false, false),
            ("pkg.remove", 20, false, false),
        ] {
            assert_eq!(takes(tool, arguments, 0), full, "{tool}");
            assert_eq!(takes(tool, arguments, 4 << 20), nearly_full, "{tool}");
            assert!(!takes(tool, arguments, 64 << 20), "{tool}");
        }
        assert_eq!(needed("fs.write", u64::MAX), u64::MAX);
    }

    #[test]
    fn a_refusal_says_what_is_full_and_what_to_do() {
        let usage = Usage {
            free: 3 << 20,
            total: 48 << 20,
        };
        let text = refusal(Path::new("/var/lib/aios"), "fs.write", usage).to_string();
        for part in [
            "3.0 MiB of 48.0 MiB",
            "/var/lib/aios",
            "nothing was done",
            "fs.disk_usage",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn there_is_room_on_a_disk_that_has_some() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(check(dir.path(), "fs.delete", 10), Ok(()));
        assert_eq!(check(Path::new("/nonexistent"), "fs.write", 10), Ok(()));
        let error = check(dir.path(), "fs.write", u64::MAX).unwrap_err();
        assert_eq!(error.category(), Category::Filesystem);
    }
}
