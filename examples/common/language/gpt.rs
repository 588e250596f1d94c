//! GPT-2 and its like: each token is predicted from those before it.

use std::path::Path;

use anyhow::Result;
use wgrad::checkpoint::Checkpoint;
use wgrad::data::{PackedText, Tokenizer, Tokens};
use wgrad::gpu::Gpu;
use wgrad::models::FolderOptions;
use wgrad::models::gpt2::{self, Gpt2, Gpt2Config, Pretrained};
use wgrad::nn::{LoraConfig, Sampling};
use wgrad::train::{Causal, Weights};

use crate::language::kind::{Kind, Sizes};
use crate::sampled::{beginning, is_text};

/// Tokens of a sample.
const SAMPLE: usize = 150;

/// The kind.
pub struct Gpt;

impl Kind for Gpt {
    type Config = Gpt2Config;
    type Model = Gpt2;
    type Objective = Causal;
    type Source = PackedText;
    /// T.
    type Reading = usize;

    const IS_CAUSAL: bool = true;
    const LEAST_LENGTH: usize = 2;

    fn describe(config: &Gpt2Config) -> String {
        let Gpt2Config { n_embd, n_layer, n_head, n_positions, vocab_size, .. } = config;
        format!("GPT {n_embd} wide, {n_layer} deep, {n_head} heads, {n_positions} positions, {vocab_size} tokens")
    }

    fn sizes(config: &Gpt2Config) -> Sizes {
        Sizes {
            width: config.n_embd,
            depth: config.n_layer,
            positions: config.n_positions,
            vocabulary: config.vocab_size,
        }
    }

    fn with_dropout(config: Gpt2Config, dropout: f32) -> Gpt2Config {
        Gpt2Config { resid_pdrop: dropout, embd_pdrop: dropout, attn_pdrop: dropout, ..config }
    }

    fn with_lora(config: Gpt2Config, lora: Option<LoraConfig>) -> Gpt2Config {
        Gpt2Config { lora, ..config }
    }

    fn model(gpu: &Gpu, config: Gpt2Config, seed: u64) -> wgrad::Result<Gpt2> {
        Gpt2::new(gpu, config, seed)
    }

    fn objective(_: &usize) -> Causal {
        Causal
    }

    fn is_padded(_: &usize) -> bool {
        false
    }

    fn length(reading: &usize) -> usize {
        *reading
    }

    fn source(tokens: Tokens, _: &Tokenizer, reading: &usize) -> wgrad::Result<PackedText> {
        PackedText::new(tokens, *reading)
    }

    fn open(path: &Path) -> wgrad::Result<(Gpt2Config, Checkpoint)> {
        let Pretrained { config, checkpoint, .. } = gpt2::open(path)?;
        Ok((config, checkpoint))
    }

    fn write(path: &Path, config: &Gpt2Config, weights: &Weights) -> wgrad::Result<()> {
        gpt2::write(path, config, weights)
    }

    fn save(folder: &Path, model: &Gpt2, options: &FolderOptions<'_>) -> wgrad::Result<()> {
        gpt2::save(folder, model, options)
    }

    fn save_adapter(folder: &Path, model: &Gpt2) -> wgrad::Result<()> {
        gpt2::save_adapter(folder, model, None)
    }

    fn sample(model: &Gpt2, tokenizer: &Tokenizer, seed: u64) -> Result<Option<String>> {
        let Some(prompt) = beginning(tokenizer)? else { return Ok(None) };
        let sampling = Sampling { temperature: 0.8, top_k: Some(40), seed, ..Sampling::default() };
        let ids = model.generate(&prompt, sampling)?.take(SAMPLE).collect::<wgrad::Result<Vec<u32>>>()?;
        let ids: Vec<u32> = ids.into_iter().filter(|&id| is_text(tokenizer, id)).collect();
        Ok(Some(tokenizer.decode(&ids)?))
    }
}
