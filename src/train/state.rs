//! Everything that a run is in the middle of, in one file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::evaluate::Sums;
use super::identity::Identity;
use super::{Evaluation, FitData, Trainer};
use crate::checkpoint::{self, HostTensor};
use crate::data::Position;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::ltd::LayerTokens;
use crate::models::vit::VitConfig;
use crate::ops::Tuning;
use crate::optim::OptimizerState;

/// The name of a run's state in its folder.
pub const STATE_FILE: &str = checkpoint::STATE_FILE;

/// Metadata key of a [`Header`] in JSON.
const KEY: &str = checkpoint::RUN_STATE;
/// Goes up when the content changes.
const VERSION: u32 = 3;
/// What stands before a parameter's path in the name of its weights.
const WEIGHTS: &str = "weights.";

/// Where a run stands, to go on from ([`super::FitOptions::resume`]): weights, moments, running average, the optimiser's
/// counts and loss scale, the step, the place in the data, the epoch in progress, the best epoch, the table of settled
/// kernels. All that is random in training follows from seeds and the step, so that on the same device and driver the run
/// goes on bit for bit as if it had not been interrupted.
#[derive(Clone, Debug)]
pub struct RunState {
    file: PathBuf,
    header: Header,
    tensors: BTreeMap<String, HostTensor>,
}

/// What tells whether the rest can be read.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Header {
    version: u32,
    identity: Identity,
    /// Adapter and driver.
    device: String,
    tuning: Tuning,
    optimizer: OptimizerState,
    progress: Saved,
}

