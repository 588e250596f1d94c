//! A pre-norm transformer block, with random-LTD built in.

use super::{Init, LayerNorm, Linear, Mode};
use crate::autograd::{Parameter, checkpoint};
use crate::error::Result;
use crate::ops::{self, Mask, TokenIndices};
use crate::shape::DType;
use crate::tensor::Tensor;

/// Multi-head self-attention: timm's `attn`.
#[derive(Clone)]
pub struct Attention {
    qkv: Linear,
    proj: Linear,
    heads: usize,
}

impl Attention {
    /// `width` channels in `heads` heads.
    ///
    /// # Errors
    /// As [`crate::autograd::Parameters::add`].
    pub fn new(mut init: Init<'_>, width: usize, heads: usize, qkv_bias: bool) -> Result<Self> {
        let qkv = Linear::new(init.at("qkv"), width, 3 * width, qkv_bias)?;
        Ok(Attention { qkv, proj: Linear::new(init.at("proj"), width, width, true)?, heads })
    }

    /// `f32[B, T, C]` to the same shape.
    ///
    /// # Errors
    /// As [`ops::attention()`].
    pub fn forward(&self, x: &Tensor, mask: Mask) -> Result<Tensor> {
        self.proj.forward(&self.heads(x, mask)?)
    }

    /// residual + [`Attention::forward`], added in the projection's own store.
    fn forward_add(&self, x: &Tensor, mask: Mask, residual: &Tensor) -> Result<Tensor> {
        self.proj.forward_add(&self.heads(x, mask)?, residual)
    }

    /// What the projection brings together.
    fn heads(&self, x: &Tensor, mask: Mask) -> Result<Tensor> {
        ops::attention(&self.qkv.forward(x)?, self.heads, mask)
    }
}

/// Two linear layers with GELU between: timm's `mlp`.
#[derive(Clone)]
pub struct Mlp {
    fc1: Linear,
    fc2: Linear,
}

impl Mlp {
    /// `width` channels, `hidden` in between.
    ///
    /// # Errors
    /// As [`crate::autograd::Parameters::add`].
    pub fn new(mut init: Init<'_>, width: usize, hidden: usize) -> Result<Self> {
        let fc1 = Linear::new(init.at("fc1"), width, hidden, true)?;
        Ok(Mlp { fc1, fc2: Linear::new(init.at("fc2"), hidden, width, true)? })
    }

    fn forward(&self, x: &Tensor, mode: &Mode, dropout: f32, layer: u32) -> Result<Tensor> {
        let hidden = ops::gelu(&self.fc1.forward(x)?)?;
        let hidden = mode.dropout(hidden, dropout, layer)?;
        mode.dropout(self.fc2.forward(&hidden)?, dropout, layer + 1)
    }

    /// residual + mlp(x), put `into` a full tensor where there is one, in two passes: for when nothing random happens in
    /// between.
    fn forward_add(&self, x: &Tensor, residual: &Tensor, into: Option<(Tensor, &TokenIndices)>) -> Result<Tensor> {
        let [w1, w2] = [&self.fc1.weight, &self.fc2.weight].map(Parameter::tensor);
        let [b1, b2] = [&self.fc1.bias, &self.fc2.bias].map(|b| b.as_ref().map(Parameter::tensor));
        if let (Some(b1), Some(b2)) = (b1, b2) {
            return ops::mlp(x, (&w1, &b1), (&w2, &b2), residual, into);
        }
        let y = ops::cast(&self.forward(x, &Mode::evaluation(), 0.0, 0)?, DType::F32)?;
        let y = ops::add(residual, &y)?;
        scattered(y, into)
    }
}

/// The rows put `into` a full tensor, where there is one.
fn scattered(rows: Tensor, into: Option<(Tensor, &TokenIndices)>) -> Result<Tensor> {
    match into {
        Some((full, kept)) => ops::token_scatter(full, &rows, kept),
        None => Ok(rows),
    }
}

