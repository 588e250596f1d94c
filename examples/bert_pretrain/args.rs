//! The command line.

use anyhow::Result;
use clap::Parser;
use serde::{Deserialize, Serialize};

use crate::language::args::Common;
use crate::pretraining::Vocabulary;
use crate::training::device::Device;
use crate::training::output::Output;
use crate::training::resume::Arguments;

/// Pretrain a BERT with random-LTD (random and layerwise token dropping).
///
/// Options of training, regularisation and dropped tokens change the recipe's settings. All settings are printed at the start.
#[derive(Parser, Clone, Debug, Serialize, Deserialize)]
#[command(version, about)]
pub struct Args {
    /// Model: base or large (BERT's sizes), or WIDTHxDEPTHxHEADS. It has as many positions as a sequence has tokens (--length), 256 by
    /// default.
    #[arg(long, default_value = "128x4x4", help_heading = "Model")]
    pub model: String,
    #[command(flatten)]
    #[serde(flatten)]
    pub vocabulary: Vocabulary,
    /// Share of a sequence's tokens that are to be found again.
    #[arg(long, default_value_t = 0.15, help_heading = "Data")]
    pub mask_share: f64,
    /// Take away whole words, not single tokens.
    #[arg(long, help_heading = "Data")]
    pub whole_words: bool,
    /// Begin a sequence with each document, and pad short ones, instead of filling sequences up across documents.
    #[arg(long, help_heading = "Data")]
    pub by_document: bool,

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
        Ok(Args { vocabulary: self.vocabulary.kept()?, common: self.common.kept()?, ..self.clone() })
    }

    fn about_machine(&self) -> Vec<(&'static str, Option<String>)> {
        self.common.about_machine()
    }
}
