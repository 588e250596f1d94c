//! The models that are timed: a ViT that classifies, a GPT-2 that predicts, a BERT that fills in.

use anyhow::Result;
use wgrad::Gpu;
use wgrad::data::{ImageBatch, Position, TokenBatch};
use wgrad::models::bert::{Bert, BertConfig};
use wgrad::models::gpt2::{Gpt2, Gpt2Config};
use wgrad::models::vit::{Vit, VitConfig};
use wgrad::nn::Extent;
use wgrad::train::{CausalLm, Classify, MaskedLm, Rehearsal, TrainSettings};

use super::{Stepping, Steps, rehearse_one};

/// A model's sizes, and of a language model the tokens of a sample.
#[derive(Clone, Debug)]
pub enum Network {
    Vit(VitConfig),
    Gpt2(Gpt2Config, usize),
    Bert(BertConfig, usize),
}

impl Network {
    /// WIDTH, DEPTH, HEADS, on square pictures in square patches, of ten classes.
    pub fn vit([width, depth, heads]: [usize; 3], patch_size: usize, side: usize) -> Self {
        let sizes = VitConfig::custom(width, depth, heads);
        Network::Vit(VitConfig { img_size: (side, side), patch_size, num_classes: 10, ..sizes })
    }

    /// WIDTH, DEPTH, HEADS, on samples of `tokens` tokens, without dropout.
    pub fn gpt2([width, depth, heads]: [usize; 3], vocab_size: usize, tokens: usize) -> Self {
        let (resid_pdrop, embd_pdrop, attn_pdrop) = (0.0, 0.0, 0.0);
        let sizes = Gpt2Config::custom(width, depth, heads);
        let config = Gpt2Config { vocab_size, n_positions: tokens, resid_pdrop, embd_pdrop, attn_pdrop, ..sizes };
        Network::Gpt2(config, tokens)
    }

    /// As [`Network::gpt2`].
    pub fn bert([width, depth, heads]: [usize; 3], vocab_size: usize, tokens: usize) -> Self {
        let config = BertConfig {
            vocab_size,
            max_position_embeddings: tokens,
            hidden_dropout_prob: 0.0,
            attention_probs_dropout_prob: 0.0,
            ..BertConfig::custom(width, depth, heads)
        };
        Network::Bert(config, tokens)
    }

    /// Whether its sizes fit together.
    pub fn check(&self) -> Result<()> {
        match self {
            Network::Vit(config) => config.check()?,
            Network::Gpt2(config, _) => config.check()?,
            Network::Bert(config, _) => config.check()?,
        }
        Ok(())
    }

    /// The model with its trainer and a batch.
    pub fn steps(&self, gpu: &Gpu, samples: usize, settings: TrainSettings) -> Result<Box<dyn Stepping>> {
        Ok(match self {
            Network::Vit(config) => Box::new(Steps::new(vit(gpu, config)?, pictures(config, samples), settings)?),
            Network::Gpt2(config, tokens) => {
                Box::new(Steps::new(gpt2(gpu, config, *tokens)?, text(config.vocab_size, *tokens, samples)?, settings)?)
            }
            Network::Bert(config, tokens) => {
                let batch = masked(text(config.vocab_size, *tokens, samples)?)?;
                Box::new(Steps::new(bert(gpu, config, *tokens)?, batch, settings)?)
            }
        })
    }

    /// What a step with this many tokens kept asks of the device.
    pub fn rehearsed(
        &self,
        gpu: &Gpu,
        samples: usize,
        settings: TrainSettings,
        kept: Option<usize>,
    ) -> Result<Rehearsal> {
        let extent = self.extent();
        match self {
            Network::Vit(config) => rehearse_one(gpu, &|gpu| vit(gpu, config), extent, samples, settings, kept),
            Network::Gpt2(config, tokens) => {
                rehearse_one(gpu, &|gpu| gpt2(gpu, config, *tokens), extent, samples, settings, kept)
            }
            Network::Bert(config, tokens) => {
                rehearse_one(gpu, &|gpu| bert(gpu, config, *tokens), extent, samples, settings, kept)
            }
        }
    }

    /// Its blocks and tokens.
    pub fn extent(&self) -> Extent {
        let (depth, tokens, prefix) = match self {
            Network::Vit(config) => (config.depth, config.tokens(), config.prefix_tokens()),
            Network::Gpt2(config, tokens) => (config.n_layer, *tokens, 0),
            Network::Bert(config, tokens) => (config.num_hidden_layers, *tokens, 0),
        };
        Extent { depth, tokens, prefix }
    }
}

fn vit(gpu: &Gpu, config: &VitConfig) -> wgrad::Result<Classify<Vit>> {
    Ok(Classify::new(Vit::new(gpu, config.clone(), 0)?))
}

fn gpt2(gpu: &Gpu, config: &Gpt2Config, tokens: usize) -> wgrad::Result<CausalLm<Gpt2>> {
    CausalLm::new(Gpt2::new(gpu, config.clone(), 0)?, tokens)
}

fn bert(gpu: &Gpu, config: &BertConfig, tokens: usize) -> wgrad::Result<MaskedLm<Bert>> {
    MaskedLm::new(Bert::new(gpu, config.clone(), 0)?, tokens)
}

/// Any spread of values does: time does not depend on them.
fn spread(i: usize) -> usize {
    i.wrapping_mul(2_654_435_761) >> 16
}

fn pictures(config: &VitConfig, samples: usize) -> ImageBatch {
    let (height, width) = config.img_size;
    ImageBatch {
        images: (0..samples * 3 * height * width).map(|i| spread(i) as u8).collect(),
        labels: (0..samples).map(|i| (i % config.num_classes) as u32).collect(),
        mixed: None,
        indices: (0..samples as u32).collect(),
        position: Position::default(),
    }
}

fn text(vocabulary: usize, tokens: usize, samples: usize) -> Result<TokenBatch> {
    Ok(TokenBatch::new(tokens, (0..samples * tokens).map(|i| (spread(i) % vocabulary) as u32).collect())?)
}

/// Of which every seventh token is to be filled in, as of 15 %.
fn masked(batch: TokenBatch) -> Result<TokenBatch> {
    let label = |(place, &id): (usize, &u32)| if place % 7 == 3 { id } else { TokenBatch::IGNORED };
    let labels = batch.ids.iter().enumerate().map(label).collect();
    Ok(batch.with_labels(labels)?)
}
