//! A few steps of a model that is thrown away.

use std::time::Instant;

use anyhow::Result;
use wgrad::data::{Loader, Position, Source};
use wgrad::gpu::Gpu;
use wgrad::train::{Task, TrainSettings, Trainer};

/// Steps, and how many of them are not timed.
const STEPS: (usize, usize) = (8, 2);

/// Trains for a few steps, so that every kernel is compiled before a run is timed. Returns the seconds of a step.
pub fn run<T, S>(gpu: &Gpu, task: T, settings: TrainSettings, loader: &Loader<S>) -> Result<f64>
where
    T: Task,
    S: Source<Batch = T::Batch>,
{
    let (steps, untimed) = STEPS;
    let mut trainer = Trainer::new(task, settings)?;
    let mut started = Instant::now();
    for (i, batch) in loader.batches_from(Position::default())?.take(steps).enumerate() {
        if i == untimed {
            trainer.finish()?;
            started = Instant::now();
        }
        trainer.step(&batch?)?;
    }
    trainer.finish()?;
    gpu.trim();
    Ok(started.elapsed().as_secs_f64() / (steps - untimed) as f64)
}
