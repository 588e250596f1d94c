//! The matrix product beneath [`super::matmul`], [`super::mlp`] and [`super::attention`]: strided and batched, with what
//! follows it in the same pass, and with the kernels chosen by [`tuning::plan`].

use std::ops::Range;

use super::TokenIndices;
use super::column_sum::column_sum;
use super::gemm_deep;
use super::gemm_forms::{Ending, Form, Types};
use super::gemm_plan::{Plan, Product, Shape};
use super::item::{longest, pieces};
use super::tuning;
use crate::autograd::Destination;
use crate::error::{Error, Result};
use crate::gpu::{BufferView, Fault, Gpu, Grid, Kernel, KernelFamily, MAX_GROUPS, Params, params};
use crate::shape::DType;
use crate::tensor::Tensor;

/// Which operand is stored transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

/// What follows the product, in its own store.
#[derive(Clone, Copy)]
pub(super) enum Epilogue<'a> {
    /// C = alpha · A·B, or C += it.
    Plain { alpha: f32, accumulate: bool },
    /// C = A·B and sums = the sums of A's columns, each written or added to: layout tn, where [`makes_sums`] says so.
    Sums { accumulate: bool, sums: &'a Destination },
    /// C = A·B + bias.
    Bias(&'a BufferView),
    /// h = A·B + bias, C = GELU(h); h has C's layout and type.
    Gelu { bias: &'a BufferView, h: &'a BufferView },
    /// C = (A·B) ⊙ GELU'(C): C holds h before and dh after.
    GeluBackward,
    /// C = A·B + bias + residual; the residual is f32 and has C's layout.
    Residual { bias: &'a BufferView, residual: &'a BufferView },
    /// The same for rows of kept tokens, which go to their places in C `f32[B, T, N]`; the residual is `f32[B, R, N]`.
    Scatter { bias: &'a BufferView, residual: &'a BufferView, indices: &'a TokenIndices },
}

impl Epilogue<'_> {
    fn ending(&self, layout: Layout) -> Ending {
        match self {
            Epilogue::Plain { .. } if layout == Layout::Nt => Ending::Linear,
            Epilogue::Plain { .. } => Ending::Plain,
            Epilogue::Sums { .. } => Ending::Sums,
            Epilogue::Bias(_) | Epilogue::Residual { .. } => Ending::Linear,
            Epilogue::Gelu { .. } => Ending::Gelu,
            Epilogue::GeluBackward => Ending::GeluBackward,
            Epilogue::Scatter { .. } => Ending::Scatter,
        }
    }
}

/// A·B and what follows, for each of `batch[0]`·`batch[1]` matrices.
pub(super) struct Gemm<'a> {
    pub(super) layout: Layout,
    /// M, N, K.
    pub(super) size: [usize; 3],
    /// Outer and inner batch.
    pub(super) batch: [usize; 2],
    /// Of A, B and C.
    pub(super) types: Types,
    pub(super) a: Operand<'a>,
    pub(super) b: Operand<'a>,
    /// If its row is longer than N, the kernel may write finite values to the columns from N up to a multiple of 4.
    pub(super) c: Operand<'a>,
    pub(super) epilogue: Epilogue<'a>,
}

params!(GemmParams {
    m: u32,
    n: u32,
    k: u32,
    inner: u32,
    lda: u32,
    ldb: u32,
    ldc: u32,
    accumulate: u32,
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
    first_column: u32,
    first_matrix: u32,
    accumulate_sums: u32,
    has_bias: u32,
    has_residual: u32,
    kept: u32,
    tokens: u32,
    fault: u32,
});

/// The rounds of the kernels by form.
pub(super) mod cost {
    use super::GemmParams;
    use crate::gpu::{Rounds, looped, rounds};

