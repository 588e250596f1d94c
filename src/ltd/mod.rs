//! Random layerwise token dropping (random-LTD): how many tokens each step keeps, which ones, and what that saves.
//!
//! At a training step with kept length R below the full length T, each *LTD block* runs, for each sample on its own,
//! only R of the T positions, drawn uniformly without replacement and sorted; the other rows pass by unchanged. The next
//! LTD block draws afresh. In evaluation, and once R reaches T, the model is the plain one.
//! Source: Yao et al., 2022, arXiv 2211.11586.
//!
//! [`RandomLtd`] holds the settings and is stateless: everything follows from the optimiser step, so that resuming a run
//! needs no state but the step. Once per step it makes a [`StepPlan`], which says R and draws the indices:
//!
//! ```
//! use wgrad::ltd::{RandomLtd, Schedule};
//!
//! # fn main() -> wgrad::Result<()> {
//! // A ViT of 12 blocks: blocks 1 to 10 keep 32 of 197 tokens at first and all of them from step 3,000.
//! let ltd = RandomLtd::new(12, Schedule::linear(32, 197, 3000, 8)?)?.with_keep_prefix(1)?.with_seed(42);
//! let plan = ltd.plan(0, 197);
//! assert_eq!(plan.kept(), 32);
//! let indices = plan.draw(0, 8)?; // one entry a block; u32[8, 32] in an LTD block
//! assert!(indices[0].is_none() && indices[11].is_none());
//! assert_eq!(indices[1].as_ref().map(Vec::len), Some(8 * 32));
//! # Ok(())
//! # }
//! ```
//!
//! In evaluation no plan is made: every block gets no indices.
//!
//! [`TokenDrop`] is the choice between it, [`PatchDrop`], [`TokenBypass`] and full length.

mod accounting;
mod budget;
mod drop;
mod growth;
mod indices;
mod schedule;

pub use accounting::{LayerTokens, Layers};
pub use budget::{BudgetEnd, LayerTokenPlan};
pub use drop::{PatchDrop, TokenBypass, TokenDrop};
pub use indices::{SampleKey, sample_kept, sample_kept_batch};
pub use schedule::{Schedule, Stage};

use crate::error::{Error, Result};

/// The settings of a random-LTD run.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RandomLtd {
    total_blocks: usize,
    ltd_blocks: Vec<usize>,
    schedule: Schedule,
    keep_prefix_tokens: usize,
    seed: u64,
}

impl RandomLtd {
    /// random-LTD in all of `total_blocks` blocks but the first and the last, without protected tokens, seed 0.
    ///
    /// # Errors
    /// [`Error::Argument`] if there are fewer than three blocks, since none would drop tokens, or more than 2³²−1.
    pub fn new(total_blocks: usize, schedule: Schedule) -> Result<Self> {
        if total_blocks < 3 || u32::try_from(total_blocks).is_err() {
            return Err(Error::argument("random_ltd", "total_blocks", "3 to 4294967295", total_blocks));
        }
        let ltd_blocks = (1..total_blocks - 1).collect();
        Ok(RandomLtd { total_blocks, ltd_blocks, schedule, keep_prefix_tokens: 0, seed: 0 })
    }

    /// random-LTD in these blocks of `total_blocks`, whose order does not matter. For models of one or two blocks, of which
    /// [`RandomLtd::new`] has none, too.
    ///
    /// # Errors
    /// [`Error::Argument`] if there are no blocks or more than 2³²−1, and as [`RandomLtd::with_blocks`].
    pub fn in_blocks(total_blocks: usize, blocks: &[usize], schedule: Schedule) -> Result<Self> {
        if total_blocks == 0 || u32::try_from(total_blocks).is_err() {
            return Err(Error::argument("random_ltd", "total_blocks", "1 to 4294967295", total_blocks));
        }
        let ltd = RandomLtd { total_blocks, ltd_blocks: Vec::new(), schedule, keep_prefix_tokens: 0, seed: 0 };
        ltd.with_blocks(blocks)
    }

    /// Replaces the set of blocks that drop tokens. The order does not matter.
    ///
    /// # Errors
    /// [`Error::Argument`] if the set is empty, names a block twice, or a block the model has not.
    pub fn with_blocks(mut self, blocks: &[usize]) -> Result<Self> {
        let mut blocks = blocks.to_vec();
        blocks.sort_unstable();
        let distinct = blocks.windows(2).all(|pair| pair[0] < pair[1]);
        let in_range = blocks.last().is_some_and(|&last| last < self.total_blocks);
        if !distinct || !in_range {
            let expected = format!("at least one block, each once and below {}", self.total_blocks);
            return Err(Error::argument("random_ltd", "blocks", expected, format_args!("{blocks:?}")));
        }
        self.ltd_blocks = blocks;
        Ok(self)
    }

