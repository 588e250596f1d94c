//! Everything that a run is in the middle of, in one file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::evaluate::Sums;
use super::identity::Identity;
use super::snapshot::{Counts, MOST, describe, parse_header};
use super::{Evaluation, FitData, Snapshot, Task, Trainer};
use crate::checkpoint;
use crate::data::{Position, Source};
use crate::error::{Error, Result};
use crate::ops::Tuning;

/// The name of a run's state in its folder.
pub const STATE_FILE: &str = checkpoint::STATE_FILE;

/// Metadata key of a [`Header`] in JSON.
const KEY: &str = checkpoint::RUN_STATE;
/// Goes up when the content changes.
const VERSION: u32 = 3;

/// Where a run stands, to go on from ([`super::FitOptions::resume`]): a [`Snapshot`] of its trainer, the place in the data, the
/// epoch in progress, the best epoch, the table of settled kernels. All that is random in training follows from seeds and the
/// step, so that on the same device and driver the run goes on bit for bit as if it had not been interrupted.
#[derive(Clone, Debug)]
pub struct RunState {
    file: PathBuf,
    header: Header,
    snapshot: Snapshot,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Header {
    version: u32,
    identity: Identity,
    /// Adapter and driver.
    device: String,
    tuning: Tuning,
    counts: Counts,
    progress: Saved,
}

/// [`Progress`] in whole numbers, since a float may not come back from JSON as it went.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Saved {
    epoch: u64,
    batch: usize,
    samples: u64,
    loss_bits: u64,
    weight_bits: u64,
    correct: u64,
    counted: u64,
    best: Option<SavedBest>,
    stale: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SavedBest {
    epoch: u64,
    loss_bits: u64,
    accuracy_bits: u64,
    samples: u64,
}

/// A run's counts and sums besides what its trainer has.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Progress {
    /// The batch to go on with.
    pub(super) next: Position,
    /// Training samples seen.
    pub(super) samples: u64,
    /// Sums over the epoch so far.
    pub(super) sums: Sums,
    /// The best validation result, and its epoch.
    pub(super) best: Option<(u64, Evaluation)>,
    /// Epochs since then.
    pub(super) stale: u64,
}

impl Saved {
    fn new(progress: &Progress) -> Self {
        let Progress { next, samples, sums: Sums { loss, weight, correct, counted }, best, stale } = *progress;
        let best = best.map(|(epoch, Evaluation { loss, accuracy, counted })| SavedBest {
            epoch,
            loss_bits: loss.to_bits(),
            accuracy_bits: accuracy.to_bits(),
            samples: counted,
        });
        Saved {
            epoch: next.epoch,
            batch: next.batch,
            samples,
            loss_bits: loss.to_bits(),
            weight_bits: weight.to_bits(),
            correct,
            counted,
            best,
            stale,
        }
    }

    /// Whether the counts are such as a run can reach, so that it can go on counting, and the sums are finite. (The best
    /// epoch's loss, of which nothing follows, need not be: where activations overflow, it is not.)
    fn is_sound(&self) -> bool {
        let Saved { epoch, samples, correct, counted, stale, .. } = *self;
        let [best_epoch, best_samples, accuracy] =
            self.best.as_ref().map_or([0; 3], |best| [best.epoch, best.samples, best.accuracy_bits]);
        let counts = [epoch, samples, correct, counted, stale, best_epoch, best_samples];
        let sums = [self.loss_bits, self.weight_bits, accuracy];
        counts.iter().all(|&count| count < MOST) && sums.iter().all(|&bits| f64::from_bits(bits).is_finite())
    }

    fn progress(&self) -> Progress {
        let best = |best: &SavedBest| {
            let (loss, accuracy) = (f64::from_bits(best.loss_bits), f64::from_bits(best.accuracy_bits));
            (best.epoch, Evaluation { loss, accuracy, counted: best.samples })
        };
        Progress {
            next: Position { epoch: self.epoch, batch: self.batch },
            samples: self.samples,
            sums: Sums {
                loss: f64::from_bits(self.loss_bits),
                weight: f64::from_bits(self.weight_bits),
                correct: self.correct,
                counted: self.counted,
            },
            best: self.best.as_ref().map(best),
            stale: self.stale,
        }
    }
}

