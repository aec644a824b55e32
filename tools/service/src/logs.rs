//! `service.logs`: the last lines that a service wrote, filtered.
//!
//! A line's time and level are taken from the line itself (structured logs of aiOS, or the usual
//! plain forms); a line without a time has that of the line before it, one without a level is `info`.

use std::time::Duration;

use aios_tool_api::{Capability, Context, Risk, Spec, Tool, ToolError, units::Span};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{name, pid1};

/// Lines when none are asked for.
const DEFAULT_LINES: u32 = 100;
/// Most lines that are returned.
const MAX_LINES: u32 = 1000;
/// Lines that are looked at when a filter is set.
const SCAN_LINES: u32 = 10_000;

/// How important a line is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// For developers.
    Debug,
    /// Ordinary.
    Info,
    /// Worth a look.
    Warning,
    /// Something failed.
    Error,
}

/// Arguments of `service.logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogsArgs {
    /// Name of the service.
    pub name: String,
    /// How many lines, counted from the newest; 100 when left out, at most 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<u32>,
    /// Only lines that are not older than this, e.g. `10m`, `2h`, `1d`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Span>,
    /// Only lines that contain this text, whatever its case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// Only lines of at least this level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
}

/// Lines of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogLines {
    /// Name of the service.
    pub name: String,
    /// The lines, oldest first.
    pub lines: Vec<String>,
    /// How many lines of the log were looked at.
    pub scanned: usize,
    /// Whether lines that match were left out because there were too many or they were too long.
    pub truncated: bool,
}

/// What a line says of itself.
struct Facts {
    time: Option<Timestamp>,
    level: Level,
}

impl Facts {
    fn of(line: &str) -> Self {
        if let Some(facts) = Self::of_json(line) {
            return facts;
        }
        Self {
            time: leading_time(line),
            level: level_in_text(line),
        }
    }

    fn of_json(line: &str) -> Option<Self> {
        let start = line.find('{').filter(|start| *start < 64)?;
        let value: serde_json::Value = serde_json::from_str(line.get(start..)?).ok()?;
        let text = |key: &str| value.get(key).and_then(serde_json::Value::as_str);
        Some(Self {
            time: text("timestamp")
                .and_then(|time| time.parse().ok())
                .or_else(|| leading_time(line)),
            level: text("level").and_then(level_of_word).unwrap_or(Level::Info),
        })
    }
}

/// An RFC 3339 time as the first word.
fn leading_time(line: &str) -> Option<Timestamp> {
    line.split_whitespace()
        .next()?
        .trim_matches(['[', ']'])
        .parse()
        .ok()
}

fn level_of_word(word: &str) -> Option<Level> {
    match word.to_ascii_lowercase().as_str() {
        "trace" | "debug" => Some(Level::Debug),
        "info" | "notice" => Some(Level::Info),
        "warn" | "warning" => Some(Level::Warning),
        "err" | "error" | "crit" | "critical" | "alert" | "emerg" | "fatal" | "panic" => {
            Some(Level::Error)
        }
        _ => None,
    }
}

/// The first word among the first eight that is a level, as in `[error]`, `WARN:` or `error:`.
fn level_in_text(line: &str) -> Level {
    line.split_whitespace()
        .take(8)
        .find_map(|word| {
            level_of_word(word.trim_matches(|letter: char| !letter.is_ascii_alphabetic()))
        })
        .unwrap_or(Level::Info)
}

/// Which of the lines pass, oldest first.
fn filter(lines: Vec<String>, args: &LogsArgs, earliest: Option<Timestamp>) -> Vec<String> {
    let query = args.query.as_ref().map(|query| query.to_lowercase());
    let mut time = None;
    lines
        .into_iter()
        .map(|line| {
            // Programs that believe to write to a terminal end their lines with both characters.
            let plain = line.trim_end_matches('\r').len();
            let mut line = line;
            line.truncate(plain);
            line
        })
        .filter(|line| {
            if earliest.is_none() && args.level.is_none() {
                return true;
            }
            let facts = Facts::of(line);
            time = facts.time.or(time);
            let recent = match (earliest, time) {
                (Some(earliest), Some(time)) => time >= earliest,
                // A log without any times cannot be cut by time; the lines are kept.
                _ => true,
            };
            recent && args.level.is_none_or(|level| facts.level >= level)
        })
        .filter(|line| {
            query
                .as_ref()
                .is_none_or(|query| line.to_lowercase().contains(query))
        })
        .collect()
}

