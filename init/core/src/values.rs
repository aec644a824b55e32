//! The values that a unit file is made of. Each checks itself while it is read, so that the error
//! names the line and column of the value.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// A length of time such as `"500ms"`, `"10s"` or `"2m"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

impl Span {
    /// A length in seconds.
    #[must_use]
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// The same in microseconds.
    #[must_use]
    pub fn micros(self) -> u64 {
        u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX)
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let millis_per_unit = match &text[digits.len()..] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => {
                return Err(format!(
                    "`{text}` is no length of time; write for example \"10s\""
                ));
            }
        };
        let count: u64 = digits
            .parse()
            .map_err(|_| format!("`{text}` is no length of time; write for example \"10s\""))?;
        match count.checked_mul(millis_per_unit) {
            Some(millis) if (1..=86_400_000).contains(&millis) => {
                Ok(Self(Duration::from_millis(millis)))
            }
            _ => Err(format!("`{text}` must be between 1ms and 24h")),
        }
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if millis.is_multiple_of(1000) {
            write!(f, "{}s", millis / 1000)
        } else {
            write!(f, "{millis}ms")
        }
    }
}

/// A number of bytes such as `"512M"`; K, M and G are powers of 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Bytes(pub u64);

impl TryFrom<String> for Bytes {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let error = || format!("`{text}` is no number of bytes; write for example \"512M\"");
        let digits = text.trim_end_matches(['K', 'M', 'G']);
        let shift = match &text[digits.len()..] {
            "" => 0,
            "K" => 10,
            "M" => 20,
            "G" => 30,
            _ => return Err(error()),
        };
        let count: u64 = digits.parse().map_err(|_| error())?;
        match count.checked_mul(1 << shift) {
            Some(bytes) if bytes > 0 => Ok(Self(bytes)),
            _ => Err(error()),
        }
    }
}

/// An absolute path without `..`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct AbsolutePath(pub String);

impl TryFrom<String> for AbsolutePath {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if !text.starts_with('/') || text.contains('\0') || text.split('/').any(|part| part == "..")
        {
            return Err(format!("`{text}` must be an absolute path without `..`"));
        }
        Ok(Self(text))
    }
}

/// A path below a directory that the reader knows: relative, no `..`, no empty part.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct RelativePath(pub String);

impl TryFrom<String> for RelativePath {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = |part: &str| part.is_empty() || part == "." || part == "..";
        if text.contains('\0') || text.split('/').any(wrong) {
            return Err(format!(
                "`{text}` must be a relative path without `.` and `..`"
            ));
        }
        Ok(Self(text))
    }
}

/// A whole number between two bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "i64")]
pub struct Bounded<const MIN: i64, const MAX: i64>(i64);

impl<const MIN: i64, const MAX: i64> Bounded<MIN, MAX> {
    /// The number.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl<const MIN: i64, const MAX: i64> TryFrom<i64> for Bounded<MIN, MAX> {
    type Error = String;

    fn try_from(number: i64) -> Result<Self, String> {
        if (MIN..=MAX).contains(&number) {
            Ok(Self(number))
        } else {
            Err(format!("{number} must be between {MIN} and {MAX}"))
        }
    }
}

/// The names of Linux capabilities; the place in the list is the number.
pub const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// A Linux capability by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Capability(pub u8);

impl Capability {
    /// A set of capabilities as the kernel's bit mask.
    #[must_use]
    pub fn mask(set: &[Self]) -> u64 {
        set.iter()
            .fold(0, |mask, capability| mask | 1 << capability.0)
    }
}

impl TryFrom<String> for Capability {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if let Some(number) = CAPABILITIES.iter().position(|name| *name == text) {
            return Ok(Self(u8::try_from(number).unwrap_or(u8::MAX)));
        }
        let hint = aios_config::nearest(&text, CAPABILITIES)
            .map_or_else(String::new, |name| format!("; did you mean `{name}`?"));
        Err(format!("`{text}` is no Linux capability{hint}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_bytes_are_read_with_their_units() {
        let span = |text: &str| Span::try_from(text.to_owned());
        assert_eq!(span("250ms").unwrap().micros(), 250_000);
        assert_eq!(span("2m").unwrap(), Span::seconds(120));
        for wrong in [
            "",
            "10",
            "s",
            "-1s",
            "10 s",
            "0s",
            "25h",
            "99999999999999999999s",
            "ä",
        ] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
        let bytes = |text: &str| Bytes::try_from(text.to_owned());
        assert_eq!(bytes("2G").unwrap().0, 2 << 30);
        for wrong in [
            "",
            "M",
            "1MM",
            "1T",
            "0",
            "99999999999999999999G",
            "18446744073709551615K",
        ] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn paths_cannot_climb() {
        assert!(AbsolutePath::try_from("/usr/bin/x".to_owned()).is_ok());
        assert!(AbsolutePath::try_from("/usr/../etc".to_owned()).is_err());
        assert!(AbsolutePath::try_from("usr".to_owned()).is_err());
        assert!(RelativePath::try_from("memory/db".to_owned()).is_ok());
        for wrong in ["", "/abs", "a/../b", "a//b", ".", "a/"] {
            assert!(RelativePath::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn capability_numbers_are_those_of_the_kernel() {
        let number = |name: &str| Capability::try_from(name.to_owned()).unwrap().0;
        assert_eq!(number("CAP_CHOWN"), 0);
        assert_eq!(number("CAP_NET_BIND_SERVICE"), 10);
        assert_eq!(number("CAP_SYS_ADMIN"), 21);
        assert_eq!(number("CAP_CHECKPOINT_RESTORE"), 40);
        let error = Capability::try_from("CAP_NET_ADMN".to_owned()).unwrap_err();
        assert!(error.ends_with("did you mean `CAP_NET_ADMIN`?"), "{error}");
    }
}
