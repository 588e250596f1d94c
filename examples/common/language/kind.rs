//! What tells one kind of language model from another: its sizes, its task, how it reads a text, and its files.

use std::path::Path;

use anyhow::{Context, Result};
use wgrad::checkpoint::{Checkpoint, Storage};
use wgrad::data::{Source, TokenBatch, Tokenizer, Tokens};
use wgrad::gpu::Gpu;
use wgrad::models::FolderOptions;
use wgrad::nn::{LanguageModel, LoraConfig};
use wgrad::train::{Objective, Weights};

/// A kind of language model, and how it is trained.
pub trait Kind {
    /// A model's sizes.
    type Config: Clone;
    type Model: LanguageModel;
    /// What is asked of it.
    type Objective: Objective;
    type Source: Source<Batch = TokenBatch>;
    /// How a text becomes sequences.
    type Reading;

    /// Whether each token is predicted from all before it, so that the losses of a text's tokens add up to that of the text.
    const IS_CAUSAL: bool;

    /// The fewest tokens of a sequence from which anything can be learnt.
    const LEAST_LENGTH: usize;

    /// In words.
    fn describe(config: &Self::Config) -> String;

    fn sizes(config: &Self::Config) -> Sizes;

    /// With this share of dropout everywhere.
    fn with_dropout(config: Self::Config, dropout: f32) -> Self::Config;

    /// With these adapters.
    fn with_lora(config: Self::Config, lora: Option<LoraConfig>) -> Self::Config;

    /// A model with initial values.
    fn model(gpu: &Gpu, config: Self::Config, seed: u64) -> wgrad::Result<Self::Model>;

    /// Of a text that is read so.
    fn objective(reading: &Self::Reading) -> Self::Objective;

    /// Whether sequences that are shorter are padded.
    fn is_padded(reading: &Self::Reading) -> bool;

    /// T.
    fn length(reading: &Self::Reading) -> usize;

    fn source(tokens: Tokens, tokenizer: &Tokenizer, reading: &Self::Reading) -> wgrad::Result<Self::Source>;

    /// Reads a file of [`Kind::write`], or transformers' folder.
    fn open(path: &Path) -> wgrad::Result<(Self::Config, Checkpoint)>;

    /// Writes a checkpoint.
    fn write(path: &Path, config: &Self::Config, weights: &Weights) -> wgrad::Result<()>;

    /// Writes the folder that transformers loads.
    fn save(folder: &Path, model: &Self::Model, options: &FolderOptions<'_>) -> wgrad::Result<()>;

    /// Writes the folder of adapters that PEFT loads.
    fn save_adapter(folder: &Path, model: &Self::Model) -> wgrad::Result<()>;

    /// A text that the model makes up, if it can.
    fn sample(model: &Self::Model, tokenizer: &Tokenizer, seed: u64) -> Result<Option<String>>;
}

/// What settings depend on.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// C.
    pub width: usize,
    /// L.
    pub depth: usize,
    /// The most tokens of a sequence.
    pub positions: usize,
    /// V.
    pub vocabulary: usize,
}

/// Writes a model with its tokenizer as the folder that transformers loads.
pub fn export<K: Kind>(folder: &Path, model: &K::Model, tokenizer: &Tokenizer, storage: Storage) -> Result<()> {
    let files = tokenizer.files();
    let tokenizer: Vec<(&str, &[u8])> = files.iter().map(|(name, text)| (name.as_str(), text.as_bytes())).collect();
    let options = FolderOptions { tokenizer: &tokenizer, storage };
    K::save(folder, model, &options).with_context(|| format!("writing {}", folder.display()))
}
