//! The MLP of a transformer block with the residual that it is added to, as one operation.

use super::matmul::{Epilogue, Layer, add_to, expect_residual};
use super::tokens::{TokenRows, channels_of};
use super::{Gelu, TokenIndices, expect_match, shape, sole_or_copy};
use crate::autograd::{Backward, ParentGradients, record};
use crate::error::Result;
use crate::gpu::Fault;
use crate::tensor::Tensor;

/// A linear layer's parameters: weight `f32[out, in]` and bias `f32[out]`.
pub type Weights<'a> = (&'a Tensor, &'a Tensor);

/// residual + fc2(GELU(fc1(x))): x `f32[.., C]` or `f16[.., C]`, fc1 to F channels, fc2 to N, residual and result `f32[.., N]`.
/// GELU and the residual cost no pass of their own.
///
/// With `into`, a full tensor `f32[B, T, N]` and the tokens of each sample that x `[B, R, C]` and the residual hold, the result
/// is the full tensor with the rows of those tokens replaced, as [`super::token_scatter()`] would make it: in the full tensor's
/// own memory if this is its last handle, else in a copy.
///
/// # Errors
/// If the shapes do not fit, or something is not f32: but x may be f16, and so may a weight that is in no graph.
pub fn mlp(
    x: &Tensor,
    fc1: Weights<'_>,
    fc2: Weights<'_>,
    gelu: Gelu,
    residual: &Tensor,
    into: Option<(Tensor, &TokenIndices)>,
) -> Result<Tensor> {
    const OP: &str = "mlp";
    let layer1 = Layer::new(OP, x, fc1.0, Some(fc1.1))?;
    let leading = &x.dims()[..x.dims().len() - 1];
    let hidden_shape = shape(OP, &[leading, &[layer1.size[1]]].concat())?;
    let hidden = Tensor::unwritten(x.gpu(), x.dtype(), hidden_shape)?;
    let layer2 = Layer::new(OP, &hidden, fc2.0, Some(fc2.1))?;
    let out_shape = shape(OP, &[leading, &[layer2.size[1]]].concat())?;
    expect_residual(OP, residual, x, out_shape)?;
    if let Some((full, indices)) = &into {
        check_full(OP, full, residual, indices)?;
    }
    let h = hidden.empty_like()?;
    layer1.forward(x, &hidden, Epilogue::Gelu { bias: fc1.1.buffer(), h: h.buffer(), gelu })?;
    let (bias, added) = (fc2.1.buffer(), residual.buffer());
    let parents = [x, fc1.0, fc1.1, fc2.0, fc2.1, residual];
    match into {
        None => {
            let y = residual.empty_like()?;
            layer2.forward(&hidden, &y, Epilogue::Residual { bias, residual: added })?;
            Ok(record(y, &parents, || Rule { layer1, h, gelu, layer2, indices: None }))
        }
        Some((full, indices)) => {
            let y = sole_or_copy(&full)?;
            layer2.forward(&hidden, &y, Epilogue::Scatter { bias, residual: added, indices })?;
            let rule = || Rule { layer1, h, gelu, layer2, indices: Some(indices.clone()) };
            Ok(record(y, &[&parents[..], &[&full]].concat(), rule))
        }
    }
}

/// The full tensor and the packed rows must be what the indices are for.
fn check_full(op: &'static str, full: &Tensor, rows: &Tensor, indices: &TokenIndices) -> Result<()> {
    let channels = channels_of(op, full, indices)?;
    let fits = rows.dims() == [indices.batch(), indices.kept(), channels];
    let what = "the residual must be f32[B, R, N] of the full f32[B, T, N] and indices u32[B, R]";
    expect_match(op, rows, indices.positions(), fits, what)
}

/// What forward saved: x and the two weights, h, and GELU(h) as the second layer's x.
struct Rule {
    layer1: Layer,
    h: Tensor,
    gelu: Gelu,
    layer2: Layer,
    /// Where the result was put among other rows.
    indices: Option<TokenIndices>,
}

