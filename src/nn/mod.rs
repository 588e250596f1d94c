//! Modules that models are built of: parameters with a forward pass. Names, shapes and initial values are timm's, so that its
//! checkpoints fit; a model with other names brings them ([`BlockNames`]).
//!
//! A module owns handles of its [`crate::autograd::Parameter`]s; the collection they live in is
//! [`crate::autograd::Parameters`]; a clone shares them. `forward` borrows the module, takes tensors and a [`Mode`], and
//! returns a tensor.

mod adapted;
mod block;
mod block_config;
mod build;
mod encoder;
mod init;
mod language;
mod layers;
mod lora;
mod lora_config;
mod model;
mod sampling;
mod span;

pub use adapted::AdaptedLinear;
pub use block::Block;
#[cfg(feature = "files")]
pub(crate) use block::GATED_PARTS;
pub(crate) use block::QKV_PARTS;
pub use block_config::{BlockConfig, BlockNames, NormOrder};
pub use build::build;
pub use encoder::Encoder;
pub use init::Init;
pub use language::{LanguageModel, Tokens};
pub use layers::{LayerNorm, Linear};
pub use lora_config::LoraConfig;
#[cfg(feature = "files")]
pub(crate) use lora_config::{A as LORA_A, B as LORA_B};
pub use model::{Classifier, Extent, Headed, Model};
pub use sampling::Sampling;
pub use span::Span;

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::ops::{self, Dropout, RandomKey};
use crate::shape::DType;
use crate::tensor::Tensor;

/// The element type of the activations inside the blocks. Weights, statistics, the residual stream, the loss and all sums are
/// f32 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats, for devices that have them ([`crate::Gpu::has_f16`]): half the memory and traffic. Small gradients
    /// vanish in them, so the loss must be scaled ([`crate::optim::LossScale`]).
    F16,
}

impl Precision {
    /// Half precision on GPUs that have it, else full: a driver that computes on the CPU gains nothing by it.
    pub fn auto(gpu: &Gpu) -> Self {
        if gpu.has_f16() && !gpu.info().is_cpu() { Precision::F16 } else { Precision::F32 }
    }
}

impl std::str::FromStr for Precision {
    type Err = Error;

    /// `f32` or `f16`.
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "f32" => Ok(Precision::F32),
            "f16" => Ok(Precision::F16),
            _ => Err(Error::argument("Precision", "precision", "f32 or f16", text)),
        }
    }
}

/// Training or evaluation, and how.
#[derive(Clone, Copy, Debug)]
pub struct Mode {
    /// In training, where dropout and stochastic depth draw from; each module sets its `layer`.
    key: Option<RandomKey>,
    is_recomputing: bool,
    precision: Precision,
}

impl Mode {
    /// No dropout, no stochastic depth. Wrap the pass in [`crate::autograd::no_grad`] to keep nothing for backward.
    pub fn evaluation() -> Self {
        Mode { key: None, is_recomputing: false, precision: Precision::F32 }
    }

    /// Dropout and stochastic depth draw from `key`.
    pub fn training(key: RandomKey) -> Self {
        Mode { key: Some(key), ..Self::evaluation() }
    }

    /// With `on`, a block keeps its input alone, and backward runs it a second time ([`crate::autograd::recompute`]): the
    /// same gradients bit for bit, for about a third more time, in the memory of one block.
    pub fn recomputing(self, on: bool) -> Self {
        Mode { is_recomputing: on, ..self }
    }

    /// With activations of this type.
    pub fn with_precision(self, precision: Precision) -> Self {
        Mode { precision, ..self }
    }

    /// Whether modules draw at random.
    pub fn is_training(&self) -> bool {
        self.key.is_some()
    }

    /// Whether any layer of these probabilities draws.
    pub(crate) fn draws(&self, probabilities: &[f32]) -> bool {
        self.is_training() && probabilities.iter().any(|p| *p > 0.0)
    }

    /// Whether blocks keep their input alone.
    pub fn is_recomputing(&self) -> bool {
        self.is_recomputing
    }

    /// The element type of activations inside a block.
    pub fn activations(&self) -> DType {
        match self.precision {
            Precision::F32 => DType::F32,
            Precision::F16 => DType::F16,
        }
    }

    /// The key of random layer number `layer`, in training.
    pub fn key(&self, layer: u32) -> Option<RandomKey> {
        self.key.map(|key| RandomKey { layer, ..key })
    }

    /// Dropout of `x` with probability `p` in training, as random layer number `layer`, of which each has one of its own
    /// ([`Block::layers_below`]).
    ///
    /// # Errors
    /// As [`ops::dropout()`].
    pub fn dropout(&self, x: Tensor, p: f32, layer: u32) -> Result<Tensor> {
        match self.key(layer) {
            Some(key) if p > 0.0 => ops::dropout(&x, p, key),
            _ => Ok(x),
        }
    }

    /// Dropout of attention's weights with probability `p` in training, as random layer number `layer`.
    pub fn attention_dropout(&self, p: f32, layer: u32) -> Option<Dropout> {
        self.key(layer).filter(|_| p > 0.0).map(|key| Dropout { p, key })
    }

    /// Stochastic depth in training: the samples of `x` that are left out become 0.
    ///
    /// # Errors
    /// As [`ops::drop_path()`].
    pub fn drop_path(&self, x: Tensor, p: f32, layer: u32) -> Result<Tensor> {
        match self.key(layer) {
            Some(key) if p > 0.0 => ops::drop_path(&x, p, key),
            _ => Ok(x),
        }
    }
}
