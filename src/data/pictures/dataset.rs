//! Labelled pictures in splits.

use super::{Crop, Split, Transform};

/// Labelled pictures in three splits, and how they are best shown to a model.
#[derive(Clone, Debug)]
pub struct DataSet {
    /// What it is called in reports.
    pub name: String,
    /// The name of each class; a label is a place in this list.
    pub class_names: Vec<String>,
    /// What the model learns from.
    pub train: Split,
    /// What is measured during training: to choose settings and the best checkpoint.
    pub validation: Split,
    /// What is measured once, at the end. May be empty.
    pub test: Split,
    /// The pixels' mean and deviation, for a model trained from scratch. A pretrained one brings its own.
    pub normalization: Normalization,
    /// The crop in training.
    pub train_crop: Crop,
    /// The crop in evaluation.
    pub eval_crop: Crop,
    /// Whether a mirrored sample still belongs to its class.
    pub flip: bool,
    /// What was found where the data lie and is not used, in words.
    pub unused: Vec<String>,
    /// What of the data is likely to mislead, in words.
    pub warnings: Vec<String>,
}

impl DataSet {
    /// The transform for training a model whose input is `size` × `size`: crop and mirror, no further augmentation.
    pub fn train_transform(&self, size: u32) -> Transform {
        Transform { flip: self.flip, ..Transform::new(size, self.train_crop) }
    }

    /// The transform for evaluating a model whose input is `size` × `size`: nothing in it is random.
    pub fn eval_transform(&self, size: u32) -> Transform {
        Transform::new(size, self.eval_crop)
    }
}

/// Mean and standard deviation of the red, green and blue values, on the scale 0..=1. A model sees
/// (value / 255 − mean) / std.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalization {
    /// The mean of each channel.
    pub mean: [f32; 3],
    /// The standard deviation of each channel.
    pub std: [f32; 3],
}

impl Normalization {
    /// ImageNet's, which most pretrained models were trained with.
    pub const IMAGENET: Self = Normalization { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
    /// From 0..=1 to −1..=1: the original Vision Transformers (timm's `augreg` checkpoints) and Inception.
    pub const INCEPTION: Self = Normalization { mean: [0.5; 3], std: [0.5; 3] };
    /// CIFAR-10's training set.
    pub const CIFAR: Self = Normalization { mean: [0.4914, 0.4822, 0.4465], std: [0.2470, 0.2435, 0.2616] };
    /// The embedded digits' training split.
    pub const DIGITS: Self = Normalization { mean: [0.3048; 3], std: [0.3760; 3] };

    /// The mean as a colour: what a model sees as 0.
    pub fn mean_colour(&self) -> [u8; 3] {
        self.mean.map(|mean| (mean * 255.0).round() as u8)
    }
}
