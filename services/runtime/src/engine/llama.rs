//! The safe border to llama.cpp. The safe crate hides its pointers, and with them the abort callback
//! and the threads of a request, so this module speaks to the C interface itself; it covers what the
//! daemon uses and nothing else.
//!
//! Invariants, each held by the types here since llama.cpp ends the process otherwise: a batch never
//! exceeds what its context was made for; a token is in the vocabulary; a grammar advances only by a
//! token that it was asked about and allowed, exactly once.

use std::{
    collections::VecDeque,
    ffi::{CStr, CString, c_char, c_void},
    fs::File,
    io::{Seek as _, SeekFrom},
    os::fd::IntoRawFd as _,
    ptr::NonNull,
    sync::{Arc, Mutex, PoisonError},
};

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_sys_2 as sys;

use super::{sampler::Candidate, stop::Stop};

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

/// What a context is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Writing text.
    Generate,
    /// Making vectors.
    Embed,
}

/// The working memory of a model.
#[derive(Debug)]
pub struct Context {
    context: NonNull<sys::llama_context>,
    batch: sys::llama_batch,
    batch_tokens: u32,
    tokens: u32,
    // The order matters: both are used by the context until it is freed.
    model: Arc<Model>,
    _stop: Arc<Stop>,
}

// SAFETY: a context is bound to no thread, and `&mut` keeps it to one at a time.
unsafe impl Send for Context {}

/// # Safety
/// `data` must be the `Stop` that the context was made with.
unsafe extern "C" fn on_abort(data: *mut c_void) -> bool {
    // SAFETY: the context holds an `Arc` of it.
    let stop = unsafe { &*data.cast::<Stop>() };
    stop.reason().is_some()
}

impl Context {
    /// A context of `tokens` that decodes at most `batch` tokens at once and asks `stop` whether to
    /// go on.
    ///
    /// # Errors
    /// [`LlamaError::Context`], mostly for want of memory.
    pub fn new(
        model: &Arc<Model>,
        purpose: Purpose,
        tokens: u32,
        batch: u32,
        stop: &Arc<Stop>,
    ) -> Result<Self, LlamaError> {
        // SAFETY: plain constructor.
        let mut parameters = unsafe { sys::llama_context_default_params() };
        parameters.n_ctx = tokens;
        parameters.n_batch = batch;
        parameters.n_ubatch = batch;
        parameters.n_seq_max = 1;
        // It splits long sums by the number of threads, so that the same request would give other
        // logits when another worker computes too.
        parameters.flash_attn_type = sys::LLAMA_FLASH_ATTN_TYPE_DISABLED;
        parameters.abort_callback = Some(on_abort);
        parameters.abort_callback_data = Arc::as_ptr(stop).cast_mut().cast();
        if purpose == Purpose::Embed {
            parameters.embeddings = true;
            parameters.pooling_type = sys::LLAMA_POOLING_TYPE_UNSPECIFIED;
        }
        let fail = || LlamaError::Context {
            tokens,
            log: take_log(),
        };
        // SAFETY: the model lives in the `Arc`, the callback's data too.
        let make =
            |parameters| unsafe { sys::llama_init_from_model(model.model.as_ptr(), parameters) };
        let mut context = NonNull::new(make(parameters)).ok_or_else(fail)?;
        // SAFETY: the context was just made.
        let pooling = unsafe { sys::llama_pooling_type(context.as_ptr()) };
        if purpose == Purpose::Embed && pooling == sys::LLAMA_POOLING_TYPE_NONE {
            // The model does not say how to pool: the mean works for every one.
            // SAFETY: it is not used any more.
            unsafe { sys::llama_free(context.as_ptr()) };
            parameters.pooling_type = sys::LLAMA_POOLING_TYPE_MEAN;
            context = NonNull::new(make(parameters)).ok_or_else(fail)?;
        }
        // SAFETY: the context was just made.
        let tokens = unsafe { sys::llama_n_ctx(context.as_ptr()) };
        let room = i32::try_from(batch).map_err(|_| LlamaError::TextTooLong)?;
        Ok(Self {
            context,
            // SAFETY: plain constructor; freed in `drop`.
            batch: unsafe { sys::llama_batch_init(room, 0, 1) },
            batch_tokens: batch,
            tokens,
            model: Arc::clone(model),
            _stop: Arc::clone(stop),
        })
    }

