//! What a run comes to, told beforehand from its settings: the layer tokens of so many steps, where a budget of tokens ends, and
//! what the LayerToken learning rate reckons with.

use super::{LayerTokens, PatchDrop, Stage, TokenBypass, TokenDrop};
use crate::error::{Error, Result};
use crate::nn::Extent;

const OP: &str = "token budget";

/// Where a run ends that stops once it has consumed a budget of layer-averaged tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetEnd {
    /// Optimiser steps, the last of which may be cut short: a run of whole steps has so many.
    pub steps: u64,
    /// Micro-batches. Where they are no multiple of those of a step, a run that looks after each of them ends within a step.
    pub micro_batches: u64,
    /// Layer-averaged tokens after the last of these micro-batches: the budget, or somewhat more.
    pub tokens: u64,
}

/// The layer tokens that the LayerToken learning rate reckons with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerTokenPlan {
    /// Those of the whole run, with the growth of the kept length taken as a straight line: N_total. The real length is a staircase
    /// below that line, so a run consumes somewhat fewer.
    pub total: f64,
    /// Those of the warm-up, counted at full length: W.
    pub warmup: f64,
}

impl TokenDrop {
    /// The stages of steps `0..steps`, each with the number of its steps.
    fn lasting(&self, steps: u64, tokens: usize) -> impl Iterator<Item = (Stage, u64)> {
        let stages = self.stages(steps, tokens);
        let ends: Vec<u64> = stages.iter().skip(1).map(|stage| stage.first_step).chain([steps]).collect();
        stages.into_iter().zip(ends).map(|(stage, end)| (stage, end - stage.first_step))
    }

    /// Layer tokens that the steps before step `step` consume, each with a global batch of `batch` samples, in a model of
    /// `extent`.
    pub fn layer_tokens_before(&self, step: u64, batch: u64, extent: Extent) -> LayerTokens {
        let (layers, mut sum) = (self.layers(extent), LayerTokens::default());
        for (stage, steps) in self.lasting(step, extent.tokens) {
            sum += layers.layer_tokens(batch.saturating_mul(steps), stage.kept as u64, extent.tokens as u64);
        }
        sum
    }

    /// Where a run ends that stops once `budget` layer-averaged tokens ([`super::Layers::averaged_tokens`]) are consumed, as DeepSpeed's
    /// pretraining examples do: their sum is looked at after each micro-batch of `samples`, of which `accumulate` are an
    /// optimiser step; the kept length changes with the step.
    ///
    /// # Errors
    /// [`Error::Argument`] if one of the numbers is 0, or the model of `extent` has no block.
    pub fn budget_end(&self, budget: u64, samples: u64, accumulate: u64, extent: Extent) -> Result<BudgetEnd> {
        let (layers, tokens) = (self.layers(extent), extent.tokens as u64);
        let numbers = [("budget", budget), ("samples", samples), ("accumulate", accumulate)];
        for (name, value) in numbers.into_iter().chain([("depth", layers.total), ("tokens", tokens)]) {
            if value == 0 {
                return Err(Error::argument(OP, name, "at least 1", 0));
            }
        }
        let (mut consumed, mut micro_batches) = (0u128, 0u128);
        for (stage, steps) in self.lasting(u64::MAX, extent.tokens) {
            let of_each = u128::from(samples) * u128::from(layers.averaged_tokens(stage.kept as u64, tokens));
            let needed = (u128::from(budget) - consumed).div_ceil(of_each);
            let count = needed.min(u128::from(steps) * u128::from(accumulate));
            (consumed, micro_batches) = (consumed + count * of_each, micro_batches + count);
            if consumed >= u128::from(budget) {
                break;
            }
        }
        let narrow = |count: u128| u64::try_from(count).unwrap_or(u64::MAX);
        let steps = narrow(micro_batches.div_ceil(u128::from(accumulate)));
        Ok(BudgetEnd { steps, micro_batches: narrow(micro_batches), tokens: narrow(consumed) })
    }

    /// What the LayerToken learning rate of a run of `total_tokens` raw tokens reckons with, of which `warmup_tokens` are its
    /// warm-up, at `batch` samples a step in a model of `extent`. With T and T_w those, n the full length, L blocks of which |K| drop
    /// tokens, r(x) the kept length after x raw tokens as a straight line:
    ///
    /// ```text
    /// N_total = |K|/n · ∫ r(x) dx over 0..T  +  (L - |K|) · T
    /// W       = L · T_w
    /// ```
    ///
    /// Of a length that grows from r_s to n over R tokens, R up to T, that is
    /// `R·|K|·(n + r_s)/(2n) + R·(L − |K|) + (T − R)·L`, the paper's.
    /// PatchDropout and TokenBypass, which the paper does not have there, drop as many tokens from the first step on: W is what they consume in
    /// T_w tokens, so that the warm-up has as many steps as at full length.
    /// Source: Yao et al., 2022, arXiv 2211.11586.
    ///
    /// # Errors
    /// [`Error::Argument`] if there are no tokens, no samples or no blocks.
    pub fn layer_token_plan(
        &self,
        total_tokens: u64,
        warmup_tokens: u64,
        batch: u64,
        extent: Extent,
    ) -> Result<LayerTokenPlan> {
        let layers = self.layers(extent);
        for (name, value) in [("total_tokens", total_tokens), ("batch", batch), ("depth", layers.total)] {
            if value == 0 {
                return Err(Error::argument(OP, name, "at least 1", 0));
            }
        }
        let (full, total, depth) = (extent.tokens.max(1) as f64, total_tokens as f64, layers.total as f64);
        let per_step = batch as f64 * full;
        let kept = |raw: f64| match self {
            TokenDrop::None => full * raw,
            TokenDrop::RandomLtd(ltd) => ltd.schedule().growth(per_step).up_to(full).integral(raw),
            TokenDrop::PatchDrop(PatchDrop { subset }) | TokenDrop::TokenBypass(TokenBypass { subset, .. }) => {
                let dropping = raw.min(subset.until as f64 * per_step);
                dropping * (subset.kept as f64).min(full) + (raw - dropping) * full
            }
        };
        let dropped = layers.ltd as f64;
        let consumed = |raw: f64| dropped * kept(raw) / full + (depth - dropped) * raw;
        let warmup = warmup_tokens as f64;
        let warmup = match self {
            TokenDrop::None | TokenDrop::RandomLtd(_) => depth * warmup,
            TokenDrop::PatchDrop(_) | TokenDrop::TokenBypass(_) => consumed(warmup),
        };
        Ok(LayerTokenPlan { total: consumed(total), warmup })
    }
}
