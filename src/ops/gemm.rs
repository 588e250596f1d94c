//! The matrix product beneath [`super::matmul`] and [`super::attention`]: strided and batched, with the kernels chosen by
//! one pure function, [`choose`].

use std::ops::Range;

use super::gemm_plan::{Facts, Plan, Shape, choose};
use crate::error::Result;
use crate::gpu::{Access, BufferView, Gpu, Grid, Kernel, MAX_GROUPS, Params, Source, params, wgsl};

/// Which operand is stored transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// A\[M, K\]·B\[K, N\]
    Nn,
    /// A\[M, K\]·B\[N, K\]ᵀ
    Nt,
    /// A\[K, M\]ᵀ·B\[K, N\]
    Tn,
}

/// A batch of matrices in a buffer; all numbers in elements.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a> {
    pub(super) view: &'a BufferView,
    pub(super) offset: usize,
    /// From a row to the next.
    pub(super) row: usize,
    /// From a matrix to the next along the outer and the inner batch axis.
    pub(super) step: [usize; 2],
}

impl<'a> Operand<'a> {
    /// Matrices one after the other, `size` elements each.
    pub(super) fn contiguous(view: &'a BufferView, row: usize, size: usize) -> Self {
        Operand { view, offset: 0, row, step: [size, 0] }
    }

    /// Whether every row of every matrix starts at a multiple of four elements, so that it can be read as vec4.
    fn is_aligned(&self) -> bool {
        [self.offset, self.row, self.step[0], self.step[1]].iter().all(|v| v.is_multiple_of(4))
    }
}

/// C = alpha · A·B (+ bias) (+ C), for each of `batch[0]`·`batch[1]` matrices.
pub(super) struct Gemm<'a> {
    pub(super) layout: Layout,
    /// M, N, K.
    pub(super) size: [usize; 3],
    /// Outer and inner batch.
    pub(super) batch: [usize; 2],
    pub(super) a: Operand<'a>,
    pub(super) b: Operand<'a>,
    /// If its row is longer than N, the kernel may write finite values to the columns from N up to a multiple of 4.
    pub(super) c: Operand<'a>,
    pub(super) bias: Option<&'a BufferView>,
    pub(super) alpha: f32,
    pub(super) accumulate: bool,
}

params!(GemmParams {
    m: u32,
    n: u32,
    k: u32,
    inner: u32,
    lda: u32,
    ldb: u32,
    ldc: u32,
    flags: u32,
    a_offset: u32,
    b_offset: u32,
    c_offset: u32,
    alpha: f32,
    a_outer: u32,
    a_inner: u32,
    b_outer: u32,
    b_inner: u32,
    c_outer: u32,
    c_inner: u32,
    first_row: u32,
});

/// A form of the kernel in its three layouts, with the rows and columns of C that a workgroup makes.
pub(super) struct Form {
    layouts: [Kernel; 3],
    pub(super) rows: usize,
    pub(super) columns: usize,
}

const SIMPLE_FILES: &[Source] = &[wgsl!("matmul_simple.wgsl"), wgsl!("lib/matmul.wgsl"), wgsl!("tiles/scalar.wgsl")];
const ROWS_FILES: &[Source] =
    &[wgsl!("matmul_rows.wgsl"), wgsl!("lib/matmul.wgsl"), wgsl!("lib/matmul_vec4.wgsl"), wgsl!("tiles/vec4.wgsl")];
const TILE_FILES: &[Source] =
    &[wgsl!("matmul_tile.wgsl"), wgsl!("lib/matmul.wgsl"), wgsl!("lib/matmul_vec4.wgsl"), wgsl!("tiles/vec4.wgsl")];

/// The names are those of the layouts in [`Layout`]'s order.
const fn form(
    names: [&'static str; 3],
    sources: &'static [Source],
    constants: &'static [(&'static str, f64)],
    rows: usize,
    columns: usize,
) -> Form {
    const BINDINGS: &[Access] = &[Access::Read, Access::Read, Access::Read, Access::Write];
    let params = GemmParams::FIELDS;
    Form {
        layouts: [
            Kernel { name: names[0], sources, entry: "nn", bindings: BINDINGS, params, constants },
            Kernel { name: names[1], sources, entry: "nt", bindings: BINDINGS, params, constants },
            Kernel { name: names[2], sources, entry: "tn", bindings: BINDINGS, params, constants },
        ],
        rows,
        columns,
    }
}

/// Any size and stride, on any device.
pub(super) static SIMPLE: Form =
    form(["matmul_simple.nn", "matmul_simple.nt", "matmul_simple.tn"], SIMPLE_FILES, &[], 8, 64);
