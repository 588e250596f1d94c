//! Layer normalisation over the last axis (Ba et al., 2016), by itself or of the kept tokens of random-LTD.

mod backward;
mod forms;

pub(super) use forms::kernels;

use backward::Rule;
use forms::{FORMS, Form, ForwardParams, NARROW};

use crate::autograd::{needs_grad, record};
use crate::error::Result;
use crate::gpu::{Fault, Grid};
use crate::ops::item::{LANES, team_of};
use crate::ops::tokens::{GatherRule, channels_of};
use crate::ops::{TokenIndices, expect, expect_f32, expect_match, shape};
use crate::shape::DType;
use crate::tensor::Tensor;

/// y = (x − mean) / √(variance + eps) · weight + bias, over the last axis: `f32[.., C]`, `f32[C]`, `f32[C]` to
/// `f32[.., C]`. The variance is the biased one, as PyTorch's.
///
/// # Errors
/// If `x` is not f32, weight or bias are not `f32[C]`, or eps is negative or not finite.
pub fn layernorm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    layernorm_as(x, weight, bias, eps, DType::F32)
}

/// [`layernorm()`] with the result rounded to `dtype`, f32 or f16; everything is computed in f32.
///
/// # Errors
/// As [`layernorm()`], or if f16 is asked for where C is no multiple of 4 or the device has none.
pub fn layernorm_as(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32, dtype: DType) -> Result<Tensor> {
    let norm = Norm::new("layernorm", x, weight, bias, eps, dtype)?;
    let (gpu, rows) = (x.gpu(), x.shape().rows());
    let y = Tensor::unwritten(gpu, dtype, x.shape())?;
    let stats = norm.stats(rows)?;
    let params = norm.params(rows);
    let (kernel, grid) = norm.form.forward.as_ref().by_row(gpu, &params, grids(&params));
    let buffers = [x.buffer(), weight.buffer(), bias.buffer(), y.buffer(), stats.buffer()];
    gpu.dispatch(kernel, &params, &buffers, grid)?;
    Ok(norm.record(y, x, stats))
}

/// The rows of kept tokens, and their [`layernorm_as()`], in one pass: `f32[B, T, C]` and `u32[B, R]` to
/// (`f32[B, R, C]`, `dtype[B, R, C]`). The first is what [`crate::ops::token_gather()`] gives.
///
/// # Errors
/// As [`crate::ops::token_gather()`] and [`layernorm_as()`].
pub fn gather_layernorm(
    x: &Tensor,
    indices: &TokenIndices,
    weight: &Tensor,
    bias: &Tensor,
    eps: f32,
    dtype: DType,
) -> Result<(Tensor, Tensor)> {
    const OP: &str = "gather_layernorm";
    let channels = channels_of(OP, x, indices)?;
    let norm = Norm::new(OP, x, weight, bias, eps, dtype)?;
    let (gpu, rows) = (x.gpu(), indices.batch() * indices.kept());
    let shape = shape(OP, &[indices.batch(), indices.kept(), channels])?;
    let (packed, y) = (Tensor::unwritten(gpu, DType::F32, shape)?, Tensor::unwritten(gpu, dtype, shape)?);
    let stats = norm.stats(rows)?;
    let (kept, tokens) = (indices.kept() as u32, indices.tokens() as u32);
    let faults = indices.fault_place(Fault::GatherIndex)?;
    let params = ForwardParams { kept, tokens, fault: faults.code, ..norm.params(rows) };
    let (kernel, grid) = norm.form.gather.as_ref().by_row(gpu, &params, grids(&params));
    let inputs = [x.buffer(), weight.buffer(), bias.buffer(), y.buffer(), stats.buffer()];
    let buffers = [&inputs[..], &[indices.positions().buffer(), &faults.table, packed.buffer()]].concat();
    gpu.dispatch(kernel, &params, &buffers, grid)?;
    let packed = record(packed, &[x], || GatherRule::new(indices));
    let y = norm.record(y, &packed, stats);
    Ok((packed, y))
}

/// A row for an invocation, or a row for a team.
fn grids(params: &ForwardParams) -> [Grid; 2] {
    [NARROW, LANES / params.lanes as usize].map(|share| Grid::linear(params.rows as usize, share))
}

/// A checked call.
struct Norm<'a> {
    weight: &'a Tensor,
    bias: &'a Tensor,
    eps: f32,
    form: &'static Form,
    /// Floats in an item of the form.
    item: usize,
}

