//! Measuring a model on a split.

use std::collections::VecDeque;

use super::step::{f32_of, u32_of, upload};
use crate::autograd::no_grad;
use crate::data::{Batch, Loader};
use crate::error::{Error, Result};
use crate::gpu::Readback;
use crate::nn::{Mode, Vit};
use crate::ops::{self, CrossEntropy};
use crate::tensor::Tensor;

/// How well a model does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// Mean loss, without label smoothing.
    pub loss: f64,
    /// Share of samples whose largest logit is at their label, in 0..=1.
    pub accuracy: f64,
    /// Samples measured.
    pub samples: u64,
}

/// Runs the plain model over every sample that `loader` gives, at full length and without randomness.
///
/// # Errors
/// If the data cannot be read, a label is out of range, or the device fails.
pub fn evaluate(model: &Vit, loader: &Loader) -> Result<Evaluation> {
    let mut sums = Evaluation::default();
    let record = |Logits { logits, labels }: Logits| {
        let loss = ops::cross_entropy(&logits, &labels, &CrossEntropy::default())?;
        let correct = ops::count_correct(&logits, &labels, None)?;
        model.gpu().read(&[loss.buffer(), correct.buffer()])
    };
    each_batch(model, loader, record, |batch, bytes| {
        let [loss, correct] = bytes else {
            return Err(Error::Graph { op: "evaluate", what: "results are missing" });
        };
        sums.loss += f64::from(f32_of(loss)) * batch.labels.len() as f64;
        sums.accuracy += f64::from(u32_of(correct));
        sums.samples += batch.labels.len() as u64;
        Ok(())
    })?;
    let samples = sums.samples.max(1) as f64;
    Ok(Evaluation { loss: sums.loss / samples, accuracy: sums.accuracy / samples, samples: sums.samples })
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
    loader: &Loader,
    record: impl Fn(Logits) -> Result<Readback>,
    mut take: impl FnMut(Batch, &[Vec<u8>]) -> Result<()>,
) -> Result<()> {
    let start = |batch: &Batch| -> Result<Readback> {
        let (images, labels) = upload(model.gpu(), batch, 0..batch.labels.len(), model.config().img_size)?;
        record(Logits { logits: model.forward(&images, &[], &Mode::evaluation())?, labels })
    };
    let mut ahead: VecDeque<(Batch, Readback)> = VecDeque::new();
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
