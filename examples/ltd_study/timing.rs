//! What the arms take, by the times of a step at each of their lengths.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result};
use wgrad::data::{Loader, LoaderOptions};
use wgrad::ltd::TokenDrop;

use crate::arms::{Arm, Kind};
use crate::ltd_drop::{KeptLength, Ltd};
use crate::runs::{Piece, Study};
use crate::study::step::seconds_a_step;

/// Times that each kind of step is timed.
const TURNS: usize = 3;

/// Seconds of a whole run, of each arm by name.
pub type Times = BTreeMap<String, f64>;

/// What tells a kind of step from others: adapters, sub-batches, the side, and what is dropped.
type Key = String;

pub fn measure(study: &Study<'_>, arms: &[Arm]) -> Result<Times> {
    let mut steps: BTreeMap<Key, (&Arm, Piece)> = BTreeMap::new();
    let mut seconds: BTreeMap<Key, Vec<f64>> = BTreeMap::new();
    let stages: Vec<_> = arms.iter().map(|arm| stages(study, arm)).collect::<Result<_>>()?;
    for (arm, (key, piece)) in arms.iter().zip(&stages).flat_map(|(arm, stages)| stages.iter().map(move |s| (arm, s))) {
        steps.entry(key.clone()).or_insert((arm, piece.clone()));
    }
    for turn in 0..TURNS {
        eprintln!("step times: turn {} of {TURNS}, {} kinds of steps", turn + 1, steps.len());
        for (key, (arm, piece)) in &steps {
            let step = seconds_of(study, arm, piece)?;
            seconds.entry(key.clone()).or_default().push(step);
        }
    }
    let median = |key: &Key| {
        let mut values = seconds.get(key).cloned().with_context(|| format!("{key} is not timed"))?;
        values.sort_by(f64::total_cmp);
        Ok::<_, anyhow::Error>(values[values.len() / 2])
    };
    let whole = |stages: &[(Key, Piece)]| {
        stages.iter().try_fold(0.0, |sum, (key, piece)| Ok::<_, anyhow::Error>(sum + median(key)? * piece.steps as f64))
    };
    arms.iter().zip(&stages).map(|(arm, stages)| Ok((arm.name.to_owned(), whole(stages)?))).collect()
}

/// A step of an arm; of a probe all that comes before its steps too, spread over them.
fn seconds_of(study: &Study<'_>, arm: &Arm, piece: &Piece) -> Result<f64> {
    let trainee = study.trainee(arm, &study.pretrained(piece.side)?, 0)?;
    let settings = study.train_settings(piece, 0);
    if let Kind::Probe { .. } = arm.kind {
        let (task, started) = (study.probe(trainee.vit), Instant::now());
        let source = task.source(study.pictures(&study.splits.train)?)?;
        let features = started.elapsed().as_secs_f64();
        let loader = Loader::new(source, LoaderOptions::training(study.batch_size, 0))?;
        return Ok(features / piece.steps as f64 + seconds_a_step(task, settings, &loader)?);
    }
    seconds_a_step(study.task(trainee), settings, &study.loader(piece.side, 0)?)
}

/// An arm's run in stages, in each of which all steps are alike.
fn stages(study: &Study<'_>, arm: &Arm) -> Result<Vec<(Key, Piece)>> {
    let config = study.pretrained(study.side)?.config;
    let mut stages = Vec::new();
    for piece in study.pieces(arm, arm.rates()[1], arm.steps(study.steps), 0)? {
        let tokens = if piece.side == study.side { config.tokens() } else { 0 };
        let visited = piece.drop.stages(piece.steps, tokens);
        let ends = visited.iter().skip(1).map(|stage| stage.first_step).chain([piece.steps]);
        for (stage, end) in visited.iter().zip(ends) {
            let is_full = stage.kept >= tokens;
            let drop = match &piece.drop {
                _ if is_full => TokenDrop::None,
                TokenDrop::RandomLtd(_) => constant(stage.kept).in_run(config.depth, tokens, 1, 0)?,
                other => other.clone(),
            };
            let way = match &drop {
                TokenDrop::None if matches!(arm.kind, Kind::SubBatch { .. }) => "sub-batch",
                TokenDrop::None if matches!(arm.kind, Kind::Probe { .. }) => "probe",
                TokenDrop::None => "full",
                TokenDrop::RandomLtd(_) => "blocks",
                _ => "model",
            };
            let key = format!("{way} {} of {}, adapters {}", stage.kept, piece.side, arm.adapters);
            stages.push((key, Piece { drop, steps: end - stage.first_step, ..piece.clone() }));
        }
    }
    Ok(stages)
}

fn constant(kept: usize) -> Ltd {
    Ltd { length: KeptLength::Constant(kept), blocks: None, keep_prefix: 0 }
}
