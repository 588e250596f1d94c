//! What dropping tokens saves, counted in layer tokens: one token through one block.

use std::ops::AddAssign;

/// How many blocks a model has, and how many of them drop tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layers {
    /// L.
    pub total: u64,
    /// |K|, at most L.
    pub ltd: u64,
}

impl Layers {
    /// Layer tokens of one optimiser step with a global batch of `batch` samples, of whose `tokens` tokens (n) the LTD
    /// blocks keep `kept` (r, all where it is more): `batch * (r * |K| + n * (L - |K|))`. The result saturates at 2⁶⁴−1.
    /// Source: `consumed_layer_tokens` in DeepSpeed's `data_routing/scheduler.py`.
    pub fn layer_tokens(self, batch: u64, kept: u64, tokens: u64) -> LayerTokens {
        LayerTokens {
            consumed: batch.saturating_mul(self.sample_tokens(kept.min(tokens), tokens)),
            full: batch.saturating_mul(self.sample_tokens(tokens, tokens)),
        }
    }

    /// Tokens of one sample, averaged over the layers and rounded down: `floor((n * (L - |K|) + r * |K|) / L)`.
    /// DeepSpeed's pretraining examples count these to drive the learning rate and to stop. 0 for a model of no layers.
    pub fn averaged_tokens(self, kept: u64, tokens: u64) -> u64 {
        self.sample_tokens(kept.min(tokens), tokens).checked_div(self.total).unwrap_or(0)
    }

    fn sample_tokens(self, kept: u64, tokens: u64) -> u64 {
        let plain = self.total.saturating_sub(self.ltd);
        kept.saturating_mul(self.ltd).saturating_add(tokens.saturating_mul(plain))
    }
}

/// Layer tokens consumed, beside what full length would have consumed. Sum the steps' with `+=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerTokens {
    /// What was consumed.
    pub consumed: u64,
    /// What the same steps consume without dropping.
    pub full: u64,
}

impl LayerTokens {
    /// The share saved against full length, 0 to 1; 0 before the first step.
    pub fn saved_share(self) -> f64 {
        if self.full == 0 { 0.0 } else { 1.0 - self.consumed as f64 / self.full as f64 }
    }
}

impl AddAssign for LayerTokens {
    fn add_assign(&mut self, step: Self) {
        self.consumed = self.consumed.saturating_add(step.consumed);
        self.full = self.full.saturating_add(step.full);
    }
}
