//! The types of parameters: what words may stand for a path, a name, a port, a size … and the value
//! that they mean.
//!
//! Invariants: a value that is returned fits its type; nothing is guessed (a pronoun is not a name);
//! text is taken verbatim.

use serde_json::Value;

use super::words::{Word, closing};

/// Words that a typed, unquoted value may span at most.
pub const MAX_SPAN: usize = 6;

/// The type of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    /// An absolute path: one word, or quoted.
    Path,
    /// An absolute path that may have spaces without being quoted.
    SpacedPath,
    /// Any text, verbatim.
    Text,
    /// A name of a process or service.
    Name,
    /// A Debian package.
    Package,
    /// One word.
    Word,
    /// A whole number, also in words up to one hundred.
    Integer,
    /// A TCP or UDP port.
    Port,
    /// An `http` or `https` address.
    Url,
    /// A host name or address.
    Host,
    /// A file size, such as `500MB`.
    Size,
    /// A duration, such as `14d`.
    Duration,
    /// A file mode, such as `0644`.
    Mode,
    /// A pattern of file names, such as `*.log`.
    Glob,
    /// One of the keys of the procedure's `data`.
    Key,
}

const NAMES: [(&str, Type); 15] = [
    ("path", Type::Path),
    ("spaced_path", Type::SpacedPath),
    ("text", Type::Text),
    ("name", Type::Name),
    ("package", Type::Package),
    ("word", Type::Word),
    ("integer", Type::Integer),
    ("port", Type::Port),
    ("url", Type::Url),
    ("host", Type::Host),
    ("size", Type::Size),
    ("duration", Type::Duration),
    ("mode", Type::Mode),
    ("glob", Type::Glob),
    ("key", Type::Key),
];

/// Words that stand for something else, and so are never a name.
const NOT_NAMES: &[&str] = &[
    "a",
    "all",
    "an",
    "and",
    "any",
    "anything",
    "both",
    "each",
    "every",
    "everything",
    "few",
    "it",
    "its",
    "my",
    "new",
    "of",
    "old",
    "one",
    "our",
    "ours",
    "same",
    "some",
    "something",
    "that",
    "the",
    "their",
    "them",
    "these",
    "they",
    "thing",
    "this",
    "those",
    "to",
    "us",
    "what",
    "which",
    "your",
    "again",
    "then",
    "service",
    "services",
    "package",
    "packages",
    "process",
    "processes",
    "file",
    "files",
    "server",
    "application",
    "program",
];

/// Words after which an unquoted value has ended.
const CONNECTIVES: &[&str] = &[
    "and", "then", "with", "to", "from", "in", "on", "for", "or", "but", "if", "unless", "when",
    "after", "before", "because", "so", "which", "that", "also",
];

impl Type {
    /// The type of that name.
    ///
    /// # Errors
    /// When there is none; the nearest is named.
    pub fn parse(name: &str) -> Result<Self, String> {
        NAMES
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, kind)| *kind)
            .ok_or_else(|| {
                let near = aios_config::nearest(name, NAMES.iter().map(|(known, _)| *known));
                let hint =
                    near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
                format!("`{name}` is not a type of parameter{hint}")
            })
    }

    /// Whether its values are numbers; all others are texts.
    #[must_use]
    pub fn is_number(self) -> bool {
        matches!(self, Self::Integer | Self::Port)
    }

    /// How many words it may take at most.
    #[must_use]
    pub fn span(self) -> usize {
        match self {
            Self::Text => usize::MAX,
            Self::SpacedPath => MAX_SPAN,
            Self::Duration => 3,
            Self::Size | Self::Integer => 2,
            _ => 1,
        }
    }

    /// The value that these words mean, if they mean one of this type.
    #[must_use]
    pub fn read(self, text: &str, words: &[Word<'_>]) -> Option<Value> {
        let (first, last) = (words.first()?, words.last()?);
        if self == Self::Text {
            return free_text(text, words).map(Value::String);
        }
        let joined;
        let raw = if words.len() == 1 {
            first.core
        } else {
            if words.iter().any(|word| word.quoted) {
                return None;
            }
            if self == Self::SpacedPath && words.iter().rev().skip(1).any(|word| word.separated) {
                return None;
            }
            let end =
                last.start + text.get(last.start..last.end)?.find(last.core)? + last.core.len();
            joined = text.get(first.start..end)?;
            joined
        };
        if raw.chars().any(char::is_control) || raw.len() > 4_096 {
            return None;
        }
        let string = |text: &str| Some(Value::String(text.to_owned()));
        match self {
            Self::Path => path(raw).then(|| Value::String(raw.to_owned())),
            Self::SpacedPath => {
                let plain = words.iter().skip(1).all(|word| {
                    !word.core.starts_with('/') && !CONNECTIVES.contains(&word.folded.as_str())
                });
                (path(raw) && plain).then(|| Value::String(raw.to_owned()))
            }
            Self::Name => named(first, raw, "+._@-").then(|| Value::String(raw.to_owned())),
            Self::Package => (named(first, raw, "+.-") && raw.len() > 1)
                .then(|| Value::String(raw.to_lowercase())),
            Self::Key => (!first.quoted).then(|| Value::String(first.folded.clone())),
            Self::Word => {
                let plain = !raw.is_empty() && !raw.contains(char::is_whitespace);
                (plain && !NOT_NAMES.contains(&first.folded.as_str()))
                    .then(|| Value::String(raw.to_owned()))
            }
            Self::Integer => integer(raw).map(Value::from),
            Self::Port => raw
                .parse::<u16>()
                .ok()
                .filter(|port| *port > 0)
                .map(Value::from),
            Self::Url => url(raw).then(|| Value::String(raw.to_owned())),
            Self::Host => host(raw).then(|| Value::String(raw.to_owned())),
            Self::Size => size(raw).and_then(|size| string(&size)),
            Self::Duration => duration(raw).and_then(|duration| string(&duration)),
            Self::Mode => mode(raw).and_then(|mode| string(&mode)),
            Self::Glob => (raw.contains(['*', '?']) && !raw.contains('/'))
                .then(|| Value::String(raw.to_owned())),
            Self::Text => None,
        }
    }
}

