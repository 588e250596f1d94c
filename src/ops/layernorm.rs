//! Layer normalisation over the last axis (Ba et al., 2016), by itself or of the kept tokens of random-LTD.

use super::item::{STRIP, reduce_rounds, rest_rounds, strip_rounds, team_of};
use super::token_gather::GatherRule;
use super::token_rows::channels_of;
use super::{TokenIndices, expect, expect_f32, expect_match};
use crate::autograd::{Backward, Destination, ParentGradients, needs_grad, record};
use crate::error::Result;
use crate::gpu::{
    Access, Fault, Gpu, Grid, Kernel, KernelFamily, MAX_GROUPS, Params, Rounds, Source, looped, params, rounds, wgsl,
};
use crate::shape::DType;
use crate::tensor::Tensor;

params!(ForwardParams { rows: u32, width: u32, eps: f32, kept: u32, tokens: u32, fault: u32, lanes: u32 });
params!(BackwardParams { rows: u32, width: u32, slice: u32, flags: u32, lanes: u32 });

/// The kernels that depend on what x is read in and y written as.
struct Form {
    forward: ByFamily,
    gather: ByFamily,
    /// On CPU drivers, two passes backward before the totals.
    means: Kernel,
    columns: Kernel,
    /// On GPUs, both in one.
    backward: Kernel,
    totals: ByFamily,
    /// Floats in an item.
    item: usize,
}

struct ByFamily {
    lane: Kernel,
    group: Kernel,
}

impl ByFamily {
    fn pick(&'static self, family: KernelFamily) -> &'static Kernel {
        match family {
            KernelFamily::Lane => &self.lane,
            KernelFamily::Workgroup => &self.group,
        }
    }

    /// A kernel that takes a row an invocation, or a row a team: on GPUs, and where rows are too long for one invocation.
    fn by_row(&'static self, gpu: &Gpu, params: &ForwardParams) -> (&'static Kernel, Grid) {
        let (rows, team) = (params.rows as usize, params.lanes as usize);
        let grid = Grid::linear(rows, NARROW);
        if gpu.family() == KernelFamily::Lane && self.lane.fits(params, grid) {
            return (&self.lane, grid);
        }
        (&self.group, Grid::linear(rows, LANES / team))
    }
}

/// Invocations a workgroup, as in the shaders.
const NARROW: usize = 16;
const LANES: usize = 64;

const FORWARD: &[Access] = &[Access::Read, Access::Read, Access::Read, Access::Write, Access::Write];
const GATHER: &[Access] = &[
    Access::Read,
    Access::Read,
    Access::Read,
    Access::Write,
    Access::Write,
    Access::Read,
    Access::Write,
    Access::Write,
];
const MEANS: &[Access] = &[Access::Read, Access::Read, Access::Read, Access::Read, Access::Write];
const COLUMNS: &[Access] =
    &[Access::Read, Access::Read, Access::Read, Access::Read, Access::Write, Access::Write, Access::Read];
const BACKWARD: &[Access] = &[Access::Read, Access::Read, Access::Read, Access::Read, Access::Write, Access::Write];
const TOTALS: &[Access] = &[Access::Read, Access::Write, Access::Write];

const fn kernel(name: &'static str, sources: &'static [Source], entry: &'static str, rounds: Rounds) -> Kernel {
    Kernel { name, sources, entry, bindings: FORWARD, params: ForwardParams::FIELDS, constants: &[], rounds }
}

const fn backward_kernel(
    name: &'static str,
    sources: &'static [Source],
    entry: &'static str,
    bindings: &'static [Access],
    rounds: Rounds,
) -> Kernel {
    Kernel { name, sources, entry, bindings, params: BackwardParams::FIELDS, constants: &[], rounds }
}

/// The rounds of the kernels: those of one invocation on a row, of a team, and of a row that may also be missing, which some
/// invocations of a driver's vector go through beside the others.
mod cost {
    use super::{BackwardParams, ForwardParams, LANES, looped, reduce_rounds, rest_rounds, rounds, strip_rounds};
    use crate::gpu::Rounds;

    fn statistics(p: &ForwardParams) -> u64 {
        looped(p.width / 4, 0) + looped(3u64, 0)
    }

    fn team_statistics(p: &ForwardParams) -> u64 {
        2 * (rest_rounds(p.width, p.lanes) + reduce_rounds())
    }

