//! Modules: parameters with a forward pass. Names, shapes and initial values are timm's, so that its checkpoints fit.
//!
//! A module owns handles of its [`crate::autograd::Parameter`]s; the collection they live in is
//! [`crate::autograd::Parameters`]; a clone shares them. `forward` borrows the module, takes tensors and a [`Mode`], and returns a tensor.

mod block;
mod init;
mod layers;
mod vit;

pub use block::{Attention, Block, Mlp};
pub use init::Init;
pub use layers::{LayerNorm, Linear, PatchEmbed};
pub use vit::{Pool, Vit, VitConfig};

use crate::error::Result;
use crate::ops::{self, RandomKey};
use crate::tensor::Tensor;

/// Training or evaluation.
#[derive(Clone, Copy, Debug)]
pub enum Mode {
    /// No dropout, no stochastic depth. Wrap the pass in [`crate::autograd::no_grad`] to keep nothing for backward.
    Evaluation,
    /// Dropout and stochastic depth draw from this key; its `layer` is set by each module.
    Training(RandomKey),
    /// As `Training`, with the same gradients bit for bit, but a block keeps its input alone: backward runs it a second
    /// time ([`crate::autograd::checkpoint`]). For about a third more time, a step needs the memory of one block.
    Checkpointed(RandomKey),
}

impl Mode {
    /// The key of random layer number `layer`, in training.
    fn key(&self, layer: u32) -> Option<RandomKey> {
        match self {
            Mode::Evaluation => None,
            Mode::Training(key) | Mode::Checkpointed(key) => Some(RandomKey { layer, ..*key }),
        }
    }

    fn dropout(&self, x: Tensor, p: f32, layer: u32) -> Result<Tensor> {
        match self.key(layer) {
            Some(key) if p > 0.0 => ops::dropout(&x, p, key),
            _ => Ok(x),
        }
    }

    fn drop_path(&self, x: Tensor, p: f32, layer: u32) -> Result<Tensor> {
        match self.key(layer) {
            Some(key) if p > 0.0 => ops::drop_path(&x, p, key),
            _ => Ok(x),
        }
    }
}
