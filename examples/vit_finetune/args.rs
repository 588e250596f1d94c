//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use serde::Serialize;
use wgrad::Gpu;
use wgrad::gpu::AdapterChoice;
use wgrad::nn::Precision;

/// Finetune a Vision Transformer with random-LTD (random and layerwise token dropping).
#[derive(Parser, Clone, Debug, Serialize)]
#[command(version, about)]
pub struct Args {
    /// Data set.
    #[arg(long, value_enum, default_value_t = Data::Digits, help_heading = "Data")]
    pub data: Data,
    /// Its folder: CIFAR's binary files, or train/CLASS/*, val/CLASS/*, test/CLASS/* with pictures.
    #[arg(long, help_heading = "Data")]
    pub data_dir: Option<PathBuf>,
    /// End with an error at the first picture that cannot be read, instead of skipping it.
    #[arg(long, help_heading = "Data")]
    pub strict: bool,
    /// Threads that decode pictures; 0 takes as many as there are cores.
    #[arg(long, default_value_t = 0, help_heading = "Data")]
    pub threads: usize,

    /// Checkpoint to start from; the embedded one by default. A safetensors file (this program's, or with timm's names), a
    /// folder as timm or transformers save it, or, in a build with the feature hub, hub:OWNER/MODEL.
    #[arg(long, conflicts_with = "from_scratch", help_heading = "Model")]
    pub weights: Option<PathBuf>,
    /// Heads of that checkpoint's model, where no file beside it tells.
    #[arg(long, requires = "weights", help_heading = "Model")]
    pub heads: Option<usize>,
    /// Start from random weights.
    #[arg(long, help_heading = "Model")]
    pub from_scratch: bool,
    /// Model when starting from scratch: tiny, small, base, large, or WIDTHxDEPTHxHEADS.
    #[arg(long, default_value = "64x6x4", requires = "from_scratch", help_heading = "Model")]
    pub model: String,
    /// Side of the input pictures [default: the checkpoint's, whose position embeddings are resampled for another; 32 from
    /// scratch].
    #[arg(long, help_heading = "Model")]
    pub img_size: Option<usize>,
    /// Side of a patch when starting from scratch.
    #[arg(long, default_value_t = 4, requires = "from_scratch", help_heading = "Model")]
    pub patch_size: usize,
    /// Stochastic depth of the last block.
    #[arg(long, default_value_t = 0.0, help_heading = "Model")]
    pub drop_path: f32,

    /// Passes over the training data.
    #[arg(long, default_value_t = 8, help_heading = "Training")]
    pub epochs: u64,
    /// Optimiser steps, instead of epochs.
    #[arg(long, help_heading = "Training")]
    pub steps: Option<u64>,
    /// Samples a step.
    #[arg(long, default_value_t = 16, help_heading = "Training")]
    pub batch_size: usize,
    /// Micro-batches that a step is cut into: the same step in less memory.
    #[arg(long, default_value_t = 1, help_heading = "Training")]
    pub accumulate: usize,
    /// Keep each block's input alone and compute the rest again in backward: the same step in less memory and more time.
    #[arg(long, help_heading = "Training")]
    pub checkpoint_blocks: bool,
    /// Element type of activations. `auto`: f16 on GPUs that have it.
    #[arg(long, value_enum, default_value_t = PrecisionKind::F32, help_heading = "Training")]
    pub precision: PrecisionKind,
    /// Optimiser.
    #[arg(long, value_enum, default_value_t = OptimizerKind::Adamw, help_heading = "Training")]
    pub optimizer: OptimizerKind,
    /// Learning rate [default: 1e-3 for AdamW, 1e-2 for SGD].
    #[arg(long, help_heading = "Training")]
    pub lr: Option<f32>,
    /// Shape of the learning rate after warm-up.
    #[arg(long, value_enum, default_value_t = LrKind::Cosine, help_heading = "Training")]
    pub lr_schedule: LrKind,
    /// Share of the steps that warm up.
    #[arg(long, default_value_t = 0.1, help_heading = "Training")]
    pub warmup: f32,
    /// Weight decay [default: 0.05 for AdamW, 5e-4 for SGD].
    #[arg(long, help_heading = "Training")]
    pub weight_decay: Option<f32>,
    /// SGD's momentum.
    #[arg(long, default_value_t = 0.9, help_heading = "Training")]
    pub momentum: f32,
    /// SGD with Nesterov's look ahead.
    #[arg(long, help_heading = "Training")]
    pub nesterov: bool,
    /// Largest norm of the gradient; 0 does not clip.
    #[arg(long, default_value_t = 1.0, help_heading = "Training")]
    pub clip_grad: f32,
    /// Share of each target spread over all classes.
    #[arg(long, default_value_t = 0.1, help_heading = "Training")]
    pub label_smoothing: f32,
    /// Seeds the order, augmentation, new weights and kept tokens.
    #[arg(long, default_value_t = 0, help_heading = "Training")]
    pub seed: u64,

