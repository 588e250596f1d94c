//! Attention with stored scores, on the kernels of the matrix product and the softmax: for head widths and devices that
//! [`super::attention_flash()`] has no form for, and what it is measured against.

use super::dropout::{Dropout, drop_in_place, drop_into};
use super::mask::Mask;
use super::packed::Dims;
use super::scores::Scores;
use crate::autograd::{Backward, ParentGradients, record};
use crate::error::Result;
use crate::ops::cast::cast;
use crate::ops::matmul::gemm;
use crate::ops::random::Draws;
use crate::ops::shape;
use crate::ops::softmax::{Seen, softmax_rows, softmax_rows_backward};
use crate::shape::DType;
use crate::tensor::Tensor;

/// [`super::attention()`], with the scores in memory until backward has passed: `f32[B, H, T, T]`, rows padded to a
/// multiple of four. Any head width. In half precision it casts to full and back.
///
/// # Errors
/// As [`super::attention()`].
pub fn attention_stored(qkv: &Tensor, heads: usize, mask: &Mask, dropout: Option<Dropout>) -> Result<Tensor> {
    let dims = Dims::of(OP, qkv, heads)?;
    let lengths = mask.lengths_for(OP, qkv, dims.batch)?;
    let draws = Dropout::draws(OP, dropout)?;
    let wide = cast(qkv, DType::F32)?;
    let sample = dims.heads * dims.tokens;
    let seen = Seen {
        causal: mask.is_causal().then_some((dims.tokens, 0)),
        lengths: lengths.as_ref().map(|lengths| (lengths.buffer(), sample)),
    };
    cast(&attend(&wide, dims, seen, draws)?, qkv.dtype())
}

const OP: &str = "attention";

/// In full precision.
fn attend(qkv: &Tensor, dims: Dims, seen: Seen<'_>, draws: Option<Draws>) -> Result<Tensor> {
    let (gpu, scores) = (qkv.gpu(), Scores { dims, keys: dims.tokens });
    let weights = Tensor::unwritten_loose(gpu, DType::F32, scores.shape(OP)?)?;
    let out = Tensor::unwritten(gpu, DType::F32, shape(OP, &[dims.batch, dims.tokens, dims.channels()])?)?;
    let [q, k, v] = dims.qkv(qkv.buffer());
    gemm(gpu, &scores.of(q, k, scores.operand(weights.buffer()), dims.scale()))?;
    softmax_rows(gpu, weights.buffer(), scores.rows(), seen)?;
    let kept = match draws {
        None => weights.detach(),
        Some(draws) => {
            let kept = Tensor::unwritten_loose(gpu, DType::F32, weights.shape())?;
            drop_into(draws, gpu, &scores, weights.buffer(), kept.buffer())?;
            kept
        }
    };
    gemm(gpu, &scores.mix(scores.operand(kept.buffer()), v, dims.heads_of(out.buffer()), 1.0, false))?;
    Ok(record(out, &[qkv], || Rule { qkv: qkv.detach(), weights, scores, draws }))
}

struct Rule {
    /// `f32[B, T, 3·C]`
    qkv: Tensor,
    /// softmax(Q·Kᵀ/√D): `f32[B, H, T, stride]`
    weights: Tensor,
    scores: Scores,
    draws: Option<Draws>,
}

impl Backward for Rule {
    /// O = R·V, R what dropout leaves of P, P = softmax(S), S = scale·Q·Kᵀ. Without dropout, R is P.
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Some(to) = parents.destination(0)? else { return Ok(()) };
        let Rule { qkv, weights, scores, draws } = *self;
        let (gpu, add, dims) = (dy.gpu(), to.accumulate, scores.dims);
        let [q, k, v] = dims.qkv(qkv.buffer());
        let [dq, dk, dv] = dims.qkv(to.tensor.buffer());
        let d_out = dims.heads_of(dy.buffer());
        // dR = dO Vᵀ, then in place dP, then dS
        let d_weights = Tensor::unwritten_loose(gpu, DType::F32, weights.shape())?;
        let ds = scores.operand(d_weights.buffer());
        gemm(gpu, &scores.of(d_out, v, ds, 1.0))?;
        if let Some(draws) = draws {
            drop_in_place(draws, gpu, &scores, d_weights.buffer())?;
        }
        softmax_rows_backward(gpu, weights.buffer(), d_weights.buffer(), scores.rows())?;
        // P has served, and R takes its place: dV = Rᵀ dO
        if let Some(draws) = draws {
            drop_in_place(draws, gpu, &scores, weights.buffer())?;
        }
        gemm(gpu, &scores.mix_queries(scores.operand(weights.buffer()), d_out, dv, 1.0, add))?;
        // dQ = scale dS K, dK = scale dSᵀ Q
        gemm(gpu, &scores.mix(ds, k, dq, dims.scale(), add))?;
        gemm(gpu, &scores.mix_queries(ds, q, dk, dims.scale(), add))
    }
}
