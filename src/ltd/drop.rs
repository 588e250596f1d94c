//! The ways to drop tokens in training that a run chooses from.

use std::ops::Range;

use super::{LayerTokens, Layers, RandomLtd, SampleKey, Stage, sample_kept_batch};
use crate::error::{Error, Result};
use crate::nn::{Extent, Span};

const OP: &str = "token_drop";

/// One random set of R tokens of each sample, drawn afresh at each step.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct Subset {
    pub(super) kept: usize,
    keep_prefix_tokens: usize,
    pub(super) until: u64,
    seed: u64,
}

impl Subset {
    fn new(kept: usize, keep_prefix_tokens: usize) -> Result<Self> {
        if kept <= keep_prefix_tokens || u32::try_from(kept).is_err() {
            let expected =
                format!("above the {keep_prefix_tokens} leading tokens that are always kept, and below 2^32");
            return Err(Error::argument(OP, "kept", expected, kept));
        }
        Ok(Subset { kept, keep_prefix_tokens, until: u64::MAX, seed: 0 })
    }

    /// `share` of the tokens behind the prefix.
    fn share(share: f64, tokens: usize, keep_prefix: usize) -> Result<Self> {
        if !(share > 0.0 && share < 1.0) {
            return Err(Error::argument(OP, "share", "above 0 and below 1", share));
        }
        let others = tokens.saturating_sub(keep_prefix);
        if others == 0 {
            return Err(Error::argument(OP, "tokens", format!("above the {keep_prefix} that are always kept"), tokens));
        }
        // 0.29 of 100 is a little less than 29 as a product of floats.
        Self::new(keep_prefix + ((share * others as f64 + 1e-9) as usize).max(1), keep_prefix)
    }

    /// Whether it drops tokens of `extent`, and none of the prefix where they leave for good.
    fn check(&self, extent: Extent, leaves: bool) -> Result<()> {
        let Extent { tokens, prefix, .. } = extent;
        if self.kept >= tokens {
            return Err(Error::argument(OP, "kept", format!("below the full length, {tokens}"), self.kept));
        }
        if self.until == 0 {
            return Err(Error::argument(OP, "until", "at least 1: before step 0 nothing is dropped", 0));
        }
        if leaves && self.keep_prefix_tokens < prefix {
            let expected = format!("at least {prefix}, the model's tokens before the patches");
            return Err(Error::argument(OP, "keep_prefix", expected, self.keep_prefix_tokens));
        }
        Ok(())
    }

    fn kept_length(&self, step: u64, tokens: usize) -> usize {
        if step < self.until { self.kept.min(tokens) } else { tokens }
    }

    fn stages(&self, steps: u64, tokens: usize) -> Vec<Stage> {
        let starts = [0, self.until].map(|first_step| Stage { first_step, kept: self.kept_length(first_step, tokens) });
        let mut stages: Vec<Stage> = starts.into_iter().filter(|stage| stage.first_step < steps).collect();
        stages.dedup_by_key(|stage| stage.kept);
        stages
    }

    /// `block` tells the draws from those of others.
    fn draw(&self, block: u32, step: u64, tokens: usize, first_sample: u64, batch: usize) -> Result<Vec<u32>> {
        let first = SampleKey { seed: self.seed, step, block, sample: first_sample };
        sample_kept_batch(&first, batch, tokens, self.kept, self.keep_prefix_tokens)
    }
}

/// What [`PatchDrop`] and [`TokenBypass`] have in common.
macro_rules! subset_settings {
    () => {
        /// Drops nothing from optimiser step `step` on, so that a run ends at full length.
        pub fn with_until(mut self, step: u64) -> Self {
            self.subset.until = step;
            self
        }

        /// Sets the seed of the draws.
        pub fn with_seed(mut self, seed: u64) -> Self {
            self.subset.seed = seed;
            self
        }

        /// R while tokens are dropped.
        pub fn kept(&self) -> usize {
            self.subset.kept
        }

        /// How many leading tokens are never dropped.
        pub fn keep_prefix_tokens(&self) -> usize {
            self.subset.keep_prefix_tokens
        }

        /// The first step at full length; 2⁶⁴−1 if there is none.
        pub fn until(&self) -> u64 {
            self.subset.until
        }

        /// The seed of the draws.
        pub fn seed(&self) -> u64 {
            self.subset.seed
        }
    };
}

/// PatchDropout: of each sample one random set of R tokens goes through the whole model, from the position embedding on;
/// the others leave it. Every step draws afresh; in evaluation nothing is dropped.
/// Source: Liu et al., 2022, arXiv 2208.07220.
///
/// The draws are those of [`super::sample_kept`] with block number 2³²−1, which no block of a model has.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PatchDrop {
    pub(super) subset: Subset,
}

