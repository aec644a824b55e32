//! What front and worker say to each other: JSON messages, each behind its length in four bytes, on a
//! private socket. A message longer than [`MAX_FRAME`] ends the connection, for either side.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Longest message in bytes: the vectors of a full embedding request fit.
pub const MAX_FRAME: usize = 16 << 20;

/// From the front to a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToWorker {
    /// Do this. The front sends the next one only after the answer.
    Run {
        /// Chosen by the front, never reused.
        id: u64,
        /// Threads to compute with.
        threads: u32,
        /// Milliseconds from now until the work must have ended.
        deadline_ms: u64,
        /// What to do.
        task: Task,
    },
    /// Stop that one early.
    Cancel {
        /// Which.
        id: u64,
    },
}

/// What a worker can do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Task {
    /// Continue a prompt.
    Generate(Generate),
    /// Turn texts into vectors of length one.
    Embed {
        /// The texts.
        texts: Vec<String>,
    },
    /// Turn text into tokens, as a prompt would be.
    Tokenize {
        /// The text.
        text: String,
    },
}

/// A generation, already checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generate {
    /// The text to continue.
    pub prompt: String,
    /// Tokens at most.
    pub max_tokens: u32,
    /// Seed of the sampler.
    pub seed: u64,
    /// 0 is greedy.
    pub temperature: f32,
    /// Texts that end the generation and are not part of it.
    pub stop: Vec<String>,
    /// What the output must satisfy.
    pub constraint: Option<Constraint>,
}

/// What an output must satisfy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Constraint {
    /// A JSON Schema.
    JsonSchema(String),
    /// A grammar in GBNF with a rule `root`.
    Grammar(String),
}

/// From a worker to the front.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromWorker {
    /// The first message when the model is loaded.
    Loaded(Loaded),
    /// The first and last message when it cannot be.
    LoadFailed {
        /// Why.
        reason: String,
    },
    /// Text of the running generation.
    Text {
        /// Which.
        id: u64,
        /// Complete characters; never empty.
        text: String,
    },
    /// The end of a request.
    Done {
        /// Which.
        id: u64,
        /// What came of it.
        outcome: Outcome,
    },
}

/// A model as its worker found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// Weights.
    pub parameters: u64,
    /// Tokens that prompt and output may have together.
    pub context_tokens: u32,
    /// Whether it can write text (and not only embed it).
    pub generates: bool,
    /// Milliseconds that loading took.
    pub load_ms: u64,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// Of a generation, after its text.
    Generated(Generated),
    /// One vector per text.
    Embedded {
        /// In the order of the texts.
        vectors: Vec<Vec<f32>>,
    },
    /// The tokens of a text.
    Tokenized {
        /// In order.
        tokens: Vec<i32>,
    },
    /// It could not be done.
    Failed(Failure),
}

/// How a generation went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generated {
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens that were generated.
    pub completion_tokens: u32,
    /// Microseconds for the prompt.
    pub prompt_us: u64,
    /// Microseconds for the output.
    pub decode_us: u64,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Finish {
    /// The model ended it, or a stop text came.
    Stop,
    /// The limit of tokens was reached.
    Length,
    /// The caller gave up.
    Cancelled,
    /// Time ran out.
    Deadline,
}

impl Finish {
    /// The name in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
            Self::Deadline => "deadline",
        }
    }
}

/// Why a request could not be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Whose fault it is.
    pub kind: FailureKind,
    /// What was wrong.
    pub message: String,
}

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The request cannot be done with this model.
    Request,
    /// The deadline passed, or the caller gave up, where no partial result makes sense.
    Ended,
    /// The engine failed.
    Engine,
}

fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let length = frame.len() - 4;
    if length > MAX_FRAME {
        return Err(too_long(length));
    }
    // MAX_FRAME is far below 2^32.
    frame[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(frame)
}

fn too_long(length: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("a message of {length} bytes, but at most {MAX_FRAME} are taken"),
    )
}

fn checked_length(bytes: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(bytes) as usize;
    if length > MAX_FRAME {
        return Err(too_long(length));
    }
    Ok(length)
}

/// Sends a message, blocking.
///
/// # Errors
/// When the other side is gone or the message is too long.
pub fn send<T: Serialize>(to: &mut impl Write, message: &T) -> io::Result<()> {
    to.write_all(&encode(message)?)
}

/// Receives a message, blocking.
///
/// # Errors
/// When the other side is gone, or what it sent is no message.
pub fn receive<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let mut body = vec![0; checked_length(length)?];
    from.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}

/// Sends a message.
///
/// # Errors
/// As [`send`].
pub async fn send_async<T: Serialize>(
    to: &mut (impl AsyncWrite + Unpin),
    message: &T,
) -> io::Result<()> {
    to.write_all(&encode(message)?).await
}

/// Receives a message. Not to be cancelled half way: what was read would be lost.
///
/// # Errors
/// As [`receive`].
pub async fn receive_async<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length).await?;
    let mut body = vec![0; checked_length(length)?];
    from.read_exact(&mut body).await?;
    Ok(serde_json::from_slice(&body)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_survives_the_wire() {
        let message = FromWorker::Done {
            id: 7,
            outcome: Outcome::Embedded {
                vectors: vec![vec![0.1, -2.5e-7], vec![]],
            },
        };
        let mut wire = Vec::new();
        send(&mut wire, &message).unwrap();
        assert_eq!(
            receive::<FromWorker>(&mut wire.as_slice()).unwrap(),
            message
        );
    }

    #[test]
    fn a_false_length_takes_no_memory() {
        let error = receive::<ToWorker>(&mut [0xff_u8; 8].as_slice()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    proptest! {
        #[test]
        fn garbage_is_an_error(mut bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(high) = bytes.get_mut(1..4) {
                high.fill(0);
            }
            prop_assert!(receive::<ToWorker>(&mut bytes.as_slice()).is_err());
        }
    }
}
