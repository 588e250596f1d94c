//! Sums over rows: the gradient of whatever is broadcast over rows, such as a bias. Not differentiable by itself.

use crate::autograd::Destination;
use crate::error::Result;
use crate::gpu::{Access, Grid, Kernel, KernelFamily, Params, looped, params, rounds, wgsl};
use crate::ops::item::{LANES, STRIP, strip_rounds};
use crate::ops::variants::ByItem;
use crate::ops::{expect, shape};
use crate::shape::DType;
use crate::tensor::Tensor;

params!(ColumnSumParams { rows: u32, stride: u32, width: u32, slice: u32, accumulate: u32 });

static VEC4: Kernel = Kernel {
    name: "column_sum.vec4",
    sources: &[
        wgsl!("column_sum.wgsl"),
        wgsl!("lib/grid.wgsl"),
        wgsl!("lib/columns.wgsl"),
        wgsl!("tiles/vec4.wgsl"),
        wgsl!("tiles/act_f32.wgsl"),
    ],
    entry: "column_sum",
    bindings: &[Access::Read, Access::Write],
    params: ColumnSumParams::FIELDS,
    constants: &[],
    rounds: rounds!(ColumnSumParams, |p, _| looped(p.slice / 2, 0)),
};

static VEC4_F16: Kernel = Kernel {
    name: "column_sum.vec4.f16",
    sources: &[
        wgsl!("column_sum.wgsl"),
        wgsl!("lib/grid.wgsl"),
        wgsl!("lib/columns.wgsl"),
        wgsl!("tiles/vec4.wgsl"),
        wgsl!("tiles/act_f16.wgsl", enable "f16"),
    ],
    ..VEC4
};

static SCALAR: Kernel = Kernel {
    name: "column_sum.scalar",
    sources: &[
        wgsl!("column_sum.wgsl"),
        wgsl!("lib/grid.wgsl"),
        wgsl!("lib/columns.wgsl"),
        wgsl!("tiles/scalar.wgsl"),
        wgsl!("tiles/act_scalar.wgsl"),
    ],
    ..VEC4
};

static GROUP_VEC4: Kernel = Kernel {
    name: "column_sum.group.vec4",
    entry: "column_sum_group",
    rounds: rounds!(ColumnSumParams, |p, _| strip_rounds(p.slice)),
    ..VEC4
};

static GROUP_VEC4_F16: Kernel = Kernel { name: "column_sum.group.vec4.f16", sources: VEC4_F16.sources, ..GROUP_VEC4 };

static GROUP_SCALAR: Kernel = Kernel { name: "column_sum.group.scalar", sources: SCALAR.sources, ..GROUP_VEC4 };

pub(crate) const KERNELS: &[&Kernel] = &[&VEC4, &VEC4_F16, &SCALAR, &GROUP_VEC4, &GROUP_VEC4_F16, &GROUP_SCALAR];

const FORMS: ByItem = ByItem::new(&VEC4, &SCALAR).with_half(&VEC4_F16);
const GROUP_FORMS: ByItem = ByItem::new(&GROUP_VEC4, &GROUP_SCALAR).with_half(&GROUP_VEC4_F16);

/// Sums the rows of `x`, seen as `[rows, width]`, into `f32[width]`. `x` is f32, or f16 if width is a multiple of 4.
pub(in crate::ops) fn column_sum(x: &Tensor, rows: usize, width: usize, to: &Destination) -> Result<()> {
    first_columns_sum(x, rows, width, width, to)
}

/// Sums the first `width` columns of `x`, seen as `[rows, stride]`, into `f32[width]`. `x` is f32, or f16 if both are
/// multiples of 4.
pub(in crate::ops) fn first_columns_sum(
    x: &Tensor,
    rows: usize,
    stride: usize,
    width: usize,
    to: &Destination,
) -> Result<()> {
    debug_assert!(rows * stride == x.numel() && width <= stride && width == to.tensor.numel());
    let fits = x.dtype() == DType::F32 || (x.dtype() == DType::F16 && (stride | width).is_multiple_of(4));
    expect("column_sum", x, fits, "needs f32, or f16 rows of a multiple of 4")?;
    let cut = Cut::new(x.gpu().family(), rows, stride, width);
    if cut.slice >= rows {
        return sum_slices(x, rows, stride, width, cut, to);
    }
    let slices = rows.div_ceil(cut.slice);
    let tensor = Tensor::unwritten(x.gpu(), DType::F32, shape("column_sum", &[slices, width])?)?;
    let partial = Destination { tensor, accumulate: false };
    sum_slices(x, rows, stride, width, cut, &partial)?;
    let whole = Cut { slice: slices, ..cut };
    if slices <= FEW_SLICES && whole.fits(width) {
        return sum_slices(&partial.tensor, slices, width, width, whole, to);
    }
    column_sum(&partial.tensor, slices, width, to)
}

