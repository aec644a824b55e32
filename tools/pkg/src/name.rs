//! Names and versions of packages.

use aios_tool_api::ToolError;

/// What people call a package whose Debian name is another. No entry is itself a package.
const EVERYDAY: [(&str, &str); 16] = [
    ("apache", "apache2"),
    ("dig", "bind9-dnsutils"),
    ("docker", "docker.io"),
    ("fd", "fd-find"),
    ("httpd", "apache2"),
    ("ifconfig", "net-tools"),
    ("java", "default-jre-headless"),
    ("mariadb", "mariadb-server"),
    ("mysql", "default-mysql-server"),
    ("node", "nodejs"),
    ("pip", "python3-pip"),
    ("postgres", "postgresql"),
    ("psql", "postgresql-client"),
    ("python", "python3"),
    ("rg", "ripgrep"),
    ("sshd", "openssh-server"),
];

/// Accepts a package name (Debian policy 5.6.1) and returns Debian's name for an everyday one.
///
/// A final `-` is refused although the grammar has it: apt would take it as "remove".
pub(crate) fn canonical(name: &str) -> Result<String, ToolError> {
    let mut bytes = name.bytes();
    let fits = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.')
    };
    let first = bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if name.len() < 2 || name.len() > 128 || !first || !bytes.all(fits) || name.ends_with('-') {
        return Err(ToolError::invalid(format!(
            "`{}` is not the name of a package",
            name.chars().take(80).collect::<String>().escape_debug()
        ))
        .hint("names have small letters, digits, `+`, `-` and `.`; pkg.search finds them"));
    }
    let debian = EVERYDAY
        .iter()
        .find_map(|(everyday, debian)| (*everyday == name).then_some(*debian));
    Ok(debian.unwrap_or(name).to_owned())
}

/// Accepts a version (Debian policy 5.6.12).
pub(crate) fn version(version: &str) -> Result<(), ToolError> {
    let fits =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'+' | b'-' | b'~' | b':');
    let first = version
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    if version.len() > 128 || !first || !version.bytes().all(fits) {
        return Err(ToolError::invalid(format!(
            "`{}` is not a version",
            version.chars().take(80).collect::<String>().escape_debug()
        ))
        .hint("leave it out to get the newest"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_debians() {
        for name in [
            "nginx",
            "g++",
            "libstdc++6",
            "python3.11",
            "0ad",
            "docker.io",
        ] {
            assert_eq!(canonical(name).unwrap(), name);
        }
        assert_eq!(canonical("postgres").unwrap(), "postgresql");
    }

    #[test]
    fn what_apt_could_read_as_something_else_is_refused() {
        for name in [
            "",
            "a",
            "-y",
            "--allow-unauthenticated",
            "nginx-",
            "nginx=1",
            "nginx/sid",
            "nginx:i386",
            "Nginx",
            "ngi nx",
            "ng*",
            "nginx;reboot",
            "$(reboot)",
            "../x.deb",
            "./x.deb",
            "nginx\n",
            "~n",
            "?name(x)",
        ] {
            assert!(canonical(name).is_err(), "{name}");
        }
        for text in ["", "-1", "1 2", "1;reboot", "$(x)", "1/2", "=1"] {
            assert!(version(text).is_err(), "{text}");
        }
        assert!(version("1:15.8-0+deb12u1~rc1").is_ok());
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_one_plain_word(name in "\\PC{0,20}") {
            if let Ok(name) = canonical(&name) {
                prop_assert!(!name.starts_with('-') && !name.ends_with('-'));
                prop_assert!(!name.contains(['/', '=', ':', ' ', '*', '?', '$', '\n']));
            }
        }
    }
}
