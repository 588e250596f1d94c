//! What becomes of the tokens behind the last block.

use super::{Pool, VitConfig};
use crate::error::Result;
use crate::nn::{Block, Init, LayerNorm, Linear, Mode};
use crate::ops;
use crate::shape::DType;
use crate::tensor::Tensor;

/// The last norm, the pooling and the head.
pub(super) struct Readout {
    /// `norm`, or `fc_norm` behind the pooling.
    norm: Option<LayerNorm>,
    head: Linear,
}

impl Readout {
    /// With timm's initial values.
    pub(super) fn new(init: &mut Init<'_>, config: &VitConfig) -> Result<Self> {
        let norm_name = if config.has_fc_norm() { "fc_norm" } else { "norm" };
        let norm = || LayerNorm::new(init.at(norm_name), config.embed_dim, config.eps);
        let norm = config.final_norm.then(norm).transpose()?;
        let head = Linear::new(init.at("head"), config.head_inputs(), config.num_classes, true)?;
        Ok(Readout { norm, head })
    }

    /// `f32[B, T, C]` or `f32[B, R, C]` to logits, `f32[B, V]`.
    pub(super) fn forward(&self, x: &Tensor, config: &VitConfig, mode: &Mode) -> Result<Tensor> {
        let last_layer = Block::layers_below(config.depth);
        self.head.forward(&mode.dropout(self.pool(x, config)?, config.drop_rate, last_layer)?)
    }

    /// `f32[B, T, C]` to what the head reads, `f32[B, C]` or `f32[B, 2·C]`, normed. A norm treats each token by itself, so norming
    /// the class token alone after taking it out gives what timm gets from norming all tokens first; for a mean the order shows.
    fn pool(&self, x: &Tensor, config: &VitConfig) -> Result<Tensor> {
        let (batch, first_patch) = (x.dims()[0], config.prefix_tokens());
        let class = |x: &Tensor| ops::reshape(&ops::slice_tokens(x, 0..1)?, &[batch, config.embed_dim]);
        match config.global_pool {
            Pool::Token => self.norm(&class(x)?),
            Pool::Avg if config.has_fc_norm() => self.norm(&ops::mean_tokens(x, first_patch)?),
            Pool::Avg => ops::mean_tokens(&self.norm(x)?, first_patch),
            Pool::TokenAvg => {
                let x = self.norm(x)?;
                ops::concat(&[&class(&x)?, &ops::mean_tokens(&x, first_patch)?], 1)
            }
        }
    }

    fn norm(&self, x: &Tensor) -> Result<Tensor> {
        self.norm.as_ref().map_or_else(|| Ok(x.clone()), |norm| norm.forward(x, DType::F32))
    }
}