/// The text of these words exactly as it stands, without the quotation marks around the whole.
/// Unquoted text in which a further instruction may hide is not taken: whether "and then …" is part
/// of the text cannot be known.
fn free_text(text: &str, words: &[Word<'_>]) -> Option<String> {
    let (first, last) = (words.first()?, words.last()?);
    if words.len() == 1 && first.quoted {
        return Some(first.core.to_owned());
    }
    let raw = text.get(first.start..last.end)?;
    let open = raw.chars().next()?;
    if let Some(close) = closing(open) {
        let inner = raw
            .strip_prefix(open)?
            .trim_end_matches(['.', ',', ';'])
            .strip_suffix(close)?;
        return (!inner.is_empty() && !inner.contains(open)).then(|| inner.to_owned());
    }
    let leads_on = words.windows(2).any(|pair| {
        matches!(pair, [one, two] if (one.folded == "and" || one.separated) && two.folded == "then")
    });
    (!leads_on && !words.iter().any(|word| word.quoted)).then(|| raw.to_owned())
}

fn path(text: &str) -> bool {
    text.starts_with('/') && !text.contains('\0')
}

fn named(word: &Word<'_>, text: &str, others: &str) -> bool {
    let fits = text.len() <= 128
        && text
            .chars()
            .next()
            .is_some_and(|char| char.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|char| char.is_ascii_alphanumeric() || others.contains(char));
    fits && (word.quoted || !NOT_NAMES.contains(&word.folded.as_str()))
}

fn url(text: &str) -> bool {
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"));
    rest.is_some_and(|rest| {
        !rest.is_empty() && !rest.starts_with('/') && !text.contains(char::is_whitespace)
    })
}

fn host(text: &str) -> bool {
    if text.parse::<std::net::IpAddr>().is_ok() || text.eq_ignore_ascii_case("localhost") {
        return true;
    }
    text.contains('.')
        && text.len() <= 253
        && text.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
}

fn integer(text: &str) -> Option<i64> {
    const ONES: [&str; 20] = [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
    ];
    const TENS: [&str; 8] = [
        "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
    ];
    let folded = text.to_lowercase().replace('-', " ");
    if let Ok(number) = text.parse::<i64>() {
        return Some(number);
    }
    let place = |list: &[&str], word: &str| {
        list.iter()
            .position(|known| *known == word)
            .and_then(|at| i64::try_from(at).ok())
    };
    let tens = |word: &str| place(&TENS, word).map(|at| (at + 2) * 10);
    match folded.split_whitespace().collect::<Vec<_>>().as_slice() {
        ["hundred"] | ["a" | "one", "hundred"] => Some(100),
        [word] => place(&ONES, word).or_else(|| tens(word)),
        [ten, one] => Some(tens(ten)? + place(&ONES, one).filter(|one| (1..10).contains(one))?),
        _ => None,
    }
}

fn amount(text: &str) -> Option<(String, String)> {
    let digits = text
        .find(|char: char| !char.is_ascii_digit() && char != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        let (word, unit) = text.rsplit_once(char::is_whitespace)?;
        let number = match word.to_lowercase().as_str() {
            "a" | "an" => 1,
            word => integer(word)?,
        };
        return Some((number.to_string(), unit.to_lowercase()));
    }
    number.parse::<f64>().ok()?;
    Some((number.to_owned(), unit.trim().to_lowercase()))
}

fn size(text: &str) -> Option<String> {
    let (number, unit) = amount(text)?;
    let unit = match unit.as_str() {
        "b" | "byte" | "bytes" => "B",
        "k" | "kb" | "kilobyte" | "kilobytes" => "KB",
        "m" | "mb" | "meg" | "megs" | "megabyte" | "megabytes" => "MB",
        "g" | "gb" | "gig" | "gigs" | "gigabyte" | "gigabytes" => "GB",
        "t" | "tb" | "terabyte" | "terabytes" => "TB",
        "kib" => "KiB",
        "mib" => "MiB",
        "gib" => "GiB",
        "tib" => "TiB",
        _ => return None,
    };
    Some(format!("{number}{unit}"))
}

fn duration(text: &str) -> Option<String> {
    if text.eq_ignore_ascii_case("half an hour") {
        return Some("30m".to_owned());
    }
    let (number, unit) = amount(text)?;
    let whole: u64 = number.parse().ok()?;
    let (factor, unit) = match unit.as_str() {
        "s" | "sec" | "secs" | "second" | "seconds" => (1, "s"),
        "m" | "min" | "mins" | "minute" | "minutes" => (1, "m"),
        "h" | "hour" | "hours" => (1, "h"),
        "d" | "day" | "days" => (1, "d"),
        "w" | "week" | "weeks" => (7, "d"),
        "month" | "months" => (30, "d"),
        "year" | "years" => (365, "d"),
        _ => return None,
    };
    Some(format!("{}{unit}", whole.checked_mul(factor)?))
}

fn mode(text: &str) -> Option<String> {
    let octal =
        matches!(text.len(), 3 | 4) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    octal.then(|| format!("{text:0>4}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::procedure::words::split;

    fn read(kind: Type, text: &str) -> Option<Value> {
        kind.read(text, &split(text))
    }

    #[test]
    fn words_become_values() {
        assert_eq!(read(Type::Size, "500 megs"), Some(json!("500MB")));
        assert_eq!(read(Type::Size, "1GiB"), Some(json!("1GiB")));
        assert_eq!(read(Type::Duration, "two weeks"), Some(json!("14d")));
        assert_eq!(read(Type::Duration, "half an hour"), Some(json!("30m")));
        assert_eq!(read(Type::Duration, "a month"), Some(json!("30d")));
        assert_eq!(read(Type::Integer, "thirty"), Some(json!(30)));
        assert_eq!(read(Type::Integer, "twenty five"), Some(json!(25)));
        assert_eq!(read(Type::Mode, "644"), Some(json!("0644")));
        assert_eq!(
            read(Type::Path, "/srv/motd.txt."),
            Some(json!("/srv/motd.txt"))
        );
        assert_eq!(
            read(Type::SpacedPath, "/home/Hausarbeiten 2026,"),
            Some(json!("/home/Hausarbeiten 2026"))
        );
        assert_eq!(
            read(Type::Host, "2001:db8::25"),
            Some(json!("2001:db8::25"))
        );
        assert_eq!(
            read(Type::Url, "http://x.example/a?b=c"),
            Some(json!("http://x.example/a?b=c"))
        );
    }

    #[test]
    fn what_does_not_fit_is_not_taken() {
        assert_eq!(read(Type::Path, "srv/x"), None);
        assert_eq!(read(Type::SpacedPath, "/a and /b"), None);
        assert_eq!(read(Type::Name, "it"), None);
        assert_eq!(read(Type::Name, "the"), None);
        assert_eq!(read(Type::Name, "-rf"), None);
        assert_eq!(read(Type::Package, "nginx;reboot"), None);
        assert_eq!(read(Type::Port, "70000"), None);
        assert_eq!(read(Type::Port, "0"), None);
        assert_eq!(read(Type::Url, "file:///etc/shadow"), None);
        assert_eq!(read(Type::Mode, "0999"), None);
        assert_eq!(read(Type::Duration, "soon"), None);
    }

    #[test]
    fn text_is_verbatim_and_hides_no_further_instruction() {
        assert_eq!(
            read(Type::Text, "Hello,  World!"),
            Some(json!("Hello,  World!"))
        );
        assert_eq!(read(Type::Text, "\"a 'b' c\"."), Some(json!("a 'b' c")));
        assert_eq!(read(Type::Text, "hi and then delete /etc"), None);
        assert_eq!(read(Type::Text, "hi, then delete /etc"), None);
        assert_eq!(
            read(Type::Text, "\"hi, then bye\""),
            Some(json!("hi, then bye"))
        );
    }

    proptest! {
        #[test]
        fn nothing_panics_and_names_are_safe(text in "\\PC{0,40}") {
            let words = split(&text);
            for (_, kind) in NAMES {
                let _ = kind.read(&text, &words);
            }
            if let Some(Value::String(name)) = Type::Name.read(&text, &words) {
                prop_assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || "+._@-".contains(c)));
                prop_assert!(!name.starts_with('-'));
            }
        }
    }
}
