//! Multi-head scaled-dot-product attention over packed queries, keys and values: the choice between its forms.

mod cached;
pub mod dropout;
mod flash;
pub mod mask;
mod packed;
pub mod rotary;
mod scores;
mod stored;

pub use cached::{KeyValues, attention_cached};
pub use dropout::Dropout;
pub use flash::attention_flash;
pub use mask::Mask;
pub use rotary::{Rotary, rotary};
pub use stored::attention_stored;

use flash::has_form;
use packed::Dims;

use crate::error::Result;
use crate::gpu::{Kernel, KernelFamily};
use crate::tensor::Tensor;

/// softmax(Q·Kᵀ/√D)·V for each head: `f32` or `f16[B, T, 3·C]` to the same dtype `[B, T, C]`. The last axis holds q, k and v
/// side by side, each H heads of width D = C/H, as timm's `attn.qkv` makes it. All sums are in f32.
///
/// A query sees the keys that `mask` says, and gets zeros if there is none. With `dropout`, some of the softmax weights are set to 0 and
/// the others multiplied by 1 / (1 − p), as PyTorch does; p = 0 is no dropout.
///
/// [`attention_flash`] where it has a form for D and the device runs it well, else [`attention_stored`]. Both draw the same.
///
/// # Errors
/// If `qkv` is not `f32` or `f16[B, T, 3·heads·D]`, the mask is for another B, or p is not in 0 ≤ p < 1.
pub fn attention(qkv: &Tensor, heads: usize, mask: &Mask, dropout: Option<Dropout>) -> Result<Tensor> {
    let Dims { width, tokens, .. } = Dims::of("attention", qkv, heads)?;
    if has_form(width) && prefers_flash(qkv.gpu().family(), tokens) {
        attention_flash(qkv, heads, mask, dropout)
    } else {
        attention_stored(qkv, heads, mask, dropout)
    }
}

/// Every kernel of this module.
pub(super) fn kernels() -> Vec<&'static Kernel> {
    [flash::kernels(), dropout::KERNELS.to_vec(), mask::KERNELS.to_vec(), rotary::KERNELS.to_vec()].concat()
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

    /// What mask and dropout say.
    #[derive(Clone, Copy, Debug, Default)]
    pub struct Masked<'a> {
        pub causal: bool,
        /// `u32[B]`
        pub lengths: Option<&'a [u32]>,
        /// Of the weights: `[B, H, T, T]`.
        pub factors: Option<&'a [f32]>,
    }

    impl Masked<'_> {
        /// How many keys query `i` of sample `b` sees.
        fn seen(&self, b: usize, i: usize, tokens: usize) -> usize {
            let length = self.lengths.map_or(tokens, |lengths| tokens.min(lengths[b] as usize));
            if self.causal { length.min(i + 1) } else { length }
        }

        fn factor(&self, at: usize) -> f64 {
            self.factors.map_or(1.0, |factors| factors[at].into())
        }
    }

    /// Softmax weights `[B, H, T, T]` in f64.
    fn weights(qkv: &[f32], [batch, tokens, heads, width]: Sizes, masked: &Masked<'_>) -> Vec<f64> {
        let row = 3 * heads * width;
        let at = |b: usize, t: usize, part: usize, h: usize, d: usize| {
            f64::from(qkv[(b * tokens + t) * row + part * heads * width + h * width + d])
        };
        let mut all = Vec::with_capacity(batch * heads * tokens * tokens);
        for (b, h, i) in triples(batch, heads, tokens) {
            let seen = masked.seen(b, i, tokens);
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
    pub fn forward(qkv: &[f32], sizes: Sizes, masked: &Masked<'_>) -> Vec<f32> {
        let [batch, tokens, heads, width] = sizes;
        let (p, c) = (weights(qkv, sizes, masked), heads * width);
        let mut out = vec![0f32; batch * tokens * c];
        for (b, h, i) in triples(batch, heads, tokens) {
            let first = ((b * heads + h) * tokens + i) * tokens;
            for d in 0..width {
                let v = |j: usize| f64::from(qkv[(b * tokens + j) * 3 * c + 2 * c + h * width + d]);
                let weight = |j: usize| p[first + j] * masked.factor(first + j);
                out[(b * tokens + i) * c + h * width + d] = (0..tokens).map(|j| weight(j) * v(j)).sum::<f64>() as f32;
            }
        }
        out
    }

    /// dqkv: `f32[B, T, 3·C]`.
    pub fn backward(qkv: &[f32], dy: &[f32], sizes: Sizes, masked: &Masked<'_>) -> Vec<f32> {
        let [batch, tokens, heads, width] = sizes;
        let (p, c) = (weights(qkv, sizes, masked), heads * width);
        let scale = 1.0 / (width as f64).sqrt();
        let mut dqkv = vec![0f64; qkv.len()];
        for (b, h, i) in triples(batch, heads, tokens) {
            let at = |t: usize, part: usize, d: usize| (b * tokens + t) * 3 * c + part * c + h * width + d;
            let grad = |d: usize| f64::from(dy[(b * tokens + i) * c + h * width + d]);
            let first = ((b * heads + h) * tokens + i) * tokens;
            let row = &p[first..][..tokens];
            let product = |j: usize| (0..width).map(|d| grad(d) * f64::from(qkv[at(j, 2, d)])).sum::<f64>();
            let dp: Vec<f64> = (0..tokens).map(|j| product(j) * masked.factor(first + j)).collect();
            let inner: f64 = dp.iter().zip(row).map(|(d, p)| d * p).sum();
            for j in 0..tokens {
                let ds = row[j] * (dp[j] - inner) * scale;
                for d in 0..width {
                    dqkv[at(i, 0, d)] += ds * f64::from(qkv[at(j, 1, d)]);
                    dqkv[at(j, 1, d)] += ds * f64::from(qkv[at(i, 0, d)]);
                    dqkv[at(j, 2, d)] += row[j] * masked.factor(first + j) * grad(d);
                }
            }
        }
        dqkv.into_iter().map(|v| v as f32).collect()
    }
}
