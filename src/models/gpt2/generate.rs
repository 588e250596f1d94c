//! Text from a model: one token after the other, each chosen by the scores behind those before it.

use super::Gpt2;
use super::config::OP;
use crate::autograd::no_grad;
use crate::error::{Error, Result};
use crate::nn::Sampling;
use crate::ops::KeyValues;
use crate::tensor::Tensor;

/// A text in the making: an iterator over its next tokens, without an end of its own. Stop it at [`super::Gpt2Config::eos_token_id`]
/// or wherever it is enough.
///
/// The prompt goes through the model in one pass, then each token by itself beside the keys and values of those before it. When
/// the model's positions are used up, the latter half of them is read again as a prompt, and what lies before is forgotten.
///
/// ```no_run
/// # fn main() -> wgrad::Result<()> {
/// # let gpu = wgrad::Gpu::new()?;
/// use wgrad::models::gpt2::{Gpt2, Gpt2Config};
/// use wgrad::nn::Sampling;
/// let model = Gpt2::new(&gpu, Gpt2Config::custom(64, 2, 2), 0)?;
/// for token in model.generate(&[1, 2, 3], Sampling::default())?.take(20) {
///     println!("{}", token?);
/// }
/// # Ok(())
/// # }
/// ```
pub struct Generation<'a> {
    model: &'a Gpt2,
    sampling: Sampling,
    /// One for each block. It holds the first tokens of the context.
    cache: Vec<KeyValues>,
    /// The tokens that the next one depends on.
    context: Vec<u32>,
    /// Tokens made so far.
    made: u64,
}

impl Gpt2 {
    /// The text that goes on from `prompt`.
    ///
    /// # Errors
    /// [`Error::Argument`] if the prompt is empty, longer than the model's positions or holds an id beyond the vocabulary, or the
    /// sampling is none.
    pub fn generate(&self, prompt: &[u32], sampling: Sampling) -> Result<Generation<'_>> {
        sampling.check()?;
        let positions = self.config.n_positions;
        if !(1..=positions).contains(&prompt.len()) {
            let expected = format!("1 to {positions} tokens, the model's positions");
            return Err(Error::argument(OP, "prompt", expected, prompt.len()));
        }
        let cache = |_| KeyValues::new(self.gpu(), 1, positions, self.config.n_embd);
        let cache = (0..self.config.n_layer).map(cache).collect::<Result<_>>()?;
        let context = Vec::with_capacity(prompt.len());
        let mut generation = Generation { model: self, sampling, cache, context, made: 0 };
        prompt.iter().try_for_each(|&token| generation.push(token))?;
        Ok(generation)
    }
}

impl Generation<'_> {
    /// The scores of the token that comes next, `f32[1, V]`, for a choice of one's own, which [`Generation::push`] then takes.
    ///
    /// # Errors
    /// If the device fails.
    pub fn scores(&mut self) -> Result<Tensor> {
        let positions = self.model.config.n_positions;
        if self.context.len() > positions {
            self.context.drain(..self.context.len() - positions.div_ceil(2));
            self.forget(0);
        }
        // The scores come from the last token, which is read again where they are asked for twice. After a failure some blocks may
        // have read more than others.
        let read = self.cache.iter().map(KeyValues::len).min().unwrap_or(0).min(self.context.len() - 1);
        self.forget(read);
        let new = &self.context[read..];
        let ids = Tensor::from_slice(self.model.gpu(), &[1, new.len()], new)?;
        no_grad(|| self.model.next_scores(&ids, &mut self.cache))
    }

    /// Goes on with this token.
    ///
    /// # Errors
    /// [`Error::Argument`] if it is beyond the vocabulary.
    pub fn push(&mut self, token: u32) -> Result<()> {
        let vocabulary = self.model.config.vocab_size;
        if token as usize >= vocabulary {
            return Err(Error::argument(OP, "token", format!("below {vocabulary}, the vocabulary"), token));
        }
        self.context.push(token);
        Ok(())
    }

    /// The next token, for programs that cannot block: it is chosen when the device has its scores. What failed is
    /// tried again by the next call.
    ///
    /// # Errors
    /// If the device fails, or the model's weights make a score that is no number.
    pub async fn next_token(&mut self) -> Result<u32> {
        let scores = self.scores()?.read::<f32>().await?;
        self.advance(&scores)
    }

    fn advance(&mut self, scores: &[f32]) -> Result<u32> {
        let token = self.sampling.choose(scores, self.made)?;
        self.made += 1;
        self.push(token)?;
        Ok(token)
    }

    /// What lies behind the first `len` tokens is to be read again.
    fn forget(&mut self, len: usize) {
        self.cache.iter_mut().for_each(|cache| cache.truncate(len));
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl Iterator for Generation<'_> {
    type Item = Result<u32>;

    /// [`Generation::next_token`], blocking the thread: it waits in the driver, which takes less time than to be woken.
    fn next(&mut self) -> Option<Result<u32>> {
        let scores = self.scores().and_then(|scores| scores.to_vec::<f32>());
        Some(scores.and_then(|scores| self.advance(&scores)))
    }
}
