//! Turning texts into vectors of length one, so that their dot product is the cosine. Models that
//! say how to pool do it their way, all others by the mean of their tokens.

use std::sync::Arc;

use super::{
    llama::{Context, LlamaError, Model, Purpose},
    stop::Stop,
};
use crate::protocol::{Failure, FailureKind};

/// Tokens that one text may have.
pub const MAX_TOKENS: u32 = 512;

/// A context for vectors.
#[derive(Debug)]
pub struct Embedder {
    model: Arc<Model>,
    context: Context,
    stop: Arc<Stop>,
}

impl Embedder {
    /// An embedder for texts of up to [`MAX_TOKENS`], or what the model can take.
    ///
    /// # Errors
    /// When there is not enough memory for the context.
    pub fn new(model: &Arc<Model>, stop: &Arc<Stop>) -> Result<Self, LlamaError> {
        let tokens = match model.trained_context() {
            0 => MAX_TOKENS,
            trained => trained.min(MAX_TOKENS),
        };
        Ok(Self {
            model: Arc::clone(model),
            context: Context::new(model, Purpose::Embed, tokens, tokens, stop)?,
            stop: Arc::clone(stop),
        })
    }

    /// The vectors of texts.
    ///
    /// # Errors
    /// [`Failure`] when a text is empty or too long, or when it was stopped.
    pub fn run(&mut self, texts: &[String], threads: u32) -> Result<Vec<Vec<f32>>, Failure> {
        self.context.set_threads(threads);
        let mut vectors = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            if self.stop.reason().is_some() {
                return Err(LlamaError::Stopped.into());
            }
            let tokens = self.model.tokenize(text)?;
            if tokens.is_empty() || tokens.len() > self.context.batch_tokens() as usize {
                return Err(Failure {
                    kind: FailureKind::Request,
                    message: format!(
                        "text {index} has {} tokens, but 1 to {} can be embedded; split it",
                        tokens.len(),
                        self.context.batch_tokens()
                    ),
                });
            }
            self.context.forget_from(0);
            self.context.decode(&tokens, 0, Purpose::Embed)?;
            let vector = self
                .context
                .vector()
                .and_then(normalized)
                .ok_or_else(|| Failure {
                    kind: FailureKind::Engine,
                    message: format!("the model gives no vector for text {index}"),
                })?;
            vectors.push(vector);
        }
        Ok(vectors)
    }
}

/// The vector of length one in the same direction; none when there is no direction.
fn normalized(mut vector: Vec<f32>) -> Option<Vec<f32>> {
    let length = vector
        .iter()
        .map(|x| f64::from(*x).powi(2))
        .sum::<f64>()
        .sqrt();
    if !length.is_finite() || length == 0.0 {
        return None;
    }
    for x in &mut vector {
        *x = (f64::from(*x) / length) as f32;
    }
    Some(vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_gets_length_one() {
        assert_eq!(normalized(vec![3.0, -4.0]), Some(vec![0.6, -0.8]));
        assert_eq!(normalized(vec![0.0; 3]), None);
        assert_eq!(normalized(vec![f32::NAN]), None);
    }
}
