//! Everything that a run is in the middle of, in one file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::evaluate::Sums;
use super::{Evaluation, FitData, Trainer};
use crate::autograd::Parameter;
use crate::checkpoint::{self, HostTensor};
use crate::data::{Fingerprint, Position};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::ltd::LayerTokens;
use crate::nn::VitConfig;
use crate::ops::Tuning;
use crate::optim::OptimizerState;
use crate::tensor::Tensor;

/// The name of a run's state in its folder.
pub const STATE_FILE: &str = checkpoint::STATE_FILE;

/// Metadata key of a [`Header`] in JSON.
const KEY: &str = checkpoint::RUN_STATE;
/// Goes up when the content changes.
const VERSION: u32 = 2;
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

/// What must be the same in the run that goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Identity {
    config: VitConfig,
    settings: String,
    train: String,
    validation: String,
    class_names: Vec<String>,
    /// Of each class of the two, by label, what tells its pictures from others.
    train_pictures: BTreeMap<u32, Fingerprint>,
    validation_pictures: BTreeMap<u32, Fingerprint>,
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
        let Saved { step, epoch, samples, correct, counted, stale, .. } = *self;
        let counts = [step, epoch, samples, correct, counted, stale, optimizer.steps];
        let accuracy = self.best.as_ref().map_or(0, |best| best.accuracy_bits);
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

impl Identity {
    fn new(trainer: &Trainer<'_>, data: &FitData<'_>) -> Self {
        let model = trainer.model();
        let frozen: Vec<&str> = model.parameters().iter().filter(|p| !p.is_trainable()).map(Parameter::path).collect();
        Identity {
            config: model.config().clone(),
            settings: format!("{:?}, frozen: {frozen:?}", trainer.settings()),
            train: data.train.identity(),
            validation: data.validation.identity(),
            class_names: data.class_names.to_vec(),
            train_pictures: data.train.fingerprints().clone(),
            validation_pictures: data.validation.fingerprints().clone(),
        }
    }

    /// What `now` has of another run, in words.
    fn difference(&self, now: &Identity) -> Option<String> {
        let [saved_config, config] = [&self.config, &now.config].map(|config| format!("{config:?}"));
        let pairs = [
            ("model", saved_config.as_str(), config.as_str()),
            ("settings", &self.settings, &now.settings),
            ("training data", &self.train, &now.train),
            ("validation data", &self.validation, &now.validation),
        ];
        let other = || {
            let (what, saved, now) = pairs.into_iter().find(|(_, saved, now)| saved != now)?;
            let (saved, now) = first_difference(saved, now);
            Some(format!("is of a run with another {what}: {saved:?} there, {now:?} here"))
        };
        // Names and exchanged pictures first: what they bring about elsewhere says less.
        self.other_name(now).or_else(|| self.exchanged(now)).or_else(other).or_else(|| self.other_pictures(now))
    }

    /// The first class that is called otherwise.
    fn other_name(&self, now: &Identity) -> Option<String> {
        let count = self.class_names.len().max(now.class_names.len());
        let names = |identity: &Identity, class: usize| identity.class_names.get(class).cloned().unwrap_or_default();
        let mut pairs = (0..count).map(|class| (names(self, class), names(now, class)));
        let (saved, now) = pairs.find(|(saved, now)| saved != now)?;
        Some(format!("is of a run with other classes: {saved:?} there, {now:?} here"))
    }

    /// The first class whose pictures are those of another class now.
    fn exchanged(&self, now: &Identity) -> Option<String> {
        let (label, print) =
            now.train_pictures.iter().find(|(label, print)| self.train_pictures.get(label) != Some(print))?;
        // Some of its own are there where pictures were added or removed.
        let is_own = self.train_pictures.get(label).is_some_and(|saved| saved.overlaps(print));
        let (saved, _) = self.train_pictures.iter().find(|(_, saved)| !is_own && saved.overlaps(print))?;
        let [saved, now] = [saved, label].map(|&label| now.class(label));
        Some(format!(
            "is of a run with other training data: the pictures of class {now} here are of class {saved} there"
        ))
    }

    /// The first class that has other pictures.
    fn other_pictures(&self, now: &Identity) -> Option<String> {
        let pairs = [
            ("training", &self.train_pictures, &now.train_pictures),
            ("validation", &self.validation_pictures, &now.validation_pictures),
        ];
        let (what, saved, pictures) = pairs.into_iter().find(|(_, saved, now)| saved != now)?;
        let label = pictures.keys().chain(saved.keys()).find(|label| saved.get(label) != pictures.get(label))?;
        Some(format!("is of a run with other {what} data: class {} has other pictures here", now.class(*label)))
    }

    /// A class's name, or its label where it has none.
    fn class(&self, label: u32) -> String {
        self.class_names.get(label as usize).map_or_else(|| label.to_string(), |name| format!("{name:?}"))
    }
}

/// The first of the items in two lists that differs.
fn first_difference<'a>(a: &'a str, b: &'a str) -> (&'a str, &'a str) {
    let items = |text: &'a str| text.split(", ").chain(std::iter::repeat(""));
    let count = a.split(", ").count().max(b.split(", ").count());
    items(a).zip(items(b)).take(count).find(|(a, b)| a != b).unwrap_or((a, b))
}

fn device(gpu: &Gpu) -> String {
    format!("{}, {}, {:?}", gpu.info().name, gpu.info().driver, gpu.family())
}

fn host(tensor: &Tensor) -> Result<HostTensor> {
    Ok(HostTensor { shape: tensor.dims().to_vec(), data: tensor.to_vec()? })
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
        tensors.insert(format!("{WEIGHTS}{}", parameter.path()), host(&parameter.value())?);
    }
    for (name, tensor) in optimizer.held(model.parameters())? {
        tensors.insert(name, host(&tensor)?);
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
        if let Some(what) = self.header.identity.difference(&Identity::new(trainer, data)) {
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
