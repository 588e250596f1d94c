//! The operations that are checked, and how. A row of [`ROWS`] is all that a new operation adds.

use super::values;
use wgrad::autograd::{self, Check};
use wgrad::ops::{CrossEntropy, Gelu, Mask, Rotary, TokenIndices};
use wgrad::{DType, Gpu, Result, Tensor, ops};

pub struct Row {
    pub name: &'static str,
    /// Of the inputs that are differentiated.
    shapes: &'static [&'static [usize]],
    settings: Check,
    build: fn(&[Tensor]) -> Result<Tensor>,
}

impl Row {
    /// Whether the gradients are right on this device.
    pub fn check(&self, gpu: &Gpu) -> Result<()> {
        let input = |(dims, seed): (&&[usize], u64)| {
            let values: Vec<f32> = values(seed, dims.iter().product()).iter().map(|v| REACH * v).collect();
            Tensor::from_slice(gpu, dims, &values)
        };
        let inputs = self.shapes.iter().zip(1..).map(input).collect::<Result<Vec<_>>>()?;
        autograd::check(self.build, &inputs, &self.settings)
    }
}

const fn row(
    name: &'static str,
    shapes: &'static [&'static [usize]],
    settings: Check,
    build: fn(&[Tensor]) -> Result<Tensor>,
) -> Row {
    Row { name, shapes, settings, build }
}

/// For operations that are linear in each input: rounding is the only error.
const LINEAR: Check = Check { eps: 0.375, atol: 0.0, rtol: 1e-4, samples: 20, seed: 1000 };
/// For smooth operations: an error of eps² from the third derivative, and rounding.
const SMOOTH: Check = Check { eps: 1.5e-2, rtol: 2e-3, ..LINEAR };
/// For those that are linear between corners: a step that meets none.
const CORNERED: Check = Check { eps: 1.5e-3, ..SMOOTH };

const KEY: ops::RandomKey = ops::RandomKey { seed: 1, step: 2, layer: 3, first_sample: 4 };

const DROPOUT: Option<ops::Dropout> = Some(ops::Dropout { p: 0.3, key: KEY });

/// Packed queries, keys and values, turned by the angles of `tokens` places.
pub fn turned(x: &Tensor, heads: usize, tokens: usize, kept: Option<&TokenIndices>) -> Result<Tensor> {
    let angles: Vec<f64> = values(3, tokens * x.dims()[2] / 6 / heads).into_iter().map(f64::from).collect();
    ops::rotary(x.clone(), heads, &Rotary::new(x.gpu(), tokens, &angles)?, kept)
}

/// Rows without a gradient put among those of `x`, `f32[2, 5, C]`.
fn put_fixed(x: &Tensor) -> Result<Tensor> {
    let dims = [2, 3, x.dims()[2]];
    let rows = Tensor::from_slice(x.gpu(), &dims, &values(5, dims.iter().product()))?;
    ops::token_scatter(x.clone(), &rows, &kept(x.gpu())?)
}

/// For three samples: no key, one, some.
fn padded(x: &Tensor, mask: Mask) -> Result<Mask> {
    mask.with_lengths(&Tensor::from_slice(x.gpu(), &[3], &[0u32, 1, 4])?)
}

