//! GPT-2 (Radford et al., 2019), as transformers' `GPT2LMHeadModel` builds it.

mod config;
#[cfg(feature = "files")]
mod files;
mod generate;

pub use config::Gpt2Config;
#[cfg(feature = "files")]
pub use files::{Pretrained, from_bytes, open, save, save_adapter, write};
pub use generate::Generation;

use std::fmt;

use config::OP;

use super::extended::Extended;
use super::layer_of_block;
use crate::autograd::{Parameter, Parameters};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::nn::{
    BlockConfig, BlockNames, Encoder, Extent, Init, LanguageModel, LayerNorm, Mode, Model, NormOrder, Precision, Span,
    Tokens,
};
use crate::ops::{self, KeyValues, Mask, TokenIndices};
use crate::shape::DType;
use crate::tensor::Tensor;

/// GPT-2: each position's scores for the token that follows. Its parameters have transformers' names without `transformer.`;
/// its matrices are `[out, in]`, as everywhere here, and [`open`] and [`save`] turn transformers' `[in, out]` round.
pub struct Gpt2 {
    config: Gpt2Config,
    parameters: Extended,
    layers: Layers,
}

struct Layers {
    /// `f32[V, C]`; also the output layer's weight.
    wte: Parameter,
    /// `f32[positions, C]`
    wpe: Parameter,
    blocks: Encoder,
    ln_f: LayerNorm,
}

const LAYER_NAMES: BlockNames = BlockNames {
    norm1: "ln_1",
    qkv: "attn.c_attn",
    proj: "attn.c_proj",
    norm2: "ln_2",
    fc1: "mlp.c_fc",
    fc2: "mlp.c_proj",
    ..BlockNames::TIMM
};

impl Layers {
    /// With transformers' initial values.
    fn new(init: &mut Init<'_>, config: &Gpt2Config) -> Result<Self> {
        let &Gpt2Config { vocab_size, n_positions, n_embd: width, n_layer, initializer_range: std, .. } = config;
        let wte = init.at("wte").trunc_normal("weight", &[vocab_size, width], std)?;
        let wpe = init.at("wpe").trunc_normal("weight", &[n_positions, width], std)?;
        let block = block_config(config);
        let blocks = Encoder::new(init.at("h"), n_layer, |_| block)?;
        let ln_f = LayerNorm::new(init.at("ln_f"), width, config.layer_norm_epsilon)?;
        Ok(Layers { wte, wpe, blocks, ln_f })
    }
}

impl Gpt2 {
    /// A new model on `gpu` with transformers' initial values, drawn from `seed`.
    ///
    /// # Errors
    /// As [`Gpt2Config::check`], or if the device has no room.
    pub fn new(gpu: &Gpu, config: Gpt2Config, seed: u64) -> Result<Self> {
        Ok(Self::new_with(gpu, config, seed, |_| Ok(()))?.0)
    }

