//! Differentiable operations. An operation is a file with its kernels, its backward rule and, in its `reference` module, the
//! same thing in plain Rust; its folder says what kind it is of.
//!
//! Letters: B batch, T tokens, R kept tokens, C channels, H heads, D head width (C = H·D), F MLP width, V classes.
//! Every function checks dtypes and shapes and returns an error that names them, and the operation or that of which it is made; none
//! panics on input. Inputs are on one
//! device.
//!
//! Where a kernel has two forms, [`crate::gpu::KernelFamily`] picks one: CPU drivers run barriers and workgroup memory
//! slowly, GPUs live by them.

pub mod attention;
pub mod cast;
mod check;
pub mod conv;
pub mod dropout;
pub mod elementwise;
mod item;
pub mod layout;
mod loss;
pub mod matmul;
pub mod mlp;
mod norm;
mod parts;
pub mod patchify;
pub mod random;
pub mod reduce;
pub mod softmax;
mod strided;
mod tokens;
mod variants;

pub use attention::{
    Dropout, KeyValues, Mask, Rotary, attention, attention_cached, attention_flash, attention_stored, rotary,
};
pub use cast::cast;
pub use conv::{Conv2d, Pool2d, avg_pool2d, conv2d, max_pool2d};
pub use dropout::{drop_path, dropout};
pub use elementwise::{
    Gelu, abs, add, clamp, div, eq, exp, ge, gelu, gt, le, leaky_relu, log, lt, maximum, minimum, mul, ne, neg, pow,
    relu, rsqrt, scale, sigmoid, silu, softplus, sqrt, sub, swiglu, tanh, where_,
};
pub use layout::{concat, expand, gather, pad, permute, reshape, scatter_add, slice, stack, transpose};
pub use loss::{
    CrossEntropy, Scores, Targets, binary_cross_entropy_with_logits, count_correct, cross_entropy,
    linear_cross_entropy, mse_loss,
};
pub use matmul::{
    Demand, Settled, TunedProduct, Tuning, add_linear, demands, linear, linear_add, matmul, matmul_nt, matmul_tn,
};
#[cfg(not(target_arch = "wasm32"))]
pub use matmul::{TuneReport, tune};
pub use mlp::mlp;
pub use norm::{gather_layernorm, layernorm, layernorm_as, rms_norm};
pub use patchify::patchify;
pub use random::RandomKey;
pub use reduce::{argmax, max_axes, mean, mean_axes, sum, sum_axes, var_axes};
pub use softmax::{log_softmax, softmax};
pub use tokens::{
    TokenIndices, embed_tokens, embedding, keep_largest, mean_tokens, token_gather, token_scatter, update_means,
};

pub use crate::normalize::Normalize;

use check::{axis, expect, expect_f32, expect_float, expect_match, expect_same_device, shape, sole_or_copy};

use crate::gpu::Kernel;

/// Where tests and benches find the references of operations whose modules are no part of the interface.
#[cfg(feature = "internals")]
macro_rules! references {
    ($($name:ident of $folder:ident::$file:ident;)+) => {$(
        #[doc(hidden)]
        pub mod $name {
            pub use super::$folder::$file::reference;
        }
    )+};
}

#[cfg(feature = "internals")]
references! {
    column_sum of reduce::column_sum;
    embed_tokens of tokens::embed;
    embedding of tokens::lookup;
    keep_largest of tokens::largest;
    losses of loss::pointwise;
    mean_tokens of tokens::mean;
    token_gather of tokens::gather;
    token_scatter of tokens::scatter;
    update_means of tokens::means;
}

/// Every kernel of this layer and the one below, for tests that compile them all.
pub(crate) fn kernels() -> Vec<&'static Kernel> {
    let modules = [
        crate::autograd::KERNELS,
        cast::KERNELS,
        conv::KERNELS,
        dropout::KERNELS,
        layout::KERNELS,
        loss::KERNELS,
        patchify::KERNELS,
        softmax::KERNELS,
        strided::KERNELS,
    ];
    let others = [
        attention::kernels(),
        elementwise::kernels(),
        matmul::kernels(),
        norm::kernels(),
        reduce::kernels(),
        tokens::kernels(),
    ];
    [modules.concat(), others.concat()].concat()
}