    pub(super) const FORWARD_LANE: Rounds = rounds!(ForwardParams, |p, _| statistics(p) + looped(p.width, 0));
    pub(super) const GATHER_LANE: Rounds = rounds!(ForwardParams, |p, _| statistics(p) + 2 * looped(p.width, 0));
    pub(super) const FORWARD_GROUP: Rounds =
        rounds!(ForwardParams, |p, _| team_statistics(p) + rest_rounds(p.width, p.lanes));
    pub(super) const GATHER_GROUP: Rounds =
        rounds!(ForwardParams, |p, _| team_statistics(p) + 2 * rest_rounds(p.width, p.lanes));
    pub(super) const MEANS: Rounds = rounds!(BackwardParams, |p, _| looped(p.width, 0));
    pub(super) const COLUMNS: Rounds = rounds!(BackwardParams, |p, _| looped(p.slice, 0));
    pub(super) const BACKWARD: Rounds = rounds!(BackwardParams, |p, _| {
        let (rest, teams) = (rest_rounds(p.width, p.lanes), LANES as u32 / p.lanes.max(1));
        rest + looped(p.slice.div_ceil(teams.max(1)), 2 * rest + reduce_rounds())
    });
    pub(super) const TOTALS_LANE: Rounds = rounds!(BackwardParams, |p, _| looped(p.rows / 2, 0));
    pub(super) const TOTALS_GROUP: Rounds = rounds!(BackwardParams, |p, _| strip_rounds(p.rows));
}

/// A form from the end of its kernels' names and its tiles.
macro_rules! form {
    ($suffix:literal, $item:literal, $($tile:expr),+) => {{
        const FORWARDS: &[Source] = &[
            wgsl!("layernorm.wgsl"),
            wgsl!("lib/grid.wgsl"),
            wgsl!("lib/four.wgsl"),
            wgsl!("lib/reduce.wgsl"),
            wgsl!("lib/fault.wgsl"),
            $($tile),+
        ];
        const BACKWARDS: &[Source] = &[
            wgsl!("layernorm_backward.wgsl"),
            wgsl!("lib/grid.wgsl"),
            wgsl!("lib/four.wgsl"),
            wgsl!("lib/reduce.wgsl"),
            wgsl!("lib/columns.wgsl"),
            $($tile),+
        ];
        Form {
            forward: ByFamily {
                lane: kernel(concat!("layernorm.forward_lane", $suffix), FORWARDS, "forward_lane", cost::FORWARD_LANE),
                group: kernel(concat!("layernorm.forward_group", $suffix), FORWARDS, "forward_group", cost::FORWARD_GROUP),
            },
            gather: ByFamily {
                lane: Kernel {
                    bindings: GATHER,
                    ..kernel(concat!("layernorm.gather_lane", $suffix), FORWARDS, "gather_lane", cost::GATHER_LANE)
                },
                group: Kernel {
                    bindings: GATHER,
                    ..kernel(concat!("layernorm.gather_group", $suffix), FORWARDS, "gather_group", cost::GATHER_GROUP)
                },
            },
            means: backward_kernel(concat!("layernorm.means_lane", $suffix), BACKWARDS, "means_lane", MEANS, cost::MEANS),
            columns: backward_kernel(concat!("layernorm.columns_lane", $suffix), BACKWARDS, "columns_lane", COLUMNS, cost::COLUMNS),
            backward: backward_kernel(
                concat!("layernorm.backward_group", $suffix),
                BACKWARDS,
                "backward_group",
                BACKWARD,
                cost::BACKWARD,
            ),
            totals: ByFamily {
                lane: backward_kernel(concat!("layernorm.totals_lane", $suffix), BACKWARDS, "totals_lane", TOTALS, cost::TOTALS_LANE),
                group: backward_kernel(concat!("layernorm.totals_group", $suffix), BACKWARDS, "totals_group", TOTALS, cost::TOTALS_GROUP),
            },
            item: $item,
        }
    }};
}

static VEC4: Form =
    form!("", 4, wgsl!("tiles/vec4.wgsl"), wgsl!("tiles/columns_vec4.wgsl"), wgsl!("tiles/act_f32.wgsl"));
static VEC4_F16: Form = form!(
    ".f16",
    4,
    wgsl!("tiles/vec4.wgsl"),
    wgsl!("tiles/columns_vec4.wgsl"),
    wgsl!("tiles/act_f16.wgsl", enable "f16")
);
static SCALAR: Form =
    form!(".scalar", 1, wgsl!("tiles/scalar.wgsl"), wgsl!("tiles/columns_scalar.wgsl"), wgsl!("tiles/act_scalar.wgsl"));

/// Every kernel of this file.
pub(super) fn kernels() -> Vec<&'static Kernel> {
    let of = |form: &'static Form| {
        let families = [&form.forward, &form.gather, &form.totals].into_iter().flat_map(|f| [&f.lane, &f.group]);
        families.chain([&form.means, &form.columns, &form.backward]).collect::<Vec<_>>()
    };
    [&VEC4, &VEC4_F16, &SCALAR].into_iter().flat_map(of).collect()
}