    /// One step of K in a round, then four blocks of C.
    pub(in crate::ops) const SIMPLE: Rounds = rounds!(GemmParams, |p, _| looped(p.k, 0) + looped(4u64, 0));
    /// Four steps of K in a round, then four columns of C with what is left of K.
    pub(in crate::ops) const ROWS: Rounds = rounds!(GemmParams, |p, _| rows(p));
    /// The same after two sums over columns of A, two steps in a round.
    pub(in crate::ops) const SUMS: Rounds = rounds!(GemmParams, |p, _| rows(p) + 2 * looped(p.k / 2, 0));
    /// 16 steps of K in a round.
    pub(in crate::ops) const TILE: Rounds = rounds!(GemmParams, |p, _| looped(p.k.div_ceil(16), 0));
    /// The same, of subgroups of 8 and 32 invocations, which bring the tiles of A and B in by vec4s.
    pub(in crate::ops) const COOPERATIVE_8: Rounds = rounds!(GemmParams, |p, _| cooperative(p, 8));
    pub(in crate::ops) const COOPERATIVE_32: Rounds = rounds!(GemmParams, |p, _| cooperative(p, 32));

    fn rows(p: &GemmParams) -> u64 {
        looped(p.k / 4, 0) + looped(4u64, looped(p.k % 4, 0))
    }

    fn cooperative(p: &GemmParams, lanes: u64) -> u64 {
        // Each tile is brought in by one of two loops, which a driver may count both.
        let stage = 2 * (looped(128 / lanes, 0) + 1);
        looped(p.k.div_ceil(16), stage + looped(2u64, 0)) + looped(256 / lanes, 0)
    }
}

/// The fields of the kernels' `Params`.
pub(super) const PARAMS: &[(&str, &str)] = GemmParams::FIELDS;

/// Whether every plan for a product of layout tn, with M and N as given, has the kernels of [`Epilogue::Sums`]: they are those
/// of CPU drivers, where a dispatch costs much. On a GPU the sums want more invocations than have C's first columns.
pub(super) fn makes_sums(gpu: &Gpu, m: usize, n: usize) -> bool {
    gpu.family() == KernelFamily::Lane && (m | n).is_multiple_of(4)
}

/// Records the product.
pub(super) fn gemm(gpu: &Gpu, g: &Gemm<'_>) -> Result<()> {
    run_plan(gpu, g, tuning::plan(gpu, g.product()))
}

/// Records the product as `plan` says, which is one of [`super::gemm_plan::choose`]'s for it.
pub(super) fn run_plan(gpu: &Gpu, g: &Gemm<'_>, plan: Plan) -> Result<()> {
    if gemm_deep::is_apart(g, &plan) {
        return gemm_deep::run_apart(gpu, g);
    }
    let Plan { body, rest, split } = plan;
    if split > 1 {
        return run_split(gpu, g, body, split);
    }
    let rows = g.size[0];
    let whole = if rest.is_some() { rows - rows % body.rows } else { rows };
    run_rows(gpu, g, body, 0..whole)?;
    rest.map_or(Ok(()), |form| run_rows(gpu, g, form, whole..rows))
}

/// Records a product of few tiles and a large K: `split` products of a share of K each, then their sum, always in the same
/// order.
fn run_split(gpu: &Gpu, g: &Gemm<'_>, form: &Form, split: usize) -> Result<()> {
    let Epilogue::Plain { alpha, accumulate } = g.epilogue else { return run_rows(gpu, g, form, 0..g.size[0]) };
    let [m, n, k] = g.size;
    let share = k / split;
    let partial = Tensor::empty(gpu, DType::F32, super::shape("matmul", &[split, m, n])?)?;
    let parts = Gemm {
        size: [m, n, share],
        batch: [split, 1],
        // The rows of both are steps of K.
        a: Operand { step: [share * g.a.row, 0], ..g.a },
        b: Operand { step: [share * g.b.row, 0], ..g.b },
        c: Operand::contiguous(partial.buffer(), n, m * n),
        epilogue: Epilogue::Plain { alpha, accumulate: false },
        ..*g
    };
    run_rows(gpu, &parts, form, 0..m)?;
    let c = Tensor::from_view(gpu, DType::F32, super::shape("matmul", &[m, n])?, g.c.view.clone());
    column_sum(&partial, split, m * n, &Destination { tensor: c, accumulate })
}