/// CPU drivers, eight rows a lane.
pub(super) static ROWS_64: Form = form(["matmul_rows.nn", "matmul_rows.nt", "matmul_rows.tn"], ROWS_FILES, &[], 64, 16);
/// CPU drivers, four rows a lane, for a small M.
pub(super) static ROWS_32: Form =
    form(["matmul_rows.nn.32", "matmul_rows.nt.32", "matmul_rows.tn.32"], ROWS_FILES, &[("rows_a_lane", 4.0)], 32, 16);
/// CPU drivers, two rows a lane, for a few rows that are left; not for the layout tn.
pub(super) static ROWS_16: Form =
    form(["matmul_rows.nn.16", "matmul_rows.nt.16", "matmul_rows.tn.16"], ROWS_FILES, &[("rows_a_lane", 2.0)], 16, 16);
/// GPUs, through workgroup memory.
pub(super) static TILE_64: Form = form(["matmul_tile.nn", "matmul_tile.nt", "matmul_tile.tn"], TILE_FILES, &[], 64, 64);
/// GPUs, where larger tiles would be too few to fill the device.
pub(super) static TILE_32: Form =
    form(["matmul_tile.nn.32", "matmul_tile.nt.32", "matmul_tile.tn.32"], TILE_FILES, &[("tile", 32.0)], 32, 32);

/// Every kernel of this file.
pub(super) fn kernels() -> Vec<&'static Kernel> {
    let forms = [&SIMPLE, &ROWS_64, &ROWS_32, &ROWS_16, &TILE_64, &TILE_32];
    forms.into_iter().flat_map(|form| &form.layouts).collect()
}

const ADD_BIAS: u32 = 1;
const ACCUMULATE: u32 = 2;

/// Records the product.
pub(super) fn gemm(gpu: &Gpu, g: &Gemm<'_>) -> Result<()> {
    let shape = Shape {
        layout: g.layout,
        size: g.size,
        batch: g.batch[0] * g.batch[1],
        aligned: g.a.is_aligned() && g.b.is_aligned() && g.c.is_aligned(),
    };
    let facts = Facts { family: gpu.family(), mesa: gpu.info().mesa_version() };
    let Plan { body, rest } = choose(facts, shape);
    let rows = g.size[0];
    let whole = if rest.is_some() { rows - rows % body.rows } else { rows };
    run_rows(gpu, g, body, 0..whole)?;
    rest.map_or(Ok(()), |form| run_rows(gpu, g, form, whole..rows))
}

/// Records the product's rows in `range`, in as many dispatches as the largest grid needs.
fn run_rows(gpu: &Gpu, g: &Gemm<'_>, form: &'static Form, range: Range<usize>) -> Result<()> {
    let [_, n, k] = g.size;
    let kernel = &form.layouts[g.layout as usize];
    // Without a bias some readable buffer must stand in its binding; A is one that is only read.
    let buffers = [g.a.view, g.b.view, g.bias.unwrap_or(g.a.view), g.c.view];
    let batch = g.batch[0] * g.batch[1];
    let most = MAX_GROUPS as usize * form.rows;
    for first_row in range.clone().step_by(most) {
        let rows = most.min(range.end - first_row);
        let grid = Grid::new(n.div_ceil(form.columns), rows.div_ceil(form.rows), batch);
        let grid = grid.with_flops([2, rows, n, k, batch].into_iter().map(|v| v as u64).product());
        gpu.dispatch(kernel, &g.params(first_row), &buffers, grid)?;
    }
    Ok(())
}

impl Gemm<'_> {
    fn params(&self, first_row: usize) -> GemmParams {
        let u = |v: usize| v as u32;
        let [m, n, k] = self.size;
        let bias_flag = if self.bias.is_some() { ADD_BIAS } else { 0 };
        let accumulate_flag = if self.accumulate { ACCUMULATE } else { 0 };
        GemmParams {
            m: u(m),
            n: u(n),
            k: u(k),
            inner: u(self.batch[1]),
            lda: u(self.a.row),
            ldb: u(self.b.row),
            ldc: u(self.c.row),
            flags: bias_flag | accumulate_flag,
            a_offset: u(self.a.offset),
            b_offset: u(self.b.offset),
            c_offset: u(self.c.offset),
            alpha: self.alpha,
            a_outer: u(self.a.step[0]),
            a_inner: u(self.a.step[1]),
            b_outer: u(self.b.step[0]),
            b_inner: u(self.b.step[1]),
            c_outer: u(self.c.step[0]),
            c_inner: u(self.c.step[1]),
            first_row: u(first_row),
        }
    }
}
