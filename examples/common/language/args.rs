//! The command line that all of these programs have.

use std::path::PathBuf;

use anyhow::Result;
use clap::{ValueEnum, value_parser};
use serde::{Deserialize, Serialize};
use wgrad::data::TokenCache;

use super::recipe::{DropKind, Overrides, Recipe};
use crate::training::comparison::{Arm, Comparison};
use crate::training::device::Device;
use crate::training::folder;
use crate::training::kinds::StorageKind;
use crate::training::output::Output;

/// Data, training and output. Options of training, regularisation and dropped tokens change the recipe's settings, which are all
/// printed at the start.
#[derive(clap::Args, Clone, Debug, Serialize, Deserialize)]
pub struct Common {
    /// Texts: files, or folders of .txt and .jsonl files; each file, or line of .jsonl, is a document.
    #[arg(long, num_args = 1.., value_name = "PATH", help_heading = "Data")]
    pub text: Vec<PathBuf>,
    /// The field of .jsonl lines that holds the text.
    #[arg(long, default_value = "text", help_heading = "Data")]
    pub text_field: String,
    /// Share of the text that is held out for the test, and of what is left for validation: of documents, or where there are few, its end.
    #[arg(long, default_value_t = 0.1, help_heading = "Data")]
    pub held_out: f64,
    /// Tokens of a sequence [default: of a pretrained model as many as it has positions for, at most 1,024].
    #[arg(long, value_name = "TOKENS", help_heading = "Data")]
    pub length: Option<usize>,
    /// Folder that keeps texts as tokens [default: .wgrad-tokens beside the texts].
    #[arg(long, value_name = "FOLDER", help_heading = "Data")]
    #[serde(skip)]
    pub text_cache: Option<PathBuf>,

    /// DeepSpeed configuration whose batch size, optimiser, schedules, fp16 and random-LTD replace the recipe's.
    #[arg(long, value_name = "JSON", help_heading = "Training")]
    pub ltd_config: Option<PathBuf>,
    /// Seeds the order, dropout, new weights and dropped tokens.
    #[arg(long, default_value_t = 0, help_heading = "Training")]
    pub seed: u64,
    #[command(flatten)]
    pub overrides: Overrides,

    /// Train again in other ways, and show all side by side: without a list at full length.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        num_args = 0..=1,
        default_missing_value = "none",
        help_heading = "Comparison"
    )]
    pub compare: Vec<Rival>,
    /// Runs of each kind, with the seeds from --seed on.
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u64).range(1..), help_heading = "Comparison")]
    pub seeds: u64,

    #[command(flatten)]
    #[serde(flatten)]
    pub output: Output,
    /// Element type of the weights in export/.
    #[arg(long, value_enum, default_value_t = StorageKind::F32, help_heading = "Output")]
    pub export_precision: StorageKind,

    #[command(flatten)]
    #[serde(flatten)]
    pub device: Device,
}

/// What the run is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rival {
    /// Full length.
    None,
    /// random-LTD with its schedule.
    RandomLtd,
    /// random-LTD that keeps its start length.
    Constant,
    /// TokenBypass.
    Tokenbypass,
    /// PatchDropout.
    Patchdrop,
    /// Full length, for as many steps as take the time of the first run.
    EqualTime,
}

impl From<Rival> for Arm<DropKind> {
    fn from(rival: Rival) -> Self {
        match rival {
            Rival::None => Arm::Drop(DropKind::None),
            Rival::RandomLtd => Arm::Drop(DropKind::RandomLtd),
            Rival::Constant => Arm::Drop(DropKind::Constant),
            Rival::Tokenbypass => Arm::Drop(DropKind::Tokenbypass),
            Rival::Patchdrop => Arm::Drop(DropKind::Patchdrop),
            Rival::EqualTime => Arm::EqualTime,
        }
    }
}

impl Common {
    /// Of the options, those about this machine: they may be given anew to a run that goes on.
    pub const ABOUT_MACHINE: &'static [&'static str] = &["text_cache"];

    /// A program's recipe with what the options change of it.
    pub fn recipe(&self, mut recipe: Recipe) -> Recipe {
        recipe.training.heed_epochs(&self.overrides.training);
        recipe.with(&self.overrides)
    }

    /// Where texts are kept as tokens.
    pub fn token_cache(&self) -> TokenCache {
        self.text_cache.clone().map_or(TokenCache::Beside, TokenCache::Folder)
    }

    /// The texts, as they were named.
    pub fn text_names(&self) -> String {
        self.text.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    }

    /// The runs that are asked for, of which the first drops tokens in the way `main`.
    pub fn comparison(&self, main: DropKind) -> Comparison<DropKind> {
        Comparison::new(main, self.compare.iter().map(|&rival| rival.into()), self.seed, self.seeds)
    }

    /// Those of an interrupted run, with what is about this machine, and the folder, as given now.
    pub fn here(self, saved: Self) -> Self {
        let Common { output, text_cache, device, .. } = self;
        Common { output: output.here(saved.output), text_cache, device: device.here(saved.device), ..saved }
    }

    /// As they are kept: their paths lead to the same files from any folder.
    pub fn kept(&self) -> Result<Self> {
        Ok(Common {
            text: self.text.iter().map(|path| folder::absolute(path)).collect::<Result<_>>()?,
            ltd_config: self.ltd_config.as_deref().map(folder::absolute).transpose()?,
            ..self.clone()
        })
    }

    /// The values of [`Common::ABOUT_MACHINE`].
    pub fn about_machine(&self) -> Vec<(&'static str, Option<String>)> {
        vec![("--text-cache", self.text_cache.as_ref().map(|folder| folder.display().to_string()))]
    }
}
