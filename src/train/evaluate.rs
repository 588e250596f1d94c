//! Measuring a model on a split.

use std::collections::VecDeque;

use super::step::{counted, f32_of, u32_of, upload};
use crate::autograd::no_grad;
use crate::data::{ImageBatch, ImageSource, Loader};
use crate::error::{Error, Result};
use crate::gpu::Readback;
use crate::models::vit::Vit;
use crate::nn::Mode;
use crate::ops::{self, CrossEntropy};
use crate::tensor::Tensor;

/// How well a model does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// Mean loss, without label smoothing.
    pub loss: f64,
    /// Share of samples whose largest logit is at their label, in 0..=1.
    pub accuracy: f64,
    /// Samples measured: those whose label is not ignored.
    pub samples: u64,
}

/// Runs the plain model over every sample that `loader` gives, at full length and without randomness. The loss is the plain
/// cross-entropy; [`evaluate_with`] has that of a training run.
///
/// # Errors
/// If the data cannot be read, a label is out of range, or the device fails.
pub fn evaluate(model: &Vit, loader: &Loader<ImageSource>) -> Result<Evaluation> {
    evaluate_with(model, loader, &CrossEntropy::default())
}

/// [`evaluate`] with a training run's loss, though without its label smoothing: ignored labels count nowhere, and the mean
/// loss is that of [`ops::cross_entropy()`] over all samples at once, weighted by their classes where those have weights.
///
/// # Errors
/// As [`evaluate`], or if the weights are not the model's.
pub fn evaluate_with(model: &Vit, loader: &Loader<ImageSource>, loss: &CrossEntropy) -> Result<Evaluation> {
    let (mut sums, measure) = (Sums::default(), Measure::new(model, loss));
    let record = |Logits { logits, labels }: Logits| {
        let loss = ops::cross_entropy(&logits, &labels, &measure.loss)?;
        let correct = ops::count_correct(&logits, &labels, measure.loss.ignore_index)?;
        model.gpu().read(&[loss.buffer(), correct.buffer()])
    };
    each_batch(model, loader, record, |batch, bytes| {
        let [loss, correct] = bytes else {
            return Err(Error::Graph { op: "evaluate", what: "results are missing" });
        };
        sums.add(f32_of(loss), measure.weight(&batch.labels), u32_of(correct), measure.counted(&batch.labels));
        Ok(())
    })?;
    Ok(Evaluation { loss: sums.mean_loss(), accuracy: sums.accuracy(), samples: sums.counted })
}

/// How samples are measured.
pub(super) struct Measure {
    /// Without smoothing.
    pub(super) loss: CrossEntropy,
    classes: usize,
}

impl Measure {
    pub(super) fn new(model: &Vit, loss: &CrossEntropy) -> Self {
        let loss = CrossEntropy { label_smoothing: 0.0, ..loss.clone() };
        Measure { loss, classes: model.config().num_classes }
    }

    /// What these samples count in a mean loss.
    pub(super) fn weight(&self, labels: &[u32]) -> f64 {
        labels.iter().map(|&label| self.loss.row_weight(self.classes, label, None)).sum()
    }

    /// Those whose label is not ignored.
    pub(super) fn counted(&self, labels: &[u32]) -> usize {
        counted(labels, &self.loss)
    }
}

/// Sums over batches, of which means are made. The mean of nothing is 0, as the loss of a batch without a counted row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sums {
    /// Of loss·weight.
    pub(super) loss: f64,
    /// What the samples count in the mean loss.
    pub(super) weight: f64,
    pub(super) correct: u64,
    /// Samples that could be right.
    pub(super) counted: u64,
}

impl Sums {
    /// Adds a batch with its mean loss.
    pub(super) fn add(&mut self, loss: f32, weight: f64, correct: u32, counted: usize) {
        self.loss += f64::from(loss) * weight;
        self.weight += weight;
        self.correct += u64::from(correct);
        self.counted += counted as u64;
    }

    pub(super) fn mean_loss(&self) -> f64 {
        if self.weight > 0.0 { self.loss / self.weight } else { 0.0 }
    }

    pub(super) fn accuracy(&self) -> f64 {
        self.correct as f64 / self.counted.max(1) as f64
    }
}

/// What the model says of a batch: `f32[B, V]`, and the labels, `u32[B]`.
pub(super) struct Logits {
    pub(super) logits: Tensor,
    pub(super) labels: Tensor,
}

/// Batches in flight: the host prepares one while the device works on another.
const AHEAD: usize = 2;

/// For each batch of the loader: the plain model's logits go to `record`, which asks for results; `take` gets those in the
/// batches' order.
pub(super) fn each_batch(
    model: &Vit,
    loader: &Loader<ImageSource>,
    record: impl Fn(Logits) -> Result<Readback>,
    mut take: impl FnMut(ImageBatch, &[Vec<u8>]) -> Result<()>,
) -> Result<()> {
    let start = |batch: &ImageBatch| -> Result<Readback> {
        let (images, labels) = upload(model.gpu(), batch, 0..batch.labels.len(), model.config().img_size)?;
        record(Logits { logits: model.forward(&images, &[], &Mode::evaluation())?, labels })
    };
    let mut ahead: VecDeque<(ImageBatch, Readback)> = VecDeque::new();
    for batch in loader.epoch(0)? {
        let mut batch = batch?;
        let results = no_grad(|| start(&batch))?;
        // The device has them.
        batch.images = Vec::new();
        ahead.push_back((batch, results));
        if ahead.len() > AHEAD
            && let Some((batch, results)) = ahead.pop_front()
        {
            take(batch, &results.wait()?)?;
        }
    }
    for (batch, results) in ahead {
        take(batch, &results.wait()?)?;
    }
    Ok(())
}