/// Why no run can go on from this, if so ([`Snapshot::fault`]).
fn fault(progress: &Saved, snapshot: &Snapshot) -> Option<String> {
    if !progress.is_sound() {
        return Some("has counts or sums that no run reaches".to_owned());
    }
    snapshot.fault()
}

/// Writes the state of a run whose results have all been read, and returns its snapshot. The file is replaced as a whole or not at all.
pub(super) fn write_state<T: Task, S: Source, V: Source>(
    path: &Path,
    trainer: &Trainer<T>,
    data: &FitData<'_, S, V>,
    progress: &Progress,
) -> Result<Snapshot> {
    let gpu = trainer.task().model().parameters().gpu();
    let Snapshot { counts, tensors } = trainer.snapshot()?;
    let identity = Identity::new(trainer, data);
    let progress = Saved::new(progress);
    let header = Header { version: VERSION, identity, device: describe(gpu), tuning: gpu.tuning(), counts, progress };
    let snapshot = Snapshot { counts: header.counts.clone(), tensors };
    if let Some(what) = fault(&header.progress, &snapshot) {
        return Err(Error::file(path, format!("is left as it was, since the new state {what}")));
    }
    let text =
        serde_json::to_string(&header).map_err(|e| Error::file(path, format!("the state cannot be written: {e}")))?;
    checkpoint::write(path, &snapshot.tensors, &BTreeMap::from([(KEY.to_owned(), text)]))?;
    Ok(snapshot)
}

impl RunState {
    /// Reads `state.safetensors` of a run's folder.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses; [`Error::File`] if the content is not a run's state, or of another version.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mut file = checkpoint::read(path)?;
        let text = file.metadata.remove(KEY).ok_or_else(|| Error::file(path, "is not the state of a run"))?;
        let header: Header = parse_header(&text, VERSION, "state of a run", path)?;
        let snapshot = Snapshot { counts: header.counts.clone(), tensors: file.tensors };
        if let Some(what) = fault(&header.progress, &snapshot) {
            return Err(Error::file(path, what));
        }
        Ok(RunState { file: path.to_owned(), header, snapshot })
    }

    /// The model's configuration, as JSON ([`crate::nn::Model::identity`]).
    pub fn model(&self) -> &str {
        &self.header.identity.model
    }

    /// Where the trainer stood.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub(super) fn into_snapshot(self) -> Snapshot {
        self.snapshot
    }

    /// Optimiser steps done.
    pub fn steps(&self) -> u64 {
        self.snapshot.steps()
    }

    /// The kernels that the run had settled: for what a program computes before [`super::fit`] settles them again.
    pub fn tuning(&self) -> &Tuning {
        &self.header.tuning
    }

    /// Whether an epoch had begun and was not over: what was measured of it then is measured again at its end.
    pub fn is_within_epoch(&self) -> bool {
        self.header.progress.batch > 0
    }

    /// The best epoch so far, and what it scored.
    pub fn best(&self) -> Option<(u64, Evaluation)> {
        self.header.progress.progress().best
    }

    /// Brings a new trainer to where the run stood, with its model and its device's table of kernels. Nothing is changed if
    /// the state is of another run.
    pub(super) fn restore<T: Task, S: Source, V: Source>(
        &self,
        trainer: &mut Trainer<T>,
        data: &FitData<'_, S, V>,
    ) -> Result<Progress> {
        if let Some(what) = self.header.identity.difference(trainer, data) {
            return Err(Error::file(&self.file, what));
        }
        if self.steps() > data.steps {
            let what = format!("is at step {}, the run has only {}", self.steps(), data.steps);
            return Err(Error::file(&self.file, what));
        }
        trainer.restore(&self.snapshot).map_err(|error| self.in_file(error))?;
        let gpu = trainer.task().model().parameters().gpu();
        if self.header.device != describe(gpu) {
            let now = describe(gpu);
            log::warn!("the run was on {}, and goes on with other last bits on {now}", self.header.device);
        }
        let ignored = gpu.set_tuning(&self.header.tuning).ignored;
        if ignored > 0 {
            log::warn!("{}: {ignored} settled kernels do not fit this device", self.file.display());
        }
        Ok(self.header.progress.progress())
    }

    /// What does not fit is the file's fault.
    fn in_file(&self, error: Error) -> Error {
        match error {
            error @ (Error::Device { .. } | Error::DeviceLost { .. } | Error::OutOfMemory { .. }) => error,
            error => Error::file(&self.file, error.to_string()),
        }
    }
}
