//! From images to tokens.

use crate::autograd::Parameter;
use crate::error::Result;
use crate::nn::Init;
use crate::ops::{self, Normalize};
use crate::shape::DType;
use crate::tensor::Tensor;

/// Cuts images into patches and projects each to C channels: timm's `patch_embed`, whose convolution has stride and
/// kernel P, as a linear layer over flattened patches.
pub struct PatchEmbed {
    /// `f32[C, 3, P, P]`
    pub weight: Parameter,
    /// `f32[C]`
    pub bias: Option<Parameter>,
    patch: usize,
    normalize: Normalize,
}

impl PatchEmbed {
    /// Weights and bias uniform over ±1/√(3·P²), PyTorch's default for a convolution, which timm leaves in place.
    ///
    /// # Errors
    /// As [`crate::autograd::Parameters::add`].
    pub fn new(
        mut init: Init<'_>,
        patch: usize,
        channels: usize,
        has_bias: bool,
        normalize: Normalize,
    ) -> Result<Self> {
        let bound = 1.0 / ((3 * patch * patch) as f32).sqrt();
        let mut proj = init.at("proj");
        let weight = proj.uniform("weight", &[channels, 3, patch, patch], bound)?;
        let bias = has_bias.then(|| proj.uniform("bias", &[channels], bound)).transpose()?;
        Ok(PatchEmbed { weight, bias, patch, normalize })
    }

    /// `u8[B, 3, H, W]`, normalised on the way, or `f32[B, 3, H, W]`, taken as it is, to `f32[B, N, C]`.
    ///
    /// # Errors
    /// As [`ops::patchify()`].
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let normalize = (images.dtype() == DType::U8).then_some(&self.normalize);
        let patches = ops::patchify(images, self.patch, normalize)?;
        let weight = self.weight.tensor();
        let flat = ops::reshape(&weight, &[weight.dims()[0], 3 * self.patch * self.patch])?;
        ops::linear(&patches, &flat, self.bias.as_ref().map(Parameter::tensor).as_ref())
    }
}
