//! What the arms take: time, by that of a step at each of their lengths, and memory.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use wgrad::data::{Loader, LoaderOptions};
use wgrad::ltd::TokenDrop;

use crate::arms::{Arm, Kind};
use crate::ltd_drop::{KeptLength, Ltd};
use crate::runs::{Piece, Study};
use crate::study::step::seconds_a_step;

/// Times that each kind of step is timed.
const TURNS: usize = 3;

/// What a run takes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Cost {
    pub seconds: f64,
    /// The most that it holds of the device's memory in training.
    pub peak_bytes: u64,
}

/// Of each arm by name.
pub type Costs = BTreeMap<String, Cost>;

/// What tells a kind of step from others: adapters, sub-batches, the side, and what is dropped.
type Key = String;

pub fn measure(study: &Study<'_>, arms: &[Arm]) -> Result<Costs> {
    let mut steps: BTreeMap<Key, (&Arm, Piece)> = BTreeMap::new();
    let mut measured: BTreeMap<Key, Vec<Cost>> = BTreeMap::new();
    let stages: Vec<_> = arms.iter().map(|arm| stages(study, arm)).collect::<Result<_>>()?;
    for (arm, (key, piece)) in arms.iter().zip(&stages).flat_map(|(arm, stages)| stages.iter().map(move |s| (arm, s))) {
        steps.entry(key.clone()).or_insert((arm, piece.clone()));
    }
    for turn in 0..TURNS {
        eprintln!("step times: turn {} of {TURNS}, {} kinds of steps", turn + 1, steps.len());
        for (key, (arm, piece)) in &steps {
            measured.entry(key.clone()).or_default().push(cost_of(study, arm, piece)?);
        }
    }
    let median = |key: &Key| {
        let mut costs = measured.get(key).cloned().with_context(|| format!("{key} is not timed"))?;
        costs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        Ok::<_, anyhow::Error>(costs[costs.len() / 2])
    };
    let whole = |stages: &[(Key, Piece)]| {
        stages.iter().try_fold(Cost { seconds: 0.0, peak_bytes: 0 }, |sum, (key, piece)| {
            let step = median(key)?;
            let seconds = sum.seconds + step.seconds * piece.steps as f64;
            Ok::<_, anyhow::Error>(Cost { seconds, peak_bytes: sum.peak_bytes.max(step.peak_bytes) })
        })
    };
    arms.iter().zip(&stages).map(|(arm, stages)| Ok((arm.name.to_owned(), whole(stages)?))).collect()
}

/// A step of an arm, in memory that no other arm has left behind, whose larger buffers it would take.
fn cost_of(study: &Study<'_>, arm: &Arm, piece: &Piece) -> Result<Cost> {
    study.gpu.trim();
    study.gpu.reset_peak_memory();
    let seconds = seconds_of(study, arm, piece)?;
    Ok(Cost { seconds, peak_bytes: study.gpu.memory().peak_live })
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