/// y = (x − mean) / √(variance + eps) · weight + bias, over the last axis: `f32[.., C]`, `f32[C]`, `f32[C]` to
/// `f32[.., C]`. The variance is the biased one, as PyTorch's.
///
/// # Errors
/// If weight or bias are not `f32[C]`, or eps is negative or not finite.
pub fn layernorm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    layernorm_as(x, weight, bias, eps, DType::F32)
}

/// [`layernorm()`] with the result rounded to `dtype`, f32 or f16; everything is computed in f32.
///
/// # Errors
/// As [`layernorm()`], or if f16 is asked for where C is no multiple of 4 or the device has none.
pub fn layernorm_as(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32, dtype: DType) -> Result<Tensor> {
    let norm = Norm::new("layernorm", x, weight, bias, eps, dtype)?;
    let (gpu, rows) = (x.gpu(), x.shape().rows());
    let y = Tensor::empty(gpu, dtype, x.shape())?;
    let stats = norm.stats(rows)?;
    let params = norm.params(rows);
    let (kernel, grid) = norm.form.forward.by_row(gpu, &params);
    let buffers = [x.buffer(), weight.buffer(), bias.buffer(), y.buffer(), stats.buffer()];
    gpu.dispatch(kernel, &params, &buffers, grid)?;
    Ok(norm.record(y, x, stats))
}

/// The rows of kept tokens, and their [`layernorm_as()`], in one pass: `f32[B, T, C]` and `u32[B, R]` to
/// (`f32[B, R, C]`, `dtype[B, R, C]`). The first is what [`super::token_gather()`] gives.
///
/// # Errors
/// As [`super::token_gather()`] and [`layernorm_as()`].
pub fn gather_layernorm(
    x: &Tensor,
    indices: &TokenIndices,
    weight: &Tensor,
    bias: &Tensor,
    eps: f32,
    dtype: DType,
) -> Result<(Tensor, Tensor)> {
    const OP: &str = "gather_layernorm";
    let channels = channels_of(OP, x, indices)?;
    let norm = Norm::new(OP, x, weight, bias, eps, dtype)?;
    let (gpu, rows) = (x.gpu(), indices.batch() * indices.kept());
    let shape = super::shape(OP, &[indices.batch(), indices.kept(), channels])?;
    let (packed, y) = (Tensor::empty(gpu, DType::F32, shape)?, Tensor::empty(gpu, dtype, shape)?);
    let stats = norm.stats(rows)?;
    let (kept, tokens) = (indices.kept() as u32, indices.tokens() as u32);
    let faults = indices.fault_place(Fault::GatherIndex)?;
    let params = ForwardParams { kept, tokens, fault: faults.code, ..norm.params(rows) };
    let (kernel, grid) = norm.form.gather.by_row(gpu, &params);
    let inputs = [x.buffer(), weight.buffer(), bias.buffer(), y.buffer(), stats.buffer()];
    let buffers = [&inputs[..], &[indices.positions().buffer(), &faults.table, packed.buffer()]].concat();
    gpu.dispatch(kernel, &params, &buffers, grid)?;
    let packed = record(packed, &[x], || GatherRule::new(indices));
    let y = norm.record(y, &packed, stats);
    Ok((packed, y))
}

/// A checked call.
struct Norm<'a> {
    weight: &'a Tensor,
    bias: &'a Tensor,
    eps: f32,
    form: &'static Form,
}

