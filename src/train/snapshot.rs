//! Where a trainer stands, in the host's memory.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Task, Trainer};
use crate::checkpoint::read_named;
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

/// All that a [`Trainer`] goes on from: weights, moments, running average, the optimiser's counts and loss scale, what the task has
/// learnt beside its model ([`Task::held`]), the step. What is random in training follows from seeds and the step. So a trainer
/// that is brought back to a snapshot goes on bit for bit as it did from there, on another device of the same kind too; on one of
/// another kind within rounding.
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

impl Snapshot {
    /// Optimiser steps done.
    pub fn steps(&self) -> u64 {
        self.counts.step
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
