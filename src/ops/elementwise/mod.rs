//! Functions of elements: of one tensor, of two, and the choice between two. Two tensors are broadcast as NumPy does: axes are
//! matched from the last, and an axis of size 1, or one that a tensor lacks, repeats it.
//!
//! One shader serves all functions of one tensor and one all of two; a function is a file of a few lines below
//! `shaders/unary/` or `shaders/binary/`, and a line here. What training steps are made of has kernels of its own: [`add()`],
//! [`gelu()`], [`scale()`], [`swiglu()`].

pub mod add;
mod binary;
mod choice;
pub mod gelu;
pub mod scale;
pub mod swiglu;
mod unary;

pub use add::add;
pub use binary::{div, eq, ge, gt, le, lt, maximum, minimum, mul, ne, sub};
pub use choice::where_;
pub use gelu::{Gelu, gelu};
pub use scale::scale;
pub use swiglu::swiglu;
pub(super) use unary::rsqrt_above;
pub use unary::{abs, clamp, exp, leaky_relu, log, neg, pow, relu, rsqrt, sigmoid, silu, softplus, sqrt, tanh};

use crate::gpu::Kernel;

/// The kernels of this module.
pub(crate) fn kernels() -> Vec<&'static Kernel> {
    let own = [add::KERNELS, choice::KERNELS, scale::KERNELS, swiglu::KERNELS].concat();
    [unary::kernels(), binary::kernels(), gelu::kernels(), own].concat()
}

/// The same on the CPU, slowly: of a function its value and its slopes.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    pub use super::binary::reference as binary;
    pub use super::unary::reference as unary;
}