    /// Always keeps the first `tokens` positions, which count towards the kept length: 1 protects a class token.
    /// 0, the default, is the published algorithm.
    ///
    /// # Errors
    /// [`Error::Argument`] if the schedule starts with fewer tokens than that.
    pub fn with_keep_prefix(mut self, tokens: usize) -> Result<Self> {
        let shortest = self.schedule.kept_length(0);
        if tokens > shortest {
            let expected = format!("at most the first kept length, {shortest}");
            return Err(Error::argument("random_ltd", "keep_prefix_tokens", expected, tokens));
        }
        self.keep_prefix_tokens = tokens;
        Ok(self)
    }

    /// Replaces the schedule of kept lengths.
    ///
    /// # Errors
    /// [`Error::Argument`] if it starts with fewer tokens than the prefix that is always kept.
    pub fn with_schedule(self, schedule: Schedule) -> Result<Self> {
        let prefix = self.keep_prefix_tokens;
        RandomLtd { schedule, ..self }.with_keep_prefix(prefix)
    }

    /// Sets the seed of the draws.
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Checks the settings against the model's full length T, `tokens`.
    ///
    /// # Errors
    /// [`Error::Argument`] if the schedule starts at T or above it, so that no token would ever be dropped.
    pub fn check_length(&self, tokens: usize) -> Result<()> {
        let first = self.schedule.kept_length(0);
        if first >= tokens {
            let expected = format!("below the full length, {tokens}, at its first step");
            return Err(Error::argument("random_ltd", "schedule", expected, first));
        }
        Ok(())
    }

    /// What step `step` (the optimiser step, from 0; the same for all its micro-batches) does to `tokens` tokens.
    pub fn plan(&self, step: u64, tokens: usize) -> StepPlan<'_> {
        StepPlan { ltd: self, step, tokens, kept: self.schedule.kept_length(step).min(tokens) }
    }

    /// All distinct kept lengths that steps `0..steps` visit at full length `tokens`, with the first step of each: the
    /// shapes for which kernels must be chosen before step 0.
    pub fn stages(&self, steps: u64, tokens: usize) -> Vec<Stage> {
        self.schedule.stages(steps, tokens)
    }

    /// L, the number of blocks in the model.
    pub fn total_blocks(&self) -> usize {
        self.total_blocks
    }

    /// K, the blocks that drop tokens, ascending.
    pub fn ltd_blocks(&self) -> &[usize] {
        &self.ltd_blocks
    }

    /// L and |K|, as the accounting needs them.
    pub fn layers(&self) -> Layers {
        Layers { total: self.total_blocks as u64, ltd: self.ltd_blocks.len() as u64 }
    }

    /// The schedule of kept lengths.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// How many leading positions are never dropped.
    pub fn keep_prefix_tokens(&self) -> usize {
        self.keep_prefix_tokens
    }

    /// The seed of the draws.
    pub fn seed(&self) -> u64 {
        self.seed
    }
}

/// One optimiser step under random-LTD: its kept length, and its draws.
#[derive(Clone, Copy, Debug)]
pub struct StepPlan<'a> {
    ltd: &'a RandomLtd,
    step: u64,
    tokens: usize,
    kept: usize,
}

impl StepPlan<'_> {
    /// The optimiser step.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// T, the full length.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// R, the kept length, at most T.
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// Whether nothing is dropped: the plain model.
    pub fn is_full(&self) -> bool {
        self.kept >= self.tokens
    }

    /// Draws the kept tokens of samples `first_sample..first_sample + batch`, counted in the *global* batch of this
    /// step, for every block of the model: entry `b` is `None` where block `b` runs at full length, else `u32[batch, R]`,
    /// ascending and distinct in each row. Splitting a batch in parts gives the same rows.
    ///
    /// # Errors
    /// [`Error::Argument`] if the batch is empty or `batch * R` exceeds 2³²−1.
    pub fn draw(&self, first_sample: u64, batch: usize) -> Result<Vec<Option<Vec<u32>>>> {
        (0..self.ltd.total_blocks).map(|block| self.draw_block(block, first_sample, batch)).collect()
    }

    /// [`StepPlan::draw`] for one block, as recomputing its forward pass needs it.
    ///
    /// # Errors
    /// As for [`StepPlan::draw`].
    pub fn draw_block(&self, block: usize, first_sample: u64, batch: usize) -> Result<Option<Vec<u32>>> {
        if self.is_full() || self.ltd.ltd_blocks.binary_search(&block).is_err() {
            return Ok(None);
        }
        // An LTD block is below total_blocks, which `RandomLtd::new` holds below 2³².
        let first = SampleKey { seed: self.ltd.seed, step: self.step, block: block as u32, sample: first_sample };
        sample_kept_batch(&first, batch, self.tokens, self.kept, self.ltd.keep_prefix_tokens).map(Some)
    }

    /// Layer tokens that this step consumes with a global batch of `batch` samples.
    pub fn layer_tokens(&self, batch: u64) -> LayerTokens {
        self.ltd.layers().layer_tokens(batch, self.kept as u64, self.tokens as u64)
    }
}
