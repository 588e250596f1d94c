//! Attention with stored scores, on the kernels of the matrix product and the softmax: for head widths and devices that
//! [`super::attention_flash()`] has no form for, and what it is measured against.

use super::dropout::{Dropout, Stored};
use super::mask::Mask;
use super::packed::Dims;
use crate::autograd::{Backward, ParentGradients, record};
use crate::error::Result;
use crate::gpu::BufferView;
use crate::ops::cast::cast;
use crate::ops::matmul::{Epilogue, Gemm, Layout, Operand, gemm};
use crate::ops::shape;
use crate::ops::softmax::{Rows, Seen, softmax_rows, softmax_rows_backward};
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
    let dropout = Dropout::checked(OP, dropout)?;
    let wide = cast(qkv, DType::F32)?;
    let sample = dims.heads * dims.tokens;
    let seen = Seen {
        causal: mask.is_causal().then_some((dims.tokens, 0)),
        lengths: lengths.as_ref().map(|lengths| (lengths.buffer(), sample)),
    };
    cast(&attend(&wide, dims, seen, dropout)?, qkv.dtype())
}

const OP: &str = "attention";

/// In full precision.
fn attend(qkv: &Tensor, dims: Dims, seen: Seen<'_>, dropout: Option<Dropout>) -> Result<Tensor> {
    let (gpu, Dims { batch, heads, tokens, width }) = (qkv.gpu(), dims);
    let weights = Tensor::unwritten_loose(gpu, DType::F32, shape(OP, &[batch, heads, tokens, dims.stride()])?)?;
    let out = Tensor::unwritten(gpu, DType::F32, shape(OP, &[batch, tokens, dims.channels()])?)?;
    let (q, k, v) = dims.qkv(qkv.buffer());
    let scores = dims.scores(weights.buffer());
    gemm(gpu, &dims.product(Layout::Nt, [tokens, tokens, width], q, k, scores, dims.scale(), false))?;
    softmax_rows(gpu, weights.buffer(), dims.rows(), seen)?;
    let kept = match dropout {
        None => weights.detach(),
        Some(dropout) => {
            let kept = Tensor::unwritten_loose(gpu, DType::F32, weights.shape())?;
            dropout.drop_into(gpu, dims.stored(), weights.buffer(), kept.buffer())?;
            kept
        }
    };
    let kept = dims.scores(kept.buffer());
    gemm(gpu, &dims.product(Layout::Nn, [tokens, width, tokens], kept, v, dims.heads_of(out.buffer()), 1.0, false))?;
    Ok(record(out, &[qkv], || Rule { qkv: qkv.detach(), weights, dims, dropout }))
}

/// How each matrix lies in memory.
impl Dims {
    /// From a row of scores to the next: T rounded up to whole vec4s.
    fn stride(&self) -> usize {
        self.tokens.next_multiple_of(4)
    }

    /// Q, K and V in `f32[B, T, 3·C]`.
    fn qkv<'a>(&self, view: &'a BufferView) -> (Operand<'a>, Operand<'a>, Operand<'a>) {
        let row = 3 * self.channels();
        let part = |i: usize| Operand { view, offset: i * self.channels(), row, step: [self.tokens * row, self.width] };
        (part(0), part(1), part(2))
    }

    /// The heads in `f32[B, T, C]`.
    fn heads_of<'a>(&self, view: &'a BufferView) -> Operand<'a> {
        Operand { view, offset: 0, row: self.channels(), step: [self.tokens * self.channels(), self.width] }
    }

    /// `f32[B, H, T, stride]`.
    fn scores<'a>(&self, view: &'a BufferView) -> Operand<'a> {
        let size = self.tokens * self.stride();
        Operand { view, offset: 0, row: self.stride(), step: [self.heads * size, size] }
    }

    fn rows(&self) -> Rows {
        Rows { rows: self.batch * self.heads * self.tokens, width: self.tokens, stride: self.stride() }
    }

    fn stored(&self) -> Stored {
        let Dims { batch, heads, tokens, .. } = *self;
        Stored { batch, heads, tokens, stride: self.stride() }
    }

    /// A product for every head of every sample.
    #[expect(clippy::too_many_arguments, reason = "a product's operands; every caller names them all")]
    fn product<'a>(
        &self,
        layout: Layout,
        size: [usize; 3],
        a: Operand<'a>,
        b: Operand<'a>,
        c: Operand<'a>,
        alpha: f32,
        accumulate: bool,
    ) -> Gemm<'a> {
        let epilogue = Epilogue::Plain { alpha, accumulate };
        Gemm { layout, size, batch: [self.batch, self.heads], types: [DType::F32; 3], a, b, c, epilogue }
    }
}

struct Rule {
    /// `f32[B, T, 3·C]`
    qkv: Tensor,
    /// softmax(Q·Kᵀ/√D): `f32[B, H, T, stride]`
    weights: Tensor,
    dims: Dims,
    dropout: Option<Dropout>,
}

impl Backward for Rule {
    /// O = R·V, R what dropout leaves of P, P = softmax(S), S = scale·Q·Kᵀ. Without dropout, R is P.
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Some(to) = parents.destination(0)? else { return Ok(()) };
        let Rule { qkv, weights, dims, dropout } = *self;
        let (gpu, add, scale) = (dy.gpu(), to.accumulate, dims.scale());
        let (tokens, width) = (dims.tokens, dims.width);
        let (q, k, v) = dims.qkv(qkv.buffer());
        let (dq, dk, dv) = dims.qkv(to.tensor.buffer());
        let d_out = dims.heads_of(dy.buffer());
        // dR = dO Vᵀ, then in place dP, then dS
        let d_weights = Tensor::unwritten_loose(gpu, DType::F32, weights.shape())?;
        let ds = dims.scores(d_weights.buffer());
        gemm(gpu, &dims.product(Layout::Nt, [tokens, tokens, width], d_out, v, ds, 1.0, false))?;
        if let Some(dropout) = dropout {
            dropout.drop_in_place(gpu, dims.stored(), d_weights.buffer())?;
        }
        softmax_rows_backward(gpu, weights.buffer(), d_weights.buffer(), dims.rows())?;
        // P has served, and R takes its place: dV = Rᵀ dO
        if let Some(dropout) = dropout {
            dropout.drop_in_place(gpu, dims.stored(), weights.buffer())?;
        }
        let kept = dims.scores(weights.buffer());
        gemm(gpu, &dims.product(Layout::Tn, [tokens, width, tokens], kept, d_out, dv, 1.0, add))?;
        // dQ = scale dS K, dK = scale dSᵀ Q
        gemm(gpu, &dims.product(Layout::Nn, [tokens, width, tokens], ds, k, dq, scale, add))?;
        gemm(gpu, &dims.product(Layout::Tn, [tokens, width, tokens], ds, q, dk, scale, add))
    }
}
