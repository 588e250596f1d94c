//! A linear layer with what may stand about it: layer scale and low-rank adapters.

use super::lora::Adapter;
use super::{Init, Linear, Mode, layers};
use crate::autograd::Parameter;
use crate::error::Result;
use crate::ops;
use crate::shape::DType;
use crate::tensor::Tensor;

/// A linear layer with layer scale behind it and adapters beside it, where there are any:
/// γ ∘ (x·Wᵀ + b + Σ α/r · (x·Aᵀ)·Bᵀ) with γ `f32[out]` (H. Touvron et al., "Going deeper with Image Transformers", 2021) and
/// adapters as [`super::LoraConfig`] has them.
///
/// The scale is computed as x·(γ∘W)ᵀ + γ∘b, W's rows scaled: that touches parameters alone, whatever the batch. Nothing of the
/// size of activations is read, written or stored for it, the product's own store still adds the residual or scatters the rows,
/// and in γ's gradient Σ dy ∘ (x·Wᵀ + b) the sums over rows are those that the weight's and the bias's gradient make anyway.
#[derive(Clone)]
pub struct AdaptedLinear {
    linear: Linear,
    gamma: Option<Parameter>,
    adapters: Vec<Adapter>,
}

impl AdaptedLinear {
    /// A layer as [`Linear::with_std`] makes it, with the adapter that is asked for at `init` ([`Init::with_lora`]). Where it is not
    /// trained then, its weight is stored as [`super::LoraConfig::base`] says.
    ///
    /// # Errors
    /// As [`crate::autograd::Parameters::add`]; if half precision is asked for and the device has none.
    pub fn new(init: Init<'_>, inputs: usize, outputs: usize, bias: bool, std: f32) -> Result<Self> {
        Self::of_parts(init, [inputs, outputs], bias, std, &[])
    }

    /// The same of a layer that packs several, of as many rows each, any of which may have an adapter of its own below `init`.
    ///
    /// # Errors
    /// As [`AdaptedLinear::new`]; if the layer has an adapter, and a part of it too.
    pub(super) fn of_parts(
        mut init: Init<'_>,
        [inputs, outputs]: [usize; 2],
        bias: bool,
        std: f32,
        parts: &[&str],
    ) -> Result<Self> {
        let weight = init.base_weight("weight", &[outputs, inputs], std)?;
        let bias = bias.then(|| init.constant("bias", &[outputs], 0.0)).transpose()?;
        let linear = Linear { weight, bias };
        let adapters = Adapter::of_layer(&linear.weight, init, parts)?;
        Ok(AdaptedLinear { linear, gamma: None, adapters })
    }

    /// With an initial value for γ, the parameter `gamma` at `scale`.
    pub(super) fn scaled(self, mut scale: Init<'_>, init_values: Option<f32>) -> Result<Self> {
        let width = self.linear.weight.value().dims()[0];
        let gamma = init_values.map(|value| scale.constant("gamma", &[width], value)).transpose()?;
        Ok(AdaptedLinear { gamma, ..self })
    }

    /// Weight and bias of a plain linear layer that computes the same, if there is such a one: none has adapters.
    pub(super) fn plain(&self) -> Result<Option<(Tensor, Option<Tensor>)>> {
        if self.adapters.is_empty() { self.folded().map(Some) } else { Ok(None) }
    }

    /// The same without the adapters.
    fn folded(&self) -> Result<(Tensor, Option<Tensor>)> {
        let (weight, bias) = self.linear.tensors();
        let Some(gamma) = self.gamma.as_ref().map(Parameter::tensor) else { return Ok((weight, bias)) };
        Ok((rows_scaled(&weight, &gamma)?, bias.map(|bias| ops::mul(&bias, &gamma)).transpose()?))
    }

    /// `f32[.., in]` to `f32[.., out]`.
    ///
    /// # Errors
    /// As [`ops::linear()`].
    pub fn forward(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        let (weight, bias) = self.folded()?;
        self.adapted(ops::linear(x, &weight, bias.as_ref())?, x, mode)
    }

    /// The same with `bias`, `f32[out]`, in place of the layer's own.
    pub(super) fn forward_biased(&self, x: &Tensor, bias: &Tensor, mode: &Mode) -> Result<Tensor> {
        self.adapted(ops::linear(x, &self.folded()?.0, Some(bias))?, x, mode)
    }

    /// residual + y, `f32[.., out]`, added in the product's own store. `x` may be f16, the residual is f32.
    ///
    /// # Errors
    /// As [`ops::linear_add()`].
    pub fn forward_add(&self, x: &Tensor, residual: &Tensor, mode: &Mode) -> Result<Tensor> {
        let (weight, bias) = self.folded()?;
        self.adapted(layers::linear_add(x, &weight, bias.as_ref(), residual)?, x, mode)
    }

    /// y, with what the adapters make of x added.
    fn adapted(&self, y: Tensor, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        let scaled = |b: Tensor| match &self.gamma {
            Some(gamma) => rows_scaled(&b, &gamma.tensor()),
            None => Ok(b),
        };
        self.adapters.iter().try_fold(y, |y, adapter| adapter.add(y, x, mode, scaled))
    }
}

/// γ∘W: W's rows, each times its γ. In full precision whatever W is stored in, since the product may be small.
fn rows_scaled(weight: &Tensor, gamma: &Tensor) -> Result<Tensor> {
    ops::mul(&ops::cast(weight, DType::F32)?, &ops::reshape(gamma, &[gamma.shape().numel(), 1])?)
}
