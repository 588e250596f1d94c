//! The command line.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, ValueEnum, value_parser};
use serde::{Deserialize, Serialize};

use crate::local;
use crate::recipe::{DropKind, MirrorKind, Overrides, Recipe, RecipeName, Rival};
use crate::size::Size;
use crate::training::comparison::Comparison;
use crate::training::device::Device;
use crate::training::folder;
use crate::training::kinds::StorageKind;
use crate::training::output::Output;
use crate::training::resume::Arguments;

/// Finetune a Vision Transformer on some of its tokens (PatchDropout, or random-LTD: random and layerwise token
/// dropping), on all of them, or its adapters or head alone.
///
/// Options of training, regularisation, augmentation and dropped tokens change the recipe's settings. All settings
/// are printed at the start.
#[derive(Parser, Clone, Debug, Serialize, Deserialize)]
#[command(version, about)]
pub struct Args {
    /// Data set [default: folder where --data-dir is given, else digits].
    #[arg(long, value_enum, help_heading = "Data")]
    pub data: Option<Data>,
    /// Its folder: CIFAR's binary files, or pictures in train/CLASS, val/CLASS and test/CLASS, or in CLASS alone, and
    /// below. With val/ and without test/ the result is that of val/, by which the epoch is chosen.
    #[arg(long, help_heading = "Data")]
    pub data_dir: Option<PathBuf>,
    /// Seeds which training pictures of a folder become validation and test pictures, where it has no folders of these
    /// [default: 0].
    #[arg(long, help_heading = "Data")]
    pub split_seed: Option<u64>,
    /// End with an error where a picture cannot be read, instead of skipping it: all are tried before the first step.
    #[arg(long, help_heading = "Data")]
    pub strict: bool,
    /// Threads that decode pictures; 0 takes as many as there are cores.
    #[arg(long, default_value_t = 0, help_heading = "Data")]
    #[serde(skip)]
    pub threads: usize,

    /// Checkpoint to start from; the embedded one by default. A run's folder (its best.safetensors), a safetensors
    /// file (this program's, or with timm's names), a folder as timm or transformers save it, or, in a build with the
    /// feature hub, hub:OWNER/MODEL.
    #[arg(long, conflicts_with = "from_scratch", help_heading = "Model")]
    pub weights: Option<PathBuf>,
    /// Heads of that checkpoint's model, where no file beside it tells.
    #[arg(long, requires = "weights", help_heading = "Model")]
    pub heads: Option<usize>,
    /// Pictures that it was trained on, as SIDE or HEIGHTxWIDTH, where no file beside it tells [default: square ones].
    #[arg(long, value_name = "SIZE", requires = "weights", help_heading = "Model")]
    pub trained_on: Option<Size>,
    /// Start from random weights.
    #[arg(long, help_heading = "Model")]
    pub from_scratch: bool,
    /// Model when starting from scratch: tiny, small, base, large, or WIDTHxDEPTHxHEADS.
    #[arg(long, default_value = "64x6x4", requires = "from_scratch", help_heading = "Model")]
    pub model: String,
    /// Side of the input pictures [default: that which the checkpoint's library shows it, 224 for a published DINOv2;
    /// 32 from scratch]. Position embeddings are resampled.
    #[arg(long, help_heading = "Model")]
    pub img_size: Option<usize>,
    /// Side of a patch when starting from scratch.
    #[arg(long, default_value_t = 4, requires = "from_scratch", help_heading = "Model")]
    pub patch_size: usize,

    /// Settings to begin with.
    #[arg(long, value_enum, default_value_t, help_heading = "Training")]
    pub recipe: RecipeName,
    /// Train the head alone, on features that the frozen model gives once for each picture, as in evaluation (a
    /// linear probe): epochs in seconds, with the settings of the recipe linear-probe.
    #[arg(long, conflicts_with_all = ["ltd_config", "compare"], help_heading = "Training")]
    #[serde(default)]
    pub probe: bool,
    /// DeepSpeed configuration whose batch size, accumulation, clipping, optimiser, learning rate, fp16 and random-LTD
    /// replace the recipe's. Where it says that random-LTD is off, the run is at full length, unless --drop says
    /// otherwise. A run keeps a copy, which --resume reads.
    #[arg(long, value_name = "JSON", help_heading = "Training")]
    pub ltd_config: Option<PathBuf>,
    /// Seeds the order, augmentation, new weights and dropped tokens.
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
    /// Write the best weights, in a comparison those of the first run, as a folder for timm or for transformers too,
    /// into export/ of the run's folder.
    #[arg(long, value_enum, help_heading = "Output")]
    pub export: Option<ExportKind>,
    /// Element type of the exported weights.
    #[arg(long, value_enum, default_value_t = StorageKind::F32, requires = "export", help_heading = "Output")]
    pub export_precision: StorageKind,
    #[command(flatten)]
    #[serde(flatten)]
    pub device: Device,
}

impl Args {
    /// The data set that is meant.
    pub fn data(&self) -> Data {
        let of_dir = if self.data_dir.is_some() { Data::Folder } else { Data::Digits };
        self.data.unwrap_or(of_dir)
    }

    /// The recipe with what the options change of it.
    pub fn recipe(&self) -> Recipe {
        let mut recipe = Recipe::named(if self.probe { RecipeName::LinearProbe } else { self.recipe });
        if self.probe {
            recipe.mirror = MirrorKind::Off;
        }
        recipe.training.heed_epochs(&self.overrides.training);
        recipe.with(&self.overrides)
    }

    /// The runs that are asked for, of which the first drops tokens in the way `main`.
    pub fn comparison(&self, main: DropKind) -> Comparison<DropKind> {
        Comparison::new(main, self.compare.iter().map(|&rival| rival.into()), self.seed, self.seeds)
    }
}

impl Arguments for Args {
    const ABOUT_MACHINE: &'static [&'static str] = &["threads"];

    fn output(&self) -> &Output {
        &self.output
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn here(self, saved: Self) -> Self {
        let Args { output, threads, device, .. } = self;
        Args { output: output.here(saved.output), threads, device: device.here(saved.device), ..saved }
    }

    fn kept(&self) -> Result<Self> {
        Ok(Args {
            data_dir: self.data_dir.as_deref().map(folder::absolute).transpose()?,
            ltd_config: self.ltd_config.as_deref().map(folder::absolute).transpose()?,
            weights: self.weights.as_deref().map(local::kept).transpose()?,
            ..self.clone()
        })
    }

    fn about_machine(&self) -> Vec<(&'static str, Option<String>)> {
        vec![("--threads", (self.threads > 0).then(|| self.threads.to_string()))]
    }
}

/// Where the pictures come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Data {
    /// The embedded 1,797 handwritten digits.
    Digits,
    /// CIFAR-10, official binary layout.
    Cifar10,
    /// CIFAR-100, official binary layout.
    Cifar100,
    /// A folder of pictures by class.
    Folder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExportKind {
    /// `timm.create_model("local-dir:FOLDER", pretrained=True)` loads it.
    Timm,
    /// transformers' `from_pretrained(FOLDER)` loads it, of the class that its config.json names.
    Hf,
}
