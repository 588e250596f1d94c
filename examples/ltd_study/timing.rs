//! What a step takes at each length. The runs of a study take hours, over which a machine's speed changes; these times are taken
//! in turns, within a few minutes, and tell the arms apart. They are taken anew by every start of the program, so a table's
//! times are of one quiet hour if its last start was in one.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Result, anyhow};
use wgrad::data::Position;
use wgrad::ltd::{RandomLtd, Schedule, TokenDrop};
use wgrad::train::Trainer;

use crate::arms::{Arm, Kind};
use crate::runs::{Run, Study};
use crate::table::of;

/// Timed steps of a length in a turn, after one that is not.
const STEPS: usize = 4;
/// Times that each length is timed.
const TURNS: usize = 15;

/// How tokens are dropped, for the time of a step: by blocks or for the whole depth.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Blocks,
    Model,
}

/// Seconds a step, by way and R; medians over the turns.
pub struct StepTimes(BTreeMap<(Way, usize), f64>);

/// Of each arm by name: its time, by the times of a step, over full length's.
pub type TimeShares = BTreeMap<String, f64>;

impl StepTimes {
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

/// For the arms of a study, with the steps that their runs had.
pub fn shares(study: &Study<'_>, arms: &[Arm], runs: &[Run], times: &StepTimes) -> Result<TimeShares> {
    let (depth, tokens) = (study.config().depth, study.config().tokens());
    let full = times.run(&TokenDrop::None, study.steps(), tokens)?;
    let share = |arm: &Arm| {
        let steps = of(runs, &arm.name).first().map_or(study.steps(), |run| run.steps);
        let drop = arm.kind.drop(depth, tokens, steps, 0)?;
        Ok((arm.name.clone(), times.run(&drop, steps, tokens)? / full))
    };
    arms.iter().map(share).collect()
}

fn key(drop: &TokenDrop, kept: usize, tokens: usize) -> (Way, usize) {
    let is_whole = matches!(drop, TokenDrop::PatchDrop(_)) && kept < tokens;
    (if is_whole { Way::Model } else { Way::Blocks }, kept)
}

/// Times every length that the arms visit.
pub fn step_times(study: &Study<'_>, arms: &[Arm]) -> Result<StepTimes> {
    let (depth, tokens) = (study.config().depth, study.config().tokens());
    let mut wanted = BTreeMap::from([((Way::Blocks, tokens), TokenDrop::None)]);
    let reference = crate::arms::all(tokens);
    for arm in arms.iter().chain(&reference) {
        let drop = arm.kind.drop(depth, tokens, study.steps(), 0)?;
        for stage in drop.stages(study.steps(), tokens) {
            let constant = match arm.kind {
                Kind::PatchDrop { .. } => drop.clone(),
                _ if stage.kept < tokens => RandomLtd::new(depth, Schedule::constant(stage.kept)?)?.into(),
                _ => continue,
            };
            wanted.entry(key(&drop, stage.kept, tokens)).or_insert(constant);
        }
    }
    let mut times: BTreeMap<(Way, usize), Vec<f64>> = BTreeMap::new();
    for turn in 0..TURNS {
        eprintln!("step times: turn {} of {TURNS}", turn + 1);
        for (&key, drop) in &wanted {
            times.entry(key).or_default().push(seconds_a_step(study, drop)?);
        }
    }
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Ok(StepTimes(times.into_iter().map(|(key, values)| (key, median(values))).collect()))
}

fn seconds_a_step(study: &Study<'_>, drop: &TokenDrop) -> Result<f64> {
    let loader = study.loader(0)?;
    let mut trainer = Trainer::new(study.task(0)?, study.train_settings(drop.clone(), study.steps(), 0)?)?;
    let mut batches = loader.batches_from(Position::default())?;
    let mut next = || -> Result<_> { Ok(batches.next().ok_or_else(|| anyhow!("no data"))??) };
    trainer.step(&next()?)?;
    trainer.finish()?;
    let started = Instant::now();
    for _ in 0..STEPS {
        trainer.step(&next()?)?;
    }
    trainer.finish()?;
    Ok(started.elapsed().as_secs_f64() / STEPS as f64)
}
