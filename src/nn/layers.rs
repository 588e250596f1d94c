//! The small modules.

use super::Init;
use crate::autograd::Parameter;
use crate::error::Result;
use crate::ops::{self, TokenIndices};
use crate::shape::DType;
use crate::tensor::Tensor;

/// y = x·Wᵀ + b over the last axis: `weight` is `f32[out, in]`, `bias` `f32[out]`.
#[derive(Clone)]
pub struct Linear {
    /// `f32[out, in]`, or `f16[out, in]` where it is stored so.
    pub weight: Parameter,
    /// `f32[out]`
    pub bias: Option<Parameter>,
}

impl Linear {
    /// Weights truncated normal with deviation 0.02, bias zero, as timm.
    ///
    /// # Errors
    /// As [`crate::autograd::Parameters::add`].
    pub fn new(init: Init<'_>, inputs: usize, outputs: usize, bias: bool) -> Result<Self> {
        Self::with_std(init, inputs, outputs, bias, Init::STD)
    }

    /// As [`Linear::new`], with another deviation of the weights.
    ///
    /// # Errors
    /// As [`crate::autograd::Parameters::add`].
    pub fn with_std(mut init: Init<'_>, inputs: usize, outputs: usize, bias: bool, std: f32) -> Result<Self> {
        let weight = init.trunc_normal("weight", &[outputs, inputs], std)?;
        let bias = if bias { Some(init.constant("bias", &[outputs], 0.0)?) } else { None };
        Ok(Linear { weight, bias })
    }

    /// `f32[.., in]` to `f32[.., out]`.
    ///
    /// # Errors
    /// As [`ops::linear()`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = self.tensors();
        ops::linear(x, &weight, bias.as_ref())
    }

    /// residual + y, `f32[.., out]`, added in the product's own store. `x` may be f16, the residual is f32.
    ///
    /// # Errors
    /// As [`ops::linear_add()`].
    pub fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let (weight, bias) = self.tensors();
        linear_add(x, &weight, bias.as_ref(), residual)
    }

    /// Weight and bias, as operations take them.
    pub(super) fn tensors(&self) -> (Tensor, Option<Tensor>) {
        (self.weight.tensor(), self.bias.as_ref().map(Parameter::tensor))
    }
}

/// residual + x·Wᵀ + b, in the product's own store where there is a bias.
pub(super) fn linear_add(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, residual: &Tensor) -> Result<Tensor> {
    match bias {
        Some(bias) => ops::linear_add(x, weight, bias, residual),
        None => ops::add(residual, &ops::cast(&ops::linear(x, weight, None)?, DType::F32)?),
    }
}

/// Layer normalisation over the last axis with learned scale and shift.
#[derive(Clone)]
pub struct LayerNorm {
    /// `f32[C]`
    pub weight: Parameter,
    /// `f32[C]`
    pub bias: Parameter,
    eps: f32,
}

impl LayerNorm {
    /// Scale 1, shift 0. timm's ViTs use an `eps` of 1e-6, PyTorch's default is 1e-5.
    ///
    /// # Errors
    /// As [`crate::autograd::Parameters::add`].
    pub fn new(mut init: Init<'_>, width: usize, eps: f32) -> Result<Self> {
        let weight = init.constant("weight", &[width], 1.0)?;
        Ok(LayerNorm { weight, bias: init.constant("bias", &[width], 0.0)?, eps })
    }

    /// `f32[.., C]` to the same shape, of element type `dtype`.
    ///
    /// # Errors
    /// As [`ops::layernorm_as()`].
    pub fn forward(&self, x: &Tensor, dtype: DType) -> Result<Tensor> {
        ops::layernorm_as(x, &self.weight.tensor(), &self.bias.tensor(), self.eps, dtype)
    }

    /// The kept rows of `f32[B, T, C]`, `f32[B, R, C]`, and what [`LayerNorm::forward`] makes of them, in one pass.
    ///
    /// # Errors
    /// As [`ops::gather_layernorm()`].
    pub fn gather_forward(&self, x: &Tensor, kept: &TokenIndices, dtype: DType) -> Result<(Tensor, Tensor)> {
        ops::gather_layernorm(x, kept, &self.weight.tensor(), &self.bias.tensor(), self.eps, dtype)
    }
}
