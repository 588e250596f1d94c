//! A run in progress: its steps, the ends of its epochs, what it saves, and what it falls back on.

use std::time::{Duration, Instant};

use super::fit::{EpochMetrics, FitData, FitOptions, Observer, Outcome, Timing};
use super::run_folder::{LAST_FILE, Weights, remove_leftovers};
use super::state::{Progress, write_state};
use super::{Evaluation, Recovery, STATE_FILE, StepMetrics, Task, TrainSettings, Trainer, evaluate};
use crate::checkpoint::{BEST_FILE, download};
use crate::data::{Batch, Position, Source};
use crate::error::{Error, Result};
use crate::gpu::Gpu;

/// Between two attempts to go on with a new device: a driver that has failed, or a laptop that wakes up, may need a moment.
const BREATH: Duration = Duration::from_millis(500);

/// A trainer where the run begins, or goes on from.
pub(super) fn begin<T: Task, S: Source, V: Source>(
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
pub(super) struct Run<'a, T: Task, S: Source, V: Source> {
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
pub(super) struct Fallback<'a, T> {
    recovery: Recovery,
    task: &'a mut dyn FnMut() -> Result<T>,
    /// Where the run stood at the recovery's last snapshot.
    progress: Progress,
}

impl<'a, T: Task> Fallback<'a, T> {
    /// Of a run that has not begun.
    pub(super) fn new(recovery: Recovery, task: &'a mut dyn FnMut() -> Result<T>) -> Self {
        Fallback { recovery, task, progress: Progress::default() }
    }

    /// [`begin`], again where the device is lost while it is done.
    pub(super) fn begin<S: Source, V: Source>(
        &mut self,
        data: &FitData<'_, S, V>,
        settings: TrainSettings,
        options: &FitOptions,
    ) -> Result<(Trainer<T>, Progress)> {
        let mut is_lost = false;
        loop {
            match (self.task)().and_then(|task| begin(task, data, settings.clone(), options)) {
                // After a loss the driver may not be there for a while.
                Err(error) if is_lost || matches!(error, Error::DeviceLost { .. }) => self.recovery.failed(error)?,
                begun => return begun,
            }
            is_lost = true;
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
    pub(super) fn new(
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
    pub(super) fn recovered(mut self, error: Error) -> Result<Self> {
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
    pub(super) fn train(&mut self) -> Result<()> {
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
        if is_epoch_end || self.is_save_due() || self.is_snapshot_due() || self.is_over() {
            // It may end the run.
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

    /// Whether a snapshot is to be taken after this step.
    fn is_snapshot_due(&self) -> bool {
        self.fallback.as_ref().is_some_and(|fallback| fallback.recovery.is_due(&self.trainer))
    }

    /// Takes the snapshot that is to be taken after this step, if any. Its results have been seen.
    fn keep(&mut self) -> Result<()> {
        if !self.is_snapshot_due() || self.is_over() {
            return Ok(());
        }
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
        let compiled = gpu_of(&self.trainer).stats().compile_time;
        let validation = self.trainer.averaged(|task| evaluate(task, self.data.validation.epoch(0)?))?;
        gpu_of(&self.trainer).trim();
        self.timing.evaluation += started.elapsed();
        // Kernels of evaluation alone: their time is not training's.
        self.compiled_before += gpu_of(&self.trainer).stats().compile_time - compiled;
        let score_of = |evaluation: &Evaluation| self.trainer.task().score(evaluation);
        let best = self.progress.best.map(|(_, best)| score_of(&best));
        // A first one that is no number must not stay the best.
        let (score, best) = (score_of(&validation), best.filter(|best| !best.is_nan()));
        let is_better = best.is_none_or(|best| score > best && !is_interrupted);
        // Equals are frequent with few pictures. Of those the latest is kept: it was trained longer, at lower rates.
        let is_best = is_better || (best == Some(score) && !is_interrupted);
        // A result that is no number takes the place of another such, and is no progress.
        self.progress.stale = if is_better && !score.is_nan() { 0 } else { self.progress.stale + 1 };
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
    pub(super) fn save_best(&mut self) {
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
    pub(super) fn end(mut self) -> (Outcome, T) {
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
