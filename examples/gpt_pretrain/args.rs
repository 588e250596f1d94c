//! The command line.

use anyhow::Result;
use clap::Parser;
use serde::{Deserialize, Serialize};

use crate::language::args::Common;
use crate::pretraining::Vocabulary;
use crate::training::device::Device;
use crate::training::output::Output;
use crate::training::resume::Arguments;

/// Pretrain a GPT with random-LTD (random and layerwise token dropping).
///
/// Options of training, regularisation and dropped tokens change the recipe's settings. All settings are printed at the start.
#[derive(Parser, Clone, Debug, Serialize, Deserialize)]
#[command(version, about)]
pub struct Args {
    /// Model: small, medium, large or xl (GPT-2's sizes), or WIDTHxDEPTHxHEADS. It has as many positions as a sequence has tokens
    /// (--length), 256 by default.
    #[arg(long, default_value = "128x4x4", help_heading = "Model")]
    pub model: String,
    #[command(flatten)]
    #[serde(flatten)]
    pub vocabulary: Vocabulary,

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
