//! The safe border to llama.cpp. The safe crate hides its pointers, and with them the abort callback
//! and the threads of a request, so this module speaks to the C interface itself; it covers what the
//! daemon uses and nothing else.
//!
//! Invariants, each held by the types here since llama.cpp ends the process otherwise: a batch never
//! exceeds what its context was made for; a token is in the vocabulary; a grammar advances only by a
//! token that it was asked about and allowed, exactly once.

use std::{
    collections::VecDeque,
    ffi::{CStr, c_char, c_void},
    fs::File,
    io::{Seek as _, SeekFrom},
    os::fd::IntoRawFd as _,
    ptr::NonNull,
    sync::{Mutex, PoisonError},
};

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_sys_2 as sys;

mod context;
mod grammar;

pub use context::{Context, Purpose};
pub use grammar::Grammar;

/// Why llama.cpp did not do it.
#[derive(Debug, thiserror::Error)]
pub enum LlamaError {
    /// The model file could not be read.
    #[error("cannot read the model file: {0}")]
    Io(#[from] std::io::Error),
    /// The library could not be started.
    #[error("cannot start llama.cpp: {0}")]
    Backend(#[from] llama_cpp_2::LlamaCppError),
    /// The file is not a model that can be loaded.
    #[error("llama.cpp cannot load the model: {0}")]
    Model(String),
    /// No context could be made.
    #[error("llama.cpp cannot make a context of {tokens} tokens: {log}")]
    Context {
        /// Its size.
        tokens: u32,
        /// What the library logged.
        log: String,
    },
    /// The grammar is wrong.
    #[error("the grammar is wrong: {0}")]
    Grammar(String),
    /// Decoding failed.
    #[error("llama.cpp failed to decode (code {code}): {log}")]
    Decode {
        /// What it returned.
        code: i32,
        /// What the library logged.
        log: String,
    },
    /// The request was stopped while it was decoded.
    #[error("stopped")]
    Stopped,
    /// The text is longer than llama.cpp can count.
    #[error("the text is too long")]
    TextTooLong,
}

/// The latest warnings and errors of the library, for messages.
static LOG: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());
const LOG_LINES: usize = 4;

fn take_log() -> String {
    let mut lines = LOG.lock().unwrap_or_else(PoisonError::into_inner);
    let lines: Vec<String> = lines.drain(..).collect();
    if lines.is_empty() {
        "it gave no reason".to_owned()
    } else {
        lines.join("; ")
    }
}

/// # Safety
/// `text` must be null or a C string, as llama.cpp promises.
unsafe extern "C" fn on_log(level: sys::ggml_log_level, text: *const c_char, _: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: the library passes a C string that lives during the call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let text = text.trim();
    if text.is_empty() {
        return;
    }
    if level == sys::GGML_LOG_LEVEL_ERROR || level == sys::GGML_LOG_LEVEL_WARN {
        tracing::warn!(target: "llama", "{text}");
        let mut lines = LOG.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LOG_LINES {
            lines.pop_front();
        }
        lines.push_back(text.to_owned());
    } else {
        tracing::debug!(target: "llama", "{text}");
    }
}

/// A loaded model.
#[derive(Debug)]
pub struct Model {
    model: NonNull<sys::llama_model>,
    vocab: NonNull<sys::llama_vocab>,
    _backend: LlamaBackend,
}

// SAFETY: a model is not changed after it was loaded, except while a context is made, and a worker
// makes its contexts on one thread.
unsafe impl Send for Model {}
// SAFETY: as above.
unsafe impl Sync for Model {}

impl Model {
    /// Maps a model file into memory. Once per process.
    ///
    /// # Errors
    /// [`LlamaError::Model`] with the reason that llama.cpp logs.
    pub fn load(mut file: File) -> Result<Self, LlamaError> {
        // SAFETY: the callback is a static function that needs no data.
        unsafe { sys::llama_log_set(Some(on_log), std::ptr::null_mut()) };
        let backend = LlamaBackend::init()?;
        file.seek(SeekFrom::Start(0))?;
        // SAFETY: the descriptor is open and owned by this function; the stream takes it over.
        let stream = unsafe { libc::fdopen(file.into_raw_fd(), c"rb".as_ptr()) };
        if stream.is_null() {
            return Err(std::io::Error::last_os_error().into());
        }
        // SAFETY: plain constructor.
        let mut parameters = unsafe { sys::llama_model_default_params() };
        parameters.load_mode = sys::LLAMA_LOAD_MODE_MMAP;
        parameters.n_gpu_layers = 0;
        // SAFETY: the stream is open, and the parameters hold no pointers of ours.
        let model = unsafe { sys::llama_model_load_from_file_ptr(stream.cast(), parameters) };
        // SAFETY: the stream came from fdopen above; a mapping outlives its descriptor.
        unsafe { libc::fclose(stream) };
        let model = NonNull::new(model).ok_or_else(|| LlamaError::Model(take_log()))?;
        // SAFETY: the model is loaded; its vocabulary lives as long.
        let vocab = unsafe { sys::llama_model_get_vocab(model.as_ptr()) };
        let vocab = NonNull::new(vocab.cast_mut())
            .ok_or_else(|| LlamaError::Model("it has no vocabulary".to_owned()))?;
        Ok(Self {
            model,
            vocab,
            _backend: backend,
        })
    }

    /// Weights.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        // SAFETY: the model is loaded.
        unsafe { sys::llama_model_n_params(self.model.as_ptr()) }
    }

