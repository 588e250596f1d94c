//! Text from a model: one token after the other, each chosen by the scores behind those before it.

use rand_pcg::Pcg32;
use rand_pcg::rand_core::Rng;

use super::Gpt2;
use super::config::OP;
use crate::autograd::no_grad;
use crate::error::{Error, Result};
use crate::hash::absorb;
use crate::ops::KeyValues;
use crate::tensor::Tensor;

/// How the next token is chosen from its scores, in this order: the temperature, then `top_k`, then `top_p`, then a draw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the scores: below 1 the likely tokens become likelier. At 0 it is always the likeliest (greedy), and nothing is
    /// drawn.
    pub temperature: f32,
    /// Draws from so many of the likeliest tokens alone.
    pub top_k: Option<usize>,
    /// Draws from the fewest of the likeliest tokens whose probabilities reach this together (nucleus sampling, Holtzman et al.,
    /// 2020). 1 leaves none out.
    pub top_p: f32,
    /// What is drawn depends on this and on the number of the token alone.
    pub seed: u64,
}

impl Default for Sampling {
    /// From the model's own probabilities.
    fn default() -> Self {
        Sampling { temperature: 1.0, top_k: None, top_p: 1.0, seed: 0 }
    }
}

impl Sampling {
    /// Always the likeliest token.
    pub const GREEDY: Sampling = Sampling { temperature: 0.0, top_k: None, top_p: 1.0, seed: 0 };

    fn check(&self) -> Result<()> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return Err(Error::argument(OP, "temperature", "at least 0", self.temperature));
        }
        if self.top_k == Some(0) {
            return Err(Error::argument(OP, "top_k", "at least 1", 0));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::argument(OP, "top_p", "above 0 and at most 1", self.top_p));
        }
        Ok(())
    }

    /// Token number `number` by its scores, of which there is at least one.
    fn choose(&self, scores: &[f32], number: u64) -> Result<u32> {
        if let Some(score) = scores.iter().find(|score| !score.is_finite()) {
            return Err(Error::argument(OP, "scores of the next token", "finite", score));
        }
        let mut ids: Vec<u32> = (0..scores.len() as u32).collect();
        let score = |id: u32| scores[id as usize];
        // Of equals the first.
        let by_score = |a: &u32, b: &u32| score(*b).total_cmp(&score(*a)).then(a.cmp(b));
        if self.temperature == 0.0 {
            return Ok(ids.into_iter().min_by(by_score).unwrap_or_default());
        }
        if self.top_k.is_some() || self.top_p < 1.0 {
            ids.sort_unstable_by(by_score);
            ids.truncate(self.top_k.unwrap_or(usize::MAX));
        }
        let largest = ids.iter().map(|id| score(*id)).fold(f32::NEG_INFINITY, f32::max);
        let weight = |id: &u32| (f64::from(score(*id) - largest) / f64::from(self.temperature)).exp();
        let weights: Vec<f64> = ids.iter().map(weight).collect();
        let nucleus = f64::from(self.top_p) * weights.iter().sum::<f64>();
        let last = if self.top_p < 1.0 { place(&weights, |sum| sum >= nucleus) } else { weights.len() - 1 };
        let kept = &weights[..=last];
        let mut rng = Pcg32::new(absorb(absorb(0, self.seed), number), 0);
        // In 0..1, in steps of 2⁻³².
        let drawn = f64::from(rng.next_u32()) / 4_294_967_296.0 * kept.iter().sum::<f64>();
        Ok(ids[place(kept, |sum| sum > drawn)])
    }
}

/// Where the running sum of the weights is first enough; the last place if rounding keeps it from that.
fn place(weights: &[f64], is_enough: impl Fn(f64) -> bool) -> usize {
    let mut sum = 0.0;
    let found = weights.iter().position(|weight| {
        sum += weight;
        is_enough(sum)
    });
    found.unwrap_or(weights.len().saturating_sub(1))
}

/// A text in the making: an iterator over its next tokens, without an end of its own. Stop it at [`super::Gpt2Config::eos_token_id`]
/// or wherever it is enough.
///
/// The prompt goes through the model in one pass, then each token by itself beside the keys and values of those before it. When
/// the model's positions are used up, the latter half of them is read again as a prompt, and what lies before is forgotten.
///
/// ```no_run
/// # fn main() -> wgrad::Result<()> {
/// # let gpu = wgrad::Gpu::new()?;
/// use wgrad::models::gpt2::{Gpt2, Gpt2Config, Sampling};
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

    /// The next token, for programs that cannot block: it is chosen when the device has its scores.
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

    /// Blocks until the device has the scores. What failed is tried again by the next call.
    fn next(&mut self) -> Option<Result<u32>> {
        let scores = self.scores().and_then(|scores| scores.to_vec::<f32>());
        Some(scores.and_then(|scores| self.advance(&scores)))
    }
}
