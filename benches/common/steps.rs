//! Whole optimiser steps of a ViT on random pictures, timed.

use std::time::Instant;

use anyhow::{Context, Result};
use wgrad::Gpu;
use wgrad::data::{ImageBatch, Position};
use wgrad::ltd::{RandomLtd, Schedule, TokenDrop};
use wgrad::models::vit::{Vit, VitConfig};
use wgrad::nn::Precision;
use wgrad::optim::{AdamW, LrSchedule, Rule};
use wgrad::train::{Classify, Pending, Rehearsal, TrainSettings, Trainer, Workload, rehearse};

/// A model with its trainer, and one batch.
pub struct Steps {
    /// There but for a moment in [`Steps::keep`].
    trainer: Option<Trainer<Classify<Vit>>>,
    batch: ImageBatch,
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

/// What such a step, with this many tokens kept, asks of the device: a rehearsal of one step.
pub fn rehearsed(
    gpu: &Gpu,
    config: &VitConfig,
    samples: usize,
    settings: TrainSettings,
    kept: Option<usize>,
) -> Result<Rehearsal> {
    let settings = TrainSettings { drop: keeping(config, kept)?, ..settings };
    let make = |gpu: &Gpu| Ok(Classify::new(Vit::new(gpu, config.clone(), 0)?));
    let work = Workload { make: &make, settings: &settings, batch: samples, steps: 1 };
    Ok(rehearse(gpu, &work)?)
}

/// Random-LTD at this length in all blocks but the first and last; `None` and the full length are the plain model.
fn keeping(config: &VitConfig, kept: Option<usize>) -> Result<TokenDrop> {
    let kept = kept.filter(|&kept| kept < config.tokens());
    Ok(kept.map(|kept| RandomLtd::new(config.depth, Schedule::constant(kept)?)).transpose()?.into())
}

impl Steps {
    /// A model of `config`, at full length.
    pub fn new(gpu: &Gpu, config: VitConfig, samples: usize, settings: TrainSettings) -> Result<Self> {
        let batch = batch(&config, samples);
        let trainer = Some(Trainer::new(Classify::new(Vit::new(gpu, config, 0)?), settings)?);
        Ok(Steps { trainer, batch })
    }

    /// From now on keeps this many tokens in all blocks but the first and last; `None` is full length.
    pub fn keep(&mut self, kept: Option<usize>) -> Result<()> {
        let trainer = self.trainer.take().context("no trainer")?;
        let drop = keeping(trainer.task().model.config(), kept)?;
        let settings = TrainSettings { drop, ..trainer.settings().clone() };
        // The old optimiser's memory is the new one's.
        self.trainer = Some(Trainer::new(trainer.into_task(), settings)?);
        Ok(())
    }

    /// One step, waiting for its loss.
    pub fn step(&mut self) -> Result<Step> {
        let started = Instant::now();
        let (pending, host_ms, dispatches) = self.record()?;
        pending.wait()?;
        Ok(Step { total_ms: started.elapsed().as_secs_f64() * 1e3, host_ms, dispatches })
    }

    /// One step whose results are still to come, with the milliseconds until it was recorded, and its dispatches.
    pub fn record(&mut self) -> Result<(Pending, f64, u64)> {
        let trainer = self.trainer.as_mut().context("no trainer")?;
        let gpu = trainer.task().model.gpu().clone();
        let (started, before) = (Instant::now(), gpu.stats().dispatches);
        let pending = trainer.record(&self.batch)?;
        Ok((pending, started.elapsed().as_secs_f64() * 1e3, gpu.stats().dispatches - before))
    }
}

/// Any spread of values does: time does not depend on them.
fn batch(config: &VitConfig, samples: usize) -> ImageBatch {
    let (height, width) = config.img_size;
    let byte = |i: usize| (i.wrapping_mul(2_654_435_761) >> 16) as u8;
    ImageBatch {
        images: (0..samples * 3 * height * width).map(byte).collect(),
        labels: (0..samples).map(|i| (i % config.num_classes) as u32).collect(),
        mixed: None,
        indices: (0..samples as u32).collect(),
        position: Position::default(),
    }
}
