//! Names and addresses of hosts.

use std::net::IpAddr;

use aios_tool_api::ToolError;

/// Accepts an IP address or a host name (RFC 1123) and returns it in canonical form: addresses as
/// Rust prints them, names in lower case without the final dot.
pub(crate) fn canonical(host: &str) -> Result<String, ToolError> {
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    // A name of digits and dots is a mistyped address, which resolvers read in surprising ways.
    let numeric = name
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.')
        || name
            .rsplit('.')
            .next()
            .is_some_and(|last| last.starts_with("0x"));
    if name.is_empty() || name.len() > 253 || numeric || !name.split('.').all(label) {
        return Err(ToolError::invalid(format!(
            "`{}` is neither an address nor a host name",
            host.chars().take(80).collect::<String>().escape_debug()
        ))
        .hint("write e.g. `192.0.2.7`, `2001:db8::7` or `www.example.org`"));
    }
    Ok(name)
}

/// `host:port`, with brackets around an IPv6 address: how capabilities name an end point.
pub(crate) fn with_port(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_host_has_one_form() {
        assert_eq!(canonical("WWW.Example.ORG.").unwrap(), "www.example.org");
        assert_eq!(canonical("[2001:DB8::0:25]").unwrap(), "2001:db8::25");
        assert_eq!(canonical("127.0.0.1").unwrap(), "127.0.0.1");
        assert_eq!(with_port("2001:db8::25", 25), "[2001:db8::25]:25");
    }

    #[test]
    fn what_a_resolver_could_misread_is_refused() {
        for host in [
            "",
            "-h",
            "a b",
            "a/b",
            "http://a",
            "a..b",
            "2130706433",
            "127.1",
            "0x7f.0x1",
            "a\0",
            "$(id)",
            "a:b",
        ] {
            assert!(canonical(host).is_err(), "{host}");
        }
    }

    proptest! {
        #[test]
        fn the_canonical_form_is_a_fixed_point(host in "\\PC{0,40}") {
            if let Ok(once) = canonical(&host) {
                prop_assert_eq!(canonical(&once).unwrap(), once);
            }
        }
    }
}
