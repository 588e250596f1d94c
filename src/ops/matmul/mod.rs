//! Matrix products, in the three layouts that a network and its gradients need, batched and with bias.

pub mod add_linear;
mod cut;
mod deep;
mod forms;
mod gemm;
#[cfg(not(target_arch = "wasm32"))]
mod measure;
mod operands;
mod params;
mod plan;
mod product;
mod saved;
mod table;
#[cfg(not(target_arch = "wasm32"))]
mod units;
mod widened;

pub use add_linear::add_linear;
pub(super) use forms::kernels;
pub(super) use gemm::gemm;
#[cfg(not(target_arch = "wasm32"))]
pub use measure::{TuneReport, tune};
pub(super) use operands::{Epilogue, Gemm, Operand};
pub(super) use product::Layout;
pub use saved::{Settled, TunedProduct, Tuning};
pub use table::{Demand, demands};

use operands::makes_sums;
use widened::with_full;

use crate::autograd::{Backward, ParentGradients, needs_grad, record};
use crate::error::{Error, Result, TensorInfo};
use crate::ops::reduce::column_sum::column_sum;
use crate::ops::{cast, expect, expect_f32, expect_float, expect_match, expect_same_device, shape};
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
/// product's own store. With an x of f16 the result is f16; sums are f32. W may be f16 if nothing asks for its gradient.
///
/// # Errors
/// If the shapes do not fit, x or the weight is neither f32 nor f16, the weight is f16 and in a graph, or the bias is not `f32[N]`.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    const OP: &str = "linear";
    let layer = Layer::new(OP, x, weight, bias)?;
    let y = Tensor::unwritten(x.gpu(), x.dtype(), with_last(OP, x.shape(), layer.size[1])?)?;
    let plain = Epilogue::Plain { alpha: 1.0, accumulate: false };
    layer.forward(x, &y, bias.map_or(plain, |bias| Epilogue::Bias(bias.buffer())))?;
    let parents: Vec<&Tensor> = [x, weight].into_iter().chain(bias).collect();
    Ok(record(y, &parents, || Linear { layer }))
}

/// x·Wᵀ + bias + residual: `f32[.., K]` or `f16[.., K]`, `f32[N, K]`, `f32[N]` and `f32[.., N]` to `f32[.., N]`, in one pass.
///
/// # Errors
/// As [`linear`]; the residual must be f32 and have the result's shape.
pub fn linear_add(x: &Tensor, weight: &Tensor, bias: &Tensor, residual: &Tensor) -> Result<Tensor> {
    const OP: &str = "linear_add";
    let layer = Layer::new(OP, x, weight, Some(bias))?;
    let shape = with_last(OP, x.shape(), layer.size[1])?;
    expect_residual(OP, residual, x, shape)?;
    let y = Tensor::unwritten(x.gpu(), DType::F32, shape)?;
    layer.forward(x, &y, Epilogue::Residual { bias: bias.buffer(), residual: residual.buffer() })?;
    Ok(record(y, &[x, weight, bias, residual], || Linear { layer }))
}

/// A residual is on x's device, f32 and of the result's shape.
pub(super) fn expect_residual(op: &'static str, residual: &Tensor, x: &Tensor, shape: Shape) -> Result<()> {
    expect_f32(op, residual)?;
    expect_same_device(op, x, residual)?;
    if residual.shape() == shape {
        return Ok(());
    }
    let result = TensorInfo { dtype: DType::F32, shape };
    Err(Error::Mismatch { op, what: "the residual must have the result's shape", lhs: result, rhs: residual.info() })
}

/// What backward of a linear layer needs.
pub(super) struct Layer {
    /// For the weight's gradient: none where the weight is not trained.
    pub(super) x: Option<Tensor>,
    pub(super) weight: Tensor,
    /// M, N, K of the forward product.
    pub(super) size: [usize; 3],
}

impl Layer {
    /// Checks the operands of x·Wᵀ + bias.
    pub(super) fn new(op: &'static str, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        expect_float(op, x)?;
        expect_float(op, weight)?;
        bias.map_or(Ok(()), |bias| expect_f32(op, bias))?;
        let is_fixed = weight.dtype() == DType::F32 || !needs_grad(&[weight]);
        expect(op, weight, is_fixed, "a weight of f16 has no gradient")?;
        let &[out, inner] = weight.dims() else { return Err(not_a_matrix(op, weight)) };
        expect(op, x, x.shape().rank() > 0, "needs at least one axis")?;
        expect_match(op, x, weight, x.shape().last() == inner, "inner sizes differ")?;
        if let Some(bias) = bias {
            expect_match(op, weight, bias, bias.dims() == [out], "the bias must be f32[out]")?;
        }
        let kept = needs_grad(&[weight]).then(|| x.detach());
        Ok(Layer { x: kept, weight: weight.detach(), size: [x.shape().rows(), out, inner] })
    }

    /// y = epilogue(x Wᵀ)
    pub(super) fn forward(&self, x: &Tensor, y: &Tensor, epilogue: Epilogue<'_>) -> Result<()> {
        with_full(&self.weight, |weight| run(Layout::Nt, 1, self.size, x, weight, y, epilogue))
    }