impl<'a> Norm<'a> {
    fn new(op: &'static str, x: &Tensor, weight: &'a Tensor, bias: &'a Tensor, eps: f32, dtype: DType) -> Result<Self> {
        expect_f32(op, x)?;
        let width = x.shape().last();
        for affine in [weight, bias] {
            expect_f32(op, affine)?;
            expect_match(op, x, affine, affine.dims() == [width], "weight and bias must be f32[C] of x's last axis")?;
        }
        expect(op, x, eps >= 0.0 && eps.is_finite(), "eps must be finite and not negative")?;
        expect(op, x, matches!(dtype, DType::F32 | DType::F16), "gives f32 or f16")?;
        let fours = width.is_multiple_of(4);
        expect(op, x, fours || dtype == DType::F32, "gives f16 where the last axis is a multiple of 4")?;
        let (form, item) = FORMS.pick_as(dtype, width);
        Ok(Norm { weight, bias, eps, form, item })
    }

    /// Mean and inverse deviation of each row: `f32[rows, 2]`.
    fn stats(&self, rows: usize) -> Result<Tensor> {
        Tensor::unwritten(self.weight.gpu(), DType::F32, shape("layernorm", &[rows, 2])?)
    }

    /// Without a gather.
    fn params(&self, rows: usize) -> ForwardParams {
        let width = self.weight.numel() / self.item;
        let lanes = team_of(width) as u32;
        ForwardParams { rows: rows as u32, width: width as u32, eps: self.eps, kept: 0, tokens: 0, fault: 0, lanes }
    }

    /// Gives `y`, the norm of `x`, its place in the graph.
    fn record(&self, y: Tensor, x: &Tensor, stats: Tensor) -> Tensor {
        let parents = [x, self.weight, self.bias];
        if !needs_grad(&parents) {
            return y;
        }
        // Two destinations in one dispatch must not be the same memory.
        let same = self.weight.buffer().wgpu_buffer() == self.bias.buffer().wgpu_buffer()
            && self.weight.buffer().offset() == self.bias.buffer().offset();
        let &Norm { weight, form, item, .. } = self;
        let (x, weight) = (x.detach(), weight.detach());
        record(y, &parents, || Rule { x, weight, stats, form, item, weight_is_bias: same })
    }
}

/// The same on the CPU, slowly.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    /// (mean, 1 / √(variance + eps)) of a row.
    fn stats(row: &[f32], eps: f64) -> (f64, f64) {
        let n = row.len() as f64;
        let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let variance = row.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
        (mean, 1.0 / (variance + eps).sqrt())
    }

    /// y for rows of `weight.len()` elements.
    pub fn forward(x: &[f32], weight: &[f32], bias: &[f32], eps: f32) -> Vec<f32> {
        let row = |row: &[f32]| {
            let (mean, inverse) = stats(row, eps.into());
            let each = |i: usize| (f64::from(row[i]) - mean) * inverse * f64::from(weight[i]) + f64::from(bias[i]);
            (0..row.len()).map(|i| each(i) as f32).collect::<Vec<_>>()
        };
        x.chunks(weight.len()).flat_map(row).collect()
    }

    /// (dx, dweight, dbias).
    pub fn backward(x: &[f32], weight: &[f32], dy: &[f32], eps: f32) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let width = weight.len();
        let (mut dx, mut dw, mut db) = (Vec::with_capacity(x.len()), vec![0f64; width], vec![0f64; width]);
        for (x, dy) in x.chunks(width).zip(dy.chunks(width)) {
            let (mean, inverse) = stats(x, eps.into());
            let hat: Vec<f64> = x.iter().map(|&v| (f64::from(v) - mean) * inverse).collect();
            let dhat: Vec<f64> = (0..width).map(|i| f64::from(dy[i]) * f64::from(weight[i])).collect();
            let a = dhat.iter().sum::<f64>() / width as f64;
            let b = dhat.iter().zip(&hat).map(|(d, h)| d * h).sum::<f64>() / width as f64;
            for i in 0..width {
                dx.push((inverse * (dhat[i] - a - hat[i] * b)) as f32);
                dw[i] += f64::from(dy[i]) * hat[i];
                db[i] += f64::from(dy[i]);
            }
        }
        let narrow = |v: Vec<f64>| v.into_iter().map(|v| v as f32).collect();
        (dx, narrow(dw), narrow(db))
    }
}
