//! A whole run.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Evaluation, StepMetrics, TrainSettings, Trainer, evaluate};
use crate::checkpoint::save_vit;
use crate::data::{Loader, Position};
use crate::error::{Error, Result};
use crate::ltd::LayerTokens;
use crate::nn::Vit;

/// What a run learns from and is measured on.
pub struct FitData<'a> {
    /// Batches to learn from.
    pub train: &'a Loader,
    /// Measured after each epoch; the best checkpoint is chosen by it.
    pub validation: &'a Loader,
    /// Optimiser steps of the run.
    pub steps: u64,
    /// Where `best.safetensors` and `last.safetensors` go, if anywhere.
    pub folder: Option<PathBuf>,
    /// Stored in the checkpoints.
    pub class_names: &'a [String],
}

/// An epoch, or what of it was run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EpochMetrics {
    /// From 0.
    pub epoch: u64,
    /// Steps done at its end.
    pub steps: u64,
    /// Mean training loss.
    pub train_loss: f64,
    /// Training accuracy in 0..=1, measured on the way.
    pub train_accuracy: f64,
    /// The validation split after it.
    pub validation: Evaluation,
    /// Whether this is the best validation accuracy so far.
    pub is_best: bool,
}

/// Sees a run's progress, and may end it.
pub trait Observer {
    /// After each step. `Break` ends the run once everything recorded has been computed and written.
    fn step(&mut self, metrics: &StepMetrics) -> ControlFlow<()>;

    /// After each epoch's evaluation.
    fn epoch(&mut self, metrics: &EpochMetrics) -> ControlFlow<()>;
}

/// Where the time of a run went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// Training steps, without what stands below.
    pub training: Duration,
    /// Of `training`, waiting for data.
    pub data_wait: Duration,
    /// Of `training`, the host's own work on the steps: see [`Trainer::host_time`].
    pub host: Duration,
    /// Evaluation after each epoch.
    pub evaluation: Duration,
    /// Writing checkpoints.
    pub checkpoints: Duration,
    /// Compiling kernels.
    pub compilation: Duration,
}

/// What came of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Optimiser steps done.
    pub steps: u64,
    /// Training samples seen.
    pub samples: u64,
    /// Whether the observer ended it early.
    pub stopped: bool,
    /// The best validation result, and the epoch it was reached in.
    pub best: Option<(u64, Evaluation)>,
    /// Layer tokens.
    pub layer_tokens: LayerTokens,
    /// Time.
    pub timing: Timing,
}

/// Trains `model` for `data.steps` steps. After each epoch, and at the end, it is measured on the validation split and
/// saved; after a step that was not finite the files of the last epoch stay.
///
/// # Errors
/// As [`Trainer::step`], or if data cannot be read or checkpoints written.
pub fn fit(model: &Vit, data: &FitData<'_>, settings: TrainSettings, observer: &mut dyn Observer) -> Result<Outcome> {
    if data.steps == 0 {
        return Err(Error::argument("fit", "steps", "at least 1", 0));
    }
    let mut run = Run::new(model, data, settings, observer)?;
    let mut batches = data.train.batches_from(Position::default())?;
    while run.trainer.steps() < data.steps && !run.stopped {
        let started = Instant::now();
        let waited = batches.waited();
        let Some(batch) = batches.next() else { break };
        let batch = batch?;
        run.timing.data_wait += batches.waited() - waited;
        let metrics = run.trainer.step(&batch)?;
        run.see(metrics);
        let is_epoch_end = run.trainer.steps().is_multiple_of(data.train.batches_per_epoch() as u64);
        let is_last = run.trainer.steps() == data.steps || run.stopped;
        if is_epoch_end || is_last {
            let metrics = run.trainer.finish()?;
            run.see(metrics);
        }
        run.timing.training += started.elapsed();
        if is_epoch_end || is_last {
            run.end_epoch(batch.position.epoch)?;
        }
    }
    Ok(run.outcome())
}

/// A run in progress.
struct Run<'a> {
    model: &'a Vit,
    data: &'a FitData<'a>,
    observer: &'a mut dyn Observer,
    trainer: Trainer<'a>,
    timing: Timing,
    /// Sums over the epoch: loss·samples, correct, samples.
    sums: (f64, u64, u64),
    samples: u64,
    best: Option<(u64, Evaluation)>,
    stopped: bool,
    compiled_before: Duration,
}

impl<'a> Run<'a> {
    fn new(
        model: &'a Vit,
        data: &'a FitData<'a>,
        settings: TrainSettings,
        observer: &'a mut dyn Observer,
    ) -> Result<Self> {
        Ok(Run {
            model,
            data,
            observer,
            trainer: Trainer::new(model, settings)?,
            timing: Timing::default(),
            sums: (0.0, 0, 0),
            samples: 0,
            best: None,
            stopped: false,
            compiled_before: model.gpu().stats().compile_time,
        })
    }

    fn see(&mut self, metrics: Option<StepMetrics>) {
        let Some(metrics) = metrics else { return };
        self.sums.0 += f64::from(metrics.loss) * metrics.samples as f64;
        self.sums.1 += u64::from(metrics.correct);
        self.sums.2 += metrics.samples as u64;
        self.samples += metrics.samples as u64;
        self.stopped |= self.observer.step(&metrics).is_break();
    }

    /// Measures, reports and saves.
    fn end_epoch(&mut self, epoch: u64) -> Result<()> {
        let started = Instant::now();
        // Its batches are of other sizes: beside a step's memory, what they need would add to the peak.
        self.model.gpu().trim();
        let validation = evaluate(self.model, self.data.validation)?;
        self.model.gpu().trim();
        self.timing.evaluation += started.elapsed();
        let is_best = self.best.is_none_or(|(_, best)| validation.accuracy > best.accuracy);
        if is_best {
            self.best = Some((epoch, validation));
        }
        self.save(is_best)?;
        let (loss, correct, samples) = std::mem::take(&mut self.sums);
        let samples = samples.max(1) as f64;
        let metrics = EpochMetrics {
            epoch,
            steps: self.trainer.steps(),
            train_loss: loss / samples,
            train_accuracy: correct as f64 / samples,
            validation,
            is_best,
        };
        self.stopped |= self.observer.epoch(&metrics).is_break();
        Ok(())
    }

    fn save(&mut self, is_best: bool) -> Result<()> {
        let Some(folder) = &self.data.folder else { return Ok(()) };
        let started = Instant::now();
        save_vit(&folder.join("last.safetensors"), self.model, self.data.class_names)?;
        if is_best {
            save_vit(&folder.join("best.safetensors"), self.model, self.data.class_names)?;
        }
        self.timing.checkpoints += started.elapsed();
        Ok(())
    }

    fn outcome(self) -> Outcome {
        let host = self.trainer.host_time();
        let compilation = self.model.gpu().stats().compile_time - self.compiled_before;
        Outcome {
            steps: self.trainer.steps(),
            samples: self.samples,
            stopped: self.stopped && self.trainer.steps() < self.data.steps,
            best: self.best,
            layer_tokens: self.trainer.layer_tokens(),
            timing: Timing { compilation, host, ..self.timing },
        }
    }
}
