//! Continuing a prompt: prefill in chunks, then token by token, until the model, the grammar, a stop
//! text, a limit or the caller ends it.
//!
//! A prompt that begins like the one before reuses what is in the context, in whole chunks only: each
//! token is then always computed in the same company, so that the same request gives the same text
//! whatever ran before it.

use std::{sync::Arc, time::Instant};

use super::{
    llama::{Context, Grammar, LlamaError, Model, Purpose},
    sampler::{Candidate, Sampler},
    stop::Stop,
    text::TextStream,
};
use crate::protocol::{Constraint, Failure, FailureKind, Finish, Generate, Generated};

/// Tokens of a prompt that are decoded at once. Smaller: a cancel is noticed sooner; larger: faster.
pub const CHUNK: u32 = 128;

/// A context for text and what is in it.
#[derive(Debug)]
pub struct Writer {
    model: Arc<Model>,
    context: Context,
    stop: Arc<Stop>,
    /// Tokens in the context, in whole chunks.
    cached: Vec<i32>,
    candidates: Vec<Candidate>,
}

impl From<LlamaError> for Failure {
    fn from(error: LlamaError) -> Self {
        let kind = match error {
            LlamaError::Grammar(_) | LlamaError::TextTooLong => FailureKind::Request,
            LlamaError::Stopped => FailureKind::Ended,
            _ => FailureKind::Engine,
        };
        Self {
            kind,
            message: error.to_string(),
        }
    }
}

impl Writer {
    /// A writer with a context of so many tokens.
    ///
    /// # Errors
    /// When there is not enough memory for the context.
    pub fn new(model: &Arc<Model>, tokens: u32, stop: &Arc<Stop>) -> Result<Self, LlamaError> {
        Ok(Self {
            model: Arc::clone(model),
            context: Context::new(model, Purpose::Generate, tokens, CHUNK, stop)?,
            stop: Arc::clone(stop),
            cached: Vec::new(),
            candidates: Vec::new(),
        })
    }

    /// Whether the model can write at all.
    #[must_use]
    pub fn generates(&self) -> bool {
        self.context.has_memory()
    }

    /// Tokens that prompt and output may have together.
    #[must_use]
    pub fn context_tokens(&self) -> u32 {
        self.context.tokens()
    }

    /// Generates; `show` gets the text as it comes.
    ///
    /// # Errors
    /// [`Failure`] when the request does not fit the model, or the engine fails. Cancel and deadline
    /// are no errors: what was generated so far counts.
    pub fn run(
        &mut self,
        request: &Generate,
        threads: u32,
        show: &mut dyn FnMut(String),
    ) -> Result<Generated, Failure> {
        let result = self.generate(request, threads, show);
        if result.is_err() {
            // Whatever is in the context now, it is not trusted.
            self.cached.clear();
            self.context.forget_from(0);
        }
        result
    }

