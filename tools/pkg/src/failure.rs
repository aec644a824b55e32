//! What apt's and dpkg's complaints mean.

use aios_tool_api::{ToolError, ToolErrorKind};

use crate::run::Ran;

/// Longest part of a complaint that is passed on.
const MAX_COMPLAINT: usize = 1000;

/// A phrase of apt or dpkg, what kind of failure it is, and what to do.
const MEANINGS: [(&str, ToolErrorKind, &str); 19] = [
    (
        "Unable to locate package",
        ToolErrorKind::NotFound,
        "pkg.search finds the names of packages",
    ),
    (
        "has no installation candidate",
        ToolErrorKind::NotFound,
        "no package source has it; pkg.search finds alternatives",
    ),
    (
        "was not found",
        ToolErrorKind::NotFound,
        "no package source has that version; leave the version out to get the newest",
    ),
    (
        "Temporary failure resolving",
        ToolErrorKind::Network,
        "the package source cannot be reached; check the network with net.interfaces",
    ),
    (
        "Could not resolve",
        ToolErrorKind::Network,
        "the package source cannot be reached; check the network with net.interfaces",
    ),
    (
        "Could not connect",
        ToolErrorKind::Network,
        "the package source cannot be reached; check the network with net.interfaces",
    ),
    (
        "Connection failed",
        ToolErrorKind::Network,
        "the package source cannot be reached; check the network with net.interfaces",
    ),
    (
        "Connection timed out",
        ToolErrorKind::Network,
        "the package source does not answer",
    ),
    (
        "is not signed",
        ToolErrorKind::Permission,
        "the package source is not trusted; add its key below /etc/apt/keyrings",
    ),
    (
        "cannot be authenticated",
        ToolErrorKind::Permission,
        "the package source is not trusted; add its key below /etc/apt/keyrings",
    ),
    (
        "Hash Sum mismatch",
        ToolErrorKind::Network,
        "the package source changed or is damaged; try again",
    ),
    (
        "Failed to fetch",
        ToolErrorKind::Network,
        "a package could not be downloaded; check the network and the package source",
    ),
    (
        "held packages",
        ToolErrorKind::Conflict,
        "a package is held at its version",
    ),
    (
        "Held packages",
        ToolErrorKind::Conflict,
        "a package is held at its version",
    ),
    (
        "remove is disabled",
        ToolErrorKind::Conflict,
        "other packages would have to go first; remove them with pkg.remove if that is wanted",
    ),
    (
        "unmet dependencies",
        ToolErrorKind::Conflict,
        "the package source does not have what it needs in fitting versions",
    ),
    (
        "Could not get lock",
        ToolErrorKind::Conflict,
        "another program works on the packages; try again when it has finished",
    ),
    (
        "don't have enough free space",
        ToolErrorKind::Filesystem,
        "make room first; monitor.disk shows how full the disks are",
    ),
    (
        "No space left on device",
        ToolErrorKind::Filesystem,
        "make room first; monitor.disk shows how full the disks are",
    ),
];

/// The lines that say what went wrong: apt's errors, or else the last lines.
fn complaint(stderr: &str) -> String {
    let lines: Vec<&str> = stderr
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let errors: Vec<&str> = lines
        .iter()
        .filter_map(|line| {
            line.strip_prefix("E: ")
                .or_else(|| line.strip_prefix("dpkg: error"))
        })
        .collect();
    let chosen = if errors.is_empty() {
        lines
            .get(lines.len().saturating_sub(3)..)
            .unwrap_or_default()
            .to_vec()
    } else {
        errors
    };
    chosen.join("; ").chars().take(MAX_COMPLAINT).collect()
}

/// The failure of a run; `what` reads like "cannot install nginx".
pub(crate) fn of(what: &str, ran: &Ran) -> ToolError {
    let said = format!("{}\n{}", ran.stdout, ran.stderr);
    let complaint = complaint(&ran.stderr);
    let separator = if complaint.is_empty() { "" } else { ": " };
    let message = format!("{what}{separator}{complaint}");
    match MEANINGS.iter().find(|(phrase, ..)| said.contains(phrase)) {
        Some((phrase, kind, hint)) => ToolError::new(*kind, message)
            .hint(*hint)
            .with_retryable(*kind == ToolErrorKind::Network || *phrase == "Could not get lock"),
        None => ToolError::new(ToolErrorKind::Program, message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(stderr: &str) -> ToolError {
        of(
            "cannot install x",
            &Ran {
                ok: false,
                stdout: String::new(),
                stderr: stderr.into(),
            },
        )
    }

    #[test]
    fn complaints_have_a_kind_and_a_hint() {
        let error = failed("W: noise\nE: Unable to locate package ngnix\n");
        assert_eq!(error.kind, ToolErrorKind::NotFound);
        assert_eq!(
            error.message,
            "cannot install x: Unable to locate package ngnix"
        );
        let error = failed("E: Failed to fetch http://a/b.deb  Could not connect to a:80\n");
        assert_eq!(
            (error.kind, error.retryable),
            (ToolErrorKind::Network, true)
        );
        let error =
            failed("E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 7\n");
        assert_eq!(
            (error.kind, error.retryable),
            (ToolErrorKind::Conflict, true)
        );
        let error = failed("something\nunheard of\n");
        assert_eq!(
            (error.kind, error.retryable),
            (ToolErrorKind::Program, false)
        );
        assert!(error.message.ends_with("something; unheard of"));
    }

    #[test]
    fn a_long_complaint_is_cut() {
        assert!(failed(&format!("E: {}", "x".repeat(100_000))).message.len() < 1100);
    }
}
