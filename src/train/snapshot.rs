//! Where a trainer stands, in the host's memory, and as bytes for a program that goes on another day.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Task, Trainer};
use crate::checkpoint::{self, read_named};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::ltd::LayerTokens;
use crate::optim::OptimizerState;
use crate::shape::DType;
use crate::tensor::{HostTensor, Tensor, beyond_f16};

const OP: &str = "snapshot";
/// What stands before a parameter's path in the name of its weights.
const WEIGHTS: &str = "weights.";
/// What stands before the name of what a task holds.
const TASK: &str = "task.";
/// Metadata key of a [`Header`] in JSON.
const KEY: &str = "snapshot";
/// Goes up when the content changes.
const VERSION: u32 = 1;
/// No count of a training comes so far.
pub(super) const MOST: u64 = 1 << 60;

/// All that a [`Trainer`] goes on from: weights, moments, running average, the optimiser's counts and loss scale, what the task has
/// learnt beside its model ([`Task::held`]), the step. What is random in training follows from seeds and the step. So a trainer
/// that is brought back to a snapshot goes on bit for bit as it did from there, on another device of the same kind too; on one of
/// another kind within rounding. [`Snapshot::to_bytes`] is for what goes on after the program has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    pub(super) counts: Counts,
    /// The weights as `weights.PATH`, what the task holds as `task.NAME`, and what the optimiser holds under its own names
    /// ([`crate::optim::Optimizer::held`]).
    pub(super) tensors: BTreeMap<String, HostTensor>,
}

/// What of a snapshot is no tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Counts {
    pub(super) step: u64,
    /// Consumed and full.
    pub(super) layer_tokens: [u64; 2],
    pub(super) optimizer: OptimizerState,
}

/// The text beside the tensors of a snapshot in bytes.
#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    counts: Counts,
}

/// What tells whether the rest of a header can be read.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// A header in JSON, if it is of `version`; no field of another version is looked at. `kind` says in words what `file`
/// is to be.
pub(super) fn parse_header<H: DeserializeOwned>(text: &str, version: u32, kind: &str, file: &Path) -> Result<H> {
    let bad = |error: serde_json::Error| Error::file(file, format!("bad {kind}: {error}"));
    let found = serde_json::from_str::<Versioned>(text).map_err(bad)?.version;
    if found != version {
        let what = format!(
            "is a {kind}, of version {found}, as another release of wgrad writes it; this one goes on from version \
             {version}"
        );
        return Err(Error::file(file, what));
    }
    serde_json::from_str(text).map_err(bad)
}

impl Snapshot {
    /// Optimiser steps done.
    pub fn steps(&self) -> u64 {
        self.counts.step
    }

    /// The snapshot as the bytes of a safetensors file, for a loop of one's own that is to go on after the program has
    /// ended: in a file, a browser's storage, wherever bytes can be kept. [`Snapshot::from_bytes`] gives the same
    /// snapshot, and from that a trainer goes on bit for bit, on the same kind of device. The bytes depend on the
    /// snapshot alone.
    ///
    /// They hold neither settings nor the place in the data, and do not say of what model or task they are: a program
    /// that offers a choice keeps that beside them. Data go on from [`Snapshot::steps`].
    ///
    /// # Errors
    /// [`Error::File`] if a value is not finite, or the names exceed the format's 100 MB: what is written can be read.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let memory = Path::new("snapshot in memory");
        if let Some(what) = self.fault() {
            return Err(Error::file(memory, what));
        }
        let header = serde_json::to_string(&Header { version: VERSION, counts: self.counts.clone() });
        let header = header.map_err(|error| Error::file(memory, format!("the counts cannot be written: {error}")))?;
        checkpoint::to_bytes(&self.tensors, &BTreeMap::from([(KEY.to_owned(), header)]))
    }

    /// A snapshot from what [`Snapshot::to_bytes`] gave. `name` stands for the bytes in messages. They are not trusted:
    /// whether they fit a trainer is looked at by [`Trainer::restore`].
    ///
    /// # Errors
    /// [`Error::File`] if the bytes are no snapshot, or one of another version, or have values that are not finite or
    /// counts that nothing reaches.
    pub fn from_bytes(bytes: &[u8], name: &str) -> Result<Self> {
        let mut file = checkpoint::read_bytes(bytes, name)?;
        let path = Path::new(name);
        let text = file.metadata.remove(KEY).ok_or_else(|| Error::file(path, "is not a snapshot of a trainer"))?;
        let Header { counts, .. } = parse_header(&text, VERSION, "snapshot", path)?;
        let snapshot = Snapshot { counts, tensors: file.tensors };
        snapshot.fault().map_or(Ok(snapshot), |what| Err(Error::file(path, what)))
    }

    /// Why no trainer can go on from this, whichever it is, if so. Asked of what is read and of what is to be written:
    /// nothing that cannot be read takes the place of what can.
    pub(super) fn fault(&self) -> Option<String> {
        let Counts { step, layer_tokens: [consumed, full], ref optimizer } = self.counts;
        if [step, consumed, full, optimizer.steps].iter().any(|&count| count >= MOST) {
            return Some("has counts that no run reaches".to_owned());
        }
        let is_finite = |tensor: &HostTensor| tensor.data.iter().all(|value| value.is_finite());
        let (name, _) = self.tensors.iter().find(|(_, tensor)| !is_finite(tensor))?;
        Some(format!("has values in {} that are not finite", checkpoint::quoted(name)))
    }

    fn values(&self, name: &str) -> Result<&[f32]> {
        let missing = || Error::Parameter { name: name.to_owned(), what: "is missing".to_owned() };
        self.tensors.get(name).map(|tensor| tensor.data.as_slice()).ok_or_else(missing)
    }

    /// As many as `tensor` has, none beyond what it can hold.
    fn values_for(&self, name: &str, tensor: &Tensor) -> Result<&[f32]> {
        let (values, numel) = (self.values(name)?, tensor.numel());
        let fault = |what| Err(Error::Parameter { name: name.to_owned(), what });
        if values.len() != numel {
            return fault(format!("has {} values, not {numel}", values.len()));
        }
        match beyond_f16(values).filter(|_| tensor.dtype() == DType::F16) {
            Some(value) => fault(format!("has the value {value}, beyond what f16 can hold")),
            None => Ok(values),
        }
    }
}

