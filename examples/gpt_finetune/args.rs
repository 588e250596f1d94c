//! The command line.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use serde::{Deserialize, Serialize};

use crate::language::args::Common;
use crate::local;
use crate::training::device::Device;
use crate::training::folder;
use crate::training::output::Output;
use crate::training::resume::Arguments;

/// Finetune a GPT with random-LTD (random and layerwise token dropping).
///
/// Options of training, regularisation and dropped tokens change the recipe's settings. All settings are printed at the start.
#[derive(Parser, Clone, Debug, Serialize, Deserialize)]
#[command(version, about)]
pub struct Args {
    /// Model to start from; the embedded one by default. A run's folder, or a folder as transformers saves it (config.json,
    /// model.safetensors and the tokenizer's files); in a build with the feature hub, hub:OWNER/MODEL.
    #[arg(long, help_heading = "Model")]
    pub weights: Option<PathBuf>,
    /// Its tokenizer, where that is not in the same folder.
    #[arg(long, requires = "weights", help_heading = "Model")]
    pub tokenizer: Option<PathBuf>,

    #[command(flatten)]
    #[serde(flatten)]
    pub common: Common,
}

impl Arguments for Args {
    const ABOUT_MACHINE: &'static [&'static str] = Common::ABOUT_MACHINE;

    fn output(&self) -> &Output {
        &self.common.output
    }

    fn device(&self) -> &Device {
        &self.common.device
    }

    fn here(self, saved: Self) -> Self {
        Args { common: self.common.here(saved.common), ..saved }
    }

    fn kept(&self) -> Result<Self> {
        Ok(Args {
            weights: self.weights.as_deref().map(local::kept).transpose()?,
            tokenizer: self.tokenizer.as_deref().map(folder::absolute).transpose()?,
            common: self.common.kept()?,
        })
    }

    fn about_machine(&self) -> Vec<(&'static str, Option<String>)> {
        self.common.about_machine()
    }
}
