//! Attention pooling: SigLIP's, timm's `AttentionPoolLatent` and transformers' `SiglipMultiheadAttentionPoolingHead`.

use super::config::VitConfig;
use crate::autograd::Parameter;
use crate::error::Result;
use crate::nn::{Init, LayerNorm, Linear};
use crate::ops::{self, Gelu};
use crate::shape::DType;
use crate::tensor::Tensor;

/// A learned query, the same for every picture, that attends to all tokens; what it sees goes through an MLP.
pub(super) struct AttentionPool {
    /// `f32[1, 1, C]`
    latent: Parameter,
    q: Linear,
    kv: Linear,
    proj: Linear,
    norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    heads: usize,
    gelu: Gelu,
}

impl AttentionPool {
    /// With timm's initial values.
    pub(super) fn new(mut init: Init<'_>, config: &VitConfig) -> Result<Self> {
        let (width, hidden) = (config.embed_dim, config.hidden());
        Ok(AttentionPool {
            latent: init.trunc_normal("latent", &[1, 1, width], 1.0 / (width as f32).sqrt())?,
            q: Linear::new(init.at("q"), width, width, true)?,
            kv: Linear::new(init.at("kv"), width, 2 * width, true)?,
            proj: Linear::new(init.at("proj"), width, width, true)?,
            norm: LayerNorm::new(init.at("norm"), width, config.eps)?,
            fc1: Linear::new(init.at("mlp.fc1"), width, hidden, true)?,
            fc2: Linear::new(init.at("mlp.fc2"), hidden, width, true)?,
            heads: config.num_heads,
            gelu: config.act_layer,
        })
    }

    /// `f32[B, T, C]` to `f32[B, C]`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let z = self.proj.forward(&self.seen(x)?)?;
        let hidden = ops::gelu(&self.fc1.forward(&self.norm.forward(&z, DType::F32)?)?, self.gelu)?;
        self.fc2.forward_add(&hidden, &z)
    }

    /// softmax(q·Kᵀ/√D)·V of each head, side by side. With a single query there is no need of keys and values of all tokens: its
    /// scores are x·(Wkᵀq), and what it sees is Wv·(Σ p·x) + bv. A bias of keys adds the same to every score, which changes nothing.
    fn seen(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, width) = (x.dims()[0], x.shape().last());
        let (heads, head) = (self.heads, width / self.heads);
        let kv = self.kv.weight.tensor();
        let part = |range| ops::reshape(&ops::slice(&kv, 0, range)?, &[heads, head, width]);
        let (keys, values) = (part(0..width)?, part(width..2 * width)?);
        let query = self.q.forward(&ops::reshape(&self.latent.tensor(), &[1, width])?)?;
        let query = ops::scale(&ops::reshape(&query, &[heads, 1, head])?, 1.0 / (head as f32).sqrt())?;
        let asked = ops::reshape(&ops::matmul(&query, &keys)?, &[heads, width])?;
        let scores = ops::transpose(&ops::linear(x, &asked, None)?, 1, 2)?;
        let tokens = ops::matmul(&ops::softmax(&scores)?, x)?;
        let seen = ops::matmul_nt(&ops::transpose(&tokens, 0, 1)?, &values)?;
        let seen = ops::reshape(&ops::transpose(&seen, 0, 1)?, &[batch, width])?;
        match self.kv.bias.as_ref().map(Parameter::tensor) {
            Some(bias) => ops::add(&seen, &ops::slice(&bias, 0, width..2 * width)?),
            None => Ok(seen),
        }
    }
}