    /// Tokens of context that the model was made for; 0 when it does not say.
    #[must_use]
    pub fn trained_context(&self) -> u32 {
        // SAFETY: the model is loaded.
        let tokens = unsafe { sys::llama_model_n_ctx_train(self.model.as_ptr()) };
        u32::try_from(tokens).unwrap_or(0)
    }

    /// Whether a token ends a generation.
    #[must_use]
    pub fn ends_generation(&self, token: i32) -> bool {
        // SAFETY: the function checks the token.
        unsafe { sys::llama_vocab_is_eog(self.vocab.as_ptr(), token) }
    }

    /// Size of the vocabulary.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        // SAFETY: the vocabulary lives as long as the model.
        let tokens = unsafe { sys::llama_vocab_n_tokens(self.vocab.as_ptr()) };
        usize::try_from(tokens).unwrap_or(0)
    }

    /// The tokens of a text, with what the model wants before it. Control tokens in the text are
    /// recognised: whoever puts foreign text into a prompt must break them up.
    ///
    /// # Errors
    /// [`LlamaError::TextTooLong`] beyond 2 GiB.
    pub fn tokenize(&self, text: &str) -> Result<Vec<i32>, LlamaError> {
        let length = i32::try_from(text.len()).map_err(|_| LlamaError::TextTooLong)?;
        // A token has at least one byte, and the model may add two.
        let mut tokens = vec![0_i32; text.len() + 2];
        for _ in 0..2 {
            let room = i32::try_from(tokens.len()).map_err(|_| LlamaError::TextTooLong)?;
            // SAFETY: both buffers are as long as is said.
            let count = unsafe {
                sys::llama_tokenize(
                    self.vocab.as_ptr(),
                    text.as_ptr().cast(),
                    length,
                    tokens.as_mut_ptr(),
                    room,
                    true,
                    true,
                )
            };
            match usize::try_from(count) {
                Ok(count) => {
                    tokens.truncate(count);
                    return Ok(tokens);
                }
                // The negative of what is needed, or the least number when that does not fit.
                Err(_) if count == i32::MIN => return Err(LlamaError::TextTooLong),
                Err(_) => tokens.resize(count.unsigned_abs() as usize, 0),
            }
        }
        Err(LlamaError::TextTooLong)
    }

    /// The bytes that a token stands for; none for control tokens.
    #[must_use]
    pub fn piece(&self, token: i32) -> Vec<u8> {
        let mut bytes = vec![0_u8; 64];
        for _ in 0..2 {
            let room = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
            // SAFETY: the buffer is as long as is said; the function checks the token.
            let count = unsafe {
                sys::llama_token_to_piece(
                    self.vocab.as_ptr(),
                    token,
                    bytes.as_mut_ptr().cast(),
                    room,
                    0,
                    false,
                )
            };
            match usize::try_from(count) {
                Ok(count) => {
                    bytes.truncate(count);
                    return bytes;
                }
                Err(_) => bytes.resize(count.unsigned_abs() as usize, 0),
            }
        }
        Vec::new()
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: contexts and grammars hold the model by `Arc`, so none is left.
        unsafe { sys::llama_model_free(self.model.as_ptr()) };
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        sync::Arc,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::{engine::stop::Stop, protocol::Finish};

    // One test, since a process may load the library once.
    #[test]
    fn a_decode_stops_when_it_is_told_and_the_context_goes_on_after_it() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&aios_gguf::untrained::model().unwrap())
            .unwrap();
        let model = Arc::new(Model::load(file).unwrap());
        let stop = Arc::new(Stop::default());
        let mut context = Context::new(&model, Purpose::Generate, 256, 128, &stop).unwrap();
        let tokens = model.tokenize(&"a b ".repeat(30)).unwrap();
        assert!((50..=128).contains(&tokens.len()), "{}", tokens.len());
        let mut logits = Vec::new();
        assert!(!context.logits(&mut logits), "there are none yet");

        stop.arm(1, Duration::from_secs(60));
        context.decode(&tokens, 0, Purpose::Generate).unwrap();
        assert!(context.logits(&mut logits));
        assert_eq!(logits.len(), model.vocabulary());
        let expected = logits.clone();

        context.forget_from(0);
        stop.cancel(1);
        let started = Instant::now();
        let stopped = context.decode(&tokens, 0, Purpose::Generate);
        assert!(matches!(stopped, Err(LlamaError::Stopped)), "{stopped:?}");
        assert!(started.elapsed() < Duration::from_secs(1));
        assert_eq!(stop.reason(), Some(Finish::Cancelled));

        stop.arm(2, Duration::from_secs(60));
        context.forget_from(0);
        context.decode(&tokens, 0, Purpose::Generate).unwrap();
        context.logits(&mut logits);
        assert_eq!(logits, expected);

        // What would end the process in the library is an error here.
        for (wrong, position) in [
            (vec![-1], 0),
            (vec![1 << 30], 0),
            (vec![5; 129], 0),
            (vec![5], 256),
        ] {
            assert!(context.decode(&wrong, position, Purpose::Generate).is_err());
        }
        let mut grammar = Grammar::new(&model, "root ::= \"ab\"").unwrap();
        let [a, b] = ["a", "b"].map(|text| *model.tokenize(text).unwrap().last().unwrap());
        assert!(grammar.allows(a) && !grammar.allows(b));
        grammar.advance(a).unwrap();
        assert!(grammar.allows(b) && !grammar.allows(a));
        grammar.advance(b).unwrap();
        assert!(
            !grammar.allows(b) && grammar.allows(2),
            "only the end may come"
        );
        assert!(Grammar::new(&model, "root ::= (").is_err());
    }
}
