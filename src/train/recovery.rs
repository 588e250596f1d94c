//! Going on after the device was lost.

use super::snapshot::describe;
use super::{Snapshot, Task, TrainSettings, Trainer};
use crate::error::{Error, Result};
use crate::identity;
use crate::ops::Tuning;

const OP: &str = "Recovery";

/// Brings a training back after its device was lost: holds its last [`Snapshot`] in the host's memory and, when the device is gone, what
/// a trainer on another one needs besides. On an adapter of the same kind and driver the weights then come out bit for bit as if nothing
/// had happened. [`super::fit_recovering`] does it for whole runs; a program with a loop of its own calls, in this order,
///
/// 1. [`Recovery::is_due`] and [`Recovery::keep`] after each step,
/// 2. [`Recovery::lost`] with the error that tells of the loss,
/// 3. [`Recovery::go_on`] with a task on the new device, and trains on from [`Trainer::steps`].
#[derive(Clone, Debug)]
pub struct Recovery {
    every: u64,
    /// None where the training began less than `every` steps ago: it then begins again.
    last: Option<Snapshot>,
    left: Option<Left>,
    /// The most steps that were recorded before a loss.
    furthest: u64,
    /// Losses, and attempts that failed, since then.
    fruitless: u32,
    losses: u64,
}

/// What is left of a lost trainer.
#[derive(Clone, Debug)]
struct Left {
    model: String,
    task: String,
    settings: TrainSettings,
    tuning: Tuning,
    device: String,
}

impl Recovery {
    /// Steps between two snapshots where nothing else is said.
    pub const EVERY: u64 = 100;
    /// How often a device may be lost before a step is recorded that had not been before.
    pub const ATTEMPTS: u32 = 3;

    /// One that keeps a snapshot of every so many steps. Each takes the host two to four times the weights' bytes, and the time to
    /// read them back. While a new one is read the last one is still held, for the device may be lost then: four to eight times.
    ///
    /// # Errors
    /// [`Error::Argument`] for 0 steps.
    pub fn new(every: u64) -> Result<Self> {
        if every == 0 {
            return Err(Error::argument(OP, "every", "at least 1 step", 0));
        }
        Ok(Recovery { every, last: None, left: None, furthest: 0, fruitless: 0, losses: 0 })
    }

    /// The step that a training would go on from.
    pub fn steps(&self) -> u64 {
        self.last.as_ref().map_or(0, Snapshot::steps)
    }

    /// How often a device was lost so far.
    pub fn losses(&self) -> u64 {
        self.losses
    }

    /// Whether a snapshot should be taken now.
    pub fn is_due<T: Task>(&self, trainer: &Trainer<T>) -> bool {
        trainer.steps() >= self.steps().saturating_add(self.every)
    }

    /// Takes a snapshot, in the place of the last one; awaiting it blocks no thread. Steps that are recorded meanwhile would be in it in
    /// part.
    ///
    /// # Errors
    /// As [`Trainer::snapshot_async`]; the last one stays.
    pub async fn keep_async<T: Task>(&mut self, trainer: &Trainer<T>) -> Result<()> {
        self.hold(trainer.snapshot_async().await?);
        Ok(())
    }

    /// [`Recovery::keep_async`], blocking the thread.
    ///
    /// # Errors
    /// As [`Recovery::keep_async`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn keep<T: Task>(&mut self, trainer: &Trainer<T>) -> Result<()> {
        pollster::block_on(self.keep_async(trainer))
    }

    /// Goes on from this snapshot, if the device is lost before the next one.
    pub fn hold(&mut self, snapshot: Snapshot) {
        self.last = Some(snapshot);
    }

    /// Gives up a trainer whose device is lost, and the memory that it held with it. Returns the error for whoever is to be told.
    ///
    /// # Errors
    /// `error` itself if it tells of no loss, and if the device was lost too often since a step was last recorded for the first time
    /// ([`Recovery::ATTEMPTS`]).
    pub fn lost<T: Task>(&mut self, trainer: Trainer<T>, error: Error) -> Result<Error> {
        if !matches!(error, Error::DeviceLost { .. }) {
            return Err(error);
        }
        if trainer.steps() > self.furthest {
            (self.furthest, self.fruitless) = (trainer.steps(), 0);
        }
        let (task, settings) = (trainer.task(), trainer.settings().clone());
        let gpu = task.model().parameters().gpu();
        self.left = Some(Left {
            model: task.model().identity(),
            task: task.identity(),
            settings,
            tuning: gpu.tuning(),
            device: describe(gpu),
        });
        self.losses += 1;
        self.attempt(error)
    }

    /// Counts an attempt to open a device, or to go on with it, that has failed.
    ///
    /// # Errors
    /// `error` itself if another attempt would not be better: it is not the device's, or there were too many.
    pub fn failed(&mut self, error: Error) -> Result<()> {
        self.attempt(error).map(drop)
    }

    fn attempt(&mut self, error: Error) -> Result<Error> {
        self.fruitless += 1;
        match error {
            Error::DeviceLost { .. } | Error::Device { .. } | Error::OutOfMemory { .. } | Error::NoAdapter { .. }
                if self.fruitless <= Self::ATTEMPTS =>
            {
                Ok(error)
            }
            Error::DeviceLost { device, message } => {
                let message = format!(
                    "{message}; so it went {} times, and none came further than the one before",
                    self.fruitless
                );
                Err(Error::DeviceLost { device, message })
            }
            error => Err(error),
        }
    }

    /// A trainer of `task`, which is the lost one's but on another device, where the last snapshot was taken: with its settings and its
    /// device's settled kernels.
    ///
    /// # Errors
    /// [`Error::Argument`] if no trainer was lost, or the task or its model is another. As [`Trainer::new`] and [`Trainer::restore`]; this may
    /// be tried again.
    pub fn go_on<T: Task>(&mut self, task: T) -> Result<Trainer<T>> {
        let Some(Left { model, task: objective, settings, tuning, device }) = &self.left else {
            return Err(Error::argument(OP, "task", "asked for after a loss", "one before"));
        };
        let now = [task.model().identity(), task.identity()];
        for (name, (lost, now)) in ["model", "task"].into_iter().zip([model, objective].into_iter().zip(&now)) {
            if let Some(what) = identity::difference(lost, now) {
                return Err(Error::argument(OP, name, "what it was on the lost device", what));
            }
        }
        let gpu = task.model().parameters().gpu().clone();
        gpu.set_tuning(tuning);
        if *device != describe(&gpu) {
            log::warn!("the training was on {device}, and goes on with other last bits on {}", describe(&gpu));
        }
        let mut trainer = Trainer::new(task, settings.clone())?;
        if let Some(snapshot) = &self.last {
            trainer.restore(snapshot)?;
        }
        self.left = None;
        Ok(trainer)
    }
}
