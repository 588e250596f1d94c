//! BERT and its like: some tokens are taken away, and found again from what stands around them.

use std::path::Path;

use anyhow::Result;
use wgrad::checkpoint::Checkpoint;
use wgrad::data::{MaskedOptions, MaskedText, Tokenizer, Tokens};
use wgrad::gpu::Gpu;
use wgrad::models::FolderOptions;
use wgrad::models::bert::{self, Bert, BertConfig, Pretrained};
use wgrad::nn::LoraConfig;
use wgrad::train::{Masked, Weights};

use crate::language::kind::{Kind, Sizes};

/// The kind.
pub struct OfMasks;

impl Kind for OfMasks {
    type Config = BertConfig;
    type Model = Bert;
    type Objective = Masked;
    type Source = MaskedText;
    type Reading = MaskedOptions;

    const IS_CAUSAL: bool = false;
    /// One between `[CLS]` and `[SEP]`.
    const LEAST_LENGTH: usize = 3;

    fn describe(config: &BertConfig) -> String {
        let BertConfig { hidden_size, num_hidden_layers, num_attention_heads, max_position_embeddings, .. } = config;
        format!(
            "BERT {hidden_size} wide, {num_hidden_layers} deep, {num_attention_heads} heads, {max_position_embeddings} positions, \
             {} tokens",
            config.vocab_size
        )
    }

    fn sizes(config: &BertConfig) -> Sizes {
        Sizes {
            width: config.hidden_size,
            depth: config.num_hidden_layers,
            positions: config.max_position_embeddings,
            vocabulary: config.vocab_size,
        }
    }

    fn with_dropout(config: BertConfig, dropout: f32) -> BertConfig {
        BertConfig { hidden_dropout_prob: dropout, attention_probs_dropout_prob: dropout, ..config }
    }

    fn with_lora(config: BertConfig, lora: Option<LoraConfig>) -> BertConfig {
        BertConfig { lora, ..config }
    }

    fn model(gpu: &Gpu, config: BertConfig, seed: u64) -> wgrad::Result<Bert> {
        Bert::new(gpu, config, seed)
    }

    fn objective(reading: &MaskedOptions) -> Masked {
        Masked::of_share(reading.length, reading.share)
    }

    fn is_padded(reading: &MaskedOptions) -> bool {
        !reading.across_documents
    }

    fn length(reading: &MaskedOptions) -> usize {
        reading.length
    }

    fn source(tokens: Tokens, tokenizer: &Tokenizer, reading: &MaskedOptions) -> wgrad::Result<MaskedText> {
        MaskedText::new(tokens, tokenizer, *reading)
    }

    fn open(path: &Path) -> wgrad::Result<(BertConfig, Checkpoint)> {
        let Pretrained { config, checkpoint, .. } = bert::open(path)?;
        Ok((config, checkpoint))
    }

    fn write(path: &Path, config: &BertConfig, weights: &Weights) -> wgrad::Result<()> {
        bert::write(path, config, weights)
    }

    fn save(folder: &Path, model: &Bert, options: &FolderOptions<'_>) -> wgrad::Result<()> {
        bert::save(folder, model, options)
    }

    fn save_adapter(folder: &Path, model: &Bert) -> wgrad::Result<()> {
        bert::save_adapter(folder, model, None)
    }

    /// It fills gaps, and makes up nothing.
    fn sample(_: &Bert, _: &Tokenizer, _: u64) -> Result<Option<String>> {
        Ok(None)
    }
}
