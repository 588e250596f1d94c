//! How a run trains: everything but data, weights and device.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::augment::Augment;
use crate::training::kinds::{LrKind, LtdSchedule, OptimizerKind};
use crate::training::lora::{LoraOptions, LoraSettings};
use crate::training::ltd::{LtdOptions, LtdSettings};
use crate::training::optimisation::{Optimisation, OptimisationOptions};
use crate::training::recipe::{entry, settings, show};
use crate::training::values::{BlockList, FreezeKind, Length};
use crate::ways::ways;

/// The recipes that have names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecipeName {
    /// For a few hundred to some thousand pictures and a pretrained model.
    #[default]
    Default,
    /// As DeepSpeed's own example finetunes on CIFAR-10 with random-LTD: SGD at a small constant rate for 14 epochs.
    DeepspeedCifar,
    /// The head alone; on features that are computed once with --probe.
    LinearProbe,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClassWeights {
    /// Every picture counts the same.
    None,
    /// Every class counts the same, however many pictures it has.
    Balanced,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CropKind {
    /// Random-resized for folders of photos, the data set's own for small pictures.
    Auto,
    /// The data set's own: padded and shifted, or a window of the resized picture.
    Data,
    /// A random part of random shape, resized.
    RandomResized,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MirrorKind {
    /// As the data set allows: photos are, digits are not.
    Auto,
    On,
    /// For pictures that mirrored would be of another class, such as writing and traffic signs.
    Off,
}

ways! {
    /// Some patches once, for all blocks (PatchDropout).
    Patchdrop: "patchdrop", "PatchDropout.";
}

settings! {
    /// Everything that a run's training depends on besides data, weights, seed and device.
    Recipe, Overrides;
    "Training" { ; training: Optimisation / OptimisationOptions; }
    "Adapters" { ; adapters: LoraSettings / LoraOptions; }
    "Regularisation" {
        /// Share of each target spread over all classes
        label_smoothing: f32,
        /// Weight of a class in the loss
        #[clap(value_enum)]
        class_weights: ClassWeights,
        /// Stochastic depth of the last block
        drop_path: f32,
        /// Mix pairs of pictures with a share from Beta(alpha, alpha); 0 does not
        mixup: f64,
        /// Paste a part of one picture into another, its area from Beta(alpha, alpha); 0 does not. With mixup too, one of the
        /// two at random
        cutmix: f64,
    }
    "Augmentation" {
        /// Crop in training
        #[clap(value_enum)]
        crop: CropKind,
        /// Smallest share of a picture's area in a random-resized crop
        crop_scale: f64,
        /// Mirror half of the pictures in training
        #[clap(value_enum)]
        mirror: MirrorKind,
        /// Random edits: none, trivial (TrivialAugment), or rand=OPS,MAGNITUDE (RandAugment)
        auto_augment: Augment,
        /// Strength of random changes in brightness, contrast and saturation; 0 makes none
        color_jitter: f64,
        /// Share of samples in which a random rectangle is painted over
        erasing: f64,
        /// Share of a photo's short side in evaluation: another crop than the checkpoint's; 0 keeps that
        eval_crop: f64,
    }
    "Dropped tokens" {
        /// Which tokens are dropped in training
        #[clap(value_enum)]
        drop: DropKind,
        ;
        ltd: LtdSettings / LtdOptions;
        /// Share of the patches that PatchDropout keeps
        patchdrop_keep: f64,
        /// Share of the steps after which PatchDropout drops no more
        patchdrop_until: f64,
    }
}

/// In full: what a reader of a log needs to repeat the run.
impl std::fmt::Display for Recipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&show(&self.sections()))
    }
}

impl Recipe {
    pub fn named(name: RecipeName) -> Self {
        match name {
            RecipeName::Default => Self::default(),
            RecipeName::DeepspeedCifar => Self::deepspeed_cifar(),
            RecipeName::LinearProbe => Self::linear_probe(),
        }
    }

    /// 32 of 197 tokens at first, all of them after 3,910 of 5,474 steps, at lr 1e-4 throughout.
    fn deepspeed_cifar() -> Self {
        let Recipe { training, ltd, .. } = Self::default();
        let training = Optimisation {
            epochs: 14,
            min_steps: 0,
            batch_size: 128,
            optimizer: OptimizerKind::Sgd,
            lr: 1e-4,
            lr_schedule: LrKind::Constant,
            warmup: 0.0,
            weight_decay: 5e-4,
            ..training
        };
        let ltd = LtdSettings {
            ltd_schedule: LtdSchedule::FixedLinear,
            ltd_start: Length::Share(32.0 / 197.0),
            ltd_ramp: 3910.0 / 5474.0,
            ltd_keep_prefix: 0,
            ..ltd
        };
        let drop = DropKind::RandomLtd;
        Recipe { training, drop, ltd, label_smoothing: 0.0, crop: CropKind::Data, ..Self::default() }
    }

    fn linear_probe() -> Self {
        let Recipe { training, .. } = Self::default();
        let training = Optimisation { freeze: FreezeKind::AllButHead, lr: 3e-3, weight_decay: 0.0, ..training };
        Recipe { training, drop: DropKind::None, label_smoothing: 0.0, crop: CropKind::Data, ..Self::default() }
    }
}

impl Default for Recipe {
    fn default() -> Self {
        Recipe {
            training: Optimisation::default(),
            adapters: LoraSettings::default(),
            label_smoothing: 0.1,
            class_weights: ClassWeights::None,
            drop_path: 0.0,
            mixup: 0.0,
            cutmix: 0.0,
            crop: CropKind::Auto,
            crop_scale: 0.35,
            mirror: MirrorKind::Auto,
            auto_augment: Augment::None,
            color_jitter: 0.0,
            erasing: 0.0,
            eval_crop: 0.0,
            // By the rule and the figures of docs/study.md: half of the patches throughout, as `patchdrop_keep` has it.
            drop: DropKind::Patchdrop,
            ltd: LtdSettings {
                ltd_schedule: LtdSchedule::Linear,
                // Of the small ViT in docs/study.md, what saved most time of all that surely cost less than half a point.
                ltd_start: Length::Share(0.75),
                ltd_end: Length::Share(1.0),
                ltd_ramp: 0.8,
                ltd_granularity: 8,
                ltd_blocks: BlockList::Auto,
                ltd_keep_prefix: 1,
            },
            patchdrop_keep: 0.5,
            patchdrop_until: 1.0,
        }
    }
}