pub const ROWS: &[Row] = &[
    row("add", &[&[2, 5, 12], &[2, 5, 12]], LINEAR, |x| ops::add(&x[0], &x[1])),
    row("add rows", &[&[3, 5, 12], &[12]], LINEAR, |x| ops::add(&x[0], &x[1])),
    row("add samples", &[&[3, 5, 7], &[5, 7]], LINEAR, |x| ops::add(&x[0], &x[1])),
    row("add scalar", &[&[3, 5], &[]], LINEAR, |x| ops::add(&x[0], &x[1])),
    row("add_linear", &[&[2, 5, 12], &[2, 5, 8], &[12, 8]], LINEAR, |x| {
        ops::add_linear(x[0].clone(), &x[1], &x[2], 0.5, 0)
    }),
    row("add_linear, columns in place", &[&[5, 12], &[5, 8], &[4, 8]], LINEAR, |x| {
        ops::add_linear(ops::scale(&x[0], 2.0)?, &x[1], &x[2], 0.5, 4)
    }),
    row("add_linear, odd columns", &[&[5, 9], &[5, 2], &[3, 2]], LINEAR, |x| {
        ops::add_linear(x[0].clone(), &x[1], &x[2], 1.5, 6)
    }),
    row("attention", &[&[2, 5, 24]], SMOOTH, |x| ops::attention(&x[0], 2, &Mask::NONE, None)),
    row("attention, flash", &[&[2, 5, 96]], SMOOTH, |x| ops::attention_flash(&x[0], 2, &Mask::NONE, None)),
    row("attention, flash, causal", &[&[1, 6, 48]], SMOOTH, |x| ops::attention_flash(&x[0], 1, &Mask::CAUSAL, None)),
    row("attention, causal", &[&[1, 6, 18]], SMOOTH, |x| ops::attention(&x[0], 1, &Mask::CAUSAL, None)),
    row("attention, lengths", &[&[3, 6, 24]], SMOOTH, |x| {
        ops::attention_stored(&x[0], 2, &padded(&x[0], Mask::NONE)?, None)
    }),
    row("attention, causal, lengths", &[&[3, 6, 24]], SMOOTH, |x| {
        ops::attention_stored(&x[0], 2, &padded(&x[0], Mask::CAUSAL)?, None)
    }),
    row("attention, dropout", &[&[2, 5, 24]], SMOOTH, |x| ops::attention_stored(&x[0], 2, &Mask::NONE, DROPOUT)),
    row("attention, causal, lengths, dropout", &[&[3, 6, 24]], SMOOTH, |x| {
        ops::attention_stored(&x[0], 2, &padded(&x[0], Mask::CAUSAL)?, DROPOUT)
    }),
    row("attention, flash, lengths", &[&[3, 6, 48]], SMOOTH, |x| {
        ops::attention_flash(&x[0], 1, &padded(&x[0], Mask::NONE)?, None)
    }),
    row("attention, flash, causal, lengths", &[&[3, 6, 48]], SMOOTH, |x| {
        ops::attention_flash(&x[0], 1, &padded(&x[0], Mask::CAUSAL)?, None)
    }),
    row("attention, flash, dropout", &[&[2, 5, 96]], SMOOTH, |x| ops::attention_flash(&x[0], 2, &Mask::NONE, DROPOUT)),
    row("attention, flash, causal, lengths, dropout", &[&[3, 6, 48]], SMOOTH, |x| {
        ops::attention_flash(&x[0], 1, &padded(&x[0], Mask::CAUSAL)?, DROPOUT)
    }),
    row("cross_entropy", &[&[5, 7]], SMOOTH, |x| ops::cross_entropy(&x[0], &labels(&x[0])?, &Default::default())),
    row("cross_entropy, smoothed", &[&[5, 7]], SMOOTH, |x| {
        let settings = CrossEntropy { label_smoothing: 0.2, ignore_index: Some(3), ..Default::default() };
        ops::cross_entropy(&x[0], &labels(&x[0])?, &settings)
    }),
    row("cross_entropy, mixed and weighted", &[&[5, 7]], SMOOTH, |x| {
        let class_weights = Some(vec![0.5, 2.0, 0.0, 1.0, 1.5, 0.25, 3.0]);
        let settings = CrossEntropy { label_smoothing: 0.2, ignore_index: Some(1), class_weights };
        let others = Tensor::from_slice(x[0].gpu(), &[5], &[4u32, 1, 6, 2, 2])?;
        let shares = Tensor::from_slice(x[0].gpu(), &[5], &[0.25, 0.5, 0.7, 0.9, 1.0f32])?;
        let labels = labels(&x[0])?;
        ops::cross_entropy(&x[0], ops::Targets::mixed(&labels, &others, &shares), &settings)
    }),
    row("drop_path", &[&[7, 3, 4]], LINEAR, |x| ops::drop_path(&x[0], 0.4, KEY)),
    row("drop_path, odd width", &[&[7, 3, 5]], LINEAR, |x| ops::drop_path(&x[0], 0.4, KEY)),
    row("dropout", &[&[7, 13]], LINEAR, |x| ops::dropout(&x[0], 0.4, KEY)),
    row("embed_tokens", &[&[3, 5, 8], &[1, 2, 8], &[1, 7, 8]], LINEAR, |x| {
        ops::embed_tokens(&x[0], Some(&x[1]), &x[2])
    }),
    row("embed_tokens, no prefix", &[&[3, 5, 7], &[1, 5, 7]], LINEAR, |x| ops::embed_tokens(&x[0], None, &x[1])),
    row("embedding", &[&[5, 8]], LINEAR, |x| ops::embedding(&x[0], &ids(&x[0])?)),
    row("embedding, odd width", &[&[5, 3]], LINEAR, |x| ops::embedding(&x[0], &ids(&x[0])?)),
    row("gelu", &[&[7, 13]], SMOOTH, |x| ops::gelu(&x[0], Gelu::Erf)),
    row("gelu, tanh", &[&[7, 13]], SMOOTH, |x| ops::gelu(&x[0], Gelu::Tanh)),
    row("rotary", &[&[2, 3, 24]], SMOOTH, |x| turned(&x[0], 2, 3, None)),
    row("rotary, interleaved", &[&[2, 3, 24]], SMOOTH, |x| {
        let angles: Vec<f64> = values(3, 6).into_iter().map(f64::from).collect();
        ops::rotary(x[0].clone(), 2, &Rotary::new(x[0].gpu(), 3, &angles)?.interleaved(), None)
    }),
    row("rotary, kept", &[&[2, 3, 48]], SMOOTH, |x| {
        let kept = TokenIndices::new(x[0].gpu(), [2, 3], 5, &[0, 2, 3, 1, 2, 4])?;
        turned(&x[0], 2, 5, Some(&kept))
    }),
    row("rotary of fours", &[&[2, 3, 48]], SMOOTH, |x| turned(&x[0], 2, 3, None)),
    row("rotary, kept, narrow heads", &[&[2, 3, 24]], SMOOTH, |x| {
        let kept = TokenIndices::new(x[0].gpu(), [2, 3], 5, &[0, 2, 3, 1, 2, 4])?;
        turned(&x[0], 2, 5, Some(&kept))
    }),
    row("swiglu", &[&[3, 10]], SMOOTH, |x| ops::swiglu(&x[0])),
    row("swiglu of fours", &[&[3, 24]], SMOOTH, |x| ops::swiglu(&x[0])),
    row("gelu, quick", &[&[7, 13]], SMOOTH, |x| ops::gelu(&x[0], Gelu::Quick)),
    row("layernorm", &[&[5, 17], &[17], &[17]], SMOOTH, |x| ops::layernorm(&x[0], &x[1], &x[2], 1e-3)),
    row("layernorm of fours", &[&[5, 12], &[12], &[12]], SMOOTH, |x| ops::layernorm(&x[0], &x[1], &x[2], 1e-3)),
    row("gather_layernorm", &[&[2, 5, 8], &[8], &[8]], SMOOTH, |x| {
        let (packed, y) = ops::gather_layernorm(&x[0], &kept(x[0].gpu())?, &x[1], &x[2], 1e-3, DType::F32)?;
        ops::add(&packed, &y)
    }),
    row("gather_layernorm, odd width", &[&[2, 5, 7], &[7], &[7]], SMOOTH, |x| {
        let (packed, y) = ops::gather_layernorm(&x[0], &kept(x[0].gpu())?, &x[1], &x[2], 1e-3, DType::F32)?;
        ops::add(&packed, &y)
    }),
    row("linear", &[&[2, 5, 8], &[12, 8], &[12]], LINEAR, |x| ops::linear(&x[0], &x[1], Some(&x[2]))),
    row("linear, no bias", &[&[5, 7], &[3, 7]], LINEAR, |x| ops::linear(&x[0], &x[1], None)),
    row("linear_add", &[&[2, 5, 8], &[12, 8], &[12], &[2, 5, 12]], LINEAR, |x| {
        ops::linear_add(&x[0], &x[1], &x[2], &x[3])
    }),
    row("linear_add, layer scale", &[&[2, 5, 8], &[12, 8], &[12], &[12], &[2, 5, 12]], SMOOTH, |x| {
        let weight = ops::mul(&x[1], &ops::reshape(&x[3], &[12, 1])?)?;
        ops::linear_add(&x[0], &weight, &ops::mul(&x[2], &x[3])?, &x[4])
    }),
    row("linear_add, odd width", &[&[5, 7], &[3, 7], &[3], &[5, 3]], LINEAR, |x| {
        ops::linear_add(&x[0], &x[1], &x[2], &x[3])
    }),
    row("matmul", &[&[5, 8], &[8, 12]], LINEAR, |x| ops::matmul(&x[0], &x[1])),
    row("matmul, batched", &[&[3, 5, 7], &[3, 7, 4]], LINEAR, |x| ops::matmul(&x[0], &x[1])),
    row("matmul, shared", &[&[3, 5, 8], &[8, 4]], LINEAR, |x| ops::matmul(&x[0], &x[1])),
    row("matmul_nt", &[&[5, 8], &[12, 8]], LINEAR, |x| ops::matmul_nt(&x[0], &x[1])),
    row("matmul_nt, batched", &[&[2, 5, 8], &[2, 4, 8]], LINEAR, |x| ops::matmul_nt(&x[0], &x[1])),
    row("matmul_tn", &[&[8, 12], &[8, 4]], LINEAR, |x| ops::matmul_tn(&x[0], &x[1])),
    row("matmul_tn, batched", &[&[2, 5, 3], &[2, 5, 7]], LINEAR, |x| ops::matmul_tn(&x[0], &x[1])),
    row("linear_cross_entropy", &[&[5, 8], &[7, 8], &[7]], SMOOTH, |x| {
        let settings = CrossEntropy { label_smoothing: 0.2, ignore_index: Some(3), ..Default::default() };
        Ok(ops::linear_cross_entropy(&x[0], &x[1], Some(&x[2]), &labels(&x[0])?, &settings)?.loss)
    }),
    row("linear_cross_entropy, odd width", &[&[5, 3], &[7, 3]], SMOOTH, |x| {
        Ok(ops::linear_cross_entropy(&x[0], &x[1], None, &labels(&x[0])?, &Default::default())?.loss)
    }),
    row("mean", &[&[3, 7]], LINEAR, |x| ops::mean(&x[0])),
    row("mean_tokens", &[&[3, 5, 8]], LINEAR, |x| ops::mean_tokens(&x[0], 2)),
    row("mean_tokens, odd width", &[&[3, 5, 7]], LINEAR, |x| ops::mean_tokens(&x[0], 2)),
    row("mlp", MLP, SMOOTH, |x| ops::mlp(&x[0], (&x[1], &x[2]), (&x[3], &x[4]), Gelu::Erf, &x[5], None)),
    row("mlp, tanh", MLP, SMOOTH, |x| ops::mlp(&x[0], (&x[1], &x[2]), (&x[3], &x[4]), Gelu::Tanh, &x[5], None)),
    row("mlp, quick", MLP, SMOOTH, |x| ops::mlp(&x[0], (&x[1], &x[2]), (&x[3], &x[4]), Gelu::Quick, &x[5], None)),
    row("mlp, odd width", &[&[5, 3], &[7, 3], &[7], &[5, 7], &[5], &[5, 5]], SMOOTH, |x| {
        ops::mlp(&x[0], (&x[1], &x[2]), (&x[3], &x[4]), Gelu::Erf, &x[5], None)
    }),
    row("mlp, scattered", MLP_INTO, SMOOTH, |x| {
        let into = (x[6].clone(), &kept(x[6].gpu())?);
        ops::mlp(&x[0], (&x[1], &x[2]), (&x[3], &x[4]), Gelu::Erf, &x[5], Some(into))
    }),
    row("mlp, scattered in place", MLP_INTO, SMOOTH, |x| {
        let into = (ops::scale(&x[6], 2.0)?, &kept(x[6].gpu())?);
        ops::mlp(&x[0], (&x[1], &x[2]), (&x[3], &x[4]), Gelu::Erf, &x[5], Some(into))
    }),
    row("mul", &[&[5, 13], &[5, 13]], LINEAR, |x| ops::mul(&x[0], &x[1])),
    row("mul by itself", &[&[5, 13]], SMOOTH, |x| ops::mul(&x[0], &x[0])),
    row("patchify", &[&[2, 3, 4, 6]], LINEAR, |x| {
        ops::patchify(&x[0], 2, Some(&ops::Normalize { mean: [0.4, 0.5, 0.6], std: [0.5, 2.0, 0.25] }))
    }),
    row("reshape", &[&[5, 12]], LINEAR, |x| ops::reshape(&x[0], &[3, 5, 4])),
    row("scale", &[&[5, 13]], LINEAR, |x| ops::scale(&x[0], -0.3)),
    row("softmax", &[&[5, 13]], SMOOTH, |x| ops::softmax(&x[0])),
    row("softmax of fours", &[&[2, 3, 12]], SMOOTH, |x| ops::softmax(&x[0])),
    row("sum", &[&[3, 7]], LINEAR, |x| ops::sum(&x[0])),
    row("sum of many", &[&[300, 70]], LINEAR, |x| ops::sum(&x[0])),
    row("token_gather", &[&[2, 5, 8]], LINEAR, |x| ops::token_gather(&x[0], &kept(x[0].gpu())?)),
    row("token_gather, odd width", &[&[2, 5, 3]], LINEAR, |x| ops::token_gather(&x[0], &kept(x[0].gpu())?)),
    row("token_scatter", &[&[2, 5, 8], &[2, 3, 8]], LINEAR, |x| {
        ops::token_scatter(x[0].clone(), &x[1], &kept(x[0].gpu())?)
    }),
    row("token_scatter, into what is trained alone", &[&[2, 5, 8]], LINEAR, |x| put_fixed(&x[0])),
    row("token_scatter, into what is trained alone, odd width", &[&[2, 5, 3]], LINEAR, |x| put_fixed(&x[0])),
    row("token_scatter, in place", &[&[2, 5, 3], &[2, 3, 3]], LINEAR, |x| {
        ops::token_scatter(ops::scale(&x[0], 2.0)?, &x[1], &kept(x[0].gpu())?)
    }),
    row("token_scatter, and on", &[&[2, 5, 8], &[2, 3, 8]], LINEAR, |x| {
        ops::add(&ops::token_scatter(x[0].clone(), &x[1], &kept(x[0].gpu())?)?, &x[0])
    }),
    row("token_scatter, and on, odd width", &[&[2, 5, 3], &[2, 3, 3]], LINEAR, |x| {
        ops::add(&ops::token_scatter(x[0].clone(), &x[1], &kept(x[0].gpu())?)?, &x[0])
    }),
    row("abs", &[&[7, 13]], SMOOTH, |x| ops::abs(&away(&x[0])?)),
    row("clamp from above", &[&[7, 13]], SMOOTH, |x| ops::clamp(&away(&x[0])?, -3.0, 1.5)),
    row("clamp from below", &[&[7, 13]], SMOOTH, |x| ops::clamp(&away(&x[0])?, -1.5, 3.0)),
    row("exp", &[&[7, 13]], SMOOTH, |x| ops::exp(&x[0])),
    row("leaky_relu", &[&[7, 13]], SMOOTH, |x| ops::leaky_relu(&away(&x[0])?, 0.1)),
    row("log", &[&[7, 13]], SMOOTH, |x| ops::log(&positive(&x[0])?)),
    row("neg", &[&[7, 13]], LINEAR, |x| ops::neg(&x[0])),
    row("pow", &[&[7, 13]], SMOOTH, |x| ops::pow(&x[0], 3.0)),
    row("pow of a root", &[&[7, 13]], SMOOTH, |x| ops::pow(&positive(&x[0])?, 0.5)),
    row("relu", &[&[7, 13]], SMOOTH, |x| ops::relu(&away(&x[0])?)),
    row("rsqrt", &[&[7, 13]], SMOOTH, |x| ops::rsqrt(&positive(&x[0])?)),
    row("sigmoid", &[&[7, 13]], SMOOTH, |x| ops::sigmoid(&x[0])),
    row("silu", &[&[7, 13]], SMOOTH, |x| ops::silu(&x[0])),
    row("softplus", &[&[7, 13]], SMOOTH, |x| ops::softplus(&x[0])),
    row("sqrt", &[&[7, 13]], SMOOTH, |x| ops::sqrt(&positive(&x[0])?)),
    row("tanh", &[&[7, 13]], SMOOTH, |x| ops::tanh(&x[0])),
    row("add, broadcast", &[&[5, 1, 3], &[4, 1]], LINEAR, |x| ops::add(&x[0], &x[1])),
    row("div", &[&[5, 13], &[5, 13]], SMOOTH, |x| ops::div(&x[0], &positive(&x[1])?)),
    row("div, broadcast", &[&[5, 1], &[1, 7]], SMOOTH, |x| ops::div(&x[0], &positive(&x[1])?)),
    row("maximum", &[&[5, 13], &[5, 13]], SMOOTH, |x| ops::maximum(&away(&x[0])?, &ops::scale(&x[1], 1e-2)?)),
    row("maximum, broadcast", &[&[5, 13], &[13]], SMOOTH, |x| ops::maximum(&away(&x[0])?, &ops::scale(&x[1], 1e-2)?)),
    row("minimum", &[&[5, 13], &[5, 13]], SMOOTH, |x| ops::minimum(&away(&x[0])?, &ops::scale(&x[1], 1e-2)?)),
    row("minimum, broadcast", &[&[5, 13], &[13]], SMOOTH, |x| ops::minimum(&away(&x[0])?, &ops::scale(&x[1], 1e-2)?)),
    row("mul, broadcast", &[&[2, 1, 5], &[3, 1]], LINEAR, |x| ops::mul(&x[0], &x[1])),
    row("sub", &[&[5, 13], &[5, 13]], LINEAR, |x| ops::sub(&x[0], &x[1])),
    row("sub, broadcast", &[&[13], &[5, 13]], LINEAR, |x| ops::sub(&x[0], &x[1])),
    row("where", &[&[5, 7], &[7]], LINEAR, |x| {
        let condition = Tensor::from_slice(x[0].gpu(), &[5, 1], &[1u32, 0, 0, 7, 1])?;
        ops::where_(&condition, &x[0], &x[1])
    }),
    row("sum_axes", &[&[2, 3, 5, 4]], LINEAR, |x| ops::sum_axes(&x[0], &[0, 2], false)),
    row("sum_axes, wide", &[&[3, 300]], LINEAR, |x| ops::sum_axes(&x[0], &[1], false)),
    row("mean_axes", &[&[3, 7, 4]], LINEAR, |x| ops::mean_axes(&x[0], &[1], true)),
    row("max_axes", &[&[3, 7]], CORNERED, |x| ops::max_axes(&x[0], &[1], false)),
    row("max_axes of one", &[&[3, 1, 7]], CORNERED, |x| ops::max_axes(&x[0], &[1], true)),
    row("max_axes, wide", &[&[3, 300]], CORNERED, |x| ops::max_axes(&x[0], &[1], false)),
    row("max_axes of fours", &[&[7, 12]], CORNERED, |x| ops::max_axes(&x[0], &[0], false)),
    row("var_axes", &[&[3, 7, 2]], SMOOTH, |x| ops::var_axes(&x[0], &[0, 1], 1, false)),
    row("permute", &[&[2, 3, 4]], LINEAR, |x| ops::permute(&x[0], &[2, 0, 1])),
    row("transpose", &[&[2, 3, 4]], LINEAR, |x| ops::transpose(&x[0], 0, 1)),
    row("slice", &[&[2, 7, 8]], LINEAR, |x| ops::slice(&x[0], 1, 2..5)),
    row("slice, odd width", &[&[2, 7, 3]], LINEAR, |x| ops::slice(&x[0], 1, 2..5)),
    row("expand", &[&[3, 1, 4]], LINEAR, |x| ops::expand(&x[0], &[2, 3, 5, 4])),
    row("concat", &[&[2, 3], &[2, 1], &[2, 4]], LINEAR, |x| ops::concat(&[&x[0], &x[1], &x[2]], 1)),
    row("stack", &[&[2, 3], &[2, 3]], LINEAR, |x| ops::stack(&[&x[0], &x[1]], 1)),
    row("pad", &[&[2, 3]], LINEAR, |x| ops::pad(&x[0], &[(1, 0), (2, 1)], 0.5)),
    row("gather", &[&[3, 4]], LINEAR, |x| {
        let index = Tensor::from_slice(x[0].gpu(), &[3, 3], &[0u32, 3, 3, 1, 1, 1, 2, 0, 2])?;
        ops::gather(&x[0], 1, &index)
    }),
    row("scatter_add", &[&[3, 4], &[3, 3]], LINEAR, |x| {
        let index = Tensor::from_slice(x[0].gpu(), &[3, 3], &[0u32, 3, 3, 1, 1, 1, 2, 0, 2])?;
        ops::scatter_add(&x[0], 1, &index, &x[1])
    }),
    row("log_softmax", &[&[5, 13]], SMOOTH, |x| ops::log_softmax(&x[0])),
    row("mse_loss", &[&[5, 7], &[5, 7]], SMOOTH, |x| ops::mse_loss(&x[0], &x[1])),
    row("binary_cross_entropy_with_logits", &[&[5, 7], &[5, 7]], SMOOTH, |x| {
        ops::binary_cross_entropy_with_logits(&x[0], &x[1])
    }),
    row("rms_norm", &[&[5, 12], &[12]], SMOOTH, |x| ops::rms_norm(&x[0], &x[1], 1e-3)),
    row("conv2d", &[&[2, 3, 5, 6], &[4, 3, 3, 2], &[4]], LINEAR, |x| {
        let conv = ops::Conv2d { stride: [2, 1], padding: [1, 0], dilation: [1, 2] };
        ops::conv2d(&x[0], &x[1], Some(&x[2]), conv)
    }),
    row("max_pool2d", &[&[2, 2, 5, 4]], CORNERED, |x| {
        ops::max_pool2d(&x[0], ops::Pool2d { size: [3, 2], stride: [2, 2], padding: [1, 0] })
    }),
    row("avg_pool2d", &[&[2, 2, 5, 4]], LINEAR, |x| {
        ops::avg_pool2d(&x[0], ops::Pool2d { size: [3, 2], stride: [2, 1], padding: [1, 1] })
    }),
];

