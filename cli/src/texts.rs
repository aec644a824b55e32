//! Small readable forms: durations, sizes, times, tables, one-line arguments.

use std::{fmt::Write as _, time::Duration};

use serde_json::Value;

/// Reads `90`, `90s`, `5m`, `2h` or `1d`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "a duration is a number and s, m, h or d, such as 90s or 5m".to_owned())?;
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(format!("`{unit}` is no unit of time; use s, m, h or d")),
    };
    number
        .checked_mul(factor)
        .map(Duration::from_secs)
        .ok_or_else(|| "that is too long".to_owned())
}

/// `45 s`, `12 min`, `3 h 20 min`, `2 d 4 h`.
pub(crate) fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// `1.25 s` or `840 ms`, from microseconds.
pub(crate) fn micros(us: u64) -> String {
    if us >= 1_000_000 {
        format!("{}.{:02} s", us / 1_000_000, us % 1_000_000 / 10_000)
    } else {
        format!("{}.{} ms", us / 1000, us % 1000 / 100)
    }
}

/// `512 B`, `3.4 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut tenths = u128::from(count) * 10;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if unit == 0 {
        format!("{count} {name}")
    } else {
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    }
}

/// A time of day in the reader's zone.
pub(crate) fn time(ms: u64) -> String {
    i64::try_from(ms)
        .ok()
        .filter(|ms| *ms > 0)
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(
            || "-".to_owned(),
            |time| {
                let zoned = time.to_zoned(jiff::tz::TimeZone::system());
                zoned.strftime("%Y-%m-%d %H:%M:%S").to_string()
            },
        )
}

/// Text that may come from anywhere, safe for a terminal: no control characters but line breaks.
pub(crate) fn printable(text: &str) -> String {
    text.replace("\r\n", "\n")
        .chars()
        .map(|c| match c {
            '\n' | '\t' => c,
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// At most `limit` characters of one line.
pub(crate) fn shortened(text: &str, limit: usize) -> String {
    let line: String = printable(text)
        .chars()
        .map(|c| if c == '\n' || c == '\t' { ' ' } else { c })
        .collect();
    if line.chars().count() <= limit {
        return line;
    }
    let mut cut: String = line.chars().take(limit.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// `path=/srv/x content="a b"` from a JSON object.
pub(crate) fn arguments(json: &str) -> String {
    let Ok(Value::Object(fields)) = serde_json::from_str::<Value>(json) else {
        return shortened(json, 120);
    };
    let mut text = String::new();
    for (name, value) in fields {
        let value = match value {
            Value::String(plain)
                if !plain.is_empty()
                    && !plain.contains(|c: char| c.is_whitespace() || c == '"') =>
            {
                plain
            }
            other => other.to_string(),
        };
        let _ = write!(
            text,
            "{}{name}={}",
            if text.is_empty() { "" } else { " " },
            shortened(&value, 80)
        );
    }
    text
}

/// The heart of a result on one line: plain values, and of lists how long they are.
pub(crate) fn outcome(json: &str) -> String {
    const MOST: usize = 6;
    let Ok(Value::Object(fields)) = serde_json::from_str::<Value>(json) else {
        return shortened(json, 120);
    };
    let mut parts = Vec::new();
    for (name, value) in &fields {
        match value {
            Value::Null | Value::Bool(false) => {}
            Value::String(text) if text.is_empty() => {}
            Value::Array(items) => parts.push(format!("{name}: {}", items.len())),
            Value::Object(inner) if inner.is_empty() => {}
            Value::Object(_) => parts.push(format!("{name}: …")),
            Value::String(text) => {
                let quoted = if text.contains(char::is_whitespace) {
                    format!("{:?}", shortened(text, 40))
                } else {
                    shortened(text, 40)
                };
                parts.push(format!("{name}={quoted}"));
            }
            other => parts.push(format!("{name}={other}")),
        }
    }
    if parts.len() > MOST {
        parts.truncate(MOST);
        parts.push("…".to_owned());
    }
    parts.join(" ")
}

/// Columns as wide as their widest cell; the last one is not padded.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let header: Vec<String> = header.iter().map(|cell| (*cell).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&header).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{:<width$}  ", shortened(cell, (*width).max(1)));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        for wrong in [
            "",
            "m",
            "5x",
            "-5s",
            "99999999999999999999s",
            "9999999999999999999d",
        ] {
            assert!(parse_duration(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(duration(59_999), "59 s");
        assert_eq!(duration(3_600_000 + 20 * 60_000), "1 h 20 min");
        assert_eq!(micros(1_254_000), "1.25 s");
        assert_eq!(micros(840), "0.8 ms");
    }

    #[test]
    fn sizes_have_the_unit_that_fits() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16777215.9 TiB");
    }

    #[test]
    fn nothing_reaches_the_terminal_that_could_steer_it() {
        assert_eq!(printable("a\x1b[2Jb\n"), "a\u{fffd}[2Jb\n");
        assert_eq!(printable("a\r\nb\rc"), "a\nb\u{fffd}c");
        assert_eq!(shortened("a\nb\x07c", 10), "a b\u{fffd}c");
        assert_eq!(shortened("abcdef", 4), "abc…");
    }

    #[test]
    fn arguments_are_short_and_quoted_where_needed() {
        assert_eq!(
            arguments(r#"{"path":"/srv/x","content":"a b","n":3}"#),
            r#"path=/srv/x content="a b" n=3"#
        );
        assert_eq!(arguments("not json"), "not json");
    }

    #[test]
    fn a_result_is_told_in_short() {
        assert_eq!(
            outcome(
                r#"{"path":"/x","entries":[1,2],"content":"a b","none":null,"cut":false,"facts":{"a":1}}"#
            ),
            r#"path=/x entries: 2 content="a b" facts: …"#
        );
        assert_eq!(outcome("[]"), "[]");
        assert!(outcome(r#"{"a":1,"b":2,"c":3,"d":4,"e":5,"f":6,"g":7}"#).ends_with("f=6 …"));
    }

    #[test]
    fn a_table_lines_up() {
        let rows = vec![
            vec!["a".into(), "long cell".into()],
            vec!["bbbb".into(), "x".into()],
        ];
        assert_eq!(
            table(&["N", "WHAT"], &rows),
            "N     WHAT\na     long cell\nbbbb  x"
        );
    }
}