    /// How many tokens the LTD blocks keep over the steps; off trains at full length.
    #[arg(long, value_enum, default_value_t = LtdKind::Linear, help_heading = "Random-LTD")]
    pub ltd: LtdKind,
    /// Tokens kept at first [default: three quarters of them].
    #[arg(long, help_heading = "Random-LTD")]
    pub ltd_start: Option<usize>,
    /// Tokens kept at the end of the schedule [default: all].
    #[arg(long, help_heading = "Random-LTD")]
    pub ltd_end: Option<usize>,
    /// Share of the steps over which the kept length rises.
    #[arg(long, default_value_t = 0.7, help_heading = "Random-LTD")]
    pub ltd_ramp: f32,
    /// The kept length is a multiple of this.
    #[arg(long, default_value_t = 8, help_heading = "Random-LTD")]
    pub ltd_granularity: usize,
    /// Blocks that drop tokens, as 1,2,3 [default: all but the first and last].
    #[arg(long, value_delimiter = ',', help_heading = "Random-LTD")]
    pub ltd_blocks: Option<Vec<usize>>,
    /// First tokens that are never dropped: 1 keeps the class token, 0 is the paper's.
    #[arg(long, default_value_t = 1, help_heading = "Random-LTD")]
    pub ltd_keep_prefix: usize,

    /// Train a second time at full length, and show both side by side.
    #[arg(long, help_heading = "Output")]
    pub compare: bool,
    /// Folder for checkpoints, curves and reports [default: runs/N].
    #[arg(long, help_heading = "Output")]
    pub output: Option<PathBuf>,
    /// Write the best weights as a folder for timm or for transformers too, into export/ of the run's folder.
    #[arg(long, value_enum, help_heading = "Output")]
    pub export: Option<ExportKind>,
    /// Element type of the exported weights.
    #[arg(long, value_enum, default_value_t = StorageKind::F32, requires = "export", help_heading = "Output")]
    pub export_precision: StorageKind,
    /// Print the report as JSON in the last line.
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// Adapter, by number or a part of its name.
    #[arg(long, help_heading = "Device")]
    #[serde(skip)]
    pub adapter: Option<AdapterChoice>,
    /// Device memory that may be used, in MB [default: what is free, where the device shares the machine's memory].
    #[arg(long, help_heading = "Device")]
    #[serde(skip)]
    pub memory: Option<u64>,
    /// Print the memory that the run would take, and end.
    #[arg(long, help_heading = "Device")]
    #[serde(skip)]
    pub estimate: bool,
    /// Measure before the first step which kernels are fastest on this device. `off`: those that are expected to be, and so
    /// the same on every run.
    #[arg(long, value_enum, default_value_t = TuneKind::Off, help_heading = "Device")]
    pub tune: TuneKind,
    /// Folder that keeps what was measured [default: the user's cache].
    #[arg(long, help_heading = "Device")]
    #[serde(skip)]
    pub tuning_cache: Option<PathBuf>,
    /// Let --tune auto look at matrix units too, for half precision (an experiment of wgpu's).
    #[arg(long, help_heading = "Device")]
    pub matrix_units: bool,
    /// List the adapters and end.
    #[arg(long, help_heading = "Device")]
    #[serde(skip)]
    pub list_adapters: bool,
}

/// Where the pictures come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerKind {
    Adamw,
    Sgd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TuneKind {
    Auto,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PrecisionKind {
    F32,
    F16,
    Auto,
}

impl PrecisionKind {
    pub fn on(self, gpu: &Gpu) -> Precision {
        match self {
            PrecisionKind::F32 => Precision::F32,
            PrecisionKind::F16 => Precision::F16,
            PrecisionKind::Auto => Precision::auto(gpu),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExportKind {
    /// `timm.create_model("local-dir:FOLDER", pretrained=True)` loads it.
    Timm,
    /// `ViTForImageClassification.from_pretrained(FOLDER)` of transformers loads it.
    Hf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StorageKind {
    F32,
    F16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LrKind {
    Cosine,
    Linear,
    Constant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LtdKind {
    /// Full length throughout.
    Off,
    /// Rises linearly and ends at full length.
    Linear,
    /// DeepSpeed's schedule, with its quirks.
    FixedLinear,
    /// Keeps the start length throughout.
    Constant,
}