/// x, the two layers' weights and biases, and the residual.
const MLP: &[&[usize]] = &[&[2, 3, 8], &[12, 8], &[12], &[8, 12], &[8], &[2, 3, 8]];
/// The same, and the full tensor.
const MLP_INTO: &[&[usize]] = &[&[2, 3, 8], &[12, 8], &[12], &[8, 12], &[8], &[2, 3, 8], &[2, 5, 8]];

/// Inputs are within this of 0.
const REACH: f32 = 1.5;

/// `x`, which is within ±1.5, moved to 1.6 to 2.8 on either side of 0, away from the corners that some functions have.
fn away(x: &Tensor) -> Result<Tensor> {
    let side: Vec<f32> = (0..x.numel()).map(|i| if i % 2 == 0 { 2.2 } else { -2.2 }).collect();
    ops::add(&ops::scale(x, 0.4)?, &Tensor::from_slice(x.gpu(), x.dims(), &side)?)
}

/// `x`, which is within ±1.5, moved above 0.
fn positive(x: &Tensor) -> Result<Tensor> {
    ops::add(x, &Tensor::from_slice(x.gpu(), &[], &[2.5f32])?)
}

/// Labels of the rows of `f32[5, V]` logits.
fn labels(logits: &Tensor) -> Result<Tensor> {
    Tensor::from_slice(logits.gpu(), &[5], &[3u32, 0, 6, 1, 3])
}

/// Ids of a table of five rows, some repeated.
fn ids(table: &Tensor) -> Result<Tensor> {
    Tensor::from_slice(table.gpu(), &[2, 3], &[3u32, 0, 3, 1, 3, 0])
}

/// Three of the five tokens of two samples.
fn kept(gpu: &Gpu) -> Result<TokenIndices> {
    TokenIndices::new(gpu, [2, 3], 5, &[0, 2, 3, 1, 3, 4])
}
