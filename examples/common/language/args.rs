//! The command line that all of these programs have.

use std::path::PathBuf;

use anyhow::Result;
use clap::value_parser;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use wgrad::data::TokenCache;
use wgrad::train::DeepSpeedConfig;

use super::recipe::{DropKind, INCREMENT, Overrides, Recipe, Rival};
use crate::training::comparison::Comparison;
use crate::training::device::Device;
use crate::training::kinds::StorageKind;
use crate::training::output::Output;
use crate::training::resume::Arguments;
use crate::training::{deepspeed, folder};

/// Data, training and output. Options of training, regularisation and dropped tokens change the recipe's settings,
/// which are all printed at the start.
#[derive(clap::Args, Clone, Debug, Serialize, Deserialize)]
pub struct Common {
    /// Texts: files, or folders of .txt, .text, .md, .jsonl and .ndjson files; each file, or line of .jsonl and
    /// .ndjson, is a document [default: in finetuning the embedded beginning of Paradise Lost, in pretraining none].
    #[arg(long, num_args = 1.., value_name = "PATH", help_heading = "Data")]
    pub text: Vec<PathBuf>,
    /// The field of lines of .jsonl and .ndjson that holds the text.
    #[arg(long, default_value = "text", help_heading = "Data")]
    pub text_field: String,
    /// Share of the text that is held out for the test, and the same share of what is left for validation: whole
    /// documents, or where there are few, the end of the text.
    #[arg(long, default_value_t = 0.1, help_heading = "Data")]
    pub held_out: f64,
    /// Tokens of a sequence [default: in pretraining 256; in finetuning as many as the model has positions for, at most
    /// 1,024].
    #[arg(long, value_name = "TOKENS", help_heading = "Data")]
    pub length: Option<usize>,
    /// Folder that keeps texts as tokens [default: .wgrad-tokens beside the texts].
    #[arg(long, value_name = "FOLDER", help_heading = "Data")]
    #[serde(skip)]
    pub text_cache: Option<PathBuf>,

    /// DeepSpeed configuration whose batch size, accumulation, clipping, optimiser, learning rate, fp16 and random-LTD
    /// replace the recipe's. Where it says that random-LTD is off, the run is at full length, unless --drop says
    /// otherwise. A run keeps a copy, which --resume reads.
    #[arg(long, value_name = "JSON", help_heading = "Training")]
    pub ltd_config: Option<PathBuf>,
    /// Seeds the order, dropout, new weights and dropped tokens.
    #[arg(long, default_value_t = 0, help_heading = "Training")]
    pub seed: u64,
    #[command(flatten)]
    pub overrides: Overrides,

    /// Train again in other ways, in a list as none,constant, and show all side by side; without a list at full length.
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
    /// Element type of the weights in export/ of a run's folder, which transformers loads.
    #[arg(long, value_enum, default_value_t = StorageKind::F32, help_heading = "Output")]
    pub export_precision: StorageKind,

    #[command(flatten)]
    #[serde(flatten)]
    pub device: Device,
}

impl Common {
    /// A program's recipe with what the options change of it.
    pub fn recipe(&self, mut recipe: Recipe) -> Recipe {
        recipe.training.heed_epochs(&self.overrides.training);
        if self.overrides.ltd_interval.is_some_and(|tokens| tokens > 0) {
            recipe.ltd.ltd_granularity = INCREMENT;
        }
        recipe.with(&self.overrides)
    }

    /// Where a run goes on, takes from its recipe what its arguments tell only if somebody chose it: another release
    /// may have settled it otherwise.
    pub fn heed_recipe(&mut self) -> Result<()> {
        /// That part of recipe.json.
        #[derive(Deserialize)]
        struct Settled {
            drop: DropKind,
            ltd_granularity: usize,
        }
        if let Some(run) = &self.output.resume {
            let Settled { drop, ltd_granularity } = folder::saved_recipe(run)?;
            self.overrides.drop = Some(drop);
            self.overrides.ltd.ltd_granularity = Some(ltd_granularity);
        }
        Ok(())
    }

    /// How the first run drops tokens: as the configuration file says, or else as `recipe` does with the options in it.
    pub fn main_way(&self, config: Option<&DeepSpeedConfig>, recipe: DropKind) -> DropKind {
        deepspeed::main_way(config, DropKind::RandomLtd, recipe, self.overrides.drop.is_some())
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
    fn here(self, saved: Self) -> Self {
        let Common { output, text_cache, device, .. } = self;
        Common { output: output.here(saved.output), text_cache, device: device.here(saved.device), ..saved }
    }

    /// With paths that lead to the same files from any folder.
    fn kept(&self) -> Result<Self> {
        Ok(Common {
            text: self.text.iter().map(|path| folder::absolute(path)).collect::<Result<_>>()?,
            ltd_config: self.ltd_config.as_deref().map(folder::absolute).transpose()?,
            ..self.clone()
        })
    }
}

/// A program's arguments: its own, and those that all such programs have.
pub trait Own: Clone + Serialize + DeserializeOwned {
    fn common(&self) -> &Common;

    fn common_mut(&mut self) -> &mut Common;

    /// Its own paths lead to the same files from any folder then.
    fn settle_paths(&mut self) -> Result<()>;
}

impl<A: Own> Arguments for A {
    const ABOUT_MACHINE: &'static [&'static str] = &["text_cache"];

    fn output(&self) -> &Output {
        &self.common().output
    }

    fn device(&self) -> &Device {
        &self.common().device
    }

    fn here(self, mut saved: Self) -> Self {
        let common = self.common().clone().here(saved.common().clone());
        *saved.common_mut() = common;
        saved
    }

    fn kept(&self) -> Result<Self> {
        let mut kept = self.clone();
        kept.settle_paths()?;
        *kept.common_mut() = self.common().kept()?;
        Ok(kept)
    }

    fn about_machine(&self) -> Vec<(&'static str, Option<String>)> {
        vec![("--text-cache", self.common().text_cache.as_ref().map(|folder| folder.display().to_string()))]
    }
}
