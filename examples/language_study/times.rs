//! What a step takes at each length. The runs of a study take hours, over which a machine's speed changes; these times are taken
//! in turns, within a few minutes, before the first run, and tell the arms apart; a study that goes on keeps them.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use wgrad::ltd::{RandomLtd, Schedule, TokenDrop};

/// How tokens are dropped, for the time of a step.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// Block by block.
    Blocks,
    /// For the whole depth.
    Model,
    /// For the blocks in the middle.
    Middle,
}

/// Seconds a step, by way and R; medians over the turns.
pub struct StepTimes(BTreeMap<(Way, usize), f64>);

impl StepTimes {
    /// Times, so many times each, every length that runs of these arms visit, in a model of so many blocks and tokens.
    pub fn measure(
        arms: impl IntoIterator<Item = TokenDrop>,
        (depth, tokens): (usize, usize),
        steps: u64,
        turns: usize,
        seconds_a_step: impl Fn(&TokenDrop) -> Result<f64>,
    ) -> Result<Self> {
        let mut wanted = BTreeMap::from([((Way::Blocks, tokens), TokenDrop::None)]);
        for drop in arms {
            for stage in drop.stages(steps, tokens).into_iter().filter(|stage| stage.kept < tokens) {
                let constant = match &drop {
                    TokenDrop::RandomLtd(_) => RandomLtd::new(depth, Schedule::constant(stage.kept)?)?.into(),
                    other => other.clone(),
                };
                wanted.entry(key(&drop, stage.kept, tokens)).or_insert(constant);
            }
        }
        let mut times: BTreeMap<(Way, usize), Vec<f64>> = BTreeMap::new();
        for turn in 0..turns {
            eprintln!("step times: turn {} of {turns}", turn + 1);
            for (&key, drop) in &wanted {
                times.entry(key).or_default().push(seconds_a_step(drop)?);
            }
        }
        let median = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        Ok(StepTimes(times.into_iter().map(|(key, values)| (key, median(values))).collect()))
    }

    /// Of a whole run.
    pub fn run(&self, drop: &TokenDrop, steps: u64, tokens: usize) -> Result<f64> {
        let stages = drop.stages(steps, tokens);
        let ends = stages.iter().skip(1).map(|stage| stage.first_step).chain([steps]);
        stages.iter().zip(ends).try_fold(0.0, |sum, (stage, end)| {
            let step =
                self.0.get(&key(drop, stage.kept, tokens)).ok_or_else(|| anyhow!("R {} not timed", stage.kept))?;
            Ok(sum + step * (end - stage.first_step) as f64)
        })
    }

    /// Steps at full length that take so many seconds.
    pub fn steps_in(&self, seconds: f64, tokens: usize) -> Result<u64> {
        let step = self.0.get(&(Way::Blocks, tokens)).ok_or_else(|| anyhow!("full length not timed"))?;
        Ok(((seconds / step).round() as u64).max(1))
    }
}

fn key(drop: &TokenDrop, kept: usize, tokens: usize) -> (Way, usize) {
    let way = match drop {
        TokenDrop::PatchDrop(_) if kept < tokens => Way::Model,
        TokenDrop::TokenBypass(_) if kept < tokens => Way::Middle,
        _ => Way::Blocks,
    };
    (way, kept)
}
