//! Layer normalisation over the last axis (Ba et al., 2016).

use super::{expect, expect_f32, expect_match};
use crate::autograd::{Backward, ParentGradients, needs_grad, record};
use crate::error::Result;
use crate::gpu::{Access, Gpu, Grid, Kernel, KernelFamily, Params, params, wgsl};
use crate::shape::DType;
use crate::tensor::Tensor;

params!(LayerNormParams { rows: u32, width: u32, eps: f32, accumulate: u32 });

static FORWARD_LANE: Kernel = Kernel {
    name: "layernorm.forward_lane",
    sources: &[wgsl!("layernorm.wgsl"), wgsl!("lib/grid.wgsl"), wgsl!("lib/reduce.wgsl")],
    entry: "forward_lane",
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Write, Access::Write],
    params: LayerNormParams::FIELDS,
    constants: &[],
};

static FORWARD_GROUP: Kernel = Kernel { name: "layernorm.forward_group", entry: "forward_group", ..FORWARD_LANE };

static BACKWARD_LANE: Kernel = Kernel {
    name: "layernorm.backward_lane",
    entry: "backward_lane",
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::Write],
    ..FORWARD_LANE
};

static BACKWARD_GROUP: Kernel = Kernel { name: "layernorm.backward_group", entry: "backward_group", ..BACKWARD_LANE };

static PARTIAL: Kernel = Kernel {
    name: "layernorm.backward_affine_partial",
    entry: "backward_affine_partial",
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Write],
    ..FORWARD_LANE
};

static TOTAL: Kernel = Kernel {
    name: "layernorm.backward_affine_total",
    entry: "backward_affine_total",
    bindings: &[Access::Read, Access::Write],
    ..FORWARD_LANE
};

pub(crate) const KERNELS: &[&Kernel] =
    &[&FORWARD_LANE, &FORWARD_GROUP, &BACKWARD_LANE, &BACKWARD_GROUP, &PARTIAL, &TOTAL];

/// Rows that one invocation of the first pass over the affine gradients adds up: `AFFINE_ROWS` in the shader.
const AFFINE_ROWS: usize = 32;
const LANES: usize = 64;

/// y = (x − mean) / √(variance + eps) · weight + bias, over the last axis: `f32[.., C]`, `f32[C]`, `f32[C]` to
/// `f32[.., C]`. The variance is the biased one, as PyTorch's.
///
/// # Errors
/// If weight or bias are not `f32[C]`, or eps is negative or not finite.
pub fn layernorm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    const OP: &str = "layernorm";
    expect_f32(OP, x)?;
    let width = x.shape().last();
    for affine in [weight, bias] {
        expect_f32(OP, affine)?;
        expect_match(OP, x, affine, affine.dims() == [width], "weight and bias must be f32[C] of x's last axis")?;
    }
    expect(OP, x, eps >= 0.0 && eps.is_finite(), "eps must be finite and not negative")?;
    let gpu = x.gpu();
    let rows = x.shape().rows();
    let params = LayerNormParams { rows: rows as u32, width: width as u32, eps, accumulate: 0 };
    let y = x.empty_like()?;
    let stats = stats_of(gpu, rows)?;
    let buffers = [x.buffer(), weight.buffer(), bias.buffer(), y.buffer(), stats.buffer()];
    let (kernel, grid) = row_form(gpu, rows, &FORWARD_LANE, &FORWARD_GROUP);
    gpu.dispatch(kernel, &params, &buffers, grid)?;
    let parents = [x, weight, bias];
    let saved = needs_grad(&parents).then(|| x.detach());
    Ok(match saved {
        None => y,
        Some(x) => record(y, &parents, || Rule { x, weight: weight.detach(), stats, params }),
    })
}

/// Mean and inverse deviation of each row: `f32[rows, 2]`.
fn stats_of(gpu: &Gpu, rows: usize) -> Result<Tensor> {
    Tensor::empty(gpu, DType::F32, super::shape("layernorm", &[rows, 2])?)
}

/// A row for each invocation, or a workgroup for each row.
fn row_form(gpu: &Gpu, rows: usize, lane: &'static Kernel, group: &'static Kernel) -> (&'static Kernel, Grid) {
    match gpu.family() {
        KernelFamily::Lane => (lane, Grid::linear(rows, LANES)),
        KernelFamily::Workgroup => (group, Grid::linear(rows, 1)),
    }
}

