//! The working memory of a model: tokens go in, logits or a vector come out.

use std::{ffi::c_void, ptr::NonNull, sync::Arc};

use llama_cpp_sys_2 as sys;

use super::{LlamaError, Model, take_log};
use crate::engine::{sampler::Candidate, stop::Stop};

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
