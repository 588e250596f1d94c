//! Dropout of attention's weights: softmax's output, some of it set to 0 and the rest multiplied by 1 / (1 − p).

use super::packed::Dims;
use super::scores::Scores;
use crate::error::Result;
use crate::gpu::lib::philox_rounds;
use crate::gpu::{Access, BufferView, Gpu, Grid, Kernel, Params, looped, params, rounds, wgsl};
use crate::ops::item::LANES;
use crate::ops::random::{Draws, Purpose, RandomKey};

/// Dropout, and where it draws from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// The probability with which each weight is dropped: at least 0 and below 1.
    pub p: f32,
    /// Makes the mask, and makes it again in backward.
    pub key: RandomKey,
}

impl Dropout {
    /// What `dropout` draws, if it drops anything.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if p is not in 0 ≤ p < 1.
    pub(super) fn draws(op: &'static str, dropout: Option<Dropout>) -> Result<Option<Draws>> {
        dropout.map_or(Ok(None), |Dropout { p, key }| Draws::new(op, p, key, Purpose::Attention))
    }
}

params!(WeightsDropoutParams {
    items: u32,
    row: u32,
    heads: u32,
    matrices: u32,
    groups: u32,
    key_low: u32,
    key_high: u32,
    layer: u32,
    first_low: u32,
    first_high: u32,
    threshold: u32,
    keep_scale: f32,
});

static INTO: Kernel = Kernel {
    name: "weights_dropout.into",
    sources: &[
        wgsl!("weights_dropout.wgsl"),
        wgsl!("lib/draws.wgsl"),
        wgsl!("lib/philox.wgsl"),
        wgsl!("lib/grid.wgsl"),
    ],
    entry: "into",
    bindings: &[Access::Write, Access::Read],
    params: WeightsDropoutParams::FIELDS,
    constants: &[],
    rounds: rounds!(WeightsDropoutParams, |_, _| philox_rounds() + looped(RUN as u64, 0)),
};

static IN_PLACE: Kernel =
    Kernel { name: "weights_dropout.in_place", entry: "in_place", bindings: &[Access::Write], ..INTO };

pub(super) const KERNELS: &[&Kernel] = &[&INTO, &IN_PLACE];

/// The vec4s that each invocation treats with the words that it makes, as in the shader.
const RUN: usize = 16;

/// What is left of `weights`, written to `kept`.
pub(super) fn drop_into(
    draws: Draws,
    gpu: &Gpu,
    scores: &Scores,
    weights: &BufferView,
    kept: &BufferView,
) -> Result<()> {
    dispatch(draws, gpu, &INTO, scores, &[kept, weights])
}

/// The same in place; also of the weights' gradients.
pub(super) fn drop_in_place(draws: Draws, gpu: &Gpu, scores: &Scores, weights: &BufferView) -> Result<()> {
    dispatch(draws, gpu, &IN_PLACE, scores, &[weights])
}

fn dispatch(draws: Draws, gpu: &Gpu, kernel: &'static Kernel, scores: &Scores, buffers: &[&BufferView]) -> Result<()> {
    let Dims { batch, heads, tokens, .. } = scores.dims;
    let (row, matrices) = (scores.stride() / 4, batch * heads);
    let groups = (tokens * row).div_ceil(LANES * RUN);
    let params = WeightsDropoutParams {
        items: (tokens * row) as u32,
        row: row as u32,
        heads: heads as u32,
        matrices: matrices as u32,
        groups: groups as u32,
        key_low: draws.key[0],
        key_high: draws.key[1],
        layer: draws.layer,
        first_low: draws.first[0],
        first_high: draws.first[1],
        threshold: draws.threshold,
        keep_scale: draws.keep_scale,
    };
    gpu.dispatch(kernel, &params, buffers, Grid::linear(matrices * groups, 1))
}

/// The same on the CPU.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    use super::Dropout;
    use crate::ops::random::reference::{attention_word, words};
    use crate::ops::random::{Purpose, RandomKey, threshold};

    /// The random word of each query and key of a head, in the batch's sample number `sample`.
    pub fn word_of(key: RandomKey, sample: usize, head: usize) -> impl Fn(usize, usize) -> u32 {
        let words = words(&key, Purpose::Attention, sample, head as u32);
        move |query, key| attention_word(words, query as u32, key as u32)
    }

    /// The factors of the weights of `batch` samples, `heads` heads each, between `tokens` queries and keys: `[B, H, T, T]`.
    pub fn factors(dropout: Dropout, [batch, heads, tokens]: [usize; 3]) -> Vec<f32> {
        let Dropout { p, key } = dropout;
        let mut factors = Vec::with_capacity(batch * heads * tokens * tokens);
        for matrix in 0..batch * heads {
            let word = word_of(key, matrix / heads, matrix % heads);
            for at in 0..tokens * tokens {
                let is_dropped = word(at / tokens, at % tokens) < threshold(p);
                factors.push(if is_dropped { 0.0 } else { 1.0 / (1.0 - p) });
            }
        }
        factors
    }
}
