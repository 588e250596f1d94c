//! Matrix products, in the three layouts that a network and its gradients need, batched and with bias.

use super::gemm::{Gemm, Layout, Operand, gemm};
use super::{column_sum, expect, expect_f32, expect_match, shape};
use crate::autograd::{Backward, ParentGradients, record};
use crate::error::Result;
use crate::shape::{DType, Shape};
use crate::tensor::Tensor;

/// A·B: `f32[M, K]`·`f32[K, N]` to `f32[M, N]`; with leading axes in A (`[.., M, K]`), B has the same ones or rank 2 and
/// is then shared.
///
/// # Errors
/// If the shapes do not fit, or a dtype is not f32.
pub fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    product("matmul", Layout::Nn, a, b)
}

/// A·Bᵀ: `f32[.., M, K]`·`f32[.., N, K]`ᵀ, the layout of a linear layer whose weight is `[out, in]`.
///
/// # Errors
/// As [`matmul`].
pub fn matmul_nt(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    product("matmul_nt", Layout::Nt, a, b)
}

/// Aᵀ·B: `f32[.., K, M]`ᵀ·`f32[.., K, N]`, the layout of a weight's gradient. Both have the same leading axes.
///
/// # Errors
/// As [`matmul`].
pub fn matmul_tn(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    product("matmul_tn", Layout::Tn, a, b)
}

/// x·Wᵀ + bias over the last axis: `f32[.., K]`, `f32[N, K]`, `f32[N]` to `f32[.., N]`. The bias is added in the
/// product's own store.
///
/// # Errors
/// As [`matmul`]; the bias must be `f32[N]`.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    const OP: &str = "linear";
    for tensor in [Some(x), Some(weight), bias].into_iter().flatten() {
        expect_f32(OP, tensor)?;
    }
    let &[out, inner] = weight.dims() else { return Err(not_a_matrix(OP, weight)) };
    expect(OP, x, x.shape().rank() > 0, "needs at least one axis")?;
    expect_match(OP, x, weight, x.shape().last() == inner, "inner sizes differ")?;
    if let Some(bias) = bias {
        expect_match(OP, weight, bias, bias.dims() == [out], "the bias must be f32[out]")?;
    }
    let y = Tensor::empty(x.gpu(), DType::F32, with_last(OP, x.shape(), out)?)?;
    let size = [x.shape().rows(), out, inner];
    run(Layout::Nt, 1, size, x, weight, bias, &y, false)?;
    let parents: Vec<&Tensor> = [x, weight].into_iter().chain(bias).collect();
    Ok(record(y, &parents, || Linear { x: x.detach(), weight: weight.detach(), size }))
}

fn not_a_matrix(op: &'static str, tensor: &Tensor) -> crate::error::Error {
    crate::error::Error::Shape { op, what: "needs rank 2", got: tensor.info() }
}

fn with_last(op: &'static str, x: Shape, last: usize) -> Result<Shape> {
    let (_, leading) = x.dims().split_last().unwrap_or((&1, &[]));
    shape(op, &[leading, &[last]].concat())
}

struct Linear {
    x: Tensor,
    weight: Tensor,
    /// M, N, K of the forward product.
    size: [usize; 3],
}

impl Backward for Linear {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let [m, n, k] = self.size;
        // y[M, N] = x[M, K] W[N, K]ᵀ: dx = dy W
        if let Some(dx) = parents.destination(0)? {
            run(Layout::Nn, 1, [m, k, n], &dy, &self.weight, None, &dx.tensor, dx.accumulate)?;
        }
        // dW = dyᵀ x
        if let Some(dw) = parents.destination(1)? {
            run(Layout::Tn, 1, [n, k, m], &dy, &self.x, None, &dw.tensor, dw.accumulate)?;
        }
        match parents.destination(2)? {
            Some(db) => column_sum::column_sum(&dy, m, n, &db),
            None => Ok(()),
        }
    }
}

