//! Differentiable operations, one file each with its kernels, its backward rule and, in its `reference` module, the same
//! thing in plain Rust.
//!
//! Letters: B batch, T tokens, R kept tokens, C channels, H heads, D head width (C = H·D), F MLP width, V classes.
//! Every function checks dtypes and shapes and returns an error that names them; none panics on input. Inputs are on one
//! device.
//!
//! Where a kernel has two forms, [`crate::gpu::KernelFamily`] picks one: CPU drivers run barriers and workgroup memory
//! slowly, GPUs live by them.

pub mod gelu;
pub mod layernorm;

pub use gelu::gelu;
pub use layernorm::layernorm;

use crate::error::{Error, Result};
use crate::gpu::{Grid, Kernel};
use crate::shape::{DType, Shape};
use crate::tensor::Tensor;

/// Every kernel of the crate, for tests that compile them all.
pub fn kernels() -> Vec<&'static Kernel> {
    let modules = [crate::autograd::KERNELS, gelu::KERNELS, layernorm::KERNELS];
    modules.concat()
}

/// Invocations a workgroup of the kernels that treat each element by itself.
const ELEMENTWISE: usize = 64;

/// The grid of a kernel with one invocation for four elements.
fn vec4_grid(numel: usize) -> Grid {
    Grid::linear(numel.div_ceil(4), ELEMENTWISE)
}

/// The input must be f32.
fn expect_f32(op: &'static str, x: &Tensor) -> Result<()> {
    expect(op, x, x.dtype() == DType::F32, "needs f32")
}

/// `ok`, or an error that says `what` was expected of `x`.
fn expect(op: &'static str, x: &Tensor, ok: bool, what: &'static str) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::Shape { op, what, got: x.info() }) }
}

/// `ok`, or an error that says how `lhs` and `rhs` do not fit. Tensors of two devices never fit.
fn expect_match(op: &'static str, lhs: &Tensor, rhs: &Tensor, ok: bool, what: &'static str) -> Result<()> {
    let what = if lhs.gpu().same(rhs.gpu()) { what } else { "the tensors are on different devices" };
    if ok && lhs.gpu().same(rhs.gpu()) {
        return Ok(());
    }
    Err(Error::Mismatch { op, what, lhs: lhs.info(), rhs: rhs.info() })
}

/// A shape that follows from shapes already checked; an error where their product overflows.
fn shape(op: &'static str, dims: &[usize]) -> Result<Shape> {
    crate::tensor::checked_shape(op, dims)
}
