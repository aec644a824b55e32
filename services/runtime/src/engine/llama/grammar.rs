//! A grammar that the output must follow. It advances only by tokens that it allowed, once each:
//! llama.cpp ends the process otherwise.

use std::{ffi::CString, ptr::NonNull, sync::Arc};

use llama_cpp_sys_2 as sys;

use super::{LlamaError, Model};
use crate::engine::sampler::Candidate;

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
