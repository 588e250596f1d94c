//! A whole run.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::run_folder::{LAST_FILE, RunFolder, Weights, remove_leftovers};
use super::state::{Progress, write_state};
use super::{Evaluation, Recovery, RunState, STATE_FILE, StepMetrics, Task, TrainSettings, Trainer, evaluate};
use crate::checkpoint::{BEST_FILE, download};
use crate::data::{Batch, Loader, Position, Source};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
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
    /// ([`Task::score`]).
    pub patience: Option<u64>,
    /// Writes the run's state to [`STATE_FILE`] in its folder whenever checkpoints are written. It takes two to four times the
    /// weights' bytes, on disk and for a while in memory.
    pub save_state: bool,
    /// Writes it after every so many steps too, however long that takes.
    pub save_every: Option<u64>,
    /// Where a step fails for a NaN or an infinity, finds the kernel that made it ([`Trainer::debug_nan`]). Steps are slower.
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
            _ => Ok(()),
        }
    }

    fn saves(&self) -> bool {
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
    /// Of `training`, the host's own work on the steps: see [`Trainer::host_time`].
    pub host: Duration,
    /// Evaluation after each epoch.
    pub evaluation: Duration,
    /// Reading weights back, and writing checkpoints and the run's state.
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
/// As [`Trainer::step`], or if data cannot be read or files written; [`Error::File`] if the state to go on from is of
/// another model, other settings or other data.
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
    let mut fallback = Fallback { recovery, task, progress: Progress::default() };
    let begun = fallback.begin(data, settings, &options)?;
    let mut run = Run::new(begun, data, options, observer, Some(fallback));
    while let Err(error) = run.train() {
        run.save_best();
        run = run.recovered(error)?;
    }
    Ok(run.end())
}

/// Between two attempts to go on with a new device: a driver that has failed, or a laptop that wakes up, may need a moment.
const BREATH: Duration = Duration::from_millis(500);

/// A trainer where the run begins, or goes on from.
fn begin<T: Task, S: Source, V: Source>(
    task: T,
    data: &FitData<'_, S, V>,
    settings: TrainSettings,
    options: &FitOptions,
) -> Result<(Trainer<T>, Progress)> {
    let mut trainer = Trainer::new(task, settings)?;
    trainer.debug_nan(options.debug_nan);
    let progress = match &options.resume {
        Some(state) => state.restore(&mut trainer, data)?,
        None => Progress::default(),
    };
    Ok((trainer, progress))
}

/// Between two saves passes so many times what the first of them took: saving then takes a twentieth of the time.
const PAUSE: u32 = 19;

/// A run in progress.
struct Run<'a, T: Task, S: Source, V: Source> {
    data: &'a FitData<'a, S, V>,
    options: FitOptions,
    observer: &'a mut dyn Observer,
    trainer: Trainer<T>,
    timing: Timing,
    progress: Progress,
    /// The best weights, if they are not in their file yet.
    best: Option<Weights>,
    /// When an epoch's end is to write files again.
    next_save: Instant,
    /// Whether the observer has ended it, with the last step that it has seen.
    stopped: bool,
    /// What the observer has seen: so many steps, and epochs.
    seen: (u64, u64),
    compiled_before: Duration,
    fallback: Option<Fallback<'a, T>>,
}

/// What a run goes on with when its device is lost.
struct Fallback<'a, T> {
    recovery: Recovery,
    task: &'a mut dyn FnMut() -> Result<T>,
    /// Where the run stood at the recovery's last snapshot.
    progress: Progress,
}

