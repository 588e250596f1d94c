//! Normalisation over the last axis.

pub mod layernorm;
pub mod rms_norm;

pub use layernorm::{gather_layernorm, layernorm, layernorm_as};
pub use rms_norm::rms_norm;

use crate::gpu::Kernel;

/// The kernels of this module; root-mean-square normalisation is made of operations.
pub(super) fn kernels() -> Vec<&'static Kernel> {
    layernorm::kernels()
}
