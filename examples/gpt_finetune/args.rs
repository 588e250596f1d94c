//! The command line.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use serde::{Deserialize, Serialize};

use crate::language::args::{Common, Own};
use crate::local;
use crate::training::folder;

/// Finetune a GPT with random-LTD (random and layerwise token dropping).
///
/// Without --weights and --text it shows, on the embedded model and text, random-LTD beside full length.
///
/// Options of training, regularisation and dropped tokens change the recipe's settings. All settings are printed at
/// the start.
#[derive(Parser, Clone, Debug, Serialize, Deserialize)]
#[command(version, about)]
pub struct Args {
    /// Model to start from; the embedded one by default. A run's folder or a checkpoint in it, or a folder as
    /// transformers saves it (config.json, model.safetensors and the tokenizer's files); in a build with the feature
    /// hub, hub:OWNER/MODEL.
    #[arg(long, help_heading = "Model")]
    pub weights: Option<PathBuf>,
    /// Its tokenizer, where that is not in the same folder: a folder, or one of its files.
    #[arg(long, requires = "weights", help_heading = "Model")]
    pub tokenizer: Option<PathBuf>,

    #[command(flatten)]
    #[serde(flatten)]
    pub common: Common,
}

impl Own for Args {
    fn common(&self) -> &Common {
        &self.common
    }

    fn common_mut(&mut self) -> &mut Common {
        &mut self.common
    }

    fn settle_paths(&mut self) -> Result<()> {
        self.weights = self.weights.as_deref().map(local::kept).transpose()?;
        self.tokenizer = self.tokenizer.as_deref().map(folder::absolute).transpose()?;
        Ok(())
    }
}