fn product(op: &'static str, layout: Layout, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    expect_f32(op, a)?;
    expect_f32(op, b)?;
    expect(op, a, a.shape().rank() >= 2, "needs rank 2 or more")?;
    expect(op, b, b.shape().rank() >= 2, "needs rank 2 or more")?;
    let (a_lead, a_dims) = split(a);
    let (b_lead, b_dims) = split(b);
    let shared = b_lead.is_empty() && layout != Layout::Tn;
    expect_match(op, a, b, a_lead == b_lead || shared, "leading axes differ")?;
    let (m, k) = if layout == Layout::Tn { (a_dims[1], a_dims[0]) } else { (a_dims[0], a_dims[1]) };
    let (n, k_of_b) = if layout == Layout::Nt { (b_dims[0], b_dims[1]) } else { (b_dims[1], b_dims[0]) };
    expect_match(op, a, b, k == k_of_b, "inner sizes differ")?;
    let c = Tensor::empty(a.gpu(), DType::F32, shape(op, &[a_lead, &[m, n]].concat())?)?;
    let leading: usize = a_lead.iter().product();
    // A shared B sees all of A's rows as one tall matrix.
    let (batch, m) = if b_lead.is_empty() { (1, leading * m) } else { (leading, m) };
    run(layout, batch, [m, n, k], a, b, None, &c, false)?;
    Ok(record(c, &[a, b], || Product { layout, batch, size: [m, n, k], a: a.detach(), b: b.detach() }))
}

/// Leading axes, and the last two.
fn split(x: &Tensor) -> (&[usize], &[usize]) {
    x.dims().split_at(x.dims().len() - 2)
}

struct Product {
    layout: Layout,
    batch: usize,
    size: [usize; 3],
    a: Tensor,
    b: Tensor,
}

impl Backward for Product {
    fn backward(self: Box<Self>, dc: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Product { layout, batch, size: [m, n, k], a, b } = *self;
        let (dc, a, b) = (&dc, &a, &b);
        // Which layout, which operands, and M, N, K of the product that makes (dA, dB).
        let ((la, a1, a2, sa), (lb, b1, b2, sb)) = match layout {
            // C = A B: dA = dC Bᵀ, dB = Aᵀ dC
            Layout::Nn => ((Layout::Nt, dc, b, [m, k, n]), (Layout::Tn, a, dc, [k, n, m])),
            // C = A Bᵀ: dA = dC B, dB = dCᵀ A
            Layout::Nt => ((Layout::Nn, dc, b, [m, k, n]), (Layout::Tn, dc, a, [n, k, m])),
            // C = Aᵀ B: dA = B dCᵀ, dB = A dC
            Layout::Tn => ((Layout::Nt, b, dc, [k, m, n]), (Layout::Nn, a, dc, [k, n, m])),
        };
        if let Some(da) = parents.destination(0)? {
            run(la, batch, sa, a1, a2, None, &da.tensor, da.accumulate)?;
        }
        if let Some(db) = parents.destination(1)? {
            run(lb, batch, sb, b1, b2, None, &db.tensor, db.accumulate)?;
        }
        Ok(())
    }
}

/// One product of `batch` contiguous matrices of sizes `[M, N, K]`.
#[expect(clippy::too_many_arguments, reason = "a product's operands; every caller names them all")]
fn run(
    layout: Layout,
    batch: usize,
    [m, n, k]: [usize; 3],
    a: &Tensor,
    b: &Tensor,
    bias: Option<&Tensor>,
    c: &Tensor,
    accumulate: bool,
) -> Result<()> {
    let (lda, ldb) = (if layout == Layout::Tn { m } else { k }, if layout == Layout::Nt { k } else { n });
    gemm(
        a.gpu(),
        &Gemm {
            layout,
            size: [m, n, k],
            batch: [batch, 1],
            a: Operand::contiguous(a.buffer(), lda, m * k),
            b: Operand::contiguous(b.buffer(), ldb, n * k),
            c: Operand::contiguous(c.buffer(), n, m * n),
            bias: bias.map(Tensor::buffer),
            alpha: 1.0,
            accumulate,
        },
    )
}

/// The same on the CPU, slowly.
pub mod reference {
    /// A·B of one matrix, with the element functions `a(i, k)` and `b(k, j)`: every layout is a choice of these.
    pub fn product(
        [m, n, k]: [usize; 3],
        a: impl Fn(usize, usize) -> f32,
        b: impl Fn(usize, usize) -> f32,
    ) -> Vec<f32> {
        let cell = |i: usize, j: usize| (0..k).map(|q| f64::from(a(i, q)) * f64::from(b(q, j))).sum::<f64>() as f32;
        (0..m * n).map(|c| cell(c / n, c % n)).collect()
    }
}