/// Adapter, driver and kernels, on which the last bits of results depend.
pub(super) fn describe(gpu: &Gpu) -> String {
    format!("{}, {}, {:?}", gpu.info().name, gpu.info().driver, gpu.family())
}

impl<T: Task> Trainer<T> {
    /// Where the trainer stands after the last recorded step; awaiting it blocks no thread. It takes two to four times the weights'
    /// bytes of the host's memory.
    ///
    /// # Errors
    /// If the device fails.
    pub async fn snapshot_async(&self) -> Result<Snapshot> {
        let parameters = self.task().model().parameters();
        let weights = parameters.iter().map(|p| (format!("{WEIGHTS}{}", p.path()), p.value()));
        let of_task = self.task().held().into_iter().map(|(name, tensor)| (format!("{TASK}{name}"), tensor));
        let held: Vec<(String, Tensor)> = weights.chain(of_task).chain(self.optimizer().held(parameters)?).collect();
        let tensors = read_named(held).await?;
        let LayerTokens { consumed, full } = self.layer_tokens();
        let optimizer = self.optimizer().saved().await?;
        let counts = Counts { step: self.steps(), layer_tokens: [consumed, full], optimizer };
        Ok(Snapshot { counts, tensors })
    }

    /// [`Trainer::snapshot_async`], blocking the thread.
    ///
    /// # Errors
    /// As [`Trainer::snapshot_async`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn snapshot(&self) -> Result<Snapshot> {
        pollster::block_on(self.snapshot_async())
    }

    /// Goes on from where a trainer of an equal task with equal settings stood, this one or another. Results that were not read are
    /// given up.
    ///
    /// # Errors
    /// [`Error::Parameter`] if a tensor is missing or does not fit, [`Error::Argument`] if the snapshot is of another kind of
    /// optimiser or has tensors besides: nothing is changed. Else if the device fails.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<()> {
        let parameters = self.task().model().parameters();
        let mut weights = BTreeMap::new();
        for parameter in parameters {
            let name = format!("{WEIGHTS}{}", parameter.path());
            let values = snapshot.values_for(&name, &parameter.value())?;
            weights.insert(name, (parameter.clone(), values));
        }
        let mut of_task = BTreeMap::new();
        for (name, tensor) in self.task().held() {
            let name = format!("{TASK}{name}");
            let values = snapshot.values_for(&name, &tensor)?;
            of_task.insert(name, (tensor, values));
        }
        // What is missing is found by name. What is frozen now may have been trained, and has moments then.
        let is_known = |name: &String| {
            weights.contains_key(name) || of_task.contains_key(name) || self.optimizer().may_hold(parameters, name)
        };
        if let Some(name) = snapshot.tensors.keys().find(|name| !is_known(name)) {
            return Err(Error::argument(OP, "tensors", "those of the model, of this optimiser and of the task", name));
        }
        self.restore_optimizer(&snapshot.counts.optimizer, |name| snapshot.values(name))?;
        for (parameter, values) in weights.into_values() {
            parameter.set(values)?;
        }
        for (tensor, values) in of_task.into_values() {
            tensor.gpu().upload(bytemuck::cast_slice(values), tensor.buffer())?;
        }
        let [consumed, full] = snapshot.counts.layer_tokens;
        self.go_to(snapshot.counts.step, LayerTokens { consumed, full });
        Ok(())
    }
}
