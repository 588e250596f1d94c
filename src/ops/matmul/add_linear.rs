//! A product that is added to some columns of a tensor: what a low-rank adapter adds to its layer.

use super::gemm::gemm;
use super::operands::{Epilogue, Gemm, Operand};
use super::product::Layout;
use crate::autograd::{Backward, ParentGradients, record};
use crate::error::{Error, Result};
use crate::ops::{expect, expect_f32, expect_float, expect_match, sole_or_copy};
use crate::shape::DType;
use crate::tensor::Tensor;

const OP: &str = "add_linear";

/// y, with alpha · x·Wᵀ added to its columns from `first` on: y `f32[.., N]`, x `f32[.., K]` and W `f32[M, K]` to y's shape, the
/// other columns as they are. x may be f16, and y then f16 or f32; sums are f32.
///
/// Works in the memory of `y` if this is its last handle, else on a copy.
///
/// # Errors
/// If the shapes or types do not fit, or the M columns are not among the N: all of them, or a multiple of four where N is one.
pub fn add_linear(y: Tensor, x: &Tensor, weight: &Tensor, alpha: f32, first: usize) -> Result<Tensor> {
    let columns = Columns::new(&y, x, weight, alpha, first)?;
    let sum = sole_or_copy(&y)?;
    columns.forward(x, weight, &sum)?;
    Ok(record(sum, &[&y, x, weight], || Rule { columns, x: x.detach(), weight: weight.detach() }))
}

/// The columns that are added to, and what is added.
struct Columns {
    /// Of x and y.
    rows: usize,
    /// N.
    width: usize,
    /// M and K.
    size: [usize; 2],
    alpha: f32,
    first: usize,
}

impl Columns {
    fn new(y: &Tensor, x: &Tensor, weight: &Tensor, alpha: f32, first: usize) -> Result<Self> {
        expect_float(OP, x)?;
        expect_float(OP, y)?;
        expect_f32(OP, weight)?;
        let is_wider = y.dtype() == DType::F16 && x.dtype() == DType::F32;
        expect_match(OP, y, x, !is_wider, "x must be f16 where y is")?;
        let &[count, inner] = weight.dims() else {
            return Err(Error::Shape { op: OP, what: "needs rank 2", got: weight.info() });
        };
        expect(OP, x, x.shape().rank() > 0, "needs at least one axis")?;
        expect_match(OP, x, weight, x.shape().last() == inner, "inner sizes differ")?;
        let leading = |t: &Tensor| t.dims().split_last().map(|(_, leading)| leading.to_vec());
        expect_match(OP, y, x, leading(y) == leading(x), "leading axes differ")?;
        let width = y.shape().last();
        let is_within = first.checked_add(count).is_some_and(|end| end <= width);
        // Else a kernel that reads by fours would take other columns for these.
        let is_apart = count == width || count.is_multiple_of(4) || !width.is_multiple_of(4);
        if !(is_within && is_apart) {
            let expected = format!("all {width} columns, or a part of them, as many as a multiple of four");
            return Err(Error::argument(OP, "first", expected, format!("{count} from {first} on")));
        }
        Ok(Columns { rows: x.shape().rows(), width, size: [count, inner], alpha, first })
    }

    /// These columns of `tensor`, which is of y's shape.
    fn of<'a>(&self, tensor: &'a Tensor) -> Operand<'a> {
        Operand { offset: self.first, ..Operand::contiguous(tensor.buffer(), self.width, self.rows * self.width) }
    }

    fn epilogue(&self, accumulate: bool) -> Epilogue<'static> {
        Epilogue::Plain { alpha: self.alpha, accumulate }
    }

    /// y += alpha · x Wᵀ
    fn forward(&self, x: &Tensor, weight: &Tensor, y: &Tensor) -> Result<()> {
        let [m, k] = self.size;
        self.run(Layout::Nt, [self.rows, m, k], [x, weight, y], [rows(x), rows(weight), self.of(y)], true)
    }

    /// dx = alpha · dy W
    fn input_gradient(&self, dy: &Tensor, weight: &Tensor, dx: &Tensor, accumulate: bool) -> Result<()> {
        let [m, k] = self.size;
        self.run(Layout::Nn, [self.rows, k, m], [dy, weight, dx], [self.of(dy), rows(weight), rows(dx)], accumulate)
    }

    /// dW = alpha · dyᵀ x
    fn weight_gradient(&self, dy: &Tensor, x: &Tensor, dw: &Tensor, accumulate: bool) -> Result<()> {
        let [m, k] = self.size;
        self.run(Layout::Tn, [m, k, self.rows], [dy, x, dw], [self.of(dy), rows(x), rows(dw)], accumulate)
    }

    /// The product of A and B into C, of sizes M, N, K.
    fn run(
        &self,
        layout: Layout,
        size: [usize; 3],
        tensors: [&Tensor; 3],
        [a, b, c]: [Operand<'_>; 3],
        accumulate: bool,
    ) -> Result<()> {
        let types = tensors.map(Tensor::dtype);
        let epilogue = self.epilogue(accumulate);
        gemm(tensors[0].gpu(), &Gemm { layout, size, batch: [1, 1], types, a, b, c, epilogue })
    }
}

/// All of a tensor, as rows.
fn rows(tensor: &Tensor) -> Operand<'_> {
    Operand::contiguous(tensor.buffer(), tensor.shape().last(), tensor.numel())
}

struct Rule {
    columns: Columns,
    x: Tensor,
    weight: Tensor,
}

impl Backward for Rule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Rule { columns, x, weight } = *self;
        if let Some(dx) = parents.destination(1)? {
            columns.input_gradient(&dy, &weight, &dx.tensor, dx.accumulate)?;
        }
        if let Some(dw) = parents.destination(2)? {
            columns.weight_gradient(&dy, &x, &dw.tensor, dw.accumulate)?;
        }
        parents.give(0, dy)
    }

    fn reads(&self, i: usize) -> bool {
        i > 0
    }
}

/// The same on the CPU, slowly.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    use super::super::reference::product;

    /// Sizes of y `[rows, width]`, x `[rows, inner]` and W `[count, inner]`, the first column, and alpha.
    #[derive(Clone, Copy, Debug)]
    pub struct Setting {
        pub rows: usize,
        pub width: usize,
        pub count: usize,
        pub inner: usize,
        pub first: usize,
        pub alpha: f32,
    }

    /// y with the product added.
    pub fn forward(y: &[f32], x: &[f32], w: &[f32], s: Setting) -> Vec<f32> {
        let added = product([s.rows, s.count, s.inner], |i, q| x[i * s.inner + q], |q, j| w[j * s.inner + q]);
        let mut sum = y.to_vec();
        for (cell, value) in added.into_iter().enumerate() {
            sum[cell / s.count * s.width + s.first + cell % s.count] += s.alpha * value;
        }
        sum
    }

    /// The gradients of x and W; that of y is `dy`.
    pub fn backward(x: &[f32], w: &[f32], dy: &[f32], s: Setting) -> [Vec<f32>; 2] {
        let dy = |i: usize, j: usize| s.alpha * dy[i * s.width + s.first + j];
        let dx = product([s.rows, s.inner, s.count], dy, |j, q| w[j * s.inner + q]);
        let dw = product([s.count, s.inner, s.rows], |j, i| dy(i, j), |i, q| x[i * s.inner + q]);
        [dx, dw]
    }
}
