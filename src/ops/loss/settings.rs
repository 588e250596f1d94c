//! What cross-entropy is told: its settings, and what it compares logits with.

use crate::tensor::Tensor;

/// Settings of [`super::cross_entropy()`].
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct CrossEntropy {
    /// ε from 0 to 1: the share of the target that is spread evenly over all classes (Szegedy et al., 2016).
    pub label_smoothing: f32,
    /// Labels with this value count neither in the loss nor in its mean.
    pub ignore_index: Option<u32>,
    /// A weight for each class, `f32[V]`, finite and not negative: that of rare classes is made larger, so that the model
    /// does not learn to name the common ones. `None` weighs all alike.
    pub class_weights: Option<Vec<f32>>,
}

impl CrossEntropy {
    /// What one row counts in the mean's divisor: its label's weight, or 0 where it does not count; of a row with two
    /// labels the sum of both weights by their shares. The mean of a batch is that of its parts' means, weighted by the
    /// sums of this over their rows (a part in which this is 0 everywhere has the mean 0).
    pub fn row_weight(&self, classes: usize, label: u32, mixed: Option<(u32, f32)>) -> f64 {
        let weight = |label: u32| match &self.class_weights {
            _ if label as usize >= classes || Some(label) == self.ignore_index => 0.0,
            None => 1.0,
            Some(weights) => weights.get(label as usize).copied().unwrap_or(0.0).into(),
        };
        let (other, share) = mixed.map_or((label, 1.0), |(other, share)| (other, f64::from(share)));
        // A second label without a share is not looked at.
        share * weight(label) + if share < 1.0 { (1.0 - share) * weight(other) } else { 0.0 }
    }
}

/// What [`super::cross_entropy()`] compares logits with: a label a row (`&Tensor` converts), or two with their shares.
#[derive(Clone, Copy, Debug)]
pub struct Targets<'a> {
    pub(super) labels: &'a Tensor,
    pub(super) mixed: Option<(&'a Tensor, &'a Tensor)>,
}

impl<'a> Targets<'a> {
    /// Rows that belong to two classes, as mixup and CutMix make them: to that of `labels` by `shares`, to that of
    /// `others` by what is left to 1. Labels are `u32[N]`, shares `f32[N]` from 0 to 1 (which is not checked). Shares
    /// have no gradient: those of a graph are an error.
    pub fn mixed(labels: &'a Tensor, others: &'a Tensor, shares: &'a Tensor) -> Self {
        Targets { labels, mixed: Some((others, shares)) }
    }
}

impl<'a> From<&'a Tensor> for Targets<'a> {
    fn from(labels: &'a Tensor) -> Self {
        Targets { labels, mixed: None }
    }
}
