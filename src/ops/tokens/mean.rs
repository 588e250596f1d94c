//! Average pooling over tokens.

use super::rows::token_sizes;
use crate::autograd::{Backward, Destination, ParentGradients, record};
use crate::error::{Error, Result};
use crate::gpu::{Access, Grid, Kernel, Params, looped, params, rounds, wgsl};
use crate::ops::item::{longest, sample_grid, sample_rounds};
use crate::ops::shape;
use crate::ops::variants::ByItem;
use crate::shape::DType;
use crate::tensor::Tensor;

params!(MeanTokensParams {
    samples: u32,
    tokens: u32,
    skip: u32,
    slice: u32,
    width: u32,
    factor: f32,
    accumulate: u32,
});

static FORWARD_VEC4: Kernel = Kernel {
    name: "mean_tokens.forward.vec4",
    sources: &[wgsl!("mean_tokens.wgsl"), wgsl!("tiles/vec4.wgsl")],
    entry: "forward",
    bindings: &[Access::Read, Access::Write],
    params: MeanTokensParams::FIELDS,
    constants: &[],
    rounds: rounds!(MeanTokensParams, |p, groups| {
        sample_rounds(p.width, p.samples, groups, looped(p.slice / 4, 0) + looped(3u64, 0))
    }),
};

static FORWARD_SCALAR: Kernel = Kernel {
    name: "mean_tokens.forward.scalar",
    sources: &[wgsl!("mean_tokens.wgsl"), wgsl!("tiles/scalar.wgsl")],
    ..FORWARD_VEC4
};

static BACKWARD_VEC4: Kernel = Kernel {
    name: "mean_tokens.backward.vec4",
    entry: "backward",
    rounds: rounds!(MeanTokensParams, |p, groups| {
        sample_rounds(p.width, p.samples, groups, looped(p.slice, 0) + 2)
    }),
    ..FORWARD_VEC4
};

static BACKWARD_SCALAR: Kernel =
    Kernel { name: "mean_tokens.backward.scalar", sources: FORWARD_SCALAR.sources, ..BACKWARD_VEC4 };

const FORWARD: ByItem = ByItem::new(&FORWARD_VEC4, &FORWARD_SCALAR);
const BACKWARD: ByItem = ByItem::new(&BACKWARD_VEC4, &BACKWARD_SCALAR);

pub(crate) const KERNELS: &[&Kernel] = &[&FORWARD_VEC4, &FORWARD_SCALAR, &BACKWARD_VEC4, &BACKWARD_SCALAR];

/// The mean over tokens `skip..T`: `f32[B, T, C]` to `f32[B, C]`. The pooling of a ViT without its `skip` prefix tokens.
///
/// # Errors
/// If `x` is not `f32[B, T, C]`, or no token is left.
pub fn mean_tokens(x: &Tensor, skip: usize) -> Result<Tensor> {
    const OP: &str = "mean_tokens";
    let [batch, tokens, width] = token_sizes(OP, x)?;
    if skip >= tokens {
        return Err(Error::argument(OP, "skip", format!("below the number of tokens, {tokens}"), skip));
    }
    let y = Tensor::unwritten(x.gpu(), DType::F32, shape(OP, &[batch, width])?)?;
    let pool = Pool { batch, tokens, width, skip };
    pool.forward(x, &y)?;
    Ok(record(y, &[x], || pool))
}

struct Pool {
    batch: usize,
    tokens: usize,
    width: usize,
    skip: usize,
}

impl Pool {
    /// The mean, of sums over slices where one invocation cannot go down all tokens.
    fn forward(&self, x: &Tensor, y: &Tensor) -> Result<()> {
        let averaged = self.tokens - self.skip;
        let factor = 1.0 / averaged as f32;
        let slice = self.longest_slice(&FORWARD, averaged);
        let slices = averaged.div_ceil(slice);
        if slices == 1 {
            return self.dispatch(&FORWARD, x, y, MeanTokensParams { factor, ..self.params(slice) }, 1);
        }
        let sums = Tensor::unwritten(x.gpu(), DType::F32, shape("mean_tokens", &[self.batch, slices, self.width])?)?;
        self.dispatch(&FORWARD, x, &sums, MeanTokensParams { factor: 1.0, ..self.params(slice) }, slices)?;
        let of_sums = Pool { tokens: slices, skip: 0, ..*self };
        of_sums.dispatch(&FORWARD, &sums, y, MeanTokensParams { factor, ..of_sums.params(slices) }, 1)
    }

    fn spread(&self, dy: &Tensor, dx: &Destination) -> Result<()> {
        let factor = 1.0 / (self.tokens - self.skip) as f32;
        let slice = self.longest_slice(&BACKWARD, self.tokens);
        let params = MeanTokensParams { factor, accumulate: dx.flag(), ..self.params(slice) };
        self.dispatch(&BACKWARD, dy, &dx.tensor, params, self.tokens.div_ceil(slice))
    }

    /// Tokens that an invocation can go down, of `all`.
    fn longest_slice(&self, forms: &ByItem, all: usize) -> usize {
        longest(all, 4, |slice| forms.pick(self.width).0.fits(&self.params(slice), self.grid(forms)))
    }

    fn params(&self, slice: usize) -> MeanTokensParams {
        MeanTokensParams {
            samples: self.batch as u32,
            tokens: self.tokens as u32,
            skip: self.skip as u32,
            slice: slice as u32,
            width: (self.width / FORWARD.pick(self.width).1) as u32,
            factor: 1.0,
            accumulate: 0,
        }
    }

    fn grid(&self, forms: &ByItem) -> Grid {
        sample_grid(self.width / forms.pick(self.width).1, self.batch)
    }

    fn dispatch(
        &self,
        forms: &ByItem,
        from: &Tensor,
        to: &Tensor,
        params: MeanTokensParams,
        slices: usize,
    ) -> Result<()> {
        let (kernel, _) = forms.pick(self.width);
        from.gpu().dispatch(kernel, &params, &[from.buffer(), to.buffer()], self.grid(forms).layers(slices))
    }
}

impl Backward for Pool {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Some(dx) = parents.destination(0)? else { return Ok(()) };
        self.spread(&dy, &dx)
    }

    fn reads(&self, _i: usize) -> bool {
        false
    }
}

/// The same on the CPU, slowly.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    use crate::ops::reduce::column_sum::reference::column_sum;

    /// The mean over tokens `skip..` of every sample of `tokens` rows of `width`.
    pub fn forward(x: &[f32], tokens: usize, width: usize, skip: usize) -> Vec<f32> {
        let sample = |sample: &[f32]| column_sum(&sample[skip * width..], width);
        x.chunks(tokens * width).flat_map(sample).map(|sum| sum / (tokens - skip) as f32).collect()
    }

    /// dx.
    pub fn backward(dy: &[f32], tokens: usize, width: usize, skip: usize) -> Vec<f32> {
        let row =
            |dy: &[f32], t: usize| dy.iter().map(|v| if t < skip { 0.0 } else { v / (tokens - skip) as f32 }).collect();
        let sample = |dy| (0..tokens).flat_map(move |t| -> Vec<f32> { row(dy, t) });
        dy.chunks(width).flat_map(sample).collect()
    }
}
