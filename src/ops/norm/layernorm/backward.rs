//! The gradients of a layer normalisation: dx and sums of columns over slices of rows in one or two passes, then their totals.

use super::forms::{BackwardParams, Form, NARROW};
use crate::autograd::{Backward, Destination, ParentGradients};
use crate::error::Result;
use crate::gpu::{Gpu, Grid, KernelFamily};
use crate::ops::item::{LANES, STRIP, team_of};
use crate::ops::shape;
use crate::shape::DType;
use crate::tensor::Tensor;

pub(super) struct Rule {
    pub(super) x: Tensor,
    pub(super) weight: Tensor,
    pub(super) stats: Tensor,
    pub(super) form: &'static Form,
    /// Floats in an item of the form.
    pub(super) item: usize,
    pub(super) weight_is_bias: bool,
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
        let width = self.weight.numel() / self.item;
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
        let unused = || Tensor::unwritten(gpu, DType::F32, shape("layernorm", &[4])?);
        let dx = dx.map_or_else(unused, |dx| Ok(dx.tensor))?;
        let params = BackwardParams { flags, ..self.params() };
        let family = self.family(gpu);
        let cut = Cut::new(gpu, family, self.rows(), params.lanes as usize);
        let partial = match wants_affine {
            true => Tensor::unwritten(gpu, DType::F32, shape("layernorm", &[2, cut.sums, self.weight.numel()])?)?,
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
            None => Tensor::unwritten(gpu, DType::F32, shape("layernorm", &[4])?),
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
    fn new(gpu: &Gpu, family: KernelFamily, rows: usize, team: usize) -> Self {
        let (least, teams) = match family {
            KernelFamily::Lane => (CPU_SLICE.max(rows.div_ceil(gpu.most_groups())), 1),
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