    /// Whether backward reads x, the first parent, or the weight, the second.
    pub(super) fn reads(&self, i: usize) -> bool {
        (i == 0 && self.x.is_some()) || i == 1
    }

    /// dx = epilogue(dy W)
    pub(super) fn input_gradient(&self, dy: &Tensor, dx: &Tensor, epilogue: Epilogue<'_>) -> Result<()> {
        let [m, n, k] = self.size;
        with_full(&self.weight, |weight| run(Layout::Nn, 1, [m, k, n], dy, weight, dx, epilogue))
    }

    /// dW = dyᵀ x, and db = the sum of dy's rows, for the parents `weight` and `bias`.
    pub(super) fn parameter_gradients(
        &self,
        dy: &Tensor,
        parents: &mut ParentGradients<'_>,
        weight: usize,
        bias: usize,
    ) -> Result<()> {
        let [m, n, k] = self.size;
        let (dw, db) = (parents.destination(weight)?.zip(self.x.as_ref()), parents.destination(bias)?);
        let size = [n, k, m];
        if let (Some((dw, x)), Some(db)) = (&dw, &db)
            && makes_sums(dy.gpu(), n, k)
        {
            let both = Epilogue::Sums { accumulate: dw.accumulate, sums: db };
            return run(Layout::Tn, 1, size, dy, x, &dw.tensor, both);
        }
        if let Some((dw, x)) = dw {
            run(Layout::Tn, 1, size, dy, x, &dw.tensor, add_to(dw.accumulate))?;
        }
        match db {
            // Column sums read halves by fours.
            Some(db) if !n.is_multiple_of(4) => column_sum(&cast(&dy.detach(), DType::F32)?, m, n, &db),
            Some(db) => column_sum(dy, m, n, &db),
            None => Ok(()),
        }
    }
}

/// C = A·B, or C += it.
pub(super) fn add_to(accumulate: bool) -> Epilogue<'static> {
    Epilogue::Plain { alpha: 1.0, accumulate }
}

fn not_a_matrix(op: &'static str, tensor: &Tensor) -> Error {
    Error::Shape { op, what: "needs rank 2", got: tensor.info() }
}

fn with_last(op: &'static str, x: Shape, last: usize) -> Result<Shape> {
    let (_, leading) = x.dims().split_last().unwrap_or((&1, &[]));
    shape(op, &[leading, &[last]].concat())
}

/// Of a layer, with or without a residual behind it.
struct Linear {
    layer: Layer,
}

impl Backward for Linear {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        if let Some(dx) = parents.destination(0)? {
            self.layer.input_gradient(&dy, &dx.tensor, add_to(dx.accumulate))?;
        }
        self.layer.parameter_gradients(&dy, parents, 1, 2)?;
        // y = .. + residual: its gradient is dy, if there is one.
        parents.give(3, dy)
    }

    fn reads(&self, i: usize) -> bool {
        self.layer.reads(i)
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
    let c = Tensor::unwritten(a.gpu(), DType::F32, shape(op, &[a_lead, &[m, n]].concat())?)?;
    let leading: usize = a_lead.iter().product();
    // A shared B sees all of A's rows as one tall matrix.
    let (batch, m) = if b_lead.is_empty() { (1, leading * m) } else { (leading, m) };
    run(layout, batch, [m, n, k], a, b, &c, add_to(false))?;
    Ok(record(c, &[a, b], || ProductRule { layout, batch, size: [m, n, k], a: a.detach(), b: b.detach() }))
}

/// Leading axes, and the last two.
fn split(x: &Tensor) -> (&[usize], &[usize]) {
    x.dims().split_at(x.dims().len() - 2)
}

struct ProductRule {
    layout: Layout,
    batch: usize,
    size: [usize; 3],
    a: Tensor,
    b: Tensor,
}

impl Backward for ProductRule {
    fn backward(self: Box<Self>, dc: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let ProductRule { layout, batch, size: [m, n, k], a, b } = *self;
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
            run(la, batch, sa, a1, a2, &da.tensor, add_to(da.accumulate))?;
        }
        if let Some(db) = parents.destination(1)? {
            run(lb, batch, sb, b1, b2, &db.tensor, add_to(db.accumulate))?;
        }
        Ok(())
    }
}

/// One product of `batch` contiguous matrices of sizes `[M, N, K]`.
fn run(
    layout: Layout,
    batch: usize,
    [m, n, k]: [usize; 3],
    a: &Tensor,
    b: &Tensor,
    c: &Tensor,
    epilogue: Epilogue<'_>,
) -> Result<()> {
    let (lda, ldb) = (if layout == Layout::Tn { m } else { k }, if layout == Layout::Nt { k } else { n });
    gemm(
        a.gpu(),
        &Gemm {
            layout,
            size: [m, n, k],
            batch: [batch, 1],
            types: [a.dtype(), b.dtype(), c.dtype()],
            a: Operand::contiguous(a.buffer(), lda, m * k),
            b: Operand::contiguous(b.buffer(), ldb, n * k),
            c: Operand::contiguous(c.buffer(), n, m * n),
            epilogue,
        },
    )
}

/// The same on the CPU, slowly.
#[cfg(feature = "internals")]
#[doc(hidden)]
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
