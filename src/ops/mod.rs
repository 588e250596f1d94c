//! Differentiable operations, one file each with its kernels, its backward rule and, in its `reference` module, the same
//! thing in plain Rust.
//!
//! Letters: B batch, T tokens, R kept tokens, C channels, H heads, D head width (C = H·D), F MLP width, V classes.
//! Every function checks dtypes and shapes and returns an error that names them; none panics on input. Inputs are on one
//! device.
//!
//! Where a kernel has two forms, [`crate::gpu::KernelFamily`] picks one: CPU drivers run barriers and workgroup memory
//! slowly, GPUs live by them.

pub mod add;
pub mod attention;
pub mod attention_flash;
pub mod attention_stored;
pub mod cast;
pub mod column_sum;
pub mod concat_tokens;
pub mod conv;
mod copy_rows;
pub mod cross_entropy;
pub mod dropout;
pub mod elementwise;
pub mod embed_tokens;
pub mod gelu;
mod gemm;
mod gemm_deep;
mod gemm_forms;
mod gemm_plan;
mod item;
pub mod layernorm;
pub mod layout;
pub mod log_softmax;
pub mod losses;
pub mod matmul;
#[cfg(not(target_arch = "wasm32"))]
mod matrix_units;
pub mod mean_tokens;
pub mod mlp;
pub mod patchify;
pub mod random;
pub mod reduce;
pub mod reshape;
pub mod rms_norm;
pub mod scale;
pub mod slice_tokens;
pub mod softmax;
mod strided;
pub mod sum;
pub mod token_gather;
pub mod token_indices;
mod token_rows;
pub mod token_scatter;
#[cfg(not(target_arch = "wasm32"))]
mod tune;
mod tuning;

pub use add::add;
pub use attention::{Mask, attention};
pub use attention_flash::attention_flash;
pub use attention_stored::attention_stored;
pub use cast::cast;
pub use concat_tokens::concat_tokens;
pub use conv::{Conv2d, Pool2d, avg_pool2d, conv2d, max_pool2d};
pub use cross_entropy::{CrossEntropy, Targets, count_correct, cross_entropy};
pub use dropout::{drop_path, dropout};
pub use elementwise::{
    abs, clamp, div, exp, gelu_tanh, leaky_relu, log, maximum, minimum, mul, neg, pow, quick_gelu, relu, rsqrt,
    sigmoid, silu, softplus, sqrt, sub, tanh, where_,
};
pub use embed_tokens::embed_tokens;
pub use gelu::gelu;
pub use layernorm::{gather_layernorm, layernorm, layernorm_as};
pub use layout::{concat, expand, gather, pad, permute, scatter_add, slice, stack, transpose};
pub use log_softmax::log_softmax;
pub use losses::{binary_cross_entropy_with_logits, mse_loss};
pub use matmul::{linear, linear_add, matmul, matmul_nt, matmul_tn};
pub use mean_tokens::mean_tokens;
pub use mlp::mlp;
pub use patchify::patchify;
pub use random::RandomKey;
pub use reduce::{argmax, max_axes, mean_axes, sum_axes, var_axes};
pub use reshape::reshape;
pub use rms_norm::rms_norm;
pub use scale::scale;
pub use slice_tokens::slice_tokens;
pub use softmax::softmax;
pub use sum::{mean, sum};
pub use token_gather::token_gather;
pub use token_indices::TokenIndices;
pub use token_scatter::token_scatter;
#[cfg(not(target_arch = "wasm32"))]
pub use tune::{TuneReport, tune};
pub use tuning::{Demand, TunedProduct, Tuning, demands};

pub use crate::normalize::Normalize;

use crate::error::{Error, Result};
use crate::gpu::{Grid, Kernel};
use crate::shape::{DType, Shape};
use crate::tensor::Tensor;

/// Every kernel of this layer and the one below, for tests that compile them all.
pub fn kernels() -> Vec<&'static Kernel> {
    let modules = [
        crate::autograd::KERNELS,
        add::KERNELS,
        cast::KERNELS,
        column_sum::KERNELS,
        conv::KERNELS,
        copy_rows::KERNELS,
        dropout::KERNELS,
        embed_tokens::KERNELS,
        mean_tokens::KERNELS,
        layout::KERNELS,
        scale::KERNELS,
        strided::KERNELS,
        sum::KERNELS,
        cross_entropy::KERNELS,
        patchify::KERNELS,
        softmax::KERNELS,
        token_rows::KERNELS,
        gelu::KERNELS,
    ];
    let others = [
        attention_flash::kernels(),
        elementwise::kernels(),
        gemm_forms::kernels(),
        layernorm::kernels(),
        reduce::kernels(),
    ];
    [modules.concat(), others.concat()].concat()
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

/// The input must be f32 or f16.
fn expect_float(op: &'static str, x: &Tensor) -> Result<()> {
    expect(op, x, matches!(x.dtype(), DType::F32 | DType::F16), "needs f32 or f16")
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

/// `axis`, if `x` has it.
fn axis(op: &'static str, x: &Tensor, axis: usize) -> Result<usize> {
    let rank = x.shape().rank();
    if axis < rank { Ok(axis) } else { Err(Error::argument(op, "axis", format!("an axis of {}", x.info()), axis)) }
}

/// A shape that follows from shapes already checked; an error where their product overflows.
fn shape(op: &'static str, dims: &[usize]) -> Result<Shape> {
    crate::tensor::checked_shape(op, dims)
}

/// `x` itself, outside any graph, if no other handle shares its memory, else a copy: what may be written to in place.
fn sole_or_copy(x: &Tensor) -> Result<Tensor> {
    if x.buffer().is_sole() { Ok(x.detach()) } else { x.copied() }
}
