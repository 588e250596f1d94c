//! Losses, named as PyTorch's.

pub mod cross_entropy;
pub(super) mod pointwise;

pub use cross_entropy::{CrossEntropy, Targets, count_correct, cross_entropy};
pub use pointwise::{binary_cross_entropy_with_logits, mse_loss};

use crate::gpu::Kernel;

/// The kernels of this module; the others are made of operations.
pub(super) const KERNELS: &[&Kernel] = cross_entropy::KERNELS;