impl PatchDrop {
    /// Keeps `kept` tokens of each sample, among them always the first `keep_prefix` (1 with a class token), at every step,
    /// with seed 0.
    ///
    /// # Errors
    /// [`Error::Argument`] unless more tokens are kept than the prefix, and fewer than 2³².
    pub fn new(kept: usize, keep_prefix: usize) -> Result<Self> {
        Ok(PatchDrop { subset: Subset::new(kept, keep_prefix)? })
    }

    /// Keeps `share` of the patches of samples of `tokens` tokens, rounded down but at least one, behind the first
    /// `keep_prefix` tokens.
    ///
    /// # Errors
    /// [`Error::Argument`] unless `share` is above 0 and below 1 and there are more tokens than the prefix.
    pub fn share(share: f64, tokens: usize, keep_prefix: usize) -> Result<Self> {
        Ok(PatchDrop { subset: Subset::share(share, tokens, keep_prefix)? })
    }

    subset_settings!();
}

/// TokenBypass: of each sample one random set of R tokens goes through the middle of the model; the others pass all those
/// blocks and rejoin behind them. Every step draws afresh; in evaluation nothing is dropped.
/// Source: Hou et al., 2022, arXiv 2203.13240, where the losses of late at each token decide
/// ([`TokenBypass::by_importance`]); Yao et al., 2022, compare random-LTD with it.
///
/// The draws are those of [`super::sample_kept`] with the number of the first of these blocks.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TokenBypass {
    pub(super) subset: Subset,
    blocks: Range<usize>,
    /// Left out where it is not so: states of runs that were made before it could be name nothing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    by_importance: bool,
}

impl TokenBypass {
    /// Keeps `kept` tokens of each sample in `blocks`, counted from 0, among them always the first `keep_prefix`, at every step,
    /// with seed 0.
    ///
    /// # Errors
    /// [`Error::Argument`] unless there is a block, more tokens are kept than the prefix, and fewer than 2³².
    pub fn new(blocks: Range<usize>, kept: usize, keep_prefix: usize) -> Result<Self> {
        if blocks.is_empty() || u32::try_from(blocks.end).is_err() {
            return Err(Error::argument(OP, "blocks", "at least one, below 2^32", format_args!("{blocks:?}")));
        }
        Ok(TokenBypass { subset: Subset::new(kept, keep_prefix)?, blocks, by_importance: false })
    }

    /// Keeps the most important tokens behind the prefix instead of random ones, as the task tells them
    /// (`Task::importance` in `train`); of equals the first.
    pub fn by_importance(mut self) -> Self {
        self.by_importance = true;
        self
    }

    /// Whether the most important tokens are kept, and none is drawn.
    pub fn is_by_importance(&self) -> bool {
        self.by_importance
    }

    /// The blocks that not all tokens go through.
    pub fn blocks(&self) -> Range<usize> {
        self.blocks.clone()
    }

    subset_settings!();
}

/// Which tokens a training run drops.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub enum TokenDrop {
    /// None: full length.
    #[default]
    None,
    /// Some in each LTD block, which the next block sees again.
    RandomLtd(RandomLtd),
    /// Some for the whole depth.
    PatchDrop(PatchDrop),
    /// Some for all blocks in the middle.
    TokenBypass(TokenBypass),
}

impl From<Option<RandomLtd>> for TokenDrop {
    fn from(ltd: Option<RandomLtd>) -> Self {
        ltd.map_or(TokenDrop::None, TokenDrop::RandomLtd)
    }
}

impl From<RandomLtd> for TokenDrop {
    fn from(ltd: RandomLtd) -> Self {
        TokenDrop::RandomLtd(ltd)
    }
}

impl From<PatchDrop> for TokenDrop {
    fn from(drop: PatchDrop) -> Self {
        TokenDrop::PatchDrop(drop)
    }
}

impl From<TokenBypass> for TokenDrop {
    fn from(drop: TokenBypass) -> Self {
        TokenDrop::TokenBypass(drop)
    }
}

impl TokenDrop {
    /// Checks the settings against a model of `extent`.
    ///
    /// # Errors
    /// [`Error::Argument`] if nothing would ever be dropped, random-LTD is for another depth, or patch dropping could drop
    /// a token that is no patch.
    pub fn check(&self, extent: Extent) -> Result<()> {
        let Extent { depth, tokens, .. } = extent;
        match self {
            TokenDrop::None => Ok(()),
            TokenDrop::RandomLtd(ltd) => {
                ltd.check_length(tokens)?;
                if ltd.total_blocks() != depth {
                    let expected = format!("{depth}, the model's depth");
                    return Err(Error::argument("random-LTD", "total_blocks", expected, ltd.total_blocks()));
                }
                Ok(())
            }
            TokenDrop::PatchDrop(drop) => drop.subset.check(extent, true),
            TokenDrop::TokenBypass(drop) => {
                if drop.blocks.end > depth {
                    let expected = format!("below {depth}, the model's depth");
                    return Err(Error::argument(OP, "blocks", expected, format_args!("{:?}", drop.blocks)));
                }
                drop.subset.check(extent, false)
            }
        }
    }

