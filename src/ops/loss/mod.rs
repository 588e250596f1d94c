//! Losses, named as PyTorch's.

pub mod cross_entropy;
mod linear_cross_entropy;
pub(super) mod pointwise;
mod rows;
mod settings;

pub use cross_entropy::{count_correct, cross_entropy};
pub use linear_cross_entropy::{Scores, linear_cross_entropy};
pub use pointwise::{binary_cross_entropy_with_logits, mse_loss};
pub use settings::{CrossEntropy, Targets};

use crate::gpu::Kernel;

/// The kernels of this module; the others are made of operations.
pub(super) const KERNELS: &[&Kernel] = rows::KERNELS;
