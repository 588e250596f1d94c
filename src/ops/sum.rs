//! Totals over all elements: sum and mean.

use super::{expect_f32, shape, vec4_grid};
use crate::autograd::{Backward, ParentGradients, record};
use crate::error::Result;
use crate::gpu::{Access, Grid, Kernel, Params, params, wgsl};
use crate::shape::DType;
use crate::tensor::Tensor;

params!(SumParams { n: u32, partials: u32, factor: f32, accumulate: u32 });

static PARTIALS: Kernel = Kernel {
    name: "sum.partials",
    sources: &[wgsl!("sum.wgsl"), wgsl!("lib/grid.wgsl")],
    entry: "sum_partials",
    bindings: &[Access::Read, Access::Write],
    params: SumParams::FIELDS,
    constants: &[],
};

static TOTAL: Kernel = Kernel { name: "sum.total", entry: "sum_total", ..PARTIALS };

static SPREAD: Kernel = Kernel { name: "sum.spread", entry: "spread", ..PARTIALS };

pub(crate) const KERNELS: &[&Kernel] = &[&PARTIALS, &TOTAL, &SPREAD];

/// The sum of all elements: `f32[..]` to a scalar, `f32[]`.
///
/// # Errors
/// If `x` is not f32.
pub fn sum(x: &Tensor) -> Result<Tensor> {
    scaled_sum("sum", x, 1.0)
}

/// The mean of all elements: `f32[..]` to a scalar, `f32[]`.
///
/// # Errors
/// If `x` is not f32.
pub fn mean(x: &Tensor) -> Result<Tensor> {
    scaled_sum("mean", x, 1.0 / x.numel() as f32)
}

/// Up to this many elements one workgroup adds up alone.
const SMALL: usize = 4096;
/// Elements that an invocation of the first pass adds up, …
const PER_PARTIAL: usize = 64;
/// … unless there would be more partial sums than the one workgroup of the second pass should add up.
const MOST_PARTIALS: usize = 16_384;

fn scaled_sum(op: &'static str, x: &Tensor, factor: f32) -> Result<Tensor> {
    expect_f32(op, x)?;
    let gpu = x.gpu();
    let y = Tensor::empty(gpu, DType::F32, shape(op, &[])?)?;
    let n = x.numel();
    let mut terms = x.detach();
    if n > SMALL {
        let partials = (n / PER_PARTIAL).min(MOST_PARTIALS);
        terms = Tensor::empty(gpu, DType::F32, shape(op, &[partials])?)?;
        let params = SumParams { n: n as u32, partials: partials as u32, factor, accumulate: 0 };
        gpu.dispatch(&PARTIALS, &params, &[x.buffer(), terms.buffer()], Grid::linear(partials, 64))?;
    }
    let params = SumParams { n: terms.numel() as u32, partials: 0, factor, accumulate: 0 };
    gpu.dispatch(&TOTAL, &params, &[terms.buffer(), y.buffer()], Grid::new(1, 1, 1))?;
    Ok(record(y, &[x], || Rule { n, factor }))
}

struct Rule {
    n: usize,
    factor: f32,
}

impl Backward for Rule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Some(dx) = parents.destination(0)? else { return Ok(()) };
        let params = SumParams { n: self.n as u32, partials: 0, factor: self.factor, accumulate: dx.flag() };
        dy.gpu().dispatch(&SPREAD, &params, &[dy.buffer(), dx.tensor.buffer()], vec4_grid(self.n))
    }
}

/// The same on the CPU. The gradient of every element is dy, or for the mean dy / n.
pub mod reference {
    /// Σ x.
    pub fn sum(x: &[f32]) -> f32 {
        x.iter().map(|&v| f64::from(v)).sum::<f64>() as f32
    }

    /// Σ x / n.
    pub fn mean(x: &[f32]) -> f32 {
        (x.iter().map(|&v| f64::from(v)).sum::<f64>() / x.len() as f64) as f32
    }
}