    fn generate(
        &mut self,
        request: &Generate,
        threads: u32,
        show: &mut dyn FnMut(String),
    ) -> Result<Generated, Failure> {
        if !self.generates() {
            return Err(request_failure(
                "this model makes vectors, it cannot write text".to_owned(),
            ));
        }
        self.context.set_threads(threads);
        let mut grammar = self.grammar(request.constraint.as_ref())?;
        let prompt = self.model.tokenize(&request.prompt)?;
        let room = self.context.tokens();
        let length = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
        if length == 0 {
            return Err(request_failure("the prompt is empty".to_owned()));
        }
        if length >= room {
            return Err(request_failure(format!(
                "the prompt has {length} tokens, but prompt and output have {room} together"
            )));
        }
        let mut result = Generated {
            finish: Finish::Length,
            prompt_tokens: length,
            completion_tokens: 0,
            prompt_us: 0,
            decode_us: 0,
        };
        let started = Instant::now();
        let filled = self.prefill(&prompt);
        result.prompt_us = microseconds(started);
        match filled {
            Ok(()) => {}
            Err(LlamaError::Stopped) => {
                self.cached.clear();
                self.context.forget_from(0);
                result.finish = self.stop.reason().unwrap_or(Finish::Cancelled);
                return Ok(result);
            }
            Err(error) => return Err(error.into()),
        }

        let started = Instant::now();
        let mut sampler = Sampler::new(request.temperature, request.seed);
        let mut stream = TextStream::new(&request.stop);
        let most = request.max_tokens.min(room - length);
        loop {
            if let Some(reason) = self.stop.reason() {
                result.finish = reason;
                break;
            }
            if result.completion_tokens == most {
                break;
            }
            let token = self.next_token(&mut sampler, grammar.as_mut(), &stream)?;
            if self.model.ends_generation(token) {
                result.finish = Finish::Stop;
                break;
            }
            result.completion_tokens += 1;
            let text = stream.push(&self.model.piece(token));
            if !text.is_empty() {
                show(text);
            }
            if stream.stopped() {
                result.finish = Finish::Stop;
                break;
            }
            if result.completion_tokens == most {
                break;
            }
            let position = length + result.completion_tokens - 1;
            match self.context.decode(&[token], position, Purpose::Generate) {
                Ok(()) => {}
                Err(LlamaError::Stopped) => {
                    result.finish = self.stop.reason().unwrap_or(Finish::Cancelled);
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let rest = stream.finish();
        if !rest.is_empty() {
            show(rest);
        }
        result.decode_us = microseconds(started);
        Ok(result)
    }

    fn grammar(&self, constraint: Option<&Constraint>) -> Result<Option<Grammar>, Failure> {
        let gbnf = match constraint {
            None => return Ok(None),
            Some(Constraint::Grammar(gbnf)) => gbnf.clone(),
            Some(Constraint::JsonSchema(schema)) => llama_cpp_2::json_schema_to_grammar(schema)
                .map_err(|error| {
                    request_failure(format!(
                        "the JSON Schema uses something that no grammar can express ({error})"
                    ))
                })?,
        };
        Ok(Some(Grammar::new(&self.model, &gbnf)?))
    }

    /// Brings the prompt into the context, except for what is there already.
    fn prefill(&mut self, prompt: &[i32]) -> Result<(), LlamaError> {
        let chunk = CHUNK as usize;
        let same = prompt
            .iter()
            .zip(&self.cached)
            .take_while(|(a, b)| a == b)
            .count();
        // The last token is always decoded, since its logits are wanted.
        let mut position = (same.min(prompt.len() - 1) / chunk) * chunk;
        // 2^32 tokens do not fit into any context.
        if !self.context.forget_from(position as u32) {
            position = 0;
        }
        self.cached.truncate(position);
        for part in prompt[position..].chunks(chunk) {
            if self.stop.reason().is_some() {
                return Err(LlamaError::Stopped);
            }
            self.context
                .decode(part, position as u32, Purpose::Generate)?;
            position += part.len();
            if part.len() == chunk {
                self.cached.extend_from_slice(part);
            }
        }
        Ok(())
    }

    /// Chooses the next token. The grammar is asked about the one that the model wants; only when it
    /// refuses, about all of them, which costs a hundred times as much.
    fn next_token(
        &mut self,
        sampler: &mut Sampler,
        grammar: Option<&mut Grammar>,
        stream: &TextStream,
    ) -> Result<i32, Failure> {
        let no_choice = || Failure {
            kind: FailureKind::Engine,
            message: "the model gives no finite logits; its file is damaged".to_owned(),
        };
        if !self.context.logits(&mut self.candidates) {
            return Err(no_choice());
        }
        let wanted = sampler.choose(&mut self.candidates).ok_or_else(no_choice)?;
        let Some(grammar) = grammar else {
            return Ok(wanted);
        };
        let whole = |token| stream.keeps_whole(&self.model.piece(token));
        let token = if grammar.allows(wanted) && whole(wanted) {
            wanted
        } else {
            self.context.logits(&mut self.candidates);
            grammar.retain_allowed(&mut self.candidates);
            self.candidates.retain(|candidate| whole(candidate.token));
            sampler.choose(&mut self.candidates).ok_or_else(|| {
                request_failure(
                    "the grammar asks for text that the model's vocabulary cannot write".to_owned(),
                )
            })?
        };
        grammar.advance(token)?;
        Ok(token)
    }
}

fn request_failure(message: String) -> Failure {
    Failure {
        kind: FailureKind::Request,
        message,
    }
}

fn microseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
