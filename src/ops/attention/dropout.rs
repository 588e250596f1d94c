//! Dropout of attention's weights: softmax's output, some of it set to 0 and the rest multiplied by 1 / (1 − p).

use crate::error::{Error, Result};
use crate::gpu::{Access, BufferView, Gpu, Grid, Kernel, Params, looped, params, rounds, wgsl};
use crate::ops::random::{Purpose, RandomKey, halves, threshold, words_rounds};

/// Dropout, and where it draws from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// The probability with which each weight is dropped: at least 0 and below 1.
    pub p: f32,
    /// Makes the mask, and makes it again in backward.
    pub key: RandomKey,
}

impl Dropout {
    /// `dropout`, if it drops anything.
    ///
    /// # Errors
    /// [`Error::Argument`] if p is not in 0 ≤ p < 1.
    pub(super) fn checked(op: &'static str, dropout: Option<Dropout>) -> Result<Option<Dropout>> {
        let Some(Dropout { p, .. }) = dropout else { return Ok(None) };
        if !(0.0..1.0).contains(&p) {
            return Err(Error::argument(op, "p", "at least 0 and below 1", p));
        }
        Ok(dropout.filter(|_| p > 0.0))
    }
}

/// What `shaders/lib/draws.wgsl` finds in a kernel's `Params`. The default drops nothing.
#[derive(Clone, Copy, Default)]
pub(super) struct Draws {
    pub(super) key: [u32; 2],
    pub(super) layer: u32,
    pub(super) first: [u32; 2],
    pub(super) threshold: u32,
    pub(super) keep_scale: f32,
}

impl From<Dropout> for Draws {
    fn from(Dropout { p, key }: Dropout) -> Self {
        Draws {
            key: key.words(Purpose::Attention),
            layer: key.layer,
            first: halves(key.first_sample),
            threshold: threshold(p),
            keep_scale: 1.0 / (1.0 - p),
        }
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
    rounds: rounds!(WeightsDropoutParams, |_, _| words_rounds() + looped(RUN as u64, 0)),
};

static IN_PLACE: Kernel =
    Kernel { name: "weights_dropout.in_place", entry: "in_place", bindings: &[Access::Write], ..INTO };

pub(super) const KERNELS: &[&Kernel] = &[&INTO, &IN_PLACE];

/// Invocations of a workgroup, and the vec4s that each treats with the words that it makes: as in the shader.
const LANES: usize = 64;
const RUN: usize = 16;

/// Stored weights of a batch of heads: rows of keys, `stride` floats apart, a multiple of four.
#[derive(Clone, Copy)]
pub(super) struct Stored {
    pub(super) batch: usize,
    pub(super) heads: usize,
    pub(super) tokens: usize,
    pub(super) stride: usize,
}

impl Dropout {
    /// What is left of `weights`, written to `kept`.
    pub(super) fn drop_into(self, gpu: &Gpu, sizes: Stored, weights: &BufferView, kept: &BufferView) -> Result<()> {
        self.dispatch(gpu, &INTO, sizes, &[kept, weights])
    }

    /// The same in place; also of the weights' gradients.
    pub(super) fn drop_in_place(self, gpu: &Gpu, sizes: Stored, weights: &BufferView) -> Result<()> {
        self.dispatch(gpu, &IN_PLACE, sizes, &[weights])
    }

    fn dispatch(self, gpu: &Gpu, kernel: &'static Kernel, sizes: Stored, buffers: &[&BufferView]) -> Result<()> {
        let Stored { batch, heads, tokens, stride } = sizes;
        let (row, matrices) = (stride / 4, batch * heads);
        let groups = (tokens * row).div_ceil(LANES * RUN);
        let draws = Draws::from(self);
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
}

/// The same on the CPU.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    use super::Dropout;
    use crate::ops::random::{Purpose, reference, threshold};

    /// The factors of the weights of `batch` samples, `heads` heads each, between `tokens` queries and keys: `[B, H, T, T]`.
    pub fn factors(dropout: Dropout, [batch, heads, tokens]: [usize; 3]) -> Vec<f32> {
        let Dropout { p, key } = dropout;
        let mut factors = Vec::with_capacity(batch * heads * tokens * tokens);
        for matrix in 0..batch * heads {
            let words = reference::words(&key, Purpose::Attention, matrix / heads, (matrix % heads) as u32);
            for at in 0..tokens * tokens {
                let word = reference::attention_word(words, (at / tokens) as u32, (at % tokens) as u32);
                factors.push(if word < threshold(p) { 0.0 } else { 1.0 / (1.0 - p) });
            }
        }
        factors
    }
}
