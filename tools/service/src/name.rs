//! Names of services: which are well formed, and which belong to aiOS itself.

use aios_tool_api::{ToolError, ToolErrorKind};

/// Longest name, in bytes; the limit of PID 1.
const MAX_NAME: usize = 64;

/// The daemons that carry goals out; stopping one of them through a goal would saw off the branch
/// that the goal sits on.
const DAEMONS: [&str; 6] = [
    "init",
    "runtime",
    "memory",
    "tools",
    "orchestrator",
    "console",
];

/// Whether the service is part of aiOS: a daemon or an agent.
pub(crate) fn is_own(name: &str) -> bool {
    let short = name.strip_prefix("aios-").unwrap_or(name);
    DAEMONS.contains(&short) || short.starts_with("agent-")
}

/// Accepts a well-formed name, without the `.service` that people are used to.
pub(crate) fn well_formed(name: &str) -> Result<String, ToolError> {
    let bare = name.strip_suffix(".service").unwrap_or(name);
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if bare.is_empty()
        || bare.len() > MAX_NAME
        || bare.starts_with(['-', '.'])
        || !bare.bytes().all(fits)
    {
        return Err(ToolError::invalid(format!(
            "`{}` is not the name of a service",
            name.chars().take(80).collect::<String>().escape_debug()
        ))
        .hint(format!(
            "a name has letters, digits, `-`, `_` and `.`, does not begin with `-` or `.`, and has \
             at most {MAX_NAME} characters"
        )));
    }
    Ok(bare.to_owned())
}

/// Accepts a well-formed name that is not one of aiOS' own services; `verb` reads like "stopped".
pub(crate) fn not_own(name: &str, verb: &str) -> Result<String, ToolError> {
    let name = well_formed(name)?;
    if is_own(&name) {
        return Err(ToolError::new(
            ToolErrorKind::Conflict,
            format!("`{name}` is part of aiOS itself and is not {verb} by a goal"),
        )
        .hint(
            "PID 1 restarts it by itself when it fails; to end everything, power the machine off",
        ));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn own_services_are_recognised_by_both_names() {
        for name in [
            "tools",
            "aios-tools",
            "memory",
            "agent-system",
            "aios-agent-dev",
            "init",
        ] {
            assert!(is_own(name), "{name}");
            let error = not_own(name, "stopped").unwrap_err();
            assert_eq!(error.kind, ToolErrorKind::Conflict);
        }
        assert!(!is_own("nginx"));
        assert!(!is_own("agents"));
    }

    #[test]
    fn what_could_be_read_as_something_else_is_no_name() {
        for name in [
            "",
            "-x",
            ".hidden",
            "../etc",
            "a b",
            "a/b",
            "a\nb",
            "$(id)",
            "ä",
            &"x".repeat(65),
        ] {
            assert_eq!(
                well_formed(name).unwrap_err().kind,
                ToolErrorKind::Invalid,
                "{name}"
            );
        }
        assert_eq!(well_formed("nginx.service").unwrap(), "nginx");
        assert_eq!(well_formed("php8.2-fpm").unwrap(), "php8.2-fpm");
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_harmless_as_a_file_name(name in ".{0,70}") {
            if let Ok(name) = well_formed(&name) {
                prop_assert!(!name.contains(['/', '\0', ' ']));
                prop_assert!(name != "." && name != ".." && !name.starts_with('-'));
            }
        }
    }
}