/// Keeps the newest lines that fit in a number and a size.
fn newest(lines: Vec<String>, most: usize, bytes: usize) -> (Vec<String>, bool) {
    let total = lines.len();
    let mut left = bytes;
    let mut kept: Vec<String> = lines
        .into_iter()
        .rev()
        .take(most)
        .take_while(|line| {
            let fits = line.len() < left;
            left = left.saturating_sub(line.len() + 4);
            fits
        })
        .collect();
    kept.reverse();
    let cut = kept.len() < total;
    (kept, cut)
}

/// `service.logs`
#[derive(Debug, Clone, Copy)]
pub struct Logs;

impl Tool for Logs {
    type Args = LogsArgs;
    type Output = LogLines;

    fn spec(&self) -> Spec {
        Spec {
            name: "service.logs",
            summary: "Show the last lines that a service wrote, by text, level or age.",
            risk: Risk::Low,
            undo: None,
            idempotent: true,
            deadline: Duration::from_secs(15),
            capability: ("service", "logs"),
        }
    }

    fn normalise(&self, args: LogsArgs, _: &Context) -> Result<LogsArgs, ToolError> {
        if args.lines == Some(0) || args.lines.is_some_and(|lines| lines > MAX_LINES) {
            return Err(ToolError::invalid(format!(
                "`lines` is between 1 and {MAX_LINES}"
            )));
        }
        Ok(LogsArgs {
            name: name::well_formed(&args.name)?,
            ..args
        })
    }

    fn capabilities(&self, args: &LogsArgs) -> Vec<Capability> {
        vec![Capability::new("service", "logs").on(&args.name)]
    }

    fn execute(&self, args: &LogsArgs, context: &Context) -> Result<LogLines, ToolError> {
        let wanted = args.lines.unwrap_or(DEFAULT_LINES);
        let filtered = args.since.is_some() || args.query.is_some() || args.level.is_some();
        let lines = pid1::lines(
            context,
            &args.name,
            if filtered { SCAN_LINES } else { wanted },
        )?;
        let scanned = lines.len();
        let earliest = args
            .since
            .as_ref()
            .and_then(|since| Timestamp::now().checked_sub(since.duration()).ok());
        let most = usize::try_from(wanted).unwrap_or(usize::MAX);
        let (lines, truncated) = newest(filter(lines, args, earliest), most, context.output_limit);
        Ok(LogLines {
            name: args.name.clone(),
            lines,
            scanned,
            truncated,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn args() -> LogsArgs {
        LogsArgs {
            name: "nginx".into(),
            lines: None,
            since: None,
            query: None,
            level: None,
        }
    }

    fn lines(text: &[&str]) -> Vec<String> {
        text.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn lines_of_programs_that_want_a_terminal_end_plainly() {
        let log = lines(&["one\r", "two\r\r", "a\rb"]);
        assert_eq!(filter(log, &args(), None), ["one", "two", "a\rb"]);
    }

    #[test]
    fn levels_are_read_from_both_forms() {
        let log = lines(&[
            r#"{"timestamp":"2026-01-01T00:00:00Z","level":"ERROR","message":"a"}"#,
            "2026/01/01 00:00:01 [error] 7#7: b",
            "2026/01/01 00:00:01 [notice] 7#7: c",
            "WARN: d",
        ]);
        let errors = filter(
            log.clone(),
            &LogsArgs {
                level: Some(Level::Error),
                ..args()
            },
            None,
        );
        assert_eq!(errors, log[..2]);
        let warnings = filter(
            log,
            &LogsArgs {
                level: Some(Level::Warning),
                ..args()
            },
            None,
        );
        assert_eq!(warnings.len(), 3);
    }

    #[test]
    fn a_line_without_a_time_goes_with_the_line_before() {
        let log = lines(&[
            "2026-01-01T00:00:00Z old",
            "  continued",
            "2026-01-01T02:00:00Z new",
            "  continued too",
        ]);
        let earliest = "2026-01-01T01:00:00Z".parse().ok();
        assert_eq!(filter(log.clone(), &args(), earliest), log[2..]);
    }

    #[test]
    fn the_newest_lines_are_kept() {
        let (kept, cut) = newest(lines(&["a", "b", "c"]), 2, 1000);
        assert_eq!((kept, cut), (lines(&["b", "c"]), true));
        let (kept, cut) = newest(lines(&["a", &"b".repeat(50), "c"]), 9, 20);
        assert_eq!((kept, cut), (lines(&["c"]), true));
    }

    proptest! {
        #[test]
        fn no_line_breaks_the_filter(line in "\\PC{0,80}", query in "\\PC{0,4}") {
            let one = LogsArgs { query: Some(query), level: Some(Level::Info), ..args() };
            let _ = filter(vec![line], &one, Some(Timestamp::UNIX_EPOCH));
        }
    }
}
