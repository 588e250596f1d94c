//! The command line.

use anyhow::Result;
use clap::Parser;
use serde::{Deserialize, Serialize};

use crate::language::args::{Common, Own};
use crate::pretraining::Vocabulary;

/// Pretrain a GPT with random-LTD (random and layerwise token dropping).
///
/// Options of training, regularisation and dropped tokens change the recipe's settings. All settings are printed at
/// the start.
#[derive(Parser, Clone, Debug, Serialize, Deserialize)]
#[command(version, about)]
pub struct Args {
    /// Model: small, medium, large or xl (GPT-2's sizes), or WIDTHxDEPTHxHEADS. It has as many positions as a
    /// sequence has tokens (--length), 256 by default.
    #[arg(long, default_value = "128x4x4", help_heading = "Model")]
    pub model: String,
    #[command(flatten)]
    #[serde(flatten)]
    pub vocabulary: Vocabulary,

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
        self.vocabulary.settle_path()
    }
}
