//! Totals over all elements: sum and mean.

use crate::autograd::{Backward, ParentGradients, record};
use crate::error::Result;
use crate::gpu::lib::reduce_rounds;
use crate::gpu::{Access, Grid, Kernel, NO_LOOPS, Params, looped, params, rounds, wgsl};
use crate::ops::item::vec4_grid;
use crate::ops::{expect_f32, shape};
use crate::shape::DType;
use crate::tensor::Tensor;

params!(SumParams { n: u32, runs: u32, rounds: u32, factor: f32, accumulate: u32 });

static PARTIALS: Kernel = Kernel {
    name: "sum.partials",
    sources: &[wgsl!("sum.wgsl"), wgsl!("lib/grid.wgsl"), wgsl!("lib/reduce.wgsl")],
    entry: "sum_partials",
    bindings: &[Access::Read, Access::Write],
    params: SumParams::FIELDS,
    constants: &[],
    rounds: rounds!(SumParams, |p, _| looped(p.rounds, 0)),
};

static TOTAL: Kernel = Kernel {
    name: "sum.total",
    entry: "sum_total",
    rounds: rounds!(SumParams, |p, _| looped(p.rounds, 0) + reduce_rounds()),
    ..PARTIALS
};

static SPREAD: Kernel = Kernel { name: "sum.spread", entry: "spread", rounds: NO_LOOPS, ..PARTIALS };

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

/// Elements that a workgroup reads in a round: four a lane.
const ROUND: usize = 256;
/// Up to this many rounds one workgroup adds up everything alone.
const FEW_ROUNDS: usize = 16;
/// Else the first pass is cut into runs of this many rounds, …
const RUN_ROUNDS: usize = 16;
/// … or longer ones, so that the one workgroup of the second pass has no more partial sums than those of so many runs.
const MOST_RUNS: usize = 256;

fn scaled_sum(op: &'static str, x: &Tensor, factor: f32) -> Result<Tensor> {
    expect_f32(op, x)?;
    let gpu = x.gpu();
    let y = Tensor::unwritten(gpu, DType::F32, shape(op, &[])?)?;
    let params = SumParams { n: 0, runs: 1, rounds: 0, factor, accumulate: 0 };
    let mut terms = x.detach();
    let all = x.numel().div_ceil(ROUND);
    if all > FEW_ROUNDS {
        let rounds = all.div_ceil(MOST_RUNS).max(RUN_ROUNDS);
        let runs = all.div_ceil(rounds);
        terms = Tensor::unwritten(gpu, DType::F32, shape(op, &[runs, 64])?)?;
        let params = SumParams { n: x.numel() as u32, runs: runs as u32, rounds: rounds as u32, ..params };
        gpu.dispatch(&PARTIALS, &params, &[x.buffer(), terms.buffer()], Grid::linear(runs, 1))?;
    }
    let rounds = terms.numel().div_ceil(ROUND);
    let params = SumParams { n: terms.numel() as u32, rounds: rounds as u32, ..params };
    gpu.dispatch(&TOTAL, &params, &[terms.buffer(), y.buffer()], Grid::new(1, 1, 1))?;
    Ok(record(y, &[x], || Rule { n: x.numel(), factor }))
}

struct Rule {
    n: usize,
    factor: f32,
}

impl Backward for Rule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Some(dx) = parents.destination(0)? else { return Ok(()) };
        let params = SumParams { n: self.n as u32, runs: 0, rounds: 0, factor: self.factor, accumulate: dx.flag() };
        dy.gpu().dispatch(&SPREAD, &params, &[dy.buffer(), dx.tensor.buffer()], vec4_grid(self.n))
    }

    fn reads(&self, _i: usize) -> bool {
        false
    }
}

/// The same on the CPU. The gradient of every element is dy, or for the mean dy / n.
#[cfg(feature = "internals")]
#[doc(hidden)]
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
