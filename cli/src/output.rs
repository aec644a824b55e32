//! Standard output and standard error, and the JSON forms.

use std::{
    fmt::Display,
    io::{self, Write as _},
};

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{failure::Failure, texts::printable};

/// One or more lines on standard output. A reader that went away ends the program quietly.
pub(crate) fn line(text: impl Display) {
    let mut out = io::stdout().lock();
    let written = writeln!(out, "{}", printable(&text.to_string())).and_then(|()| out.flush());
    if let Err(error) = written
        && error.kind() == io::ErrorKind::BrokenPipe
    {
        std::process::exit(0);
    }
}

/// Text without a line break, for prompts.
pub(crate) fn prompt(text: &str) {
    let mut out = io::stdout().lock();
    let _ = write!(out, "{text}").and_then(|()| out.flush());
}

/// A remark on standard error.
pub(crate) fn note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{}", printable(&text.to_string()));
}

/// A JSON document on standard output.
pub(crate) fn json(value: &impl Serialize) {
    match serde_json::to_value(value).map(parsed) {
        Ok(value) => document(&value),
        Err(error) => note(format!("cannot write JSON: {error}")),
    }
}

fn document(value: &Value) {
    let mut out = io::stdout().lock();
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// A JSON document on one line, for streams.
pub(crate) fn json_line(value: &impl Serialize) {
    if let Ok(value) = serde_json::to_value(value).map(parsed) {
        let mut out = io::stdout().lock();
        let written = writeln!(out, "{value}").and_then(|()| out.flush());
        if written.is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            std::process::exit(0);
        }
    }
}

/// A problem: what and where on the first line, what to do on the second.
pub(crate) fn problem(failure: &Failure, as_json: bool) {
    let detail = failure.error.detail();
    note(format!("aios: {}", detail.message));
    if !detail.hint.is_empty() {
        note(format!("      {}", detail.hint));
    }
    if as_json {
        document(&error_document(failure));
    }
}

/// The document that stands for a result that is not there.
pub(crate) fn error_document(failure: &Failure) -> Value {
    json!({ "error": error_value(failure) })
}

/// A problem as JSON.
pub(crate) fn error_value(failure: &Failure) -> Value {
    let detail = failure.error.detail();
    json!({
        "category": detail.category,
        "message": detail.message,
        "hint": detail.hint,
        "retryable": detail.retryable,
        "exit_code": failure.exit as u8,
    })
}

/// A JSON text as a value; text that is no JSON as a string, and nothing as null.
pub(crate) fn value(text: &str) -> Value {
    if text.is_empty() {
        return Value::Null;
    }
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

/// Messages carry JSON in fields called `NAME_json`; readers get it as the value of `NAME`.
fn parsed(message: Value) -> Value {
    match message {
        Value::Object(fields) => {
            let mut next = Map::new();
            for (name, field) in fields {
                match (name.strip_suffix("_json"), field) {
                    (Some(short), Value::String(text)) => {
                        next.insert(short.to_owned(), value(&text))
                    }
                    (_, field) => next.insert(name, parsed(field)),
                };
            }
            Value::Object(next)
        }
        Value::Array(items) => Value::Array(items.into_iter().map(parsed).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_in_fields_becomes_json() {
        let message = json!({
            "calls": [{"args_json": "{\"a\":1}", "result_json": "", "tool": "x"}],
            "plan_json": "not json",
        });
        assert_eq!(
            parsed(message),
            json!({
                "calls": [{"args": {"a": 1}, "result": null, "tool": "x"}],
                "plan": "not json",
            })
        );
    }
}
