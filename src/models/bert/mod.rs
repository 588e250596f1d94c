//! BERT (Devlin et al., 2019), as transformers' `BertForMaskedLM` builds it, with the classifier of
//! `BertForSequenceClassification` where there is one.

mod config;
mod embeddings;
#[cfg(feature = "files")]
mod files;
mod heads;

pub use config::BertConfig;
#[cfg(feature = "files")]
pub use files::{Pretrained, from_bytes, open, save, save_adapter, write};

use std::fmt;

use config::OP;
use embeddings::Embeddings;
use heads::{Classification, Predictions};

use super::extended::Extended;
use super::layer_of_block;
use crate::autograd::Parameters;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::nn::{
    Block, BlockConfig, BlockNames, Encoder, Extent, Init, LanguageModel, Mode, Model, NormOrder, Span, Tokens,
};
use crate::ops::{Mask, TokenIndices};
use crate::tensor::Tensor;

/// BERT: each position's scores for the token that stands there, seen from both sides. Its parameters have transformers' names
/// without `bert.`, but for queries, keys and values, which are packed as `attention.self.qkv`; [`open`] packs those of
/// transformers' files, and [`save`] takes them apart.
///
/// One thing differs from transformers: a lookup of the padding token gives its row a gradient as any other does. Where padding
/// stands at the ends alone, that gradient is 0.
pub struct Bert {
    config: BertConfig,
    parameters: Extended,
    layers: Layers,
}

struct Layers {
    embeddings: Embeddings,
    blocks: Encoder,
    predictions: Predictions,
    classification: Option<Classification>,
}

const LAYER_NAMES: BlockNames = BlockNames {
    norm1: "attention.output.LayerNorm",
    qkv: "attention.self.qkv",
    proj: "attention.output.dense",
    norm2: "output.LayerNorm",
    fc1: "intermediate.dense",
    fc2: "output.dense",
    ..BlockNames::TIMM
};

impl Layers {
    /// With transformers' initial values.
    fn new(init: &mut Init<'_>, config: &BertConfig) -> Result<Self> {
        let embeddings = Embeddings::new(init.at("embeddings"), config)?;
        let block = block_config(config);
        let blocks = Encoder::new(init.at("encoder.layer"), config.num_hidden_layers, |_| block)?;
        let predictions = Predictions::new(init.at("cls.predictions"), config)?;
        let classification = Classification::new(init, config)?;
        Ok(Layers { embeddings, blocks, predictions, classification })
    }
}

impl Bert {
    /// A new model on `gpu` with transformers' initial values, drawn from `seed`, but for the padding token's, which are drawn too.
    ///
    /// # Errors
    /// As [`BertConfig::check`], or if the device has no room.
    pub fn new(gpu: &Gpu, config: BertConfig, seed: u64) -> Result<Self> {
        Ok(Self::new_with(gpu, config, seed, |_| Ok(()))?.0)
    }

