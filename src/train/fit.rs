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

/// What a run may do besides.
#[derive(Clone, Debug, Default)]
pub struct FitOptions {
    /// Ends the run, as its last step would, when so many epochs in a row have brought no better validation accuracy.
    pub patience: Option<u64>,
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
    /// Whether it ended early for want of progress ([`FitOptions::patience`]).
    pub out_of_patience: bool,
    /// The best validation result, and the epoch it was reached in.
    pub best: Option<(u64, Evaluation)>,
    /// Layer tokens.
    pub layer_tokens: LayerTokens,
    /// Time.
    pub timing: Timing,
}

/// Trains `model` for `data.steps` steps. After each epoch, and at the end, it is measured on the validation split and
/// saved; after a step that was not finite the files of the last epoch stay. With a running average
/// ([`TrainSettings::ema`]) that is what is measured and saved; `model` keeps its own weights.
///
/// # Errors
/// As [`Trainer::step`], or if data cannot be read or checkpoints written.
pub fn fit(
    model: &Vit,
    data: &FitData<'_>,
    settings: TrainSettings,
    options: &FitOptions,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    if data.steps == 0 {
        return Err(Error::argument("fit", "steps", "at least 1", 0));
    }
    if options.patience == Some(0) {
        return Err(Error::argument("fit", "patience", "at least 1 epoch", 0));
    }
    let mut run = Run::new(model, data, settings, options, observer)?;
    let mut batches = data.train.batches_from(Position::default())?;
    while run.trainer.steps() < data.steps && !run.stopped && !run.is_out_of_patience() {
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
    options: &'a FitOptions,
    observer: &'a mut dyn Observer,
    trainer: Trainer<'a>,
    timing: Timing,
    /// Sums over the epoch: loss·samples, correct, samples.
    sums: (f64, u64, u64),
    samples: u64,
    best: Option<(u64, Evaluation)>,
    /// Epochs since the best.
    stale: u64,
    stopped: bool,
    compiled_before: Duration,
}

impl<'a> Run<'a> {
    fn new(
        model: &'a Vit,
        data: &'a FitData<'a>,
        settings: TrainSettings,
        options: &'a FitOptions,
        observer: &'a mut dyn Observer,
    ) -> Result<Self> {
        Ok(Run {
            model,
            data,
            options,
            observer,
            trainer: Trainer::new(model, settings)?,
            timing: Timing::default(),
            sums: (0.0, 0, 0),
            samples: 0,
            best: None,
            stale: 0,
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
        let validation = self.trainer.averaged(|| evaluate(self.model, self.data.validation))?;
        self.model.gpu().trim();
        self.timing.evaluation += started.elapsed();
        let is_best = self.best.is_none_or(|(_, best)| validation.accuracy > best.accuracy);
        self.stale += 1;
        if is_best {
            self.best = Some((epoch, validation));
            self.stale = 0;
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
        let save = |name: &str| save_vit(&folder.join(name), self.model, self.data.class_names);
        self.trainer.averaged(|| {
            save("last.safetensors")?;
            if is_best { save("best.safetensors") } else { Ok(()) }
        })?;
        self.timing.checkpoints += started.elapsed();
        Ok(())
    }

    fn is_out_of_patience(&self) -> bool {
        self.options.patience.is_some_and(|patience| self.stale >= patience)
    }

    fn outcome(self) -> Outcome {
        let is_early = self.trainer.steps() < self.data.steps;
        let host = self.trainer.host_time();
        let compilation = self.model.gpu().stats().compile_time - self.compiled_before;
        Outcome {
            steps: self.trainer.steps(),
            samples: self.samples,
            stopped: self.stopped && is_early,
            out_of_patience: !self.stopped && is_early && self.is_out_of_patience(),
            best: self.best,
            layer_tokens: self.trainer.layer_tokens(),
            timing: Timing { compilation, host, ..self.timing },
        }
    }
}
