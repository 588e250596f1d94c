//! A whole run.

use std::ops::ControlFlow;
use std::time::Duration;

use super::run::{Fallback, Run, begin};
use super::{Evaluation, Recovery, RunFolder, RunState, StepMetrics, Task, TrainSettings};
use crate::data::{Loader, Source};
use crate::error::{Error, Result};
use crate::ltd::LayerTokens;

/// What a run learns from and is measured on.
pub struct FitData<'a, S: Source, V: Source = S> {
    /// Batches to learn from.
    pub train: &'a Loader<S>,
    /// Measured after each epoch; the best checkpoint is chosen by it.
    pub validation: &'a Loader<V>,
    /// Optimiser steps of the run.
    pub steps: u64,
    /// Where files go, if anywhere.
    pub folder: Option<RunFolder<'a>>,
}

/// What a run may do besides.
#[derive(Clone, Debug, Default)]
pub struct FitOptions {
    /// Ends the run, as its last step would, when so many epochs in a row have brought no better validation result
    /// ([`Task::score`]). One that is no number is not better than any.
    pub patience: Option<u64>,
    /// Writes the run's state to [`STATE_FILE`](super::STATE_FILE) in its folder whenever checkpoints are written. It takes two to
    /// four times the weights' bytes, on disk and for a while in memory.
    pub save_state: bool,
    /// Writes it after every so many steps too, however long that takes.
    pub save_every: Option<u64>,
    /// Where a step fails for a NaN or an infinity, finds the kernel that made it ([`Trainer::debug_nan`](super::Trainer::debug_nan)).
    /// Steps are slower.
    pub debug_nan: bool,
    /// Goes on from where a run stood. The model's weights and its device's table of kernels are replaced.
    pub resume: Option<RunState>,
}

impl FitOptions {
    fn check<S: Source, V: Source>(&self, data: &FitData<'_, S, V>) -> Result<()> {
        let fault = |name, expected: &str, got: u64| Err(Error::argument("fit", name, expected, got));
        match self {
            _ if data.steps == 0 => fault("steps", "at least 1", 0),
            FitOptions { patience: Some(0), .. } => fault("patience", "at least 1 epoch", 0),
            FitOptions { save_every: Some(0), .. } => fault("save_every", "at least 1 step", 0),
            _ if self.saves() && data.folder.is_none() => {
                Err(Error::argument("fit", "folder", "given where the run's state is to be saved", "none"))
            }
            _ => data.folder.as_ref().map_or(Ok(()), RunFolder::check),
        }
    }

    pub(super) fn saves(&self) -> bool {
        self.save_state || self.save_every.is_some()
    }
}

/// An epoch, or what of it was run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EpochMetrics {
    /// From 0.
    pub epoch: u64,
    /// Steps done at its end.
    pub steps: u64,
    /// Mean training loss, as [`StepMetrics::loss_weight`] weighs the steps. Like the accuracy it leaves out what is
    /// excused, and is 0 where nothing is left.
    pub train_loss: f64,
    /// Training accuracy in 0..=1, measured on the way, of the answers that could be right; 0 where none are counted.
    pub train_accuracy: f64,
    /// The validation split after it.
    pub validation: Evaluation,
    /// Whether no epoch so far had a better validation result ([`Task::score`]): of equals the latest is the best.
    pub is_best: bool,
}

/// Sees a run's progress, and may end it.
pub trait Observer {
    /// After each step. `Break` ends the run once everything recorded has been computed and written.
    fn step(&mut self, metrics: &StepMetrics) -> ControlFlow<()>;

    /// After each epoch's evaluation.
    fn epoch(&mut self, metrics: &EpochMetrics) -> ControlFlow<()>;

    /// The device was lost, as `error` tells, and the run goes on after its first `steps` steps on another one
    /// ([`fit_recovering`]). What the observer has seen is not shown to it again. By default a warning.
    fn lost(&mut self, error: &Error, steps: u64) {
        log::warn!("{error}; the run goes on after step {steps} on a new device");
    }
}

