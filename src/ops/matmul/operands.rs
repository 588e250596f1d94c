//! A product with its data: operands in memory, and what follows in the same pass.

use std::ops::Range;

use super::forms::Form;
use super::params::GemmParams;
use super::product::{EpilogueKind, Layout, Product, Types};
use crate::autograd::Destination;
use crate::gpu::{BufferView, Gpu, Kernel, KernelFamily};
use crate::ops::{Gelu, TokenIndices};
use crate::shape::DType;

/// A batch of matrices in a buffer; all numbers in elements.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Operand<'a> {
    pub(in crate::ops) view: &'a BufferView,
    pub(in crate::ops) offset: usize,
    /// From a row to the next.
    pub(in crate::ops) row: usize,
    /// From a matrix to the next along the outer and the inner batch axis.
    pub(in crate::ops) step: [usize; 2],
}

impl<'a> Operand<'a> {
    /// Matrices one after the other, `size` elements each.
    pub(in crate::ops) fn contiguous(view: &'a BufferView, row: usize, size: usize) -> Self {
        Operand { view, offset: 0, row, step: [size, 0] }
    }

    /// Whether every row of every matrix starts at a multiple of four elements, so that it can be read as vec4.
    fn is_aligned(&self) -> bool {
        [self.offset, self.row, self.step[0], self.step[1]].iter().all(|v| v.is_multiple_of(4))
    }
}

/// What follows the product, in its own store.
#[derive(Clone, Copy)]
pub(in crate::ops) enum Epilogue<'a> {
    /// C = alpha · A·B, or C += it.
    Plain { alpha: f32, accumulate: bool },
    /// C = A·B and sums = the sums of A's columns, each written or added to: layout tn, where [`makes_sums`] says so.
    Sums { accumulate: bool, sums: &'a Destination },
    /// C = A·B + bias.
    Bias(&'a BufferView),
    /// h = A·B + bias, C = GELU(h); h has C's layout and type.
    Gelu { bias: &'a BufferView, h: &'a BufferView, gelu: Gelu },
    /// C = (A·B) ⊙ GELU'(C): C holds h before and dh after.
    GeluBackward(Gelu),
    /// C = A·B + bias + residual; the residual is f32 and has C's layout.
    Residual { bias: &'a BufferView, residual: &'a BufferView },
    /// The same for rows of kept tokens, which go to their places in C `f32[B, T, N]`; the residual is `f32[B, R, N]`.
    Scatter { bias: &'a BufferView, residual: &'a BufferView, indices: &'a TokenIndices },
}

impl Epilogue<'_> {
    /// What it does. Those of the layout nt, a layer's forward pass, share a kernel.
    pub(super) fn kind(&self, layout: Layout) -> EpilogueKind {
        match self {
            Epilogue::Plain { .. } if layout == Layout::Nt => EpilogueKind::Linear,
            Epilogue::Plain { .. } => EpilogueKind::Plain,
            Epilogue::Sums { .. } => EpilogueKind::Sums,
            Epilogue::Bias(_) | Epilogue::Residual { .. } => EpilogueKind::Linear,
            Epilogue::Gelu { gelu, .. } => EpilogueKind::Gelu(*gelu),
            Epilogue::GeluBackward(gelu) => EpilogueKind::GeluBackward(*gelu),
            Epilogue::Scatter { .. } => EpilogueKind::Scatter,
        }
    }
}

/// Whether every plan for a product of layout tn, with M and N as given, has the kernels of [`Epilogue::Sums`]: they are those
/// of CPU drivers, where a dispatch costs much. On a GPU the sums want more invocations than have C's first columns.
pub(super) fn makes_sums(gpu: &Gpu, m: usize, n: usize) -> bool {
    gpu.family() == KernelFamily::Lane && (m | n).is_multiple_of(4)
}

/// Steps of K that a sum takes at most: a kernel adds one after the other, and a longer sum of terms of one sign would
/// lose digits. In layout tn they are the rows of a batch, often many beside a small C. A layer's are its channels, few
/// but where a vocabulary's gradient comes back. GPUs, whose plans cut K for other reasons too, take more of a batch at
/// a time: what a share costs them, a pass over C, has not been measured on one.
fn longest_sum(layout: Layout, family: KernelFamily) -> usize {
    match (layout, family) {
        (Layout::Tn, KernelFamily::Lane) => 4096,
        (Layout::Tn, KernelFamily::Workgroup) | (Layout::Nn | Layout::Nt, _) => 16_384,
    }
}

/// A·B and what follows, for each of `batch[0]`·`batch[1]` matrices.
pub(in crate::ops) struct Gemm<'a> {
    pub(in crate::ops) layout: Layout,
    /// M, N, K.
    pub(in crate::ops) size: [usize; 3],
    /// Outer and inner batch.
    pub(in crate::ops) batch: [usize; 2],
    /// Of A, B and C.
    pub(in crate::ops) types: Types,
    pub(in crate::ops) a: Operand<'a>,
    pub(in crate::ops) b: Operand<'a>,
    /// If its row is longer than N, the kernel may write finite values to the columns from N up to a multiple of 4.
    pub(in crate::ops) c: Operand<'a>,
    pub(in crate::ops) epilogue: Epilogue<'a>,
}

