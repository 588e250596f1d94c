//! What the arms take, by the times of a step.

use std::collections::BTreeMap;

use anyhow::Result;
use wgrad::ltd::TokenDrop;

use crate::arms::{Arm, all};
use crate::runs::{Run, Study};
use crate::study::results::of;
use crate::study::times::{StepTimes, seconds_a_step};

/// Times that each length is timed.
const TURNS: usize = 15;

/// Of each arm by name: its time, by the times of a step, over full length's.
pub type TimeShares = BTreeMap<String, f64>;

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

/// Times every length that the arms visit.
pub fn step_times(study: &Study<'_>, arms: &[Arm]) -> Result<StepTimes> {
    let (depth, tokens, steps) = (study.config().depth, study.config().tokens(), study.steps());
    let reference = all(tokens);
    let drops = arms.iter().chain(&reference).map(|arm| arm.kind.drop(depth, tokens, steps, 0));
    let drops: Vec<TokenDrop> = drops.collect::<Result<_>>()?;
    StepTimes::measure(drops, (depth, tokens), steps, TURNS, |drop| {
        seconds_a_step(study.task(0)?, study.train_settings(drop.clone(), steps, 0)?, &study.loader(0)?)
    })
}