    /// A model as [`Gpt2::new`] makes it, as a part of one of your own: as [`crate::models::vit::Vit::new_with`], which
    /// has an example. What is added counts as a head. [`write()`] and [`save`] refuse a model with such parts:
    /// [`crate::checkpoint::write()`] writes all parameters under their own names, and
    /// [`crate::checkpoint::load_parameters`] reads them.
    ///
    /// # Errors
    /// As [`Gpt2::new`], those of `added`, and [`Error::Parameter`] if it adds a path that the model has.
    pub fn new_with<E>(
        gpu: &Gpu,
        config: Gpt2Config,
        seed: u64,
        added: impl Fn(&mut Init<'_>) -> Result<E>,
    ) -> Result<(Self, E)> {
        config.check()?;
        let layers = |init: &mut Init<'_>| Layers::new(init, &config);
        let (parameters, layers, added) = Extended::build(gpu, seed, config.lora.as_ref(), layers, added)?;
        Ok((Gpt2 { config, parameters, layers }, added))
    }

    /// Scores of all positions, `u32[B, T]` to `f32[B, T, V]`. A loss does without them: see [`LanguageModel`].
    ///
    /// # Errors
    /// As [`LanguageModel::hidden`].
    pub fn forward(&self, tokens: &Tokens<'_>, spans: &[Span<TokenIndices>], mode: &Mode) -> Result<Tensor> {
        self.logits(&self.hidden(tokens, spans, mode)?, mode)
    }

    /// What the first block sees: tokens with their positions, `u32[B, T]` to `f32[B, T, C]`.
    ///
    /// # Errors
    /// As [`LanguageModel::hidden`].
    pub fn embed(&self, tokens: &Tokens<'_>, mode: &Mode) -> Result<Tensor> {
        if let Some(types) = tokens.types {
            return Err(Error::argument(OP, "types", "none: GPT-2 tells no segments apart", types.info()));
        }
        self.embed_from(0, tokens.ids, mode)
    }

    /// The same with the positions from `first` on.
    fn embed_from(&self, first: usize, ids: &Tensor, mode: &Mode) -> Result<Tensor> {
        let &[_, count] = ids.dims() else {
            return Err(Error::Shape { op: OP, what: "needs ids u32[B, T]", got: ids.info() });
        };
        let end = first.saturating_add(count);
        if end > self.config.n_positions {
            let expected = format!("at most {}, the model's positions", self.config.n_positions);
            return Err(Error::argument(OP, "tokens of a sample", expected, end));
        }
        let positions = ops::slice(&self.layers.wpe.tensor(), 0, first..end)?;
        let x = ops::add(&ops::embedding(&self.layers.wte.tensor(), ids)?, &positions)?;
        mode.dropout(x, self.config.embd_pdrop, 0)
    }

    /// The scores behind the last of `ids`, `u32[1, S]`, which follow what `caches` hold: `f32[1, V]`.
    fn next_scores(&self, ids: &Tensor, caches: &mut [KeyValues]) -> Result<Tensor> {
        let (mode, first) = (Mode::evaluation(), caches.first().map_or(0, KeyValues::len));
        let x = self.embed_from(first, ids, &mode)?;
        let x = self.layers.blocks.forward_cached(x, caches, Precision::F32)?;
        let last = x.dims()[1] - 1;
        let x = ops::reshape(&ops::slice(&x, 1, last..last + 1)?, &[1, self.config.n_embd])?;
        self.logits(&self.layers.ln_f.forward(&x, DType::F32)?, &mode)
    }

    /// Its sizes.
    pub fn config(&self) -> &Gpt2Config {
        &self.config
    }

    /// Its parameters, and what was added to it ([`Gpt2::new_with`]).
    pub fn parameters(&self) -> &Parameters {
        self.parameters.all()
    }

    /// Its blocks.
    pub fn encoder(&self) -> &Encoder {
        &self.layers.blocks
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        self.parameters().gpu()
    }
}

fn block_config(config: &Gpt2Config) -> BlockConfig {
    let std = config.initializer_range;
    BlockConfig {
        hidden: config.hidden(),
        gelu: config.activation_function,
        dropout: config.resid_pdrop,
        attention_dropout: config.attn_pdrop,
        eps: config.layer_norm_epsilon,
        order: NormOrder::Pre,
        names: LAYER_NAMES,
        std,
        // So that the residual stream, a sum of 2·L of them, begins no wider in a deeper model.
        residual_std: std / (2.0 * config.n_layer as f32).sqrt(),
        ..BlockConfig::new(config.n_embd, config.n_head)
    }
}

impl fmt::Debug for Gpt2 {
    /// Its sizes alone: parameters are a device's memory.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gpt2").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Model for Gpt2 {
    fn parameters(&self) -> &Parameters {
        self.parameters.all()
    }

    fn identity(&self) -> String {
        self.parameters.identity(self.config.identity())
    }

    fn extent(&self) -> Extent {
        Extent { depth: self.config.n_layer, tokens: self.config.n_positions, prefix: 0 }
    }

    /// Tokens and positions are 0, the last norm is behind the last block.
    fn layer(&self, path: &str) -> usize {
        let depth = self.config.n_layer;
        if path.starts_with("wte.") || path.starts_with("wpe.") { 0 } else { layer_of_block("h.", path, depth) }
    }

    /// What was added alone: the output layer is the tokens' own matrix.
    fn is_head(&self, path: &str) -> bool {
        self.parameters.is_added(path)
    }
}

impl LanguageModel for Gpt2 {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn positions(&self) -> usize {
        self.config.n_positions
    }

    /// The blocks' result, behind the last norm. Lengths change nothing: what follows the last real token is seen by none before
    /// it. Segments are an error, since GPT-2 has none.
    fn hidden(&self, tokens: &Tokens<'_>, spans: &[Span<TokenIndices>], mode: &Mode) -> Result<Tensor> {
        let x = self.layers.blocks.forward(self.embed(tokens, mode)?, spans, &Mask::CAUSAL, mode)?;
        self.layers.ln_f.forward(&x, DType::F32)
    }

    /// The rows themselves.
    fn transform(&self, rows: &Tensor, mode: &Mode) -> Result<Tensor> {
        ops::cast(rows, mode.activations())
    }

    fn decoder(&self) -> (Tensor, Option<Tensor>) {
        (self.layers.wte.tensor(), None)
    }
}