struct Rule {
    x: Tensor,
    weight: Tensor,
    stats: Tensor,
    params: LayerNormParams,
}

impl Backward for Rule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let gpu = dy.gpu().clone();
        if let Some(dx) = parents.destination(0)? {
            let params = LayerNormParams { accumulate: dx.flag(), ..self.params };
            let buffers = [self.x.buffer(), self.weight.buffer(), self.stats.buffer(), dy.buffer(), dx.tensor.buffer()];
            let (kernel, grid) = row_form(&gpu, self.params.rows as usize, &BACKWARD_LANE, &BACKWARD_GROUP);
            gpu.dispatch(kernel, &params, &buffers, grid)?;
        }
        if parents.wants(1) || parents.wants(2) {
            let partial = self.affine_partial(&gpu, &dy)?;
            for (parent, half) in [(1, 0), (2, 1)] {
                self.affine_total(&gpu, &partial, half, parent, parents)?;
            }
        }
        Ok(())
    }
}

impl Rule {
    /// Column sums over slices of rows, for weight and bias: `f32[2, slices, C]`.
    fn affine_partial(&self, gpu: &Gpu, dy: &Tensor) -> Result<Tensor> {
        let width = self.params.width as usize;
        let slices = (self.params.rows as usize).div_ceil(AFFINE_ROWS);
        let partial = Tensor::empty(gpu, DType::F32, super::shape("layernorm", &[2, slices, width])?)?;
        let buffers = [self.x.buffer(), self.stats.buffer(), dy.buffer(), partial.buffer()];
        gpu.dispatch(&PARTIAL, &self.params, &buffers, Grid::linear(slices * width, LANES))?;
        Ok(partial)
    }

    fn affine_total(
        &self,
        gpu: &Gpu,
        partial: &Tensor,
        half: u32,
        parent: usize,
        parents: &mut ParentGradients<'_>,
    ) -> Result<()> {
        let Some(to) = parents.destination(parent)? else { return Ok(()) };
        // `eps` is not used here; bit 1 of the flag picks the half.
        let params = LayerNormParams { accumulate: to.flag() | half << 1, ..self.params };
        let grid = Grid::linear(self.params.width as usize, LANES);
        gpu.dispatch(&TOTAL, &params, &[partial.buffer(), to.tensor.buffer()], grid)
    }
}

/// The same on the CPU, slowly.
pub mod reference {
    /// (mean, 1 / √(variance + eps)) of a row.
    fn stats(row: &[f32], eps: f64) -> (f64, f64) {
        let n = row.len() as f64;
        let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let variance = row.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
        (mean, 1.0 / (variance + eps).sqrt())
    }

    /// y for rows of `weight.len()` elements.
    pub fn forward(x: &[f32], weight: &[f32], bias: &[f32], eps: f32) -> Vec<f32> {
        let row = |row: &[f32]| {
            let (mean, inverse) = stats(row, eps.into());
            let each = |i: usize| (f64::from(row[i]) - mean) * inverse * f64::from(weight[i]) + f64::from(bias[i]);
            (0..row.len()).map(|i| each(i) as f32).collect::<Vec<_>>()
        };
        x.chunks(weight.len()).flat_map(row).collect()
    }

    /// (dx, dweight, dbias).
    pub fn backward(x: &[f32], weight: &[f32], dy: &[f32], eps: f32) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let width = weight.len();
        let (mut dx, mut dw, mut db) = (Vec::with_capacity(x.len()), vec![0f64; width], vec![0f64; width]);
        for (x, dy) in x.chunks(width).zip(dy.chunks(width)) {
            let (mean, inverse) = stats(x, eps.into());
            let hat: Vec<f64> = x.iter().map(|&v| (f64::from(v) - mean) * inverse).collect();
            let dhat: Vec<f64> = (0..width).map(|i| f64::from(dy[i]) * f64::from(weight[i])).collect();
            let a = dhat.iter().sum::<f64>() / width as f64;
            let b = dhat.iter().zip(&hat).map(|(d, h)| d * h).sum::<f64>() / width as f64;
            for i in 0..width {
                dx.push((inverse * (dhat[i] - a - hat[i] * b)) as f32);
                dw[i] += f64::from(dy[i]) * hat[i];
                db[i] += f64::from(dy[i]);
            }
        }
        let narrow = |v: Vec<f64>| v.into_iter().map(|v| v as f32).collect();
        (dx, narrow(dw), narrow(db))
    }
}
