//! Telling pictures apart.

use std::ops::Range;

use super::in_mode;
use crate::data::{Batch, ImageBatch, Mixed, Position};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::identity::json;
use crate::nn::{Classifier, Mode, Model, Span};
use crate::ops::{self, CrossEntropy, Targets, TokenIndices};
use crate::tensor::Tensor;
use crate::train::{Correct, Part, Scored, Task};

/// Cross-entropy of a classifier's logits. In evaluation without label smoothing, so that results of runs that smooth
/// otherwise compare; ignored labels count nowhere, and classes that have weights weigh so in both.
#[derive(Clone, Debug)]
pub struct Classify<M> {
    /// The network.
    pub model: M,
    /// The loss in training.
    pub loss: CrossEntropy,
}

impl<M: Classifier> Classify<M> {
    /// With the plain cross-entropy.
    pub fn new(model: M) -> Self {
        Self::with_loss(model, CrossEntropy::default())
    }

    /// With label smoothing, class weights or an ignored label.
    pub fn with_loss(model: M, loss: CrossEntropy) -> Self {
        Classify { model, loss }
    }

    /// Logits of the samples of a part, `f32[B, V]`, and their labels, `u32[B]`.
    pub(super) fn logits(
        &self,
        part: &Part<'_, ImageBatch>,
        spans: &[Span<TokenIndices>],
        mode: &Mode,
    ) -> Result<(Tensor, Tensor)> {
        let (images, labels) = self.upload(part)?;
        Ok((self.model.logits(&images, spans, mode)?, labels))
    }

    /// The samples of a part on the device: `u8[B, 3, H, W]` and `u32[B]`.
    pub(super) fn upload(&self, part: &Part<'_, ImageBatch>) -> Result<(Tensor, Tensor)> {
        let (height, width) = self.model.image_size();
        check(part.batch, (height, width))?;
        let (range, sample) = (part.samples.clone(), 3 * height * width);
        let pixels = &part.batch.images[range.start * sample..range.end * sample];
        let images = Tensor::from_slice(self.gpu(), &[range.len(), 3, height, width], pixels)?;
        Ok((images, Tensor::from_slice(self.gpu(), &[range.len()], &part.batch.labels[range])?))
    }

    pub(super) fn gpu(&self) -> &Gpu {
        self.model.parameters().gpu()
    }
}

impl<M: Classifier> Task for Classify<M> {
    type Batch = ImageBatch;

    fn model(&self) -> &dyn Model {
        &self.model
    }

    fn identity(&self) -> String {
        json(&self.loss)
    }

    fn check(&self, batch: &ImageBatch) -> Result<()> {
        check(batch, self.model.image_size())
    }

    /// As many as have a label that counts, or the sum of their weights.
    fn weight(&self, batch: &ImageBatch, range: Range<usize>) -> f64 {
        let classes = self.model.classes();
        let mixed = |i: usize| batch.mixed.as_ref().map(|mixed| (mixed.labels[i], mixed.shares[i]));
        range.map(|i| self.loss.row_weight(classes, batch.labels[i], mixed(i))).sum()
    }

    fn loss(&self, part: &Part<'_, ImageBatch>, spans: &[Span<TokenIndices>], mode: &Mode) -> Result<Scored> {
        let (logits, labels) = self.logits(part, spans, mode)?;
        let mixed = part.batch.mixed.as_ref().map(|mixed| upload_mixed(self.gpu(), mixed, part)).transpose()?;
        let targets = match &mixed {
            Some((others, shares)) => Targets::mixed(&labels, others, shares),
            None => Targets::from(&labels),
        };
        // Of mixed samples the own label counts, which makes training accuracy only indicative.
        let of = labelled(&self.loss, &part.batch.labels[part.samples.clone()]);
        score(&logits, targets, (&labels, of), &self.loss, mode)
    }

    /// All zeros. The system gives zeroed memory when it is touched, and nobody touches this.
    fn blank(&self, samples: usize) -> Result<ImageBatch> {
        let (height, width) = self.model.image_size();
        let bytes = [samples, 3, height, width].into_iter().try_fold(1usize, usize::checked_mul);
        let bytes = bytes.filter(|&bytes| samples > 0 && u32::try_from(bytes).is_ok());
        let Some(bytes) = bytes else {
            return Err(Error::argument("estimate", "batch", "at least 1 sample and below 4 GiB of pictures", samples));
        };
        Ok(ImageBatch {
            images: vec![0; bytes],
            labels: vec![0; samples],
            mixed: None,
            indices: vec![0; samples],
            position: Position::default(),
        })
    }
}

/// Labels that are not ignored.
pub(super) fn labelled(loss: &CrossEntropy, labels: &[u32]) -> usize {
    labels.iter().filter(|&&label| Some(label) != loss.ignore_index).count()
}

/// The loss of logits, `f32[B, V]`, and how many of the labels, `u32[B]`, of which so many are not ignored, they are right about.
pub(super) fn score(
    logits: &Tensor,
    targets: Targets<'_>,
    (labels, of): (&Tensor, usize),
    loss: &CrossEntropy,
    mode: &Mode,
) -> Result<Scored> {
    let settings = in_mode(loss, mode);
    let loss = ops::cross_entropy(logits, targets, &settings)?;
    let count = ops::count_correct(&logits.detach(), labels, settings.ignore_index)?;
    Ok(Scored { correct: Some(Correct { count, of }), ..Scored::new(loss) })
}

/// Whether a batch has samples, each with all that belongs to it and of a picture's size.
fn check(batch: &ImageBatch, (height, width): (usize, usize)) -> Result<()> {
    let samples = batch.samples();
    if samples == 0 {
        return Err(Error::argument("batch", "labels", "at least one", 0));
    }
    if samples.checked_mul(3 * height * width) != Some(batch.images.len()) {
        let expected = format!("{samples} pictures of 3·{height}·{width} bytes");
        return Err(Error::argument("batch", "images", expected, format_args!("{} bytes", batch.images.len())));
    }
    batch.check()
}

/// The second labels and the shares of the first ones: `u32[B]` and `f32[B]`.
fn upload_mixed(gpu: &Gpu, mixed: &Mixed, part: &Part<'_, ImageBatch>) -> Result<(Tensor, Tensor)> {
    let range = part.samples.clone();
    let labels = Tensor::from_slice(gpu, &[range.len()], &mixed.labels[range.clone()])?;
    Ok((labels, Tensor::from_slice(gpu, &[range.len()], &mixed.shares[range])?))
}
