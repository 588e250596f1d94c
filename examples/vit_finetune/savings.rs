//! What random-LTD saves, where that is little: so that nobody takes one run for all it can do.

use wgrad::ltd::{LayerTokens, RandomLtd, Schedule, TokenDrop};

/// Share of the layer tokens below which something is said.
const LITTLE: f64 = 0.15;

/// For the end of a run of so many steps that drops tokens so.
pub fn told(drop: &TokenDrop, tokens: usize, steps: u64) -> wgrad::Result<Option<String>> {
    let TokenDrop::RandomLtd(ltd) = drop else { return Ok(None) };
    let own = saved(ltd, tokens, steps);
    if own >= LITTLE {
        return Ok(None);
    }
    let start = ltd.plan(0, tokens).kept();
    let quarter = tokens.div_ceil(4);
    let lower =
        saved(&with_schedule(ltd, Schedule::linear(quarter, tokens, (steps * 4 / 5).max(1), 1)?)?, tokens, steps);
    // DeepSpeed's recipe for CIFAR, whose published log has 24.3 % less time.
    let published = saved(&RandomLtd::new(12, Schedule::fixed_linear(32, 197, 3910, 8)?)?, 197, 5474);
    let [own, lower, published] = [own, lower, published].map(|share| 100.0 * share);
    Ok(Some(format!(
        "random-LTD saves {own:.1} % of the layer tokens here, and no more time than that: it keeps {start} of {tokens} tokens at \
         first. From {quarter} tokens (--ltd-start 0.25) it would save {lower:.1} %, and cost accuracy (docs/study.md). Its place are longer \
         sequences and trainings: from 32 of 197 tokens in 12 blocks, as its authors finetune a ViT-B in 14 epochs, it saves \
         {published:.1} %, by their log in 24 % less time."
    )))
}

/// The same blocks on another schedule.
fn with_schedule(ltd: &RandomLtd, schedule: Schedule) -> wgrad::Result<RandomLtd> {
    RandomLtd::new(ltd.total_blocks(), schedule)?.with_blocks(ltd.ltd_blocks())
}

/// The share of the layer tokens of so many steps.
fn saved(ltd: &RandomLtd, tokens: usize, steps: u64) -> f64 {
    let mut sum = LayerTokens::default();
    (0..steps).for_each(|step| sum += ltd.plan(step, tokens).layer_tokens(1));
    sum.saved_share()
}