/// A sum of fewer rows is not worth a second pass: on a CPU driver, and on a GPU, where 32 invocations share a column.
const FEW_ROWS: usize = 64;
const FEW_ROWS_GROUP: usize = 1024;
/// Sums that one invocation adds up; of more it would lose digits.
const FEW_SLICES: usize = 1024;
/// On a CPU: so few that the rows of a slice stay in the cache while one lane after the other goes down them.
const CPU_SLICE: usize = 16;
/// As many invocations, one a column, keep a GPU busy.
const ENOUGH: usize = 32_768;
/// As many workgroups of 256 do, each of whose invocations has four loads under way.
const ENOUGH_GROUPS: usize = 512;
/// Fewer rows a slice would leave an invocation of the group form without its four.
const LEAST_SLICE: usize = 128;
/// A sum of fewer rows is not worth sharing a column at all.
const FEWEST_SHARED: usize = 8;

/// How a sum is divided.
#[derive(Clone, Copy)]
struct Cut {
    /// Rows that the first pass adds up; all of them if it is to be the only one.
    slice: usize,
    /// Whether invocations share a column.
    shares: bool,
}

impl Cut {
    fn new(family: KernelFamily, rows: usize, stride: usize, width: usize) -> Self {
        // Four divides both or the kernel goes float by float.
        let columns = width / FORMS.pick(stride | width).1;
        let alone = |slice| Cut { slice, shares: false };
        let shared = |slice| Cut { slice, shares: true };
        match family {
            KernelFamily::Lane if rows < FEW_ROWS => alone(rows),
            KernelFamily::Lane => alone(CPU_SLICE),
            KernelFamily::Workgroup if rows < FEWEST_SHARED || (rows < FEW_ROWS && columns >= ENOUGH) => alone(rows),
            KernelFamily::Workgroup if rows <= FEW_ROWS_GROUP => shared(rows),
            KernelFamily::Workgroup => {
                let slices = ENOUGH_GROUPS.div_ceil(columns.div_ceil(STRIP)).min(rows / LEAST_SLICE);
                shared(rows.div_ceil(slices))
            }
        }
    }

    fn forms(self) -> ByItem {
        if self.shares { GROUP_FORMS } else { FORMS }
    }

    /// Whether an invocation can add up a slice of f32 in its loops.
    fn fits(self, width: usize) -> bool {
        let params = ColumnSumParams { rows: 0, stride: 0, width: 0, slice: self.slice as u32, accumulate: 0 };
        self.forms().pick(width).0.fits(&params, Grid::new(1, 1, 1))
    }
}

/// Sums over the slices of `cut`: `f32[slices, width]`.
fn sum_slices(x: &Tensor, rows: usize, stride: usize, width: usize, cut: Cut, to: &Destination) -> Result<()> {
    let (kernel, item) = cut.forms().pick_as(x.dtype(), stride | width);
    let (stride, width) = (stride / item, width / item);
    let params = ColumnSumParams {
        rows: rows as u32,
        stride: stride as u32,
        width: width as u32,
        slice: cut.slice as u32,
        accumulate: to.flag(),
    };
    let slices = rows.div_ceil(cut.slice);
    let grid = match cut.shares {
        true => Grid::linear(slices * width.div_ceil(STRIP), 1),
        false => Grid::linear(slices * width, LANES),
    };
    x.gpu().dispatch(kernel, &params, &[x.buffer(), to.tensor.buffer()], grid)
}

/// The same on the CPU, slowly.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    /// The sum of the rows of `width` elements.
    pub fn column_sum(x: &[f32], width: usize) -> Vec<f32> {
        let column = |c: usize| x.iter().skip(c).step_by(width).map(|&v| f64::from(v)).sum::<f64>() as f32;
        (0..width).map(column).collect()
    }
}
