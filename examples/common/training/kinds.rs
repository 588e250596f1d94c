//! Settings that are one of a few names, for any program.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use wgrad::Gpu;
use wgrad::checkpoint::Storage;
use wgrad::nn::Precision;
use wgrad::optim::{AdamW, LrShape, Rule, Sgd};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerKind {
    Adamw,
    Sgd,
}

impl OptimizerKind {
    /// The optimiser, with what of these it has.
    pub fn rule(self, weight_decay: f32, momentum: f32, nesterov: bool) -> Rule {
        match self {
            OptimizerKind::Adamw => Rule::AdamW(AdamW { weight_decay, ..AdamW::default() }),
            OptimizerKind::Sgd => Rule::Sgd(Sgd { momentum, nesterov, weight_decay, ..Sgd::default() }),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PrecisionKind {
    F32,
    F16,
    Auto,
}

impl PrecisionKind {
    pub fn on(self, gpu: &Gpu) -> Precision {
        match self {
            PrecisionKind::F32 => Precision::F32,
            PrecisionKind::F16 => Precision::F16,
            PrecisionKind::Auto => Precision::auto(gpu),
        }
    }
}

/// Of weights, in files for others or at rest on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StorageKind {
    F32,
    F16,
}

impl From<StorageKind> for Precision {
    fn from(kind: StorageKind) -> Precision {
        match kind {
            StorageKind::F32 => Precision::F32,
            StorageKind::F16 => Precision::F16,
        }
    }
}

impl From<StorageKind> for Storage {
    fn from(kind: StorageKind) -> Storage {
        match kind {
            StorageKind::F32 => Storage::F32,
            StorageKind::F16 => Storage::F16,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LrKind {
    Cosine,
    Linear,
    Constant,
    /// A cosine over the layer tokens consumed, as random-LTD's pretraining has it.
    LayerToken,
    /// A straight line over the layer tokens consumed.
    LayerTokenLinear,
}

impl LrKind {
    /// Whether it goes by layer tokens instead of steps.
    pub fn is_by_layer_tokens(self) -> bool {
        matches!(self, LrKind::LayerToken | LrKind::LayerTokenLinear)
    }
}

impl From<LrKind> for LrShape {
    fn from(kind: LrKind) -> LrShape {
        match kind {
            LrKind::Cosine | LrKind::LayerToken => LrShape::Cosine,
            LrKind::Linear | LrKind::LayerTokenLinear => LrShape::Linear,
            LrKind::Constant => LrShape::Constant,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LtdSchedule {
    /// Rises linearly and ends at its end.
    Linear,
    /// DeepSpeed's schedule, with its quirks.
    FixedLinear,
}
