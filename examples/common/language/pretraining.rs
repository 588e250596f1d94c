//! What pretraining begins with: a tokenizer, the sizes of a model, and another recipe.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use wgrad::data::{SpecialTokens, Texts, Tokenizer, TrainOptions};

use crate::language::recipe::Recipe;
use crate::training::console::say;
use crate::training::folder;
use crate::training::given::Rule;
use crate::training::ltd::LtdSettings;
use crate::training::optimisation::Optimisation;
use crate::training::values::Length;

/// For a model that begins with nothing: larger batches, more decay, and the paper's start at a fraction of the length.
pub fn recipe() -> Recipe {
    let Recipe { training, ltd, .. } = Recipe::default();
    let training = Optimisation { epochs: 10, batch_size: 32, weight_decay: 0.1, ..training };
    Recipe { training, ltd: LtdSettings { ltd_start: Length::Share(0.25), ..ltd }, ..Recipe::default() }
}

/// What counts in no pretraining: adapters would be trained beside frozen random weights.
pub fn rules() -> Vec<Rule> {
    vec![(&["lora"], false, "beside weights that have learnt something, as gpt_finetune's")]
}

/// Where the tokenizer is from.
#[derive(clap::Args, Clone, Debug, Serialize, Deserialize)]
pub struct Vocabulary {
    /// Tokenizer: a folder with tokenizer.json, vocab.json and merges.txt, or vocab.txt, or one of these files [default: one that is
    /// made of the text].
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub tokenizer: Option<PathBuf>,
    /// Tokens of a vocabulary that is made of the text.
    #[arg(long, default_value_t = 4096, conflicts_with = "tokenizer", help_heading = "Model")]
    pub vocab_size: usize,
}

impl Vocabulary {
    /// The tokenizer that is meant. A run that goes on keeps its own, whatever has become of the text.
    pub fn tokenizer(&self, texts: &Texts, specials: SpecialTokens, goes_on: Option<&Path>) -> Result<Tokenizer> {
        if let Some(run) = goes_on.filter(|run| run.join("tokenizer.json").exists()) {
            return Ok(Tokenizer::open(run)?);
        }
        if let Some(path) = &self.tokenizer {
            return Tokenizer::open(path).with_context(|| format!("--tokenizer {}", path.display()));
        }
        say!("making a vocabulary of {} tokens", self.vocab_size);
        let options = TrainOptions { vocab_size: self.vocab_size, specials, ..TrainOptions::default() };
        Ok(Tokenizer::train(texts, &options)?)
    }

    /// Its path leads to the same file from any folder then.
    pub fn settle_path(&mut self) -> Result<()> {
        self.tokenizer = self.tokenizer.as_deref().map(folder::absolute).transpose()?;
        Ok(())
    }
}

/// `WIDTHxDEPTHxHEADS`.
pub fn sizes(model: &str) -> Result<[usize; 3]> {
    let sizes: Result<Vec<usize>, _> = model.split('x').map(str::parse).collect();
    let sizes = sizes.ok().and_then(|sizes| <[usize; 3]>::try_from(sizes).ok());
    let sizes =
        sizes.with_context(|| format!("--model {model}: expected a name, or WIDTHxDEPTHxHEADS such as 128x4x4"))?;
    ensure!(sizes.iter().all(|&size| size > 0), "--model {model}: sizes of at least 1");
    Ok(sizes)
}