impl<'a> Gemm<'a> {
    /// What its plan is chosen by.
    pub(super) fn product(&self) -> Product {
        Product {
            layout: self.layout,
            size: self.size,
            batch: self.batch[0] * self.batch[1],
            aligned: self.is_aligned(),
            can_split: self.can_split(),
            types: self.types,
            epilogue: self.epilogue.kind(self.layout),
        }
    }

    /// Whether all three can be read and written as vec4s: C, too, where it is a single row, whatever its length, if what is behind its
    /// last column is padding. A row that is scattered has others around it.
    fn is_aligned(&self) -> bool {
        let [m, n, _] = self.size;
        let is_last = n.is_multiple_of(4) || self.c.offset + n == self.c.row;
        let is_scattered = matches!(self.epilogue, Epilogue::Scatter { .. });
        let alone = self.batch == [1, 1] && m == 1 && is_last && !is_scattered;
        let c = if alone { Operand { row: 0, step: [0, 0], ..self.c } } else { self.c };
        [self.a, self.b, c].iter().all(Operand::is_aligned)
    }

    /// Whether `run_split` of gemm.rs can make it: a weight's gradient, by itself in its buffer.
    fn can_split(&self) -> bool {
        let alone = self.batch == [1, 1] && self.c.offset == 0 && self.c.row == self.size[1];
        let plain = matches!(self.epilogue, Epilogue::Plain { .. }) && self.types[2] == DType::F32;
        self.layout == Layout::Tn && plain && alone
    }

    /// Whether shares of the sum can be added up in C, without rounding them to halves: others keep it whole as long as
    /// a kernel can run through it.
    fn adds_shares(&self) -> bool {
        let adds = match self.epilogue {
            Epilogue::Plain { .. } | Epilogue::Sums { .. } | Epilogue::Bias(_) | Epilogue::Residual { .. } => true,
            Epilogue::Gelu { .. } | Epilogue::GeluBackward(_) | Epilogue::Scatter { .. } => false,
        };
        adds && self.types[2] == DType::F32
    }

    /// In the order of the kernel's bindings.
    pub(super) fn buffers(&self, faults: &'a BufferView) -> Vec<&'a BufferView> {
        let between: &[&BufferView] = match &self.epilogue {
            Epilogue::Sums { sums, .. } => return vec![self.a.view, self.b.view, self.c.view, sums.tensor.buffer()],
            // A in the place of what is not read.
            Epilogue::Plain { .. } if self.layout == Layout::Nt => &[self.a.view, self.a.view],
            Epilogue::Plain { .. } | Epilogue::GeluBackward(_) => &[],
            Epilogue::Bias(bias) => &[bias, self.a.view],
            Epilogue::Gelu { bias, h, .. } => &[bias, h],
            Epilogue::Residual { bias, residual } => &[bias, residual],
            Epilogue::Scatter { bias, residual, indices } => &[bias, residual, indices.positions().buffer(), faults],
        };
        [&[self.a.view, self.b.view], between, &[self.c.view]].concat()
    }

    /// The kernel of `form` that makes it.
    pub(super) fn kernel(&self, form: &Form) -> Option<&'static Kernel> {
        form.kernel(self.layout, self.types, self.epilogue.kind(self.layout))
    }

    /// How many steps of K its kernel of `form` runs through in a dispatch on `gpu`; all of them, if there is no such kernel.
    pub(super) fn share_of_k(&self, gpu: &Gpu, form: &Form) -> usize {
        let most = if self.adds_shares() { longest_sum(self.layout, gpu.family()) } else { usize::MAX };
        self.kernel(form).map_or(self.size[2], |kernel| self.params().share_of_k(kernel, most))
    }

    /// The `params` of a dispatch that begins with the row, column and matrix `first` and makes the sums over `steps` of K: all
    /// but the first steps are added to what is there.
    pub(super) fn part(&self, params: GemmParams, first: [u32; 3], steps: Range<usize>) -> GemmParams {
        let [first_row, first_column, first_matrix] = first;
        let whole = GemmParams { first_row, first_column, first_matrix, k: steps.len() as u32, ..params };
        if steps.start == 0 {
            return whole;
        }
        let [a, b] = self.step_of_k();
        GemmParams {
            a_offset: params.a_offset + (steps.start * a) as u32,
            b_offset: params.b_offset + (steps.start * b) as u32,
            accumulate: 1,
            accumulate_sums: 1,
            has_bias: 0,
            has_residual: 0,
            ..whole
        }
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
    pub(super) fn params(&self) -> GemmParams {
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
