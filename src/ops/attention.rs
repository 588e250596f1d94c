//! Multi-head scaled-dot-product attention over packed queries, keys and values.
//!
//! The scores are stored: softmax(Q·Kᵀ/√D) takes `f32[B, H, T, T]`, with rows padded to a multiple of four.

use super::gemm::{Epilogue, Gemm, Layout, Operand, gemm};
use super::softmax::{softmax_rows, softmax_rows_backward};
use super::{expect, expect_f32, shape};
use crate::autograd::{Backward, ParentGradients, record};
use crate::error::{Error, Result};
use crate::gpu::BufferView;
use crate::shape::DType;
use crate::tensor::Tensor;

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mask {
    /// All of them.
    #[default]
    None,
    /// Those at its own position and before.
    Causal,
}

/// softmax(Q·Kᵀ/√D)·V for each head: `f32[B, T, 3·C]` to `f32[B, T, C]`. The last axis holds q, k and v side by side, each
/// H heads of width D = C/H, as timm's `attn.qkv` makes it.
///
/// # Errors
/// If `qkv` is not `f32[B, T, 3·heads·D]`.
pub fn attention(qkv: &Tensor, heads: usize, mask: Mask) -> Result<Tensor> {
    const OP: &str = "attention";
    expect_f32(OP, qkv)?;
    let &[batch, tokens, packed] = qkv.dims() else {
        return Err(Error::Shape { op: OP, what: "needs f32[B, T, 3·C]", got: qkv.info() });
    };
    let divides = heads > 0 && heads <= packed && packed.is_multiple_of(3 * heads);
    expect(OP, qkv, divides, "the last axis must be 3·heads·D")?;
    let dims = Dims { batch, heads, tokens, width: packed / 3 / heads };
    let gpu = qkv.gpu();
    let scores_shape = shape(OP, &[batch, heads, tokens, dims.stride()])?;
    let weights = Tensor::empty(gpu, DType::F32, scores_shape)?;
    let out = Tensor::empty(gpu, DType::F32, shape(OP, &[batch, tokens, packed / 3])?)?;
    let (q, k, v) = dims.qkv(qkv.buffer());
    let scale = 1.0 / (dims.width as f32).sqrt();
    let scores = dims.scores(weights.buffer());
    gemm(gpu, &dims.product(Layout::Nt, [tokens, tokens, dims.width], q, k, scores, scale, false))?;
    let causal = (mask == Mask::Causal).then_some(tokens);
    softmax_rows(gpu, weights.buffer(), batch * heads * tokens, tokens, dims.stride(), causal)?;
    gemm(
        gpu,
        &dims.product(Layout::Nn, [tokens, dims.width, tokens], scores, v, dims.heads(out.buffer()), 1.0, false),
    )?;
    Ok(record(out, &[qkv], || Rule { qkv: qkv.detach(), weights, dims, scale }))
}

/// The sizes, and how each matrix lies in memory.
#[derive(Clone, Copy)]
struct Dims {
    batch: usize,
    heads: usize,
    tokens: usize,
    /// D.
    width: usize,
}

impl Dims {
    /// From a row of scores to the next: T rounded up to whole vec4s.
    fn stride(&self) -> usize {
        self.tokens.next_multiple_of(4)
    }

    /// C.
    fn channels(&self) -> usize {
        self.heads * self.width
    }

    /// Q, K and V in `f32[B, T, 3·C]`.
    fn qkv<'a>(&self, view: &'a BufferView) -> (Operand<'a>, Operand<'a>, Operand<'a>) {
        let row = 3 * self.channels();
        let part = |i: usize| Operand { view, offset: i * self.channels(), row, step: [self.tokens * row, self.width] };
        (part(0), part(1), part(2))
    }

    /// The heads in `f32[B, T, C]`.
    fn heads<'a>(&self, view: &'a BufferView) -> Operand<'a> {
        Operand { view, offset: 0, row: self.channels(), step: [self.tokens * self.channels(), self.width] }
    }

    /// `f32[B, H, T, stride]`.
    fn scores<'a>(&self, view: &'a BufferView) -> Operand<'a> {
        let size = self.tokens * self.stride();
        Operand { view, offset: 0, row: self.stride(), step: [self.heads * size, size] }
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
    scale: f32,
}

