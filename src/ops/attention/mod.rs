//! Multi-head scaled-dot-product attention over packed queries, keys and values: the choice between its forms.

mod flash;
mod packed;
mod stored;

pub use flash::attention_flash;
pub(super) use flash::kernels;
pub use packed::Mask;
pub use stored::attention_stored;

use flash::has_form;
use packed::Dims;

use crate::error::Result;
use crate::gpu::KernelFamily;
use crate::tensor::Tensor;

/// softmax(Q·Kᵀ/√D)·V for each head: `f32` or `f16[B, T, 3·C]` to the same dtype `[B, T, C]`. The last axis holds q, k and v
/// side by side, each H heads of width D = C/H, as timm's `attn.qkv` makes it. All sums are in f32.
///
/// [`attention_flash`] where it has a form for D and the device runs it well, else [`attention_stored`].
///
/// # Errors
/// If `qkv` is not `f32` or `f16[B, T, 3·heads·D]`.
pub fn attention(qkv: &Tensor, heads: usize, mask: Mask) -> Result<Tensor> {
    let Dims { width, tokens, .. } = Dims::of(qkv, heads)?;
    if has_form(width) && prefers_flash(qkv.gpu().family(), tokens) {
        attention_flash(qkv, heads, mask)
    } else {
        attention_stored(qkv, heads, mask)
    }
}

/// From here on the scores are large enough for a CPU driver to gain by not storing them.
const LONG: usize = 512;

/// GPUs run the flash kernels well. CPU drivers take two to twelve seconds to compile them and are then hardly faster
/// (docs/tried.md), so there they are for long sequences, whose scores take much memory.
fn prefers_flash(family: KernelFamily, tokens: usize) -> bool {
    family == KernelFamily::Workgroup || tokens >= LONG
}

/// The same on the CPU, slowly.
#[cfg(feature = "internals")]
#[doc(hidden)]
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