/// Where the time of a run went, in this program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// Training steps, without what stands below.
    pub training: Duration,
    /// Of `training`, waiting for data.
    pub data_wait: Duration,
    /// Of `training`, the host's own work on the steps: see [`Trainer::host_time`](super::Trainer::host_time).
    pub host: Duration,
    /// Evaluation after each epoch.
    pub evaluation: Duration,
    /// Reading weights back, and writing checkpoints and the run's state.
    pub checkpoints: Duration,
    /// Of `training`, compiling kernels.
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
    /// The best validation result, and the epoch it was last reached in.
    pub best: Option<(u64, Evaluation)>,
    /// Layer tokens.
    pub layer_tokens: LayerTokens,
    /// How often the run went on on another device.
    pub losses: u64,
    /// Time.
    pub timing: Timing,
}

/// Trains `task` for `data.steps` steps. After each epoch, and at the end, it is measured on the validation split. With a running
/// average ([`TrainSettings::ema`]) that is what is measured and saved; the model keeps its own weights.
///
/// Files are written after the first epoch and at the end. In between an epoch's end writes them once nineteen times what the
/// last save took have passed, so that saving takes a twentieth of the time however short an epoch is; reading the best
/// weights back comes on top. A run that is killed loses no more than that pause and the epoch that it was in. The best
/// weights are held in the host's memory until then. An error writes them; the other files stay as they were.
///
/// Files are replaced whole, the run's state last. So whenever the program is killed, the folder holds checkpoints that load
/// and a state to go on from, if one was saved before; what was done since is done again, to the same bits, and an
/// observer sees it again. After a kill or an error the checkpoints may be of a later epoch than the state: the run that goes
/// on comes to that epoch again and writes the same files again. (On another device its last bits differ, and the epoch may
/// not be the best again: `best.safetensors` then stays as it was until one is.) A run that the observer ended in the middle
/// of an epoch goes on as if it had not: the measure taken then does not count for the best epoch, unless it is the first.
///
/// # Errors
/// As [`Trainer::step`](super::Trainer::step), or if data cannot be read or files written, which is tried in the folder before step 0;
/// [`Error::File`] if the state to go on from is of another model, other settings or other data.
pub fn fit<T, S, V>(
    task: T,
    data: &FitData<'_, S, V>,
    settings: TrainSettings,
    options: FitOptions,
    observer: &mut dyn Observer,
) -> Result<Outcome>
where
    T: Task,
    S: Source<Batch = T::Batch>,
    V: Source<Batch = T::Batch>,
{
    options.check(data)?;
    let mut run = Run::new(begin(task, data, settings, &options)?, data, options, observer, None);
    let result = run.train();
    if result.is_err() {
        run.save_best();
    }
    result.map(|()| run.end().0)
}

/// [`fit`], going on where the device is lost: `task` opens a new one then and makes the run's task on it, as at the start, when it is
/// called for the first time. What `recovery` holds last is where the run goes on from; steps that had been done since are done again, to
/// the same weights bit for bit on an adapter of the same kind and driver, and are not seen by the observer again. Returns the task too:
/// it may not be on the device that the run began on.
///
/// # Errors
/// As [`fit`], and those of `task`. [`Error::DeviceLost`] if no attempt comes further than the one before ([`Recovery::ATTEMPTS`]).
pub fn fit_recovering<T, S, V>(
    task: &mut dyn FnMut() -> Result<T>,
    data: &FitData<'_, S, V>,
    settings: TrainSettings,
    options: FitOptions,
    recovery: Recovery,
    observer: &mut dyn Observer,
) -> Result<(Outcome, T)>
where
    T: Task,
    S: Source<Batch = T::Batch>,
    V: Source<Batch = T::Batch>,
{
    options.check(data)?;
    let mut fallback = Fallback::new(recovery, task);
    let begun = fallback.begin(data, settings, &options)?;
    let mut run = Run::new(begun, data, options, observer, Some(fallback));
    while let Err(error) = run.train() {
        run.save_best();
        run = run.recovered(error)?;
    }
    Ok(run.end())
}
