//! The choice of a token by its scores.

use rand_pcg::Pcg32;
use rand_pcg::rand_core::Rng;

use crate::error::{Error, Result};
use crate::hash::absorb;

/// What errors call it.
const OP: &str = "sampling";

/// How the next token of a text is chosen from its scores, in this order: the temperature, then `top_k`, then `top_p`,
/// then a draw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the scores: below 1 the likely tokens become likelier. At 0 it is always the likeliest (greedy), and
    /// nothing is drawn.
    pub temperature: f32,
    /// Draws from so many of the likeliest tokens alone.
    pub top_k: Option<usize>,
    /// Draws from the fewest of the likeliest tokens whose probabilities reach this together (nucleus sampling,
    /// Holtzman et al., 2020). 1 leaves none out.
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

    /// Whether the settings are possible.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the first that is not.
    pub fn check(&self) -> Result<()> {
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

    /// Token number `number` of a text, from 0, by the scores of all tokens of the vocabulary, `f32[V]`, such as
    /// [`super::LanguageModel::logits`] gives. Equal scores, settings and numbers choose the same token; each number
    /// draws for itself.
    ///
    /// # Errors
    /// [`Error::Argument`] if a setting is impossible ([`Sampling::check`]), there are no scores, or one is not finite.
    pub fn choose(&self, scores: &[f32], number: u64) -> Result<u32> {
        self.check()?;
        if scores.is_empty() || u32::try_from(scores.len()).is_err() {
            return Err(Error::argument(OP, "number of scores", "1 to 2³² − 1", scores.len()));
        }
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
