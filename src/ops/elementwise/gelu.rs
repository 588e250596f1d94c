//! GELU, the exact form: x·Φ(x), with Φ the normal distribution's cumulative function (Hendrycks and Gimpel, 2016).

use crate::autograd::{Backward, ParentGradients, record};
use crate::error::Result;
use crate::gpu::{Access, BufferView, Gpu, Kernel, NO_LOOPS, Params, params, wgsl};
use crate::ops::expect_float;
use crate::ops::item::vec4_grid;
use crate::ops::variants::ByPrecision;
use crate::shape::DType;
use crate::tensor::Tensor;

params!(GeluParams { n: u32, accumulate: u32 });

static FORWARD: Kernel = Kernel {
    name: "gelu.forward",
    sources: &[
        wgsl!("gelu.wgsl"),
        wgsl!("lib/grid.wgsl"),
        wgsl!("lib/gelu.wgsl"),
        wgsl!("tiles/vec4.wgsl"),
        wgsl!("tiles/act_f32.wgsl"),
    ],
    entry: "forward",
    bindings: &[Access::Read, Access::Write],
    params: GeluParams::FIELDS,
    constants: &[],
    rounds: NO_LOOPS,
};

static BACKWARD: Kernel = Kernel {
    name: "gelu.backward",
    entry: "backward",
    bindings: &[Access::Read, Access::Read, Access::Write],
    ..FORWARD
};

static FORWARD_F16: Kernel = Kernel {
    name: "gelu.forward.f16",
    sources: &[
        wgsl!("gelu.wgsl"),
        wgsl!("lib/grid.wgsl"),
        wgsl!("lib/gelu.wgsl"),
        wgsl!("tiles/vec4.wgsl"),
        wgsl!("tiles/act_f16.wgsl", enable "f16"),
    ],
    ..FORWARD
};

static BACKWARD_F16: Kernel = Kernel { name: "gelu.backward.f16", sources: FORWARD_F16.sources, ..BACKWARD };

pub(crate) const KERNELS: &[&Kernel] = &[&FORWARD, &BACKWARD, &FORWARD_F16, &BACKWARD_F16];

const FORWARDS: ByPrecision = ByPrecision { full: &FORWARD, half: &FORWARD_F16 };
const BACKWARDS: ByPrecision = ByPrecision { full: &BACKWARD, half: &BACKWARD_F16 };

/// GELU of every element, exact (with erf, as PyTorch's default): `f32[..]` or `f16[..]` to the same shape and dtype.
///
/// # Errors
/// If `x` is neither f32 nor f16.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    expect_float("gelu", x)?;
    let y = x.empty_like()?;
    forward(x.gpu(), x.dtype(), x.buffer(), y.buffer(), x.numel())?;
    Ok(record(y, &[x], || Rule { x: x.detach() }))
}

/// y = GELU(x), `n` elements.
pub(in crate::ops) fn forward(gpu: &Gpu, dtype: DType, x: &BufferView, y: &BufferView, n: usize) -> Result<()> {
    gpu.dispatch(FORWARDS.pick(dtype), &GeluParams { n: n as u32, accumulate: 0 }, &[x, y], vec4_grid(n))
}

/// dx = dy ⊙ GELU'(x), or += it, `n` elements; `buffers` are x, dy and dx.
pub(in crate::ops) fn backward(
    gpu: &Gpu,
    dtype: DType,
    buffers: [&BufferView; 3],
    n: usize,
    accumulate: u32,
) -> Result<()> {
    gpu.dispatch(BACKWARDS.pick(dtype), &GeluParams { n: n as u32, accumulate }, &buffers, vec4_grid(n))
}

struct Rule {
    x: Tensor,
}

impl Backward for Rule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Some(dx) = parents.destination(0)? else { return Ok(()) };
        let buffers = [self.x.buffer(), dy.buffer(), dx.tensor.buffer()];
        backward(dy.gpu(), dy.dtype(), buffers, self.x.numel(), dx.flag())
    }
}

/// The same on the CPU, slowly.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    /// Φ(x) by the series Φ(x) = ½ + φ(x)·(x + x³/3 + x⁵/15 + …), which converges for every x.
    fn normal_cdf(x: f64) -> f64 {
        if x.abs() > 12.0 {
            return if x > 0.0 { 1.0 } else { 0.0 };
        }
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= x * x / (2 * n + 1) as f64;
            sum += term;
        }
        0.5 + sum * normal_density(x)
    }

    fn normal_density(x: f64) -> f64 {
        (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
    }

    /// y = x·Φ(x).
    pub fn forward(x: &[f32]) -> Vec<f32> {
        x.iter().map(|&x| (f64::from(x) * normal_cdf(x.into())) as f32).collect()
    }

    /// dx = dy·(Φ(x) + x·φ(x)).
    pub fn backward(x: &[f32], dy: &[f32]) -> Vec<f32> {
        let slope = |x: f64| normal_cdf(x) + x * normal_density(x);
        x.iter().zip(dy).map(|(&x, &dy)| (f64::from(dy) * slope(x.into())) as f32).collect()
    }
}
