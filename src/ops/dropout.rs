//! Regularisation by chance: dropout (Srivastava et al., 2014) and drop-path, also called stochastic depth (Huang et al.,
//! 2016). Only for training; in evaluation they are not called, or called with p = 0.

use super::expect;
use super::item::{sample_grid, sample_rounds, strided};
use super::random::{Draws, Purpose, RandomKey};
use super::variants::ByItem;
use crate::autograd::{Backward, ParentGradients, record, unchanged};
use crate::error::Result;
use crate::gpu::lib::philox_rounds;
use crate::gpu::{Access, Kernel, Params, looped, params, rounds, wgsl};
use crate::shape::DType;
use crate::tensor::Tensor;

params!(DropoutParams {
    samples: u32,
    n: u32,
    key_low: u32,
    key_high: u32,
    layer: u32,
    first_low: u32,
    first_high: u32,
    threshold: u32,
    scale: f32,
    accumulate: u32,
});

static SCALAR: Kernel = Kernel {
    name: "dropout.scalar",
    sources: &[wgsl!("dropout.wgsl"), wgsl!("lib/dropout.wgsl"), wgsl!("lib/philox.wgsl")],
    entry: "dropout",
    bindings: &[Access::Read, Access::Write],
    params: DropoutParams::FIELDS,
    constants: &[],
    rounds: rounds!(DropoutParams, |p, groups| {
        sample_rounds(p.n.div_ceil(4), p.samples, groups, philox_rounds() + looped(4u64, 0))
    }),
};

static VEC4: Kernel = Kernel {
    name: "dropout.vec4",
    sources: &[
        wgsl!("dropout_fours.wgsl"),
        wgsl!("lib/dropout.wgsl"),
        wgsl!("lib/philox.wgsl"),
        wgsl!("tiles/act_f32.wgsl"),
    ],
    ..SCALAR
};

static VEC4_F16: Kernel = Kernel {
    name: "dropout.vec4.f16",
    sources: &[
        wgsl!("dropout_fours.wgsl"),
        wgsl!("lib/dropout.wgsl"),
        wgsl!("lib/philox.wgsl"),
        wgsl!("tiles/act_f16.wgsl", enable "f16"),
    ],
    ..SCALAR
};

static PATH_SCALAR: Kernel = Kernel {
    name: "drop_path.scalar",
    sources: &[
        wgsl!("drop_path.wgsl"),
        wgsl!("lib/dropout.wgsl"),
        wgsl!("lib/philox.wgsl"),
        wgsl!("tiles/scalar.wgsl"),
        wgsl!("tiles/act_scalar.wgsl"),
    ],
    entry: "drop_path",
    rounds: rounds!(DropoutParams, |p, [x, y, _]| {
        looped(p.samples.div_ceil(y.max(1)), philox_rounds() + strided(p.n, x, 0))
    }),
    ..SCALAR
};

static PATH_VEC4: Kernel = Kernel {
    name: "drop_path.vec4",
    sources: &[
        wgsl!("drop_path.wgsl"),
        wgsl!("lib/dropout.wgsl"),
        wgsl!("lib/philox.wgsl"),
        wgsl!("tiles/vec4.wgsl"),
        wgsl!("tiles/act_f32.wgsl"),
    ],
    ..PATH_SCALAR
};

static PATH_VEC4_F16: Kernel = Kernel {
    name: "drop_path.vec4.f16",
    sources: &[
        wgsl!("drop_path.wgsl"),
        wgsl!("lib/dropout.wgsl"),
        wgsl!("lib/philox.wgsl"),
        wgsl!("tiles/vec4.wgsl"),
        wgsl!("tiles/act_f16.wgsl", enable "f16"),
    ],
    ..PATH_SCALAR
};

pub(crate) const KERNELS: &[&Kernel] = &[&SCALAR, &VEC4, &VEC4_F16, &PATH_SCALAR, &PATH_VEC4, &PATH_VEC4_F16];

const FORMS: ByItem = ByItem::new(&VEC4, &SCALAR).with_half(&VEC4_F16);
const PATH_FORMS: ByItem = ByItem::new(&PATH_VEC4, &PATH_SCALAR).with_half(&PATH_VEC4_F16);

/// Sets each element to 0 with probability `p` and multiplies the others by 1 / (1 − p): f32 or f16 `[B, ..]` to the same dtype
/// and shape. The mask depends on `key` and on the element's place in its sample alone. With p = 0 it returns `x` itself.
///
/// # Errors
/// If `x` is neither f32 nor f16 with samples of a multiple of 4 elements, or p is not in 0 ≤ p < 1.
pub fn dropout(x: &Tensor, p: f32, key: RandomKey) -> Result<Tensor> {
    drop_some("dropout", Unit::Element, x, p, key)
}