impl<T: Task> Fallback<'_, T> {
    /// [`begin`], again where the device is lost while it is done.
    fn begin<S: Source, V: Source>(
        &mut self,
        data: &FitData<'_, S, V>,
        settings: TrainSettings,
        options: &FitOptions,
    ) -> Result<(Trainer<T>, Progress)> {
        loop {
            match (self.task)().and_then(|task| begin(task, data, settings.clone(), options)) {
                Err(error @ Error::DeviceLost { .. }) => self.recovery.failed(error)?,
                begun => return begun,
            }
            std::thread::sleep(BREATH);
        }
    }

    /// The lost trainer's successor.
    fn again(&mut self, lost: Trainer<T>, error: Error, observer: &mut dyn Observer) -> Result<Trainer<T>> {
        let loss = self.recovery.lost(lost, error)?;
        observer.lost(&loss, self.recovery.steps());
        loop {
            match (self.task)().and_then(|task| self.recovery.go_on(task)) {
                Ok(trainer) => return Ok(trainer),
                Err(error) => self.recovery.failed(error)?,
            }
            std::thread::sleep(BREATH);
        }
    }
}

impl<'a, T, S, V> Run<'a, T, S, V>
where
    T: Task,
    S: Source<Batch = T::Batch>,
    V: Source<Batch = T::Batch>,
{
    fn new(
        (trainer, progress): (Trainer<T>, Progress),
        data: &'a FitData<'a, S, V>,
        mut options: FitOptions,
        observer: &'a mut dyn Observer,
        mut fallback: Option<Fallback<'a, T>>,
    ) -> Self {
        // Its copy of the weights does not stay for the whole run.
        let state = options.resume.take();
        if let Some((fallback, state)) = fallback.as_mut().zip(state) {
            fallback.recovery.hold(state.into_snapshot());
            fallback.progress = progress;
        }
        if let Some(folder) = data.folder.as_ref().filter(|_| options.saves()) {
            remove_leftovers(&folder.path);
            // Asked now, they tell of the data that the run begins with, and take no part in the first save's time.
            data.train.identity();
            data.validation.identity();
        }
        let compiled_before = gpu_of(&trainer).stats().compile_time;
        Run {
            data,
            options,
            observer,
            trainer,
            timing: Timing::default(),
            progress,
            best: None,
            next_save: Instant::now(),
            stopped: false,
            seen: (0, 0),
            compiled_before,
            fallback,
        }
    }

    /// The run on another device, where it stood at its last snapshot. The timing goes on.
    fn recovered(mut self, error: Error) -> Result<Self> {
        let Some(mut fallback) = self.fallback.take() else { return Err(error) };
        self.count_time();
        let Run { data, options, observer, trainer, timing, best, next_save, stopped, seen, .. } = self;
        let mut trainer = fallback.again(trainer, error, observer)?;
        trainer.debug_nan(options.debug_nan);
        let (compiled_before, progress) = (gpu_of(&trainer).stats().compile_time, fallback.progress);
        Ok(Run {
            data,
            options,
            observer,
            trainer,
            timing,
            progress,
            best,
            next_save,
            stopped,
            seen,
            compiled_before,
            fallback: Some(fallback),
        })
    }

    /// All steps that are left, each epoch with its end.
    fn train(&mut self) -> Result<()> {
        let mut batches = self.data.train.batches_from(self.progress.next)?;
        while !self.is_over() {
            let waited = batches.waited();
            let Some(batch) = batches.next().transpose()? else { break };
            let waited = batches.waited() - waited;
            self.timing.data_wait += waited;
            self.timing.training += waited;
            self.end_cut_epoch(batch.position())?;
            if !self.is_over() {
                self.step(&batch)?;
            }
        }
        Ok(())
    }

    /// A step, and what is due after it: its results, the epoch's end, a save.
    fn step(&mut self, batch: &T::Batch) -> Result<()> {
        let (started, position) = (Instant::now(), batch.position());
        let metrics = self.trainer.step(batch)?;
        self.progress.next = self.data.train.after(position);
        self.see(metrics);
        let is_epoch_end = self.progress.next.epoch > position.epoch;
        if is_epoch_end || self.is_save_due() || self.is_over() {
            self.see_last()?;
        }
        self.timing.training += started.elapsed();
        if is_epoch_end || self.is_over() {
            self.end_epoch(position.epoch, is_epoch_end)?;
        } else if self.is_save_due() {
            self.save_state()?;
        }
        self.keep()
    }

    /// Takes the snapshot that is to be taken after this step, if any.
    fn keep(&mut self) -> Result<()> {
        let is_due = self.fallback.as_ref().is_some_and(|fallback| fallback.recovery.is_due(&self.trainer));
        if !is_due || self.is_over() {
            return Ok(());
        }
        let started = Instant::now();
        self.see_last()?;
        self.timing.training += started.elapsed();
        let started = Instant::now();
        if let Some(fallback) = &mut self.fallback {
            fallback.recovery.keep(&self.trainer)?;
            fallback.progress = self.progress;
        }
        self.timing.checkpoints += started.elapsed();
        Ok(())
    }

    /// Ends the epoch in progress if the next batch, at `position`, is of a later one: its last batches have no readable
    /// photo, and the loader has left them out.
    fn end_cut_epoch(&mut self, position: Position) -> Result<()> {
        let Position { epoch, batch } = self.progress.next;
        if batch == 0 || position.epoch == epoch {
            return Ok(());
        }
        self.progress.next = Position { epoch: position.epoch, batch: 0 };
        self.see_last()?;
        self.end_epoch(epoch, true)
    }

    /// Waits for the results of the step that was recorded last.
    fn see_last(&mut self) -> Result<()> {
        let metrics = self.trainer.finish()?;
        self.see(metrics);
        Ok(())
    }

    fn see(&mut self, metrics: Option<StepMetrics>) {
        let Some(metrics) = metrics else { return };
        if !metrics.excused {
            self.progress.sums.add(metrics.loss, metrics.loss_weight, metrics.correct, metrics.counted);
        }
        self.progress.samples += metrics.samples as u64;
        // Steps that are done again after a loss have been seen.
        if metrics.step >= self.seen.0 {
            self.seen.0 = metrics.step + 1;
            self.stopped |= self.observer.step(&metrics).is_break();
        }
    }

    /// Whether no step is to follow.
    fn is_over(&self) -> bool {
        let is_stopped = self.stopped && self.trainer.steps() >= self.seen.0;
        self.trainer.steps() >= self.data.steps || is_stopped || self.is_out_of_patience()
    }

    /// Whether the state is to be saved after this step, whatever that takes.
    fn is_save_due(&self) -> bool {
        self.options.save_every.is_some_and(|every| self.trainer.steps().is_multiple_of(every))
    }

    /// Measures, reports and, where it is time, saves.
    fn end_epoch(&mut self, epoch: u64, is_whole: bool) -> Result<()> {
        // A run that is to go on in this epoch goes on from before its end.
        let is_interrupted = !is_whole && self.options.saves() && self.trainer.steps() < self.data.steps;
        if is_interrupted {
            self.save_state()?;
        }
        let started = Instant::now();
        // Its batches are of other sizes: beside a step's memory, what they need would add to the peak.
        gpu_of(&self.trainer).trim();
        let validation = self.trainer.averaged(|task| evaluate(task, self.data.validation.epoch(0)?))?;
        gpu_of(&self.trainer).trim();
        self.timing.evaluation += started.elapsed();
        let score_of = |evaluation: &Evaluation| self.trainer.task().score(evaluation);
        let (score, best) = (score_of(&validation), self.progress.best.map(|(_, best)| score_of(&best)));
        let is_better = best.is_none_or(|best| score > best && !is_interrupted);
        // Equals are frequent with few pictures. Of those the latest is kept: it was trained longer, at lower rates.
        let is_best = is_better || (best == Some(score) && !is_interrupted);
        self.progress.stale = if is_better { 0 } else { self.progress.stale + 1 };
        if is_best {
            self.progress.best = Some((epoch, validation));
        }
        let sums = std::mem::take(&mut self.progress.sums);
        let metrics = EpochMetrics {
            epoch,
            steps: self.trainer.steps(),
            train_loss: sums.mean_loss(),
            train_accuracy: sums.accuracy(),
            validation,
            is_best,
        };
        if epoch >= self.seen.1 {
            self.seen.1 = epoch + 1;
            self.stopped |= self.observer.epoch(&metrics).is_break();
        }
        if self.is_over() || self.is_save_due() || Instant::now() >= self.next_save {
            self.save(is_best, !is_interrupted)
        } else if is_best {
            self.hold_best()
        } else {
            Ok(())
        }
    }

    /// Writes the checkpoints, then the state that refers to them, and says when that is to be done again.
    fn save(&mut self, is_best: bool, has_state: bool) -> Result<()> {
        if self.data.folder.is_none() {
            return Ok(());
        }
        let (started, before) = (Instant::now(), self.timing.checkpoints);
        let weights = self.weights()?;
        self.write(LAST_FILE, &weights)?;
        if is_best {
            self.best = Some(weights);
        }
        self.write_best()?;
        self.timing.checkpoints += started.elapsed();
        if has_state && self.options.saves() {
            self.save_state()?;
        }
        self.next_save = Instant::now() + PAUSE * (self.timing.checkpoints - before);
        Ok(())
    }

    fn save_state(&mut self) -> Result<()> {
        let Some(folder) = &self.data.folder else { return Ok(()) };
        let started = Instant::now();
        let path = folder.path.join(STATE_FILE);
        self.write_best()?;
        let snapshot = write_state(&path, &self.trainer, self.data, &self.progress)?;
        // One that is over has its end left to do, which it would not come to from here.
        let is_over = self.is_over();
        if let Some(fallback) = self.fallback.as_mut().filter(|_| !is_over) {
            fallback.recovery.hold(snapshot);
            fallback.progress = self.progress;
        }
        self.timing.checkpoints += started.elapsed();
        Ok(())
    }

    /// The same where there is an error to return already.
    fn save_best(&mut self) {
        if let Err(error) = self.write_best() {
            log::warn!("{error}");
        }
    }

    fn hold_best(&mut self) -> Result<()> {
        if self.data.folder.is_some() {
            let started = Instant::now();
            self.best = Some(self.weights()?);
            self.timing.checkpoints += started.elapsed();
        }
        Ok(())
    }

    /// What is measured and saved, in the host's memory.
    fn weights(&mut self) -> Result<Weights> {
        self.trainer.averaged(|task| download(task.model().parameters()))
    }

    /// Brings the best weights to their file, if they are not there.
    fn write_best(&mut self) -> Result<()> {
        if let Some(best) = &self.best {
            self.write(BEST_FILE, best)?;
            self.best = None;
        }
        Ok(())
    }

    fn write(&self, name: &str, weights: &Weights) -> Result<()> {
        self.data.folder.as_ref().map_or(Ok(()), |folder| (folder.write)(&folder.path.join(name), weights))
    }

    fn is_out_of_patience(&self) -> bool {
        self.options.patience.is_some_and(|patience| self.progress.stale >= patience)
    }

    /// Adds what the trainer and its device have counted.
    fn count_time(&mut self) {
        self.timing.host += self.trainer.host_time();
        self.timing.compilation += gpu_of(&self.trainer).stats().compile_time - self.compiled_before;
    }

    /// What came of it, and what was trained.
    fn end(mut self) -> (Outcome, T) {
        self.count_time();
        let is_early = self.trainer.steps() < self.data.steps;
        let outcome = Outcome {
            steps: self.trainer.steps(),
            samples: self.progress.samples,
            stopped: self.stopped && is_early,
            out_of_patience: !self.stopped && is_early && self.is_out_of_patience(),
            best: self.progress.best,
            layer_tokens: self.trainer.layer_tokens(),
            losses: self.fallback.as_ref().map_or(0, |fallback| fallback.recovery.losses()),
            timing: self.timing,
        };
        (outcome, self.trainer.into_task())
    }
}

fn gpu_of<T: Task>(trainer: &Trainer<T>) -> &Gpu {
    trainer.task().model().parameters().gpu()
}