/// [`Progress`] in whole numbers, since a float may not come back from JSON as it went.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Saved {
    step: u64,
    epoch: u64,
    batch: usize,
    samples: u64,
    layer_tokens: [u64; 2],
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
    fn new(trainer: &Trainer<'_>, progress: &Progress) -> Self {
        let Progress { next, samples, sums: Sums { loss, weight, correct, counted }, best, stale } = *progress;
        let LayerTokens { consumed, full } = trainer.layer_tokens();
        let best = best.map(|(epoch, Evaluation { loss, accuracy, samples })| SavedBest {
            epoch,
            loss_bits: loss.to_bits(),
            accuracy_bits: accuracy.to_bits(),
            samples,
        });
        Saved {
            step: trainer.steps(),
            epoch: next.epoch,
            batch: next.batch,
            samples,
            layer_tokens: [consumed, full],
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
    fn is_sound(&self, optimizer: &OptimizerState) -> bool {
        const MOST: u64 = 1 << 60;
        let Saved { step, epoch, samples, layer_tokens: [consumed, full], correct, counted, stale, .. } = *self;
        let [best_epoch, best_samples, accuracy] =
            self.best.as_ref().map_or([0; 3], |best| [best.epoch, best.samples, best.accuracy_bits]);
        let counts =
            [step, epoch, samples, consumed, full, correct, counted, stale, best_epoch, best_samples, optimizer.steps];
        let sums = [self.loss_bits, self.weight_bits, accuracy];
        counts.iter().all(|&count| count < MOST) && sums.iter().all(|&bits| f64::from_bits(bits).is_finite())
    }

    fn progress(&self) -> Progress {
        let best = |best: &SavedBest| {
            let (loss, accuracy) = (f64::from_bits(best.loss_bits), f64::from_bits(best.accuracy_bits));
            (best.epoch, Evaluation { loss, accuracy, samples: best.samples })
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

fn device(gpu: &Gpu) -> String {
    format!("{}, {}, {:?}", gpu.info().name, gpu.info().driver, gpu.family())
}

/// Why no run can go on from this, if so. Asked of what is read and of what is to be written: nothing that cannot be read
/// takes the place of a state that can.
fn fault(header: &Header, tensors: &BTreeMap<String, HostTensor>) -> Option<String> {
    if !header.progress.is_sound(&header.optimizer) {
        return Some("has counts or sums that no run reaches".to_owned());
    }
    let is_finite = |tensor: &HostTensor| tensor.data.iter().all(|value| value.is_finite());
    let (name, _) = tensors.iter().find(|(_, tensor)| !is_finite(tensor))?;
    Some(format!("has values in {name} that are not finite"))
}

/// Writes the state of a run whose results have all been read. The file is replaced as a whole or not at all.
pub(super) fn write_state(path: &Path, trainer: &Trainer<'_>, data: &FitData<'_>, progress: &Progress) -> Result<()> {
    let (model, optimizer) = (trainer.model(), trainer.optimizer());
    let gpu = model.gpu();
    let header = Header {
        version: VERSION,
        identity: Identity::new(trainer, data),
        device: device(gpu),
        tuning: gpu.tuning(),
        optimizer: pollster::block_on(optimizer.saved())?,
        progress: Saved::new(trainer, progress),
    };
    let mut tensors = BTreeMap::new();
    for parameter in model.parameters() {
        tensors.insert(format!("{WEIGHTS}{}", parameter.path()), HostTensor::download(&parameter.value())?);
    }
    for (name, tensor) in optimizer.held(model.parameters())? {
        tensors.insert(name, HostTensor::download(&tensor)?);
    }
    if let Some(what) = fault(&header, &tensors) {
        return Err(Error::file(path, format!("is left as it was, since the new state {what}")));
    }
    let text =
        serde_json::to_string(&header).map_err(|e| Error::file(path, format!("the state cannot be written: {e}")))?;
    checkpoint::write(path, &tensors, &BTreeMap::from([(KEY.to_owned(), text)]))
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
        let bad = |error: serde_json::Error| Error::file(path, format!("bad state of a run: {error}"));
        let Versioned { version } = serde_json::from_str(&text).map_err(bad)?;
        if version != VERSION {
            let what = format!(
                "is a run's state of version {version}, as another release of wgrad writes it; this one goes on from \
                 version {VERSION}"
            );
            return Err(Error::file(path, what));
        }
        let header: Header = serde_json::from_str(&text).map_err(bad)?;
        if let Some(what) = fault(&header, &file.tensors) {
            return Err(Error::file(path, what));
        }
        Ok(RunState { file: path.to_owned(), header, tensors: file.tensors })
    }

    /// The model's sizes.
    pub fn config(&self) -> &VitConfig {
        &self.header.identity.config
    }

    /// The names of its classes.
    pub fn class_names(&self) -> &[String] {
        &self.header.identity.class_names
    }

    /// Optimiser steps done.
    pub fn steps(&self) -> u64 {
        self.header.progress.step
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
    pub(super) fn restore(&self, trainer: &mut Trainer<'_>, data: &FitData<'_>) -> Result<Progress> {
        if let Some(what) = self.header.identity.difference(&Identity::new(trainer, data), data) {
            return Err(Error::file(&self.file, what));
        }
        if self.steps() > data.steps {
            let what = format!("is at step {}, the run has only {}", self.steps(), data.steps);
            return Err(Error::file(&self.file, what));
        }
        let model = trainer.model();
        let gpu = model.gpu();
        if self.header.device != device(gpu) {
            let now = device(gpu);
            log::warn!("the run was on {}, and goes on with other last bits on {now}", self.header.device);
        }
        let weights = model.parameters().iter().map(|p| (p, format!("{WEIGHTS}{}", p.path()), p.value().numel()));
        let weights: Vec<_> = weights
            .map(|(p, name, numel)| self.values(&name, numel).map(|values| (p, values)))
            .collect::<Result<_>>()?;
        let expected = weights.len() + trainer.optimizer().held(model.parameters())?.len();
        // Fewer are found by name.
        if self.tensors.len() > expected {
            let what = format!("has {} tensors, the run needs {expected}", self.tensors.len());
            return Err(Error::file(&self.file, what));
        }
        let Header { progress, optimizer, tuning, .. } = &self.header;
        let [consumed, full] = progress.layer_tokens;
        let values = |name: &str| self.values(name, self.tensors.get(name).map_or(0, |tensor| tensor.data.len()));
        trainer
            .restore(progress.step, LayerTokens { consumed, full }, optimizer, values)
            .map_err(|error| Error::file(&self.file, error.to_string()))?;
        for (parameter, values) in weights {
            parameter.set(values)?;
        }
        let ignored = gpu.set_tuning(tuning);
        if ignored > 0 {
            log::warn!("{}: {ignored} settled kernels do not fit this device", self.file.display());
        }
        Ok(progress.progress())
    }

    fn values(&self, name: &str, numel: usize) -> Result<&[f32]> {
        match self.tensors.get(name) {
            Some(tensor) if tensor.data.len() == numel => Ok(&tensor.data),
            Some(tensor) => {
                Err(Error::file(&self.file, format!("{name} has {} values, not {numel}", tensor.data.len())))
            }
            None => Err(Error::file(&self.file, format!("{name} is missing"))),
        }
    }
}