/// Records the product's rows in `range`: in as many dispatches as the largest grid needs, and, where K is more than the
/// kernel's loops can run through, once for each share of it, the later ones added to the first (in C's type: an f16 is rounded
/// as often).
fn run_rows(gpu: &Gpu, g: &Gemm<'_>, form: &Form, range: Range<usize>) -> Result<()> {
    let [_, n, k] = g.size;
    let Some(kernel) = g.kernel(form) else {
        let got = format!("{:?} {:?} of {:?} in {}", g.layout, g.epilogue.ending(g.layout), g.types, form.name);
        return Err(Error::argument("gemm", "element types", "a combination that has a kernel", got));
    };
    let faults = match &g.epilogue {
        Epilogue::Scatter { indices, .. } => indices.fault_place(Fault::ScatterIndex)?,
        _ => gpu.no_fault(Fault::ScatterIndex),
    };
    let buffers = g.buffers(&faults.table);
    let params = GemmParams { fault: faults.code, ..g.params() };
    let share = params.share_of_k(kernel);
    let most = MAX_GROUPS as usize;
    for matrices in pieces(0..g.batch[0] * g.batch[1], most) {
        for columns in pieces(0..n, most * form.columns) {
            for rows in pieces(range.clone(), most * form.rows) {
                let groups = (columns.len().div_ceil(form.columns), rows.len().div_ceil(form.rows), matrices.len());
                let first = [rows.start, columns.start, matrices.start].map(|first| first as u32);
                for steps in pieces(0..k, share) {
                    let flops = [2, rows.len(), columns.len(), steps.len(), matrices.len()];
                    let flops = flops.into_iter().map(|v| v as u64).product();
                    let grid = Grid::new(groups.0, groups.1, groups.2).with_flops(flops);
                    gpu.dispatch(kernel, &params.part(g, first, steps), &buffers, grid)?;
                }
            }
        }
    }
    Ok(())
}

impl GemmParams {
    /// Steps of K that `kernel` runs through in a dispatch: all, or an equal share.
    fn share_of_k(&self, kernel: &Kernel) -> usize {
        let fits = |k: usize| kernel.fits(&GemmParams { k: k as u32, ..*self }, Grid::new(1, 1, 1));
        longest(self.k as usize, 16, fits)
    }

    /// Those of a dispatch that begins with the row, column and matrix `first` and makes the sums over `steps` of K: all but the
    /// first steps are added to what is there.
    fn part(&self, g: &Gemm<'_>, first: [u32; 3], steps: Range<usize>) -> Self {
        let [first_row, first_column, first_matrix] = first;
        let whole = GemmParams { first_row, first_column, first_matrix, k: steps.len() as u32, ..*self };
        if steps.start == 0 {
            return whole;
        }
        let [a, b] = g.step_of_k();
        GemmParams {
            a_offset: self.a_offset + (steps.start * a) as u32,
            b_offset: self.b_offset + (steps.start * b) as u32,
            accumulate: 1,
            accumulate_sums: 1,
            has_bias: 0,
            has_residual: 0,
            ..whole
        }
    }
}

impl<'a> Gemm<'a> {
    /// What its plan is chosen by.
    fn product(&self) -> Product {
        let shape = Shape {
            layout: self.layout,
            size: self.size,
            batch: self.batch[0] * self.batch[1],
            aligned: self.a.is_aligned() && self.b.is_aligned() && self.c.is_aligned(),
            can_split: self.can_split(),
            half: self.types.contains(&DType::F16),
        };
        Product { shape, types: self.types, ending: self.epilogue.ending(self.layout) }
    }

