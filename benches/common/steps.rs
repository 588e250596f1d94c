//! Whole optimiser steps of a model on random data, timed.

#[path = "network.rs"]
mod network;

use std::time::Instant;

use anyhow::{Context, Result};
use wgrad::Gpu;
use wgrad::ltd::{RandomLtd, Schedule, TokenDrop};
use wgrad::nn::{Extent, Precision};
use wgrad::optim::{AdamW, LrSchedule, Rule};
use wgrad::train::{Pending, Rehearsal, Task, TrainSettings, Trainer, Workload, rehearse};

pub use network::Network;

/// A model with its trainer, and one batch.
pub struct Steps<T: Task> {
    /// There but for a moment in [`Steps::keep`].
    trainer: Option<Trainer<T>>,
    batch: T::Batch,
}

/// The same of any model.
pub trait Stepping {
    /// From now on keeps this many tokens in all blocks but the first and last; `None` is full length.
    fn keep(&mut self, kept: Option<usize>) -> Result<()>;

    /// One step whose results are still to come, with the milliseconds until it was recorded, and its dispatches.
    fn record(&mut self) -> Result<(Pending, f64, u64)>;

    /// One step, waiting for its loss.
    fn step(&mut self) -> Result<Step> {
        let started = Instant::now();
        let (pending, host_ms, dispatches) = self.record()?;
        pending.wait()?;
        Ok(Step { total_ms: started.elapsed().as_secs_f64() * 1e3, host_ms, dispatches })
    }
}

/// What one step took.
pub struct Step {
    /// From the first command to the loss on the host.
    pub total_ms: f64,
    /// Until the last command was recorded, with whatever submitting waits for.
    pub host_ms: f64,
    pub dispatches: u64,
}

/// How the steps are trained, at full length.
pub fn settings(precision: Precision, recompute_blocks: bool) -> Result<TrainSettings> {
    let plain = TrainSettings::new(Rule::AdamW(AdamW::default()), LrSchedule::constant(1e-4)?);
    Ok(TrainSettings { precision, recompute_blocks, ..plain })
}

/// What a step with this many tokens kept asks of the device: a rehearsal of one step.
fn rehearse_one<T: Task>(
    gpu: &Gpu,
    make: &dyn Fn(&Gpu) -> wgrad::Result<T>,
    extent: Extent,
    samples: usize,
    settings: TrainSettings,
    kept: Option<usize>,
) -> Result<Rehearsal> {
    let settings = TrainSettings { drop: keeping(extent, kept)?, ..settings };
    Ok(rehearse(gpu, &Workload { make, settings: &settings, batch: samples, steps: 1 })?)
}

/// Random-LTD at this length in all blocks but the first and last; `None` and the full length are the plain model.
fn keeping(extent: Extent, kept: Option<usize>) -> Result<TokenDrop> {
    let kept = kept.filter(|&kept| kept < extent.tokens);
    Ok(kept.map(|kept| RandomLtd::new(extent.depth, Schedule::constant(kept)?)).transpose()?.into())
}

impl<T: Task> Steps<T> {
    /// At full length.
    fn new(task: T, batch: T::Batch, settings: TrainSettings) -> Result<Self> {
        Ok(Steps { trainer: Some(Trainer::new(task, settings)?), batch })
    }
}

impl<T: Task> Stepping for Steps<T> {
    fn keep(&mut self, kept: Option<usize>) -> Result<()> {
        let trainer = self.trainer.take().context("no trainer")?;
        let drop = keeping(trainer.task().extent(), kept)?;
        let settings = TrainSettings { drop, ..trainer.settings().clone() };
        // The old optimiser's memory is the new one's.
        self.trainer = Some(Trainer::new(trainer.into_task(), settings)?);
        Ok(())
    }

    fn record(&mut self) -> Result<(Pending, f64, u64)> {
        let trainer = self.trainer.as_mut().context("no trainer")?;
        let gpu = trainer.task().model().parameters().gpu().clone();
        let (started, before) = (Instant::now(), gpu.stats().dispatches);
        let pending = trainer.record(&self.batch)?;
        Ok((pending, started.elapsed().as_secs_f64() * 1e3, gpu.stats().dispatches - before))
    }
}
