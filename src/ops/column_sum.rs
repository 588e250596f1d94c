//! Sums over rows: the gradient of whatever is broadcast over rows, such as a bias. Not differentiable by itself.

use super::item::{ByItem, LANES};
use crate::autograd::Destination;
use crate::error::Result;
use crate::gpu::{Access, Grid, Kernel, KernelFamily, Params, params, wgsl};
use crate::shape::DType;
use crate::tensor::Tensor;

params!(ColumnSumParams { rows: u32, stride: u32, width: u32, slice: u32, accumulate: u32 });

static VEC4: Kernel = Kernel {
    name: "column_sum.vec4",
    sources: &[wgsl!("column_sum.wgsl"), wgsl!("lib/grid.wgsl"), wgsl!("tiles/vec4.wgsl"), wgsl!("tiles/act_f32.wgsl")],
    entry: "column_sum",
    bindings: &[Access::Read, Access::Write],
    params: ColumnSumParams::FIELDS,
    constants: &[],
};

static VEC4_F16: Kernel = Kernel {
    name: "column_sum.vec4.f16",
    sources: &[
        wgsl!("column_sum.wgsl"),
        wgsl!("lib/grid.wgsl"),
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
        wgsl!("tiles/scalar.wgsl"),
        wgsl!("tiles/act_scalar.wgsl"),
    ],
    ..VEC4
};

const FORMS: ByItem = ByItem { vec4: &VEC4, scalar: &SCALAR };

pub(crate) const KERNELS: &[&Kernel] = &[&VEC4, &VEC4_F16, &SCALAR];

/// Sums the rows of `x`, seen as `[rows, width]`, into `f32[width]`. `x` is f32, or f16 if width is a multiple of 4.
pub(super) fn column_sum(x: &Tensor, rows: usize, width: usize, to: &Destination) -> Result<()> {
    first_columns_sum(x, rows, width, width, to)
}

/// Sums the first `width` columns of `x`, seen as `[rows, stride]`, into `f32[width]`. `x` is f32, or f16 if both are
/// multiples of 4.
pub(super) fn first_columns_sum(x: &Tensor, rows: usize, stride: usize, width: usize, to: &Destination) -> Result<()> {
    debug_assert!(rows * stride == x.numel() && width <= stride && width == to.tensor.numel());
    let fits = x.dtype() == DType::F32 || (x.dtype() == DType::F16 && (stride | width).is_multiple_of(4));
    super::expect("column_sum", x, fits, "needs f32, or f16 rows of a multiple of 4")?;
    // Four divides both or the kernel goes float by float.
    let item = FORMS.pick(stride | width).1;
    let slice = slice_length(x.gpu().family(), rows, width / item);
    if slice >= rows {
        return sum_slices(x, rows, stride, width, slice, to);
    }
    let slices = rows.div_ceil(slice);
    let tensor = Tensor::empty(x.gpu(), DType::F32, super::shape("column_sum", &[slices, width])?)?;
    let partial = Destination { tensor, accumulate: false };
    sum_slices(x, rows, stride, width, slice, &partial)?;
    sum_slices(&partial.tensor, slices, width, width, slices, to)
}

/// A sum of fewer rows is not worth a second pass.
const FEW_ROWS: usize = 64;
/// On a CPU: so few that the rows of a slice stay in the cache while one lane after the other goes down them.
const CPU_SLICE: usize = 16;
/// As many invocations keep a GPU busy.
const ENOUGH: usize = 32_768;

/// Rows that an invocation of the first pass adds up. On a GPU all of them if the columns alone fill the device, else
/// about as many as then remain for the second pass.
fn slice_length(family: KernelFamily, rows: usize, columns: usize) -> usize {
    if rows < FEW_ROWS {
        return rows;
    }
    match family {
        KernelFamily::Lane => CPU_SLICE,
        KernelFamily::Workgroup => rows.div_ceil(ENOUGH.div_ceil(columns).min(rows.isqrt())),
    }
}

fn sum_slices(x: &Tensor, rows: usize, stride: usize, width: usize, slice: usize, to: &Destination) -> Result<()> {
    let (mut kernel, item) = FORMS.pick(stride | width);
    if x.dtype() == DType::F16 {
        kernel = &VEC4_F16;
    }
    let (stride, width) = (stride / item, width / item);
    let params = ColumnSumParams {
        rows: rows as u32,
        stride: stride as u32,
        width: width as u32,
        slice: slice as u32,
        accumulate: to.flag(),
    };
    let grid = Grid::linear(rows.div_ceil(slice) * width, LANES);
    x.gpu().dispatch(kernel, &params, &[x.buffer(), to.tensor.buffer()], grid)
}

/// The same on the CPU, slowly.
pub mod reference {
    /// The sum of the rows of `width` elements.
    pub fn column_sum(x: &[f32], width: usize) -> Vec<f32> {
        let column = |c: usize| x.iter().skip(c).step_by(width).map(|&v| f64::from(v)).sum::<f64>() as f32;
        (0..width).map(column).collect()
    }
}