/// How a block is built.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockConfig {
    pub(super) width: usize,
    pub(super) heads: usize,
    pub(super) hidden: usize,
    pub(super) qkv_bias: bool,
    pub(super) dropout: f32,
    pub(super) drop_path: f32,
    pub(super) eps: f32,
    /// First of the [`Block::RANDOM_LAYERS`] numbers that its random layers take.
    pub(super) first_layer: u32,
}

/// x + attn(norm1(x)), then x + mlp(norm2(x)).
#[derive(Clone)]
pub struct Block {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    mlp: Mlp,
    config: BlockConfig,
}

impl Block {
    /// How many random layers a block has: three dropouts, two stochastic depths.
    pub(super) const RANDOM_LAYERS: u32 = 5;

    pub(super) fn new(mut init: Init<'_>, config: BlockConfig) -> Result<Self> {
        let BlockConfig { width, heads, hidden, qkv_bias, eps, .. } = config;
        Ok(Block {
            norm1: LayerNorm::new(init.at("norm1"), width, eps)?,
            attn: Attention::new(init.at("attn"), width, heads, qkv_bias)?,
            norm2: LayerNorm::new(init.at("norm2"), width, eps)?,
            mlp: Mlp::new(init.at("mlp"), width, hidden)?,
            config,
        })
    }

    /// `f32[B, T, C]` to the same shape. With `kept` only those rows go through the block, and the others pass it
    /// unchanged (random-LTD, Yao et al., 2022). Takes `x` by value so that the scatter may work in place.
    ///
    /// # Errors
    /// If the indices are not for this batch and length.
    pub fn forward(&self, x: Tensor, kept: Option<&TokenIndices>, mode: &Mode) -> Result<Tensor> {
        if mode.is_checkpointed() {
            return self.checkpointed(x, kept, mode);
        }
        match kept {
            None => self.plain(&x, mode),
            Some(kept) => {
                let (rows, y) = self.norm1.gather_forward(&x, kept, mode.activations())?;
                self.after_norm(&rows, &y, Some((x, kept)), mode)
            }
        }
    }

    /// What is checkpointed lies between gather and scatter: of the input only the kept rows are stored.
    fn checkpointed(&self, x: Tensor, kept: Option<&TokenIndices>, mode: &Mode) -> Result<Tensor> {
        let (block, mode) = (self.clone(), *mode);
        let run = move |x| block.plain(&x, &mode);
        match kept {
            None => checkpoint(x, run),
            Some(kept) => {
                let rows = checkpoint(ops::token_gather(&x, kept)?, run)?;
                ops::token_scatter(x, &rows, kept)
            }
        }
    }

    fn plain(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        self.after_norm(x, &self.norm1.forward(x, mode.activations())?, None, mode)
    }

    /// The block on all rows of `x`, given norm1(x); the result is put `into` a full tensor where there is one.
    fn after_norm(&self, x: &Tensor, y: &Tensor, into: Option<(Tensor, &TokenIndices)>, mode: &Mode) -> Result<Tensor> {
        let BlockConfig { dropout, drop_path, first_layer, .. } = self.config;
        let dtype = mode.activations();
        // Without randomness, each half ends in the product that adds it to the residual.
        if !mode.is_training() || (dropout == 0.0 && drop_path == 0.0) {
            let x = self.attn.forward_add(y, Mask::None, x)?;
            return self.mlp.forward_add(&self.norm2.forward(&x, dtype)?, &x, into);
        }
        let y = ops::cast(&self.attn.forward(y, Mask::None)?, DType::F32)?;
        let y = mode.drop_path(mode.dropout(y, dropout, first_layer)?, drop_path, first_layer + 1)?;
        let x = ops::add(x, &y)?;
        let y = self.mlp.forward(&self.norm2.forward(&x, dtype)?, mode, dropout, first_layer + 2)?;
        let y = mode.drop_path(ops::cast(&y, DType::F32)?, drop_path, first_layer + 4)?;
        scattered(ops::add(&x, &y)?, into)
    }
}
