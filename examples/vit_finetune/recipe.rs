//! How a run trains: everything but data, weights and device.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::augment::Augment;
use crate::training::comparison::{FULL_LENGTH, Way};
use crate::training::kinds::{LrKind, LtdSchedule, OptimizerKind, PrecisionKind};
use crate::training::recipe::{recipe, settled};
use crate::training::values::{BlockList, FreezeKind, Length};

/// The recipes that have names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecipeName {
    /// For a few hundred to some thousand pictures and a pretrained model.
    #[default]
    Default,
    /// As DeepSpeed's own example finetunes on CIFAR-10 with random-LTD: SGD at a small constant rate for 14 epochs.
    DeepspeedCifar,
    /// The head alone, on features that stay as they are.
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

/// Which tokens a run drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DropKind {
    /// None: full length.
    None,
    /// Some in each LTD block, ever fewer (random-LTD).
    RandomLtd,
    /// As many in each LTD block throughout: random-LTD that keeps its start length.
    Constant,
    /// Some patches once, for all blocks (PatchDropout).
    Patchdrop,
}

impl Way for DropKind {
    const NONE: Self = DropKind::None;

    fn name(self) -> &'static str {
        match self {
            DropKind::None => FULL_LENGTH,
            DropKind::RandomLtd => "random-ltd",
            DropKind::Constant => "constant",
            DropKind::Patchdrop => "patchdrop",
        }
    }
}

recipe! {
    "Training" {
        /// Passes over the training data
        epochs: u64,
        /// More epochs where those are fewer steps than this, as with few pictures; 0, or --epochs given without it, keeps them
        min_steps: u64,
        /// Optimiser steps, instead of epochs; 0 goes by epochs
        steps: u64,
        /// Samples a step
        batch_size: usize,
        /// Micro-batches that a step is cut into: the same step in less memory
        accumulate: usize,
        /// Element type of activations. `auto`: f16 on GPUs that have it
        #[clap(value_enum)]
        precision: PrecisionKind,
        /// Optimiser
        #[clap(value_enum)]
        optimizer: OptimizerKind,
        /// Learning rate; 0 goes by the model's width, 0.064 / width with AdamW and ten times as much with SGD
        lr: f32,
        /// Shape of the learning rate after warm-up
        #[clap(value_enum)]
        lr_schedule: LrKind,
        /// Share of the steps that warm up
        warmup: f32,
        /// Layer-wise decay of the learning rate: each block's is so much of the next one's; 1 is none
        layer_decay: f32,
        /// Weight decay
        weight_decay: f32,
        /// SGD's momentum
        momentum: f32,
        /// SGD with Nesterov's look ahead
        #[clap(num_args = 0..=1, default_missing_value = "true")]
        nesterov: bool,
        /// Largest norm of the gradient; 0 does not clip
        clip_grad: f32,
        /// Decay of a running average of the weights, which then is evaluated and saved; 0 keeps none
        ema: f32,
        /// What is not trained: none, all-but-head, all-but-norms-and-biases, or blocks=K for all up to the K-th block
        freeze: FreezeKind,
        /// End after so many epochs in a row without a better validation accuracy; 0 goes on
        patience: u64,
    }
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
        /// How the kept length rises
        #[clap(value_enum)]
        ltd_schedule: LtdSchedule,
        /// Tokens kept at first, a number or a share such as 0.5
        ltd_start: Length,
        /// Tokens kept at the end of the schedule, a number or a share
        ltd_end: Length,
        /// Share of the steps over which the kept length rises
        ltd_ramp: f32,
        /// The kept length is a multiple of this
        ltd_granularity: usize,
        /// Blocks that drop tokens, as 1,2,3; auto is all but the first and last
        ltd_blocks: BlockList,
        /// First tokens that are never dropped: 1 keeps the class token, 0 is the paper's
        ltd_keep_prefix: usize,
        /// Share of the patches that PatchDropout keeps
        patchdrop_keep: f64,
        /// Share of the steps after which PatchDropout drops no more
        patchdrop_until: f64,
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

    /// The steps of a run, where an epoch has `per_epoch`. Epochs become what that takes.
    pub fn settle_steps(&mut self, per_epoch: u64) -> u64 {
        settled(self.steps, &mut self.epochs, self.min_steps, per_epoch)
    }

    /// 32 of 197 tokens at first, all of them after 3,910 of 5,474 steps, at lr 1e-4 throughout.
    fn deepspeed_cifar() -> Self {
        Recipe {
            epochs: 14,
            min_steps: 0,
            batch_size: 128,
            optimizer: OptimizerKind::Sgd,
            lr: 1e-4,
            lr_schedule: LrKind::Constant,
            warmup: 0.0,
            weight_decay: 5e-4,
            label_smoothing: 0.0,
            crop: CropKind::Data,
            ltd_schedule: LtdSchedule::FixedLinear,
            ltd_start: Length::Share(32.0 / 197.0),
            ltd_ramp: 3910.0 / 5474.0,
            ltd_keep_prefix: 0,
            ..Self::default()
        }
    }

    fn linear_probe() -> Self {
        Recipe {
            freeze: FreezeKind::AllButHead,
            drop: DropKind::None,
            lr: 3e-3,
            weight_decay: 0.0,
            label_smoothing: 0.0,
            crop: CropKind::Data,
            ..Self::default()
        }
    }
}

impl Default for Recipe {
    fn default() -> Self {
        Recipe {
            epochs: 10,
            min_steps: 150,
            steps: 0,
            batch_size: 16,
            accumulate: 1,
            precision: PrecisionKind::F32,
            optimizer: OptimizerKind::Adamw,
            lr: 0.0,
            lr_schedule: LrKind::Cosine,
            warmup: 0.1,
            layer_decay: 1.0,
            weight_decay: 0.05,
            momentum: 0.9,
            nesterov: false,
            clip_grad: 1.0,
            ema: 0.0,
            freeze: FreezeKind::None,
            patience: 0,
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
            drop: DropKind::RandomLtd,
            ltd_schedule: LtdSchedule::Linear,
            // What saved most time in docs/study.md of all that surely cost less than half a point.
            ltd_start: Length::Share(0.75),
            ltd_end: Length::Share(1.0),
            ltd_ramp: 0.8,
            ltd_granularity: 8,
            ltd_blocks: BlockList::Auto,
            ltd_keep_prefix: 1,
            patchdrop_keep: 0.5,
            patchdrop_until: 1.0,
        }
    }
}