impl Backward for Rule {
    /// O = P·V, P = softmax(S), S = scale·Q·Kᵀ.
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Some(to) = parents.destination(0)? else { return Ok(()) };
        let Rule { qkv, weights, dims, scale } = *self;
        let (gpu, add) = (dy.gpu(), to.accumulate);
        let (tokens, width) = (dims.tokens, dims.width);
        let (q, k, v) = dims.qkv(qkv.buffer());
        let (dq, dk, dv) = dims.qkv(to.tensor.buffer());
        let d_out = dims.heads(dy.buffer());
        // dV = Pᵀ dO
        gemm(
            gpu,
            &dims.product(Layout::Tn, [tokens, width, tokens], dims.scores(weights.buffer()), d_out, dv, 1.0, add),
        )?;
        // dP = dO Vᵀ, then in place dS
        let d_weights = weights.empty_like()?;
        let ds = dims.scores(d_weights.buffer());
        gemm(gpu, &dims.product(Layout::Nt, [tokens, tokens, width], d_out, v, ds, 1.0, false))?;
        let rows = dims.batch * dims.heads * tokens;
        softmax_rows_backward(gpu, weights.buffer(), d_weights.buffer(), rows, tokens, dims.stride())?;
        // dQ = scale dS K, dK = scale dSᵀ Q
        gemm(gpu, &dims.product(Layout::Nn, [tokens, width, tokens], ds, k, dq, scale, add))?;
        gemm(gpu, &dims.product(Layout::Tn, [tokens, width, tokens], ds, q, dk, scale, add))
    }
}

/// The same on the CPU, slowly.
pub mod reference {
    /// Sizes of packed attention: B, T, H, D.
    pub type Sizes = [usize; 4];

    /// Softmax weights `[B, H, T, T]` in f64.
    fn weights(qkv: &[f32], [batch, tokens, heads, width]: Sizes, causal: bool) -> Vec<f64> {
        let row = 3 * heads * width;
        let at = |b: usize, t: usize, part: usize, h: usize, d: usize| {
            f64::from(qkv[(b * tokens + t) * row + part * heads * width + h * width + d])
        };
        let mut all = Vec::with_capacity(batch * heads * tokens * tokens);
        for (b, h, i) in triples(batch, heads, tokens) {
            let seen = if causal { i + 1 } else { tokens };
            let dot = |j: usize| (0..width).map(|d| at(b, i, 0, h, d) * at(b, j, 1, h, d)).sum::<f64>();
            let scores: Vec<f64> = (0..seen).map(|j| dot(j) / (width as f64).sqrt()).collect();
            let largest = scores.iter().fold(f64::NEG_INFINITY, |m, s| m.max(*s));
            let exp: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
            let sum: f64 = exp.iter().sum();
            all.extend((0..tokens).map(|j| if j < seen { exp[j] / sum } else { 0.0 }));
        }
        all
    }

    fn triples(a: usize, b: usize, c: usize) -> impl Iterator<Item = (usize, usize, usize)> {
        (0..a * b * c).map(move |i| (i / c / b, i / c % b, i % c))
    }

    /// `f32[B, T, C]`.
    pub fn forward(qkv: &[f32], sizes: Sizes, causal: bool) -> Vec<f32> {
        let [batch, tokens, heads, width] = sizes;
        let (p, c) = (weights(qkv, sizes, causal), heads * width);
        let mut out = vec![0f32; batch * tokens * c];
        for (b, h, i) in triples(batch, heads, tokens) {
            for d in 0..width {
                let v = |j: usize| f64::from(qkv[(b * tokens + j) * 3 * c + 2 * c + h * width + d]);
                let weight = |j: usize| p[((b * heads + h) * tokens + i) * tokens + j];
                out[(b * tokens + i) * c + h * width + d] = (0..tokens).map(|j| weight(j) * v(j)).sum::<f64>() as f32;
            }
        }
        out
    }

    /// dqkv: `f32[B, T, 3·C]`.
    pub fn backward(qkv: &[f32], dy: &[f32], sizes: Sizes, causal: bool) -> Vec<f32> {
        let [batch, tokens, heads, width] = sizes;
        let (p, c) = (weights(qkv, sizes, causal), heads * width);
        let scale = 1.0 / (width as f64).sqrt();
        let mut dqkv = vec![0f64; qkv.len()];
        for (b, h, i) in triples(batch, heads, tokens) {
            let at = |t: usize, part: usize, d: usize| (b * tokens + t) * 3 * c + part * c + h * width + d;
            let grad = |d: usize| f64::from(dy[(b * tokens + i) * c + h * width + d]);
            let row = &p[((b * heads + h) * tokens + i) * tokens..][..tokens];
            let dp: Vec<f64> =
                (0..tokens).map(|j| (0..width).map(|d| grad(d) * f64::from(qkv[at(j, 2, d)])).sum()).collect();
            let inner: f64 = dp.iter().zip(row).map(|(d, p)| d * p).sum();
            for j in 0..tokens {
                let ds = row[j] * (dp[j] - inner) * scale;
                for d in 0..width {
                    dqkv[at(i, 0, d)] += ds * f64::from(qkv[at(j, 1, d)]);
                    dqkv[at(j, 1, d)] += ds * f64::from(qkv[at(i, 0, d)]);
                    dqkv[at(j, 2, d)] += row[j] * grad(d);
                }
            }
        }
        dqkv.into_iter().map(|v| v as f32).collect()
    }
}