impl<'a> Norm<'a> {
    fn new(op: &'static str, x: &Tensor, weight: &'a Tensor, bias: &'a Tensor, eps: f32, dtype: DType) -> Result<Self> {
        expect_f32(op, x)?;
        let width = x.shape().last();
        for affine in [weight, bias] {
            expect_f32(op, affine)?;
            expect_match(op, x, affine, affine.dims() == [width], "weight and bias must be f32[C] of x's last axis")?;
        }
        expect(op, x, eps >= 0.0 && eps.is_finite(), "eps must be finite and not negative")?;
        expect(op, x, matches!(dtype, DType::F32 | DType::F16), "gives f32 or f16")?;
        let fours = width.is_multiple_of(4);
        expect(op, x, fours || dtype == DType::F32, "gives f16 where the last axis is a multiple of 4")?;
        let form = match (fours, dtype) {
            (true, DType::F16) => &VEC4_F16,
            (true, _) => &VEC4,
            (false, _) => &SCALAR,
        };
        Ok(Norm { weight, bias, eps, form })
    }

    /// Mean and inverse deviation of each row: `f32[rows, 2]`.
    fn stats(&self, rows: usize) -> Result<Tensor> {
        Tensor::empty(self.weight.gpu(), DType::F32, super::shape("layernorm", &[rows, 2])?)
    }

    /// Without a gather.
    fn params(&self, rows: usize) -> ForwardParams {
        let width = self.weight.numel() / self.form.item;
        let lanes = team_of(width) as u32;
        ForwardParams { rows: rows as u32, width: width as u32, eps: self.eps, kept: 0, tokens: 0, fault: 0, lanes }
    }

    /// Gives `y`, the norm of `x`, its place in the graph.
    fn record(&self, y: Tensor, x: &Tensor, stats: Tensor) -> Tensor {
        let parents = [x, self.weight, self.bias];
        if !needs_grad(&parents) {
            return y;
        }
        // Two destinations in one dispatch must not be the same memory.
        let same = self.weight.buffer().wgpu_buffer() == self.bias.buffer().wgpu_buffer()
            && self.weight.buffer().offset() == self.bias.buffer().offset();
        let (x, weight, form) = (x.detach(), self.weight.detach(), self.form);
        record(y, &parents, || Rule { x, weight, stats, form, weight_is_bias: same })
    }
}

struct Rule {
    x: Tensor,
    weight: Tensor,
    stats: Tensor,
    form: &'static Form,
    weight_is_bias: bool,
}

// As in `shaders/layernorm_backward.wgsl`.
const WANTS_DX: u32 = 1;
const ADD_DX: u32 = 2;
const WANTS_AFFINE: u32 = 4;
const WANTS_TOTAL: [u32; 2] = [8, 16];
const ADD_TOTAL: [u32; 2] = [32, 64];

impl Backward for Rule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let dx = parents.destination(0)?;
        let wants_affine = parents.wants(1) || parents.wants(2);
        let (partial, slices) = self.rows_and_columns(&dy, dx, wants_affine)?;
        if !wants_affine {
            return Ok(());
        }
        if self.weight_is_bias {
            let dweight = parents.destination(1)?;
            self.totals(&partial, slices, [dweight, None])?;
            let dbias = parents.destination(2)?;
            return self.totals(&partial, slices, [None, dbias]);
        }
        let totals = [parents.destination(1)?, parents.destination(2)?];
        self.totals(&partial, slices, totals)
    }

    fn reads(&self, i: usize) -> bool {
        i < 2
    }
}

impl Rule {
    fn rows(&self) -> usize {
        self.x.shape().rows()
    }

    fn params(&self) -> BackwardParams {
        let width = self.weight.numel() / self.form.item;
        let lanes = team_of(width) as u32;
        BackwardParams { rows: self.rows() as u32, width: width as u32, slice: 0, flags: 0, lanes }
    }

    /// Which kernels: those of teams also where rows are too long for one invocation.
    fn family(&self, gpu: &Gpu) -> KernelFamily {
        let alone = self.form.means.fits(&self.params(), Grid::linear(self.rows(), NARROW));
        if alone { gpu.family() } else { KernelFamily::Workgroup }
    }