    /// R at optimiser step `step`: of `tokens` tokens, those that the blocks that drop keep. It never falls.
    pub fn kept_length(&self, step: u64, tokens: usize) -> usize {
        match self {
            TokenDrop::None => tokens,
            TokenDrop::RandomLtd(ltd) => ltd.plan(step, tokens).kept(),
            TokenDrop::PatchDrop(PatchDrop { subset }) | TokenDrop::TokenBypass(TokenBypass { subset, .. }) => {
                subset.kept_length(step, tokens)
            }
        }
    }

    /// All distinct kept lengths that steps `0..steps` visit, ascending, with the first step of each.
    pub fn stages(&self, steps: u64, tokens: usize) -> Vec<Stage> {
        match self {
            TokenDrop::None => vec![Stage { first_step: 0, kept: tokens }],
            TokenDrop::RandomLtd(ltd) => ltd.stages(steps, tokens),
            TokenDrop::PatchDrop(PatchDrop { subset }) | TokenDrop::TokenBypass(TokenBypass { subset, .. }) => {
                subset.stages(steps, tokens)
            }
        }
    }

    /// L, and how many of the blocks drop tokens.
    pub(super) fn layers(&self, extent: Extent) -> Layers {
        let depth = extent.depth as u64;
        let ltd = match self {
            TokenDrop::None => 0,
            TokenDrop::RandomLtd(ltd) => ltd.layers().ltd,
            TokenDrop::PatchDrop(_) => depth,
            TokenDrop::TokenBypass(drop) => drop.blocks.len() as u64,
        };
        Layers { total: depth, ltd }
    }

    /// Layer tokens that step `step` consumes in a model of `extent` with a global batch of `batch` samples.
    pub fn layer_tokens(&self, step: u64, batch: u64, extent: Extent) -> LayerTokens {
        let tokens = extent.tokens;
        self.layers(extent).layer_tokens(batch, self.kept_length(step, tokens) as u64, tokens as u64)
    }

    /// Layer-averaged tokens ([`Layers::averaged_tokens`]) of `samples` samples at step `step` in a model of `extent`.
    pub fn averaged_tokens(&self, step: u64, samples: u64, extent: Extent) -> u64 {
        let tokens = extent.tokens;
        let of_sample = self.layers(extent).averaged_tokens(self.kept_length(step, tokens) as u64, tokens as u64);
        samples.saturating_mul(of_sample)
    }

    /// The bypass whose tokens step `step` is to keep for their importance, of `tokens` tokens: nothing is to be drawn then.
    pub fn by_importance(&self, step: u64, tokens: usize) -> Option<&TokenBypass> {
        match self {
            TokenDrop::TokenBypass(drop) if drop.by_importance && self.kept_length(step, tokens) < tokens => Some(drop),
            _ => None,
        }
    }

    /// Draws the kept tokens of samples `first_sample..first_sample + batch` of step `step`, counted in the *global* batch, in
    /// a model of `extent`: for each span `u32[batch, R]`, ascending and distinct for each sample. No span where nothing is
    /// dropped.
    ///
    /// # Errors
    /// [`Error::Argument`] if the batch is empty or `batch * R` exceeds 2³²−1, or the tokens are kept for their importance
    /// ([`TokenDrop::by_importance`]).
    pub fn draw(&self, step: u64, extent: Extent, first_sample: u64, batch: usize) -> Result<Vec<Span<Vec<u32>>>> {
        let Extent { depth, tokens, .. } = extent;
        if self.kept_length(step, tokens) >= tokens {
            return Ok(Vec::new());
        }
        match self {
            TokenDrop::None => Ok(Vec::new()),
            TokenDrop::RandomLtd(ltd) => {
                let plan = ltd.plan(step, tokens);
                let span = |(block, drawn): (usize, Option<_>)| Some(Span::bypass(block..block + 1, drawn?));
                Ok(plan.draw(first_sample, batch)?.into_iter().enumerate().filter_map(span).collect())
            }
            TokenDrop::PatchDrop(drop) => {
                let drawn = drop.subset.draw(u32::MAX, step, tokens, first_sample, batch)?;
                Ok(vec![Span::leave(0, depth, drawn)])
            }
            TokenDrop::TokenBypass(drop) if drop.by_importance => {
                Err(Error::argument(OP, "drop", "one that draws at random", "TokenBypass by importance"))
            }
            TokenDrop::TokenBypass(drop) => {
                // `TokenBypass::new` holds them below 2³².
                let first = drop.blocks.start as u32;
                let drawn = drop.subset.draw(first, step, tokens, first_sample, batch)?;
                Ok(vec![Span::bypass(drop.blocks(), drawn)])
            }
        }
    }
}
