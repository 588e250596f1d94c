//! What a step takes. The runs of a study take hours, over which a machine's speed changes; times that are taken in turns, within
//! a few minutes, tell its arms apart.

use std::time::Instant;

use anyhow::{Result, anyhow};
use wgrad::data::{Loader, Position, Source};
use wgrad::train::{Task, TrainSettings, Trainer};

/// Timed steps in a turn, after one that is not.
const STEPS: usize = 4;

/// What a step of a new trainer takes.
pub fn seconds_a_step<T, S>(task: T, settings: TrainSettings, loader: &Loader<S>) -> Result<f64>
where
    T: Task,
    S: Source<Batch = T::Batch>,
{
    let mut trainer = Trainer::new(task, settings)?;
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
