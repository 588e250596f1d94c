//! Layer scale.

use super::{Init, Linear, layers};
use crate::autograd::Parameter;
use crate::error::Result;
use crate::ops;
use crate::tensor::Tensor;

/// A linear layer with layer scale behind it, where there is one: γ ∘ (x·Wᵀ + b) with γ `f32[out]` (H. Touvron et al., "Going
/// deeper with Image Transformers", 2021).
///
/// It is computed as x·(γ∘W)ᵀ + γ∘b, W's rows scaled: that touches parameters alone, whatever the batch. Nothing of the size of
/// activations is read, written or stored for it, the product's own store still adds the residual or scatters the rows, and
/// in γ's gradient Σ dy ∘ (x·Wᵀ + b) the sums over rows are those that the weight's and the bias's gradient make anyway.
#[derive(Clone)]
pub(super) struct ScaledLinear {
    linear: Linear,
    gamma: Option<Parameter>,
}

impl ScaledLinear {
    /// `linear`, and with an initial value for γ the parameter `gamma` at `scale`.
    pub(super) fn new(linear: Linear, mut scale: Init<'_>, init_values: Option<f32>) -> Result<Self> {
        let width = linear.weight.value().dims()[0];
        let gamma = init_values.map(|value| scale.constant("gamma", &[width], value)).transpose()?;
        Ok(ScaledLinear { linear, gamma })
    }

    /// Weight and bias of a linear layer that computes the same.
    pub(super) fn folded(&self) -> Result<(Tensor, Option<Tensor>)> {
        let (weight, bias) = self.linear.tensors();
        let Some(gamma) = self.gamma.as_ref().map(Parameter::tensor) else { return Ok((weight, bias)) };
        let column = ops::reshape(&gamma, &[gamma.shape().numel(), 1])?;
        Ok((ops::mul(&weight, &column)?, bias.map(|bias| ops::mul(&bias, &gamma)).transpose()?))
    }

    /// As [`Linear::forward`].
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = self.folded()?;
        ops::linear(x, &weight, bias.as_ref())
    }

    /// As [`Linear::forward_add`].
    pub(super) fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let (weight, bias) = self.folded()?;
        layers::linear_add(x, &weight, bias.as_ref(), residual)
    }
}
