//! What becomes of the tokens behind the last block.

use super::attention_pool::AttentionPool;
use super::config::{Pool, VitConfig};
use crate::error::{Error, Result};
use crate::nn::{AdaptedLinear, Block, Init, LayerNorm, Mode};
use crate::ops;
use crate::shape::DType;
use crate::tensor::Tensor;

/// The last norm, the pooling and the head.
pub(super) struct Readout {
    /// `norm`, or `fc_norm` behind the pooling.
    norm: Option<LayerNorm>,
    attn_pool: Option<AttentionPool>,
    head: AdaptedLinear,
    /// That of the distillation token.
    head_dist: Option<AdaptedLinear>,
}

impl Readout {
    /// With timm's initial values.
    pub(super) fn new(init: &mut Init<'_>, config: &VitConfig) -> Result<Self> {
        let norm_name = if config.has_fc_norm() { "fc_norm" } else { "norm" };
        let norm = || LayerNorm::new(init.at(norm_name), config.embed_dim, config.eps);
        let norm = config.final_norm.then(norm).transpose()?;
        let attn_pool = || AttentionPool::new(init.at("attn_pool"), config);
        let attn_pool = (config.global_pool == Pool::Map).then(attn_pool).transpose()?;
        let head = head_of(init, "head", config.head_inputs(), config)?;
        let head_dist = config.distilled.then(|| head_of(init, "head_dist", config.embed_dim, config)).transpose()?;
        Ok(Readout { norm, attn_pool, head, head_dist })
    }

    /// `f32[B, T, C]` or `f32[B, R, C]` to what the head reads, normed: `f32[B, F]`, of two heads side by side.
    pub(super) fn pre_logits(&self, x: &Tensor, config: &VitConfig) -> Result<Tensor> {
        if self.head_dist.is_none() {
            return self.pool(x, config);
        }
        let tokens = self.norm(&ops::slice(x, 1, 0..2)?)?;
        ops::reshape(&tokens, &[x.dims()[0], 2 * config.embed_dim])
    }

    /// What the head reads to logits, `f32[B, V]`.
    pub(super) fn head(&self, pre_logits: &Tensor, config: &VitConfig, mode: &Mode) -> Result<Tensor> {
        match self.heads(pre_logits, config, mode)?.as_slice() {
            [class, distilled] => ops::scale(&ops::add(class, distilled)?, 0.5),
            only => only.first().cloned().ok_or_else(|| Error::argument("ViT", "heads", "one or two", only.len())),
        }
    }

    /// The same of each head.
    pub(super) fn heads(&self, pre_logits: &Tensor, config: &VitConfig, mode: &Mode) -> Result<Vec<Tensor>> {
        let x = mode.dropout(pre_logits.clone(), config.drop_rate, Block::layers_below(config.depth))?;
        let Some(head_dist) = &self.head_dist else { return Ok(vec![self.head.forward(&x, mode)?]) };
        let tokens = ops::reshape(&x, &[x.dims()[0], 2, config.embed_dim])?;
        let of = |token: usize, head: &AdaptedLinear| head.forward(&token_at(&tokens, token)?, mode);
        Ok(vec![of(0, &self.head)?, of(1, head_dist)?])
    }

    /// `f32[B, T, C]` to what the head reads, `f32[B, C]` or `f32[B, 2·C]`, normed. A norm treats each token by itself, so norming
    /// the class token alone after taking it out gives what timm gets from norming all tokens first; for a mean the order shows.
    fn pool(&self, x: &Tensor, config: &VitConfig) -> Result<Tensor> {
        let first_patch = config.prefix_tokens();
        if let Some(pool) = &self.attn_pool {
            // timm's ViT shows it the patches alone, its Eva, which has rotary positions, all tokens.
            let first = if config.rope_temperature.is_some() { 0 } else { first_patch };
            return pool.forward(&self.norm(&ops::slice(x, 1, first..x.dims()[1])?)?);
        }
        match config.global_pool {
            Pool::Token | Pool::Map => self.norm(&token_at(x, 0)?),
            Pool::Avg if config.has_fc_norm() => self.norm(&ops::mean_tokens(x, first_patch)?),
            Pool::Avg => ops::mean_tokens(&self.norm(x)?, first_patch),
            Pool::TokenAvg => {
                let x = self.norm(x)?;
                ops::concat(&[&token_at(&x, 0)?, &ops::mean_tokens(&x, first_patch)?], 1)
            }
        }
    }

    fn norm(&self, x: &Tensor) -> Result<Tensor> {
        self.norm.as_ref().map_or_else(|| Ok(x.clone()), |norm| norm.forward(x, DType::F32))
    }
}

/// A head of `inputs` numbers, at `name`.
fn head_of(init: &mut Init<'_>, name: &str, inputs: usize, config: &VitConfig) -> Result<AdaptedLinear> {
    AdaptedLinear::new(init.at(name), inputs, config.num_classes, true, Init::STD)
}

/// A token of each sample: of `f32[B, T, C]`, `f32[B, C]`.
fn token_at(x: &Tensor, token: usize) -> Result<Tensor> {
    ops::reshape(&ops::slice(x, 1, token..token + 1)?, &[x.dims()[0], x.shape().last()])
}