impl Backward for Rule {
    /// y = residual + g W2ᵀ + b2, g = GELU(h), h = x W1ᵀ + b1.
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Rule { layer1, h, gelu, layer2, indices } = *self;
        let dy = match &indices {
            None => dy,
            Some(indices) => take_rows(dy, indices, parents)?,
        };
        layer2.parameter_gradients(&dy, parents, 3, 4)?;
        let dh = h;
        if [0, 1, 2].iter().any(|&i| parents.wants(i)) {
            // In the memory of h, which only this rule holds.
            layer2.input_gradient(&dy, &dh, Epilogue::GeluBackward(gelu))?;
        }
        drop(layer2);
        parents.give(5, dy)?;
        layer1.parameter_gradients(&dh, parents, 1, 2)?;
        if let Some(dx) = parents.destination(0)? {
            layer1.input_gradient(&dh, &dx.tensor, add_to(dx.accumulate))?;
        }
        Ok(())
    }

    fn reads(&self, i: usize) -> bool {
        self.layer1.reads(i) || i == 3
    }
}

/// The gradient of the rows that were put into the full tensor, out of `dy`; what is left of it, zero in their place, is the
/// full tensor's.
fn take_rows(dy: Tensor, indices: &TokenIndices, parents: &mut ParentGradients<'_>) -> Result<Tensor> {
    let channels = dy.shape().last();
    let rows = TokenRows::new(indices, channels, Fault::ScatterIndex);
    let packed = shape("mlp", &[indices.batch(), indices.kept(), channels])?;
    let packed = Tensor::unwritten(dy.gpu(), dy.dtype(), packed)?;
    if !parents.wants(6) {
        rows.gather(&dy, &packed, false)?;
        return Ok(packed);
    }
    let full = sole_or_copy(&dy)?;
    drop(dy);
    rows.take(&full, &packed, false)?;
    parents.give(6, full)?;
    Ok(packed)
}

/// The same on the CPU, slowly.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    use crate::ops::matmul::reference::product;
    use crate::ops::reduce::column_sum::reference::column_sum;
    use crate::ops::{Gelu, gelu};

    /// x, W1, b1, W2, b2 and residual, as [`super::mlp`] takes them.
    pub type Inputs<'a> = [&'a [f32]; 6];

    /// x·Wᵀ + b for rows of K, with M rows.
    fn linear(x: &[f32], weight: &[f32], bias: &[f32], m: usize) -> Vec<f32> {
        let (n, k) = (bias.len(), x.len() / m);
        let mut y = product([m, n, k], |i, q| x[i * k + q], |q, j| weight[j * k + q]);
        y.iter_mut().zip(bias.iter().cycle()).for_each(|(y, b)| *y += b);
        y
    }

    /// residual + fc2(GELU(fc1(x))) of `rows` rows.
    pub fn forward([x, w1, b1, w2, b2, residual]: Inputs<'_>, form: Gelu, rows: usize) -> Vec<f32> {
        let hidden = gelu::reference::forward(&linear(x, w1, b1, rows), form);
        linear(&hidden, w2, b2, rows).iter().zip(residual).map(|(y, r)| y + r).collect()
    }

    /// The gradients of the inputs, in their order.
    pub fn backward([x, w1, b1, w2, b2, _]: Inputs<'_>, form: Gelu, dy: &[f32], rows: usize) -> [Vec<f32>; 6] {
        let (f, n, c) = (b1.len(), b2.len(), x.len() / rows);
        let h = linear(x, w1, b1, rows);
        let hidden = gelu::reference::forward(&h, form);
        let d_hidden = product([rows, f, n], |i, j| dy[i * n + j], |j, q| w2[j * f + q]);
        let dh = gelu::reference::backward(&h, &d_hidden, form);
        let dw2 = product([n, f, rows], |j, i| dy[i * n + j], |i, q| hidden[i * f + q]);
        let dw1 = product([f, c, rows], |j, i| dh[i * f + j], |i, q| x[i * c + q]);
        let dx = product([rows, c, f], |i, j| dh[i * f + j], |j, q| w1[j * c + q]);
        [dx, dw1, column_sum(&dh, f), dw2, column_sum(dy, n), dy.to_vec()]
    }
}
