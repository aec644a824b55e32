//! The catalogue's formats as types: sizes (`500MB`, `1GiB`), durations (`30m`, `14d`) and modes
//! (`0644`), each a JSON string whose schema names its format.
//!
//! Invariants: a value is parsed once, when arguments are read; sizes and durations keep the text
//! that they were written in, so that an action's hash does not depend on this code.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A text that is not of the format that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {format}: write it like {example}")]
pub struct BadUnit {
    text: String,
    format: &'static str,
    example: &'static str,
}

macro_rules! json_string {
    ($name:ident, $format:literal, $description:literal) => {
        impl TryFrom<String> for $name {
            type Error = BadUnit;
            fn try_from(text: String) -> Result<Self, BadUnit> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string",
                    "format": $format,
                    "description": $description,
                })
            }
        }
    };
}

/// A number of bytes: `500MB` (powers of 1000), `1GiB` (powers of 1024), `4096` (bytes).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size {
    text: String,
    bytes: u64,
}

json_string!(Size, "size", "Size such as 500MB, 1GiB or 4096 (bytes).");

impl Size {
    /// Bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl FromStr for Size {
    type Err = BadUnit;

    fn from_str(text: &str) -> Result<Self, BadUnit> {
        let bad = || BadUnit {
            text: text.to_owned(),
            format: "size",
            example: "500MB, 1GiB or 4096 (bytes)",
        };
        let split = text
            .find(|c: char| c != '.' && !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at_checked(split).ok_or_else(bad)?;
        let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" => 1000,
            "mb" => 1000_u64.pow(2),
            "gb" => 1000_u64.pow(3),
            "tb" => 1000_u64.pow(4),
            "kib" => 1 << 10,
            "mib" => 1 << 20,
            "gib" => 1 << 30,
            "tib" => 1 << 40,
            _ => return Err(bad()),
        };
        let bytes = scaled(number, factor).ok_or_else(bad)?;
        Ok(Self {
            text: text.to_owned(),
            bytes,
        })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// `number × factor` in integers, rounded down: a size of `1.5GiB` is exact, and nothing overflows
/// silently. At most six digits after the point.
fn scaled(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = u32::try_from(fraction.len())
        .ok()
        .filter(|digits| (1..=6).contains(digits))?;
    let whole: u64 = whole.parse().ok()?;
    let fraction: u64 = fraction.parse().ok()?;
    let part = u128::from(fraction) * u128::from(factor) / 10_u128.pow(digits);
    whole
        .checked_mul(factor)?
        .checked_add(u64::try_from(part).ok()?)
}

/// A length of time: `45s`, `30m`, `1h30m`, `14d`, `2w`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span {
    text: String,
    duration: Duration,
}

json_string!(Span, "duration", "Duration such as 45s, 30m, 12h or 14d.");

impl Span {
    /// The same as a duration.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.duration
    }
}

impl FromStr for Span {
    type Err = BadUnit;

    fn from_str(text: &str) -> Result<Self, BadUnit> {
        let bad = || BadUnit {
            text: text.to_owned(),
            format: "duration",
            example: "45s, 30m, 12h or 14d",
        };
        let mut seconds = 0u64;
        let mut number = String::new();
        let mut parts = 0u32;
        for letter in text.chars() {
            if letter.is_ascii_digit() {
                number.push(letter);
                continue;
            }
            let factor = match letter {
                's' => 1,
                'm' => 60,
                'h' => 3600,
                'd' => 86_400,
                'w' => 7 * 86_400,
                _ => return Err(bad()),
            };
            let count: u64 = number.parse().map_err(|_| bad())?;
            seconds = count
                .checked_mul(factor)
                .and_then(|part| part.checked_add(seconds))
                .ok_or_else(bad)?;
            number.clear();
            parts += 1;
        }
        if parts == 0 || !number.is_empty() {
            return Err(bad());
        }
        Ok(Self {
            text: text.to_owned(),
            duration: Duration::from_secs(seconds),
        })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Permission bits in octal: `0644`. Written with four digits whatever was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileMode(u32);

json_string!(FileMode, "mode", "Permissions in octal, such as 0644.");

impl FileMode {
    /// The permission bits of a raw mode; what is above them (the kind of file) is dropped.
    #[must_use]
    pub fn from_bits(bits: u32) -> Self {
        Self(bits & 0o7777)
    }

    /// The bits, set-user-id, set-group-id and sticky included.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl FromStr for FileMode {
    type Err = BadUnit;

    fn from_str(text: &str) -> Result<Self, BadUnit> {
        let bad = || BadUnit {
            text: text.to_owned(),
            format: "mode",
            example: "0644",
        };
        if !(3..=4).contains(&text.len()) || !text.bytes().all(|b| (b'0'..=b'7').contains(&b)) {
            return Err(bad());
        }
        u32::from_str_radix(text, 8).map(Self).map_err(|_| bad())
    }
}

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(text: &str) -> Option<u64> {
        text.parse::<Size>().ok().map(|size| size.bytes())
    }

    #[test]
    fn sizes_mean_what_they_say() {
        assert_eq!(bytes("500MB"), Some(500_000_000));
        assert_eq!(bytes("1GiB"), Some(1 << 30));
        assert_eq!(bytes("1.5KiB"), Some(1536));
        assert_eq!(bytes("10 kb"), Some(10_000));
        assert_eq!(bytes("4096"), Some(4096));
        assert_eq!(bytes("0"), Some(0));
        for wrong in [
            "",
            "MB",
            "-1MB",
            "1.2.3MB",
            "1 parsec",
            "1.",
            ".5MB",
            "20000000TiB",
            "1GiBx",
            "१MB",
        ] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn durations_mean_what_they_say() {
        let seconds = |text: &str| {
            text.parse::<Span>()
                .ok()
                .map(|span| span.duration().as_secs())
        };
        assert_eq!(seconds("14d"), Some(14 * 86_400));
        assert_eq!(seconds("1h30m"), Some(5400));
        assert_eq!(seconds("2w"), Some(14 * 86_400));
        for wrong in [
            "",
            "d",
            "10",
            "1y",
            "-1d",
            "1.5h",
            "99999999999999999999d",
            "9999999999999999w",
            "1d2",
        ] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn modes_are_octal_and_canonical() {
        assert_eq!("644".parse::<FileMode>().unwrap().to_string(), "0644");
        assert_eq!("1777".parse::<FileMode>().unwrap().bits(), 0o1777);
        for wrong in ["", "64", "0888", "rw-r--r--", "00644", "-644"] {
            assert!(wrong.parse::<FileMode>().is_err(), "{wrong}");
        }
        let message = serde_json::from_str::<FileMode>("\"9\"")
            .unwrap_err()
            .to_string();
        assert!(message.contains("0644"), "{message}");
    }

    proptest! {
        #[test]
        fn nothing_panics_and_texts_stay(text in "\\PC{0,12}") {
            if let Ok(size) = text.parse::<Size>() {
                prop_assert_eq!(size.to_string(), text.clone());
            }
            if let Ok(span) = text.parse::<Span>() {
                prop_assert_eq!(span.to_string(), text.clone());
            }
            if let Ok(mode) = text.parse::<FileMode>() {
                prop_assert_eq!(mode.to_string().parse::<FileMode>().unwrap(), mode);
            }
        }
    }
}
