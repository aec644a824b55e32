//! From the wire to checked work: limits and defaults of every request. A request that passes here
//! can be done by some model; whether by this one, the worker knows.

use std::time::Duration;

use aios_kit::{Category, Error};
use aios_proto::v1::{EmbedRequest, GenerateRequest, TokenizeRequest};

use crate::protocol::{Constraint, Generate, Task};

/// Tokens when the caller does not say.
pub const DEFAULT_MAX_TOKENS: u32 = 256;
/// Time from arrival to the end when the caller does not say.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(60);
/// The longest deadline.
pub const MAX_DEADLINE: Duration = Duration::from_secs(600);
/// Bytes of a prompt.
pub const MAX_PROMPT: usize = 1 << 20;
/// Bytes of a schema or grammar: larger ones take the parser too long.
pub const MAX_CONSTRAINT: usize = 64 << 10;
/// Texts that end a generation.
pub const MAX_STOPS: usize = 16;
/// Bytes of each of them, and of a request's name.
pub const MAX_SHORT_TEXT: usize = 256;
/// The highest temperature.
pub const MAX_TEMPERATURE: f32 = 10.0;
/// Texts in one embedding request.
pub const MAX_TEXTS: usize = 64;
/// Bytes of each of them.
pub const MAX_TEXT: usize = 32 << 10;

/// Checked work.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// What to do.
    pub task: Task,
    /// From arrival to the end.
    pub limit: Duration,
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(Category::Validation, message)
}

fn at_most(what: &str, length: usize, most: usize) -> Result<(), Error> {
    if length > most {
        return Err(wrong(format!(
            "{what} has {length} bytes, but at most {most} are taken"
        )));
    }
    Ok(())
}

/// Checks a generation.
///
/// # Errors
/// A `Validation` error that names the field.
pub fn generate(request: GenerateRequest) -> Result<Checked, Error> {
    if request.prompt.is_empty() {
        return Err(wrong("prompt is empty"));
    }
    at_most("prompt", request.prompt.len(), MAX_PROMPT)?;
    at_most("request_id", request.request_id.len(), MAX_SHORT_TEXT)?;
    if request.stop.len() > MAX_STOPS {
        return Err(wrong(format!(
            "stop has {} texts, but at most {MAX_STOPS} are taken",
            request.stop.len()
        )));
    }
    for stop in &request.stop {
        at_most("a stop text", stop.len(), MAX_SHORT_TEXT)?;
        if stop.is_empty() {
            return Err(wrong("a stop text is empty"));
        }
    }
    if !(0.0..=MAX_TEMPERATURE).contains(&request.temperature) {
        return Err(wrong(format!(
            "temperature is {}, but must be 0 to {MAX_TEMPERATURE}",
            request.temperature
        )));
    }
    let deadline = match request.deadline_ms {
        0 => DEFAULT_DEADLINE,
        ms => Duration::from_millis(ms.into()),
    };
    if deadline > MAX_DEADLINE {
        return Err(wrong(format!(
            "deadline_ms is {}, but at most {} are granted",
            request.deadline_ms,
            MAX_DEADLINE.as_millis()
        )));
    }
    Ok(Checked {
        limit: deadline,
        task: Task::Generate(Generate {
            constraint: constraint(request.json_schema, request.grammar)?,
            prompt: request.prompt,
            max_tokens: match request.max_tokens {
                0 => DEFAULT_MAX_TOKENS,
                tokens => tokens,
            },
            seed: request.seed.max(1),
            temperature: request.temperature,
            stop: request.stop,
        }),
    })
}

fn constraint(json_schema: String, grammar: String) -> Result<Option<Constraint>, Error> {
    match (json_schema.is_empty(), grammar.is_empty()) {
        (true, true) => Ok(None),
        (false, false) => Err(wrong("json_schema and grammar exclude each other")),
        (true, false) => {
            at_most("grammar", grammar.len(), MAX_CONSTRAINT)?;
            Ok(Some(Constraint::Grammar(grammar)))
        }
        (false, true) => {
            at_most("json_schema", json_schema.len(), MAX_CONSTRAINT)?;
            // serde_json bounds the depth, which the C++ parser behind it does not.
            let schema: serde_json::Value = serde_json::from_str(&json_schema)
                .map_err(|error| wrong(format!("json_schema is no JSON: {error}")))?;
            if !schema.is_object() {
                return Err(wrong("json_schema is no JSON object"));
            }
            Ok(Some(Constraint::JsonSchema(json_schema)))
        }
    }
}

/// Checks an embedding.
///
/// # Errors
/// A `Validation` error that names the field.
pub fn embed(request: EmbedRequest) -> Result<Checked, Error> {
    if request.texts.is_empty() || request.texts.len() > MAX_TEXTS {
        return Err(wrong(format!(
            "texts has {} entries, but 1 to {MAX_TEXTS} are taken",
            request.texts.len()
        )));
    }
    for text in &request.texts {
        at_most("one of texts", text.len(), MAX_TEXT)?;
    }
    Ok(Checked {
        task: Task::Embed {
            texts: request.texts,
        },
        limit: DEFAULT_DEADLINE,
    })
}

/// Checks a tokenisation.
///
/// # Errors
/// A `Validation` error that names the field.
pub fn tokenize(request: TokenizeRequest) -> Result<Checked, Error> {
    at_most("text", request.text.len(), MAX_PROMPT)?;
    Ok(Checked {
        task: Task::Tokenize { text: request.text },
        limit: DEFAULT_DEADLINE,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid() -> GenerateRequest {
        GenerateRequest {
            prompt: "x".to_owned(),
            ..GenerateRequest::default()
        }
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let checked = generate(valid()).unwrap();
        assert_eq!(checked.limit, DEFAULT_DEADLINE);
        let Task::Generate(task) = checked.task else {
            panic!("no generation");
        };
        assert_eq!((task.max_tokens, task.seed), (DEFAULT_MAX_TOKENS, 1));
        assert_eq!(task.constraint, None);
    }

    #[test]
    fn every_limit_is_kept() {
        type Break = fn(&mut GenerateRequest);
        let broken: [(&str, Break); 10] = [
            ("prompt is empty", |r| r.prompt.clear()),
            ("prompt has", |r| r.prompt = "x".repeat(MAX_PROMPT + 1)),
            ("stop text is empty", |r| r.stop.push(String::new())),
            ("stop has", |r| r.stop = vec!["x".to_owned(); MAX_STOPS + 1]),
            ("temperature", |r| r.temperature = f32::NAN),
            ("temperature", |r| r.temperature = -0.1),
            ("deadline_ms", |r| r.deadline_ms = 600_001),
            ("no JSON object", |r| r.json_schema = "[]".to_owned()),
            ("no JSON:", |r| r.json_schema = "[".repeat(1000)),
            ("exclude each other", |r| {
                r.json_schema = "{}".to_owned();
                r.grammar = "root ::= \"a\"".to_owned();
            }),
        ];
        for (message, breaks) in broken {
            let mut request = valid();
            breaks(&mut request);
            let error = generate(request).unwrap_err();
            assert_eq!(error.category(), Category::Validation);
            assert!(error.message().contains(message), "{error} / {message}");
        }
        let many = vec![String::new(); MAX_TEXTS + 1];
        for texts in [vec![], many, vec!["x".repeat(MAX_TEXT + 1)]] {
            let request = EmbedRequest {
                model: String::new(),
                texts,
            };
            assert!(embed(request).is_err());
        }
    }
}