    /// A model as [`Bert::new`] makes it, as a part of one of your own: as [`crate::models::vit::Vit::new_with`], which
    /// has an example. What is added counts as a head. [`write()`] and [`save`] refuse a model with such parts:
    /// [`crate::checkpoint::write()`] writes all parameters under their own names, and
    /// [`crate::checkpoint::load_parameters`] reads them.
    ///
    /// # Errors
    /// As [`Bert::new`], those of `added`, and [`Error::Parameter`] if it adds a path that the model has.
    pub fn new_with<E>(
        gpu: &Gpu,
        config: BertConfig,
        seed: u64,
        added: impl Fn(&mut Init<'_>) -> Result<E>,
    ) -> Result<(Self, E)> {
        config.check()?;
        let layers = |init: &mut Init<'_>| Layers::new(init, &config);
        let (parameters, layers, added) = Extended::build(gpu, seed, config.lora.as_ref(), layers, added)?;
        Ok((Bert { config, parameters, layers }, added))
    }

    /// Scores of all positions, `u32[B, T]` to `f32[B, T, V]`. A loss does without them: see [`LanguageModel`].
    ///
    /// # Errors
    /// As [`LanguageModel::hidden`].
    pub fn forward(&self, tokens: &Tokens<'_>, spans: &[Span<TokenIndices>], mode: &Mode) -> Result<Tensor> {
        self.logits(&self.hidden(tokens, spans, mode)?, mode)
    }

    /// What the first block sees: tokens, segments and positions, summed and normed, `u32[B, T]` to `f32[B, T, C]`.
    ///
    /// # Errors
    /// As [`LanguageModel::hidden`].
    pub fn embed(&self, tokens: &Tokens<'_>, mode: &Mode) -> Result<Tensor> {
        mode.dropout(self.layers.embeddings.forward(tokens)?, self.config.hidden_dropout_prob, 0)
    }

    /// What the pooler makes of the first token, tanh of a layer: [`LanguageModel::hidden`] `f32[B, T, C]` to `f32[B, C]`.
    ///
    /// # Errors
    /// [`Error::Argument`] if the model has no pooler.
    pub fn pool(&self, hidden: &Tensor) -> Result<Tensor> {
        self.classification()?.pool(hidden)
    }

    /// The classifier on the pooled first token: [`LanguageModel::hidden`] `f32[B, T, C]` to logits `f32[B, num_labels]`.
    ///
    /// # Errors
    /// [`Error::Argument`] if the model has no pooler or no classifier.
    pub fn classify(&self, hidden: &Tensor, mode: &Mode) -> Result<Tensor> {
        self.classification()?.forward(hidden, mode, Block::layers_below(self.config.num_hidden_layers))
    }

    fn classification(&self) -> Result<&Classification> {
        self.layers.classification.as_ref().ok_or_else(|| Error::argument(OP, "pooler", "there to pool tokens", "none"))
    }

    /// Its sizes.
    pub fn config(&self) -> &BertConfig {
        &self.config
    }

    /// Its parameters, and what was added to it ([`Bert::new_with`]).
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

fn block_config(config: &BertConfig) -> BlockConfig {
    let std = config.initializer_range;
    BlockConfig {
        hidden: config.intermediate_size,
        gelu: config.hidden_act,
        dropout: config.hidden_dropout_prob,
        attention_dropout: config.attention_probs_dropout_prob,
        eps: config.layer_norm_eps,
        order: NormOrder::Post,
        names: LAYER_NAMES,
        std,
        residual_std: std,
        ..BlockConfig::new(config.hidden_size, config.num_attention_heads)
    }
}

impl fmt::Debug for Bert {
    /// Its sizes alone: parameters are a device's memory.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bert").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Model for Bert {
    fn parameters(&self) -> &Parameters {
        self.parameters.all()
    }

    fn identity(&self) -> String {
        self.parameters.identity(self.config.identity())
    }

    fn extent(&self) -> Extent {
        Extent { depth: self.config.num_hidden_layers, tokens: self.config.max_position_embeddings, prefix: 0 }
    }

    /// The embeddings are 0, all heads are behind the last block.
    fn layer(&self, path: &str) -> usize {
        let depth = self.config.num_hidden_layers;
        if path.starts_with("embeddings.") { 0 } else { layer_of_block("encoder.layer.", path, depth) }
    }

    /// The classifier, the masked tokens' head, and what was added.
    fn is_head(&self, path: &str) -> bool {
        path.starts_with("classifier.") || path.starts_with("cls.") || self.parameters.is_added(path)
    }
}

impl LanguageModel for Bert {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn positions(&self) -> usize {
        self.config.max_position_embeddings
    }

    /// The last block's result.
    fn hidden(&self, tokens: &Tokens<'_>, spans: &[Span<TokenIndices>], mode: &Mode) -> Result<Tensor> {
        let mask = match tokens.lengths {
            Some(lengths) => Mask::NONE.with_lengths(lengths)?,
            None => Mask::NONE,
        };
        self.layers.blocks.forward(self.embed(tokens, mode)?, spans, &mask, mode)
    }

    /// A layer, GELU and a norm.
    fn transform(&self, rows: &Tensor, mode: &Mode) -> Result<Tensor> {
        self.layers.predictions.transform(rows, mode)
    }

    fn decoder(&self) -> (Tensor, Option<Tensor>) {
        (self.layers.embeddings.words.tensor(), Some(self.layers.predictions.bias.tensor()))
    }
}
