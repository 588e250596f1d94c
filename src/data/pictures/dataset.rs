//! Labelled pictures in splits.

use super::{Crop, Split, Transform};
use crate::normalize::Normalize;
use crate::preprocess::Interpolation;

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
    pub normalize: Normalize,
    /// The crop in training.
    pub train_crop: Crop,
    /// The crop in evaluation.
    pub eval_crop: Crop,
    /// How pictures are resized. A pretrained model brings its own.
    pub interpolation: Interpolation,
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
        Transform { flip: self.flip, interpolation: self.interpolation, ..Transform::new(size, self.train_crop) }
    }

    /// The transform for evaluating a model whose input is `size` × `size`: nothing in it is random.
    pub fn eval_transform(&self, size: u32) -> Transform {
        Transform { interpolation: self.interpolation, ..Transform::new(size, self.eval_crop) }
    }
}
