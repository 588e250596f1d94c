//! What random-LTD saves, where that is little: so that nobody takes one run for all it can do.

use wgrad::ltd::{LayerTokens, RandomLtd, Schedule, TokenDrop};

/// Share of the layer tokens below which something is said.
const LITTLE: f64 = 0.15;

/// For the end of a run of so many steps that drops tokens so, as a configuration file says or the options.
pub fn told(drop: &TokenDrop, tokens: usize, steps: u64, by_file: bool) -> wgrad::Result<Option<String>> {
    let TokenDrop::RandomLtd(ltd) = drop else { return Ok(None) };
    let own = saved(ltd, tokens, steps);
    if own >= LITTLE {
        return Ok(None);
    }
    let start = ltd.plan(0, tokens).kept();
    let quarter = tokens.div_ceil(4);
    let setting = if by_file { format!("min_value {quarter}") } else { "--ltd-start 0.25".to_owned() };
    let lower = lower(ltd, quarter).map(|lower| (lower.plan(0, tokens).kept(), saved(&lower, tokens, steps)));
    let lower = lower.filter(|&(_, share)| share > own).map_or_else(String::new, |(first, share)| {
        let share = 100.0 * share;
        format!(" From {first} tokens ({setting}) it would save {share:.1} %, and cost accuracy (docs/study.md).")
    });
    // DeepSpeed's recipe for CIFAR, whose published log has 24.3 % less time.
    let published = saved(&RandomLtd::new(12, Schedule::fixed_linear(32, 197, 3910, 8)?)?, 197, 5474);
    let [own, published] = [own, published].map(|share| 100.0 * share);
    Ok(Some(format!(
        "random-LTD saves {own:.1} % of the layer tokens here, and about as much time (more where sequences are long): \
         it keeps {start} of {tokens} tokens at first.{lower} Its place are longer sequences and trainings: from 32 of \
         197 tokens in 12 blocks, as its authors finetune a ViT-B in 14 epochs, it saves {published:.1} %, by their \
         log in 24 % less time."
    )))
}

/// The same with `first` tokens at first, if that is fewer and there can be such a run.
fn lower(ltd: &RandomLtd, first: usize) -> Option<RandomLtd> {
    let schedule = match *ltd.schedule() {
        Schedule::Linear { start, end, steps, granularity, .. } if first < start => {
            Schedule::linear(first, end, steps, granularity)
        }
        Schedule::FixedLinear { min_value, max_value, require_steps, seq_per_step, .. } if first < min_value => {
            Schedule::fixed_linear(first, max_value, require_steps, seq_per_step)
        }
        _ => return None,
    };
    ltd.clone().with_schedule(schedule.ok()?).ok()
}

/// The share of the layer tokens of so many steps.
fn saved(ltd: &RandomLtd, tokens: usize, steps: u64) -> f64 {
    let mut sum = LayerTokens::default();
    (0..steps).for_each(|step| sum += ltd.plan(step, tokens).layer_tokens(1));
    sum.saved_share()
}