    /// Tokens that fit.
    #[must_use]
    pub fn tokens(&self) -> u32 {
        self.tokens
    }

    /// Tokens that may be decoded at once.
    #[must_use]
    pub fn batch_tokens(&self) -> u32 {
        self.batch_tokens
    }

    /// Computes with so many threads from now on.
    pub fn set_threads(&mut self, threads: u32) {
        let threads = i32::try_from(threads.clamp(1, 512)).unwrap_or(1);
        // SAFETY: the context is alive.
        unsafe { sys::llama_set_n_threads(self.context.as_ptr(), threads, threads) };
    }

    /// Whether the context remembers tokens at all; a pure encoder does not.
    #[must_use]
    pub fn has_memory(&self) -> bool {
        // SAFETY: the context is alive.
        !unsafe { sys::llama_get_memory(self.context.as_ptr()) }.is_null()
    }

    /// Forgets everything from a position on. When the model cannot forget a part, it forgets all,
    /// and the result is false.
    pub fn forget_from(&mut self, position: u32) -> bool {
        // SAFETY: the context is alive.
        let memory = unsafe { sys::llama_get_memory(self.context.as_ptr()) };
        if memory.is_null() {
            return position == 0;
        }
        if position > 0 {
            let from = i32::try_from(position).unwrap_or(i32::MAX);
            // SAFETY: the memory belongs to the context.
            if unsafe { sys::llama_memory_seq_rm(memory, 0, from, -1) } {
                return true;
            }
        }
        // SAFETY: as above.
        unsafe { sys::llama_memory_clear(memory, true) };
        position == 0
    }

    /// Decodes tokens from a position on. Only the last one's logits are kept; when embedding, all
    /// count.
    ///
    /// # Errors
    /// [`LlamaError::Stopped`] when `stop` said so, [`LlamaError::Decode`] otherwise.
    pub fn decode(
        &mut self,
        tokens: &[i32],
        position: u32,
        purpose: Purpose,
    ) -> Result<(), LlamaError> {
        let end = u64::from(position) + tokens.len() as u64;
        if tokens.is_empty()
            || tokens.len() > self.batch_tokens as usize
            || end > u64::from(self.tokens)
        {
            return Err(LlamaError::TextTooLong);
        }
        for (index, (&token, position)) in tokens.iter().zip(position..).enumerate() {
            let known = usize::try_from(token).is_ok_and(|token| token < self.model.vocabulary());
            if !known {
                return Err(LlamaError::Decode {
                    code: -1,
                    log: format!("the token {token} does not exist"),
                });
            }
            let wanted = purpose == Purpose::Embed || index + 1 == tokens.len();
            // SAFETY: the batch has room for `batch_tokens` tokens of one sequence each.
            unsafe {
                *self.batch.token.add(index) = token;
                *self.batch.pos.add(index) = i32::try_from(position).unwrap_or(i32::MAX);
                *self.batch.n_seq_id.add(index) = 1;
                **self.batch.seq_id.add(index) = 0;
                *self.batch.logits.add(index) = i8::from(wanted);
            }
        }
        self.batch.n_tokens = i32::try_from(tokens.len()).unwrap_or(0);
        let context = self.context.as_ptr();
        let code = if self.has_memory() {
            // SAFETY: context and batch are alive and the batch is filled up to `n_tokens`.
            unsafe { sys::llama_decode(context, self.batch) }
        } else {
            // SAFETY: as above.
            unsafe { sys::llama_encode(context, self.batch) }
        };
        match code {
            0 => Ok(()),
            2 => Err(LlamaError::Stopped),
            code => Err(LlamaError::Decode {
                code,
                log: take_log(),
            }),
        }
    }

    /// Adds the logits of the last decoded token to an empty list; false when there are none.
    pub fn logits(&mut self, into: &mut Vec<Candidate>) -> bool {
        into.clear();
        // SAFETY: the function returns null when nothing was decoded, else a logit per token.
        let logits = unsafe { sys::llama_get_logits_ith(self.context.as_ptr(), -1) };
        if logits.is_null() {
            return false;
        }
        // SAFETY: as above; they are read before the next decode.
        let logits = unsafe { std::slice::from_raw_parts(logits, self.model.vocabulary()) };
        into.extend(
            (0..)
                .zip(logits)
                .map(|(token, &logit)| Candidate { token, logit }),
        );
        true
    }