    /// Whether [`run_split`] can make it: a weight's gradient, by itself in its buffer.
    fn can_split(&self) -> bool {
        let alone = self.batch == [1, 1] && self.c.offset == 0 && self.c.row == self.size[1];
        let plain = matches!(self.epilogue, Epilogue::Plain { .. }) && self.types[2] == DType::F32;
        self.layout == Layout::Tn && plain && alone
    }

    /// In the order of the kernel's bindings.
    fn buffers(&self, faults: &'a BufferView) -> Vec<&'a BufferView> {
        let between: &[&BufferView] = match &self.epilogue {
            Epilogue::Sums { sums, .. } => return vec![self.a.view, self.b.view, self.c.view, sums.tensor.buffer()],
            // A in the place of what is not read.
            Epilogue::Plain { .. } if self.layout == Layout::Nt => &[self.a.view, self.a.view],
            Epilogue::Plain { .. } | Epilogue::GeluBackward => &[],
            Epilogue::Bias(bias) => &[bias, self.a.view],
            Epilogue::Gelu { bias, h } => &[bias, h],
            Epilogue::Residual { bias, residual } => &[bias, residual],
            Epilogue::Scatter { bias, residual, indices } => &[bias, residual, indices.positions().buffer(), faults],
        };
        [&[self.a.view, self.b.view], between, &[self.c.view]].concat()
    }

    /// The kernel of `form` that makes it.
    fn kernel(&self, form: &Form) -> Option<&'static Kernel> {
        form.kernel(self.layout, self.types, self.epilogue.ending(self.layout))
    }

    /// How many steps of K its kernel of `form` runs through in a dispatch; all of them, if there is no such kernel.
    pub(super) fn share_of_k(&self, form: &Form) -> usize {
        self.kernel(form).map_or(self.size[2], |kernel| self.params().share_of_k(kernel))
    }

    /// From a step of K to the next, in A and in B.
    fn step_of_k(&self) -> [usize; 2] {
        match self.layout {
            Layout::Nn => [1, self.b.row],
            Layout::Nt => [1, 1],
            Layout::Tn => [self.a.row, self.b.row],
        }
    }

    /// Of the whole product.
    fn params(&self) -> GemmParams {
        let u = |v: usize| v as u32;
        let [m, n, k] = self.size;
        let (alpha, accumulate) = match self.epilogue {
            Epilogue::Plain { alpha, accumulate } => (alpha, accumulate),
            Epilogue::Sums { accumulate, .. } => (1.0, accumulate),
            _ => (1.0, false),
        };
        let accumulate_sums = match self.epilogue {
            Epilogue::Sums { sums, .. } => sums.flag(),
            _ => 0,
        };
        let (kept, tokens) = match self.epilogue {
            Epilogue::Scatter { indices, .. } => (indices.kept(), indices.tokens()),
            _ => (1, 1),
        };
        GemmParams {
            m: u(m),
            n: u(n),
            k: u(k),
            inner: u(self.batch[1]),
            lda: u(self.a.row),
            ldb: u(self.b.row),
            ldc: u(self.c.row),
            accumulate: u32::from(accumulate),
            a_offset: u(self.a.offset),
            b_offset: u(self.b.offset),
            c_offset: u(self.c.offset),
            alpha,
            a_outer: u(self.a.step[0]),
            a_inner: u(self.a.step[1]),
            b_outer: u(self.b.step[0]),
            b_inner: u(self.b.step[1]),
            c_outer: u(self.c.step[0]),
            c_inner: u(self.c.step[1]),
            first_row: 0,
            first_column: 0,
            first_matrix: 0,
            accumulate_sums,
            has_bias: u32::from(matches!(self.epilogue, Epilogue::Bias(_) | Epilogue::Residual { .. })),
            has_residual: u32::from(matches!(self.epilogue, Epilogue::Residual { .. })),
            kept: u(kept),
            tokens: u(tokens),
            fault: 0,
        }
    }
}