/// Sets each sample (of the leading axis) to 0 with probability `p` and multiplies the others by 1 / (1 − p):
/// f32 or f16 `[B, ..]` to the same dtype and shape. For a residual branch, whose block is thereby left out for these samples.
/// The mask depends on `key` and the sample's position alone. With p = 0 it returns `x` itself.
///
/// # Errors
/// If `x` is neither f32 nor f16 with samples of a multiple of 4 elements, or p is not in 0 ≤ p < 1.
pub fn drop_path(x: &Tensor, p: f32, key: RandomKey) -> Result<Tensor> {
    drop_some("drop_path", Unit::Sample, x, p, key)
}

fn drop_some(op: &'static str, unit: Unit, x: &Tensor, p: f32, key: RandomKey) -> Result<Tensor> {
    let fits = x.dtype() == DType::F32 || (x.dtype() == DType::F16 && sample_of(x).is_multiple_of(4));
    expect(op, x, fits, "needs f32, or f16 with samples of a multiple of 4 elements")?;
    let Some(draws) = Draws::new(op, p, key, unit.purpose())? else { return Ok(unchanged(x)) };
    let mask = Mask { unit, draws };
    let y = x.empty_like()?;
    mask.apply(x, &y, 0)?;
    Ok(record(y, &[x], || mask))
}

/// Elements of a sample.
fn sample_of(x: &Tensor) -> usize {
    x.numel() / x.dims().first().copied().unwrap_or(1)
}

/// What is dropped as a whole.
#[derive(Clone, Copy)]
enum Unit {
    Element,
    Sample,
}

impl Unit {
    fn purpose(self) -> Purpose {
        match self {
            Unit::Element => Purpose::Dropout,
            Unit::Sample => Purpose::DropPath,
        }
    }
}

/// All that is saved: the mask is made again when it is needed.
struct Mask {
    unit: Unit,
    draws: Draws,
}

/// Items of a sample that an invocation of drop_path treats with the one random word that it makes.
const PATH_RUN: usize = 16;

impl Mask {
    fn apply(&self, x: &Tensor, y: &Tensor, accumulate: u32) -> Result<()> {
        let sample = sample_of(x);
        let samples = x.numel() / sample;
        let (kernel, n, grid) = match self.unit {
            Unit::Element => {
                let (kernel, _) = FORMS.pick_as(x.dtype(), sample);
                (kernel, sample, sample_grid(sample.div_ceil(4), samples))
            }
            Unit::Sample => {
                let (kernel, item) = PATH_FORMS.pick_as(x.dtype(), sample);
                let items = sample / item;
                (kernel, items, sample_grid(items.div_ceil(PATH_RUN), samples))
            }
        };
        let Draws { key: [key_low, key_high], layer, first: [first_low, first_high], threshold, keep_scale } =
            self.draws;
        let params = DropoutParams {
            samples: samples as u32,
            n: n as u32,
            key_low,
            key_high,
            layer,
            first_low,
            first_high,
            threshold,
            scale: keep_scale,
            accumulate,
        };
        x.gpu().dispatch(kernel, &params, &[x.buffer(), y.buffer()], grid)
    }
}

impl Backward for Mask {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Some(dx) = parents.destination(0)? else { return Ok(()) };
        self.apply(&dy, &dx.tensor, dx.flag())
    }

    fn reads(&self, _i: usize) -> bool {
        false
    }
}

/// The same on the CPU. Of dy they return the gradient of x.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    use crate::ops::random::{Purpose, RandomKey, reference::words, threshold};

    /// dropout of `samples` samples.
    pub fn dropout(x: &[f32], samples: usize, p: f32, key: RandomKey) -> Vec<f32> {
        let word = |b, i: usize| words(&key, Purpose::Dropout, b, (i / 4) as u32)[i % 4];
        drop_some(x, samples, p, word)
    }

    /// drop_path of `samples` samples.
    pub fn drop_path(x: &[f32], samples: usize, p: f32, key: RandomKey) -> Vec<f32> {
        drop_some(x, samples, p, |b, _| words(&key, Purpose::DropPath, b, 0)[0])
    }

    /// `word` gives the random word of a sample and an element in it.
    fn drop_some(x: &[f32], samples: usize, p: f32, word: impl Fn(usize, usize) -> u32) -> Vec<f32> {
        let (scale, n) = (1.0 / (1.0 - p), x.len() / samples);
        let kept = |at: usize| word(at / n, at % n) >= threshold(p);
        x.iter().enumerate().map(|(at, &v)| if kept(at) { v * scale } else { 0.0 }).collect()
    }
}