    /// The pooled vector of what was just decoded.
    #[must_use]
    pub fn vector(&mut self) -> Option<Vec<f32>> {
        // SAFETY: the model is loaded.
        let width = unsafe { sys::llama_model_n_embd_out(self.model.model.as_ptr()) };
        let width = usize::try_from(width).ok()?;
        // SAFETY: null, or as many numbers as the model is wide.
        let vector = unsafe { sys::llama_get_embeddings_seq(self.context.as_ptr(), 0) };
        if vector.is_null() {
            return None;
        }
        // SAFETY: as above; copied before the next decode.
        Some(unsafe { std::slice::from_raw_parts(vector, width) }.to_vec())
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: both were made in `new` and are not used again.
        unsafe {
            sys::llama_batch_free(self.batch);
            sys::llama_free(self.context.as_ptr());
        }
    }
}

/// A grammar and how far the output has come in it.
#[derive(Debug)]
pub struct Grammar {
    sampler: NonNull<sys::llama_sampler>,
    data: Vec<sys::llama_token_data>,
    model: Arc<Model>,
}

// SAFETY: bound to no thread; `&mut` keeps it to one at a time.
unsafe impl Send for Grammar {}

impl Grammar {
    /// A grammar in GBNF whose first rule is `root`.
    ///
    /// # Errors
    /// [`LlamaError::Grammar`] when it cannot be parsed.
    pub fn new(model: &Arc<Model>, gbnf: &str) -> Result<Self, LlamaError> {
        let text = CString::new(gbnf)
            .map_err(|_| LlamaError::Grammar("it has a zero byte in it".to_owned()))?;
        // SAFETY: the strings live during the call, which copies them; exceptions are caught inside.
        let sampler = unsafe {
            sys::llama_rs_sampler_init_grammar(
                model.vocab.as_ptr(),
                text.as_ptr(),
                c"root".as_ptr(),
            )
        };
        let sampler = NonNull::new(sampler).ok_or_else(|| {
            LlamaError::Grammar("it cannot be parsed, or has no rule \"root\"".to_owned())
        })?;
        Ok(Self {
            sampler,
            data: Vec::new(),
            model: Arc::clone(model),
        })
    }

    /// Removes the candidates that may not come next.
    pub fn retain_allowed(&mut self, candidates: &mut Vec<Candidate>) {
        self.data.clear();
        self.data
            .extend(candidates.iter().map(|candidate| sys::llama_token_data {
                id: candidate.token,
                logit: candidate.logit,
                p: 0.0,
            }));
        let mut array = sys::llama_token_data_array {
            data: self.data.as_mut_ptr(),
            size: self.data.len(),
            selected: -1,
            sorted: false,
        };
        // SAFETY: the array describes `data`, which the call changes in place.
        unsafe { sys::llama_sampler_apply(self.sampler.as_ptr(), &raw mut array) };
        candidates.clear();
        candidates.extend(
            self.data
                .iter()
                .filter(|data| data.logit != f32::NEG_INFINITY)
                .map(|data| Candidate {
                    token: data.id,
                    logit: data.logit,
                }),
        );
    }

    /// Whether a token may come next.
    pub fn allows(&mut self, token: i32) -> bool {
        let mut one = vec![Candidate { token, logit: 0.0 }];
        self.retain_allowed(&mut one);
        !one.is_empty()
    }

    /// Advances by a token that was allowed. At the end of the generation there is nothing to
    /// advance to.
    ///
    /// # Errors
    /// [`LlamaError::Grammar`] when the grammar does not take the token after all.
    pub fn advance(&mut self, token: i32) -> Result<(), LlamaError> {
        if self.model.ends_generation(token) {
            return Ok(());
        }
        // SAFETY: the sampler is alive; exceptions are caught inside.
        let status = unsafe { sys::llama_rs_sampler_accept(self.sampler.as_ptr(), token) };
        if status == 0 {
            Ok(())
        } else {
            Err(LlamaError::Grammar(format!(
                "it does not take the token {token}"
            )))
        }
    }
}

impl Drop for Grammar {
    fn drop(&mut self) {
        // SAFETY: made in `new`, not used again.
        unsafe { sys::llama_sampler_free(self.sampler.as_ptr()) };
    }
}