    /// dx, and column sums over slices of rows, for weight and bias: `f32[2, slices, C]`, with the number of slices.
    fn rows_and_columns(&self, dy: &Tensor, dx: Option<Destination>, wants_affine: bool) -> Result<(Tensor, usize)> {
        let gpu = dy.gpu();
        let dx_flags = dx.as_ref().map_or(0, |dx| if dx.accumulate { ADD_DX } else { WANTS_DX });
        let flags = dx_flags | if wants_affine { WANTS_AFFINE } else { 0 };
        let unused = || Tensor::empty(gpu, DType::F32, super::shape("layernorm", &[4])?);
        let dx = dx.map_or_else(unused, |dx| Ok(dx.tensor))?;
        let params = BackwardParams { flags, ..self.params() };
        let family = self.family(gpu);
        let cut = Cut::new(family, self.rows(), params.lanes as usize);
        let partial = match wants_affine {
            true => Tensor::empty(gpu, DType::F32, super::shape("layernorm", &[2, cut.sums, self.weight.numel()])?)?,
            false => unused()?,
        };
        let params = BackwardParams { slice: cut.slice as u32, ..params };
        let slices = self.rows().div_ceil(cut.slice);
        let buffers = [&self.x, &self.stats, dy, &self.weight, &dx, &partial].map(Tensor::buffer);
        match family {
            KernelFamily::Lane => {
                let means = self.means(dy)?;
                let buffers = [&buffers[..], &[means.buffer()]].concat();
                let grid = Grid::new((params.width as usize).div_ceil(NARROW), slices, 1);
                gpu.dispatch(&self.form.columns, &params, &buffers, grid)?;
            }
            KernelFamily::Workgroup => {
                gpu.dispatch(&self.form.backward, &params, &buffers, Grid::linear(slices, 1))?;
            }
        }
        Ok((partial, cut.sums))
    }

    /// The means of dhat and dhat·hat over each row: `f32[rows, 2]`.
    fn means(&self, dy: &Tensor) -> Result<Tensor> {
        let means = self.stats.empty_like()?;
        let inputs = [&self.x, &self.stats, dy, &self.weight, &means];
        let grid = Grid::linear(self.rows(), NARROW);
        dy.gpu().dispatch(&self.form.means, &self.params(), &inputs.map(Tensor::buffer), grid)?;
        Ok(means)
    }

    /// The totals that are wanted, of dweight and dbias.
    fn totals(&self, partial: &Tensor, slices: usize, to: [Option<Destination>; 2]) -> Result<()> {
        let gpu = partial.gpu();
        let flag = |i: usize| to[i].as_ref().map_or(0, |to| WANTS_TOTAL[i] | (ADD_TOTAL[i] * to.flag()));
        let params = BackwardParams { rows: slices as u32, flags: flag(0) | flag(1), ..self.params() };
        let memory = |to: &Option<Destination>| match to {
            Some(to) => Ok(to.tensor.clone()),
            None => Tensor::empty(gpu, DType::F32, super::shape("layernorm", &[4])?),
        };
        let (dweight, dbias) = (memory(&to[0])?, memory(&to[1])?);
        let family = self.family(gpu);
        let columns = match family {
            KernelFamily::Lane => NARROW,
            KernelFamily::Workgroup => STRIP,
        };
        let grid = Grid::linear(params.width as usize, columns).layers(2);
        let buffers = [partial.buffer(), dweight.buffer(), dbias.buffer()];
        gpu.dispatch(self.form.totals.pick(family), &params, &buffers, grid)
    }
}

/// How backward divides its rows.
struct Cut {
    /// Rows of a workgroup.
    slice: usize,
    /// Sums of dweight and of dbias that are left for the totals: one a slice, or one for each team in it.
    sums: usize,
}

impl Cut {
    fn new(family: KernelFamily, rows: usize, team: usize) -> Self {
        let (least, teams) = match family {
            KernelFamily::Lane => (CPU_SLICE.max(rows.div_ceil(MAX_GROUPS as usize)), 1),
            KernelFamily::Workgroup => ((rows.isqrt() / 12).max(LEAST_ROWS), LANES / team),
        };
        let slice = least * teams;
        Cut { slice, sums: rows.div_ceil(slice) * teams }
    }
}

/// Rows that a column's invocation goes down: enough that the sums over slices are few, and few enough that a short batch
/// keeps a device busy.
const CPU_SLICE: usize = 32;
/// Rows that a team goes down at least. Of more rows in all it takes a share of their root: the time of this pass grows with
/// it, and that of the totals falls.
const LEAST_ROWS: usize = 2;

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
