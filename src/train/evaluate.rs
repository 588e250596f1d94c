//! Measuring a model on a split.

use std::collections::VecDeque;

use super::step::{f32_of, u32_of, upload};
use crate::autograd::no_grad;
use crate::data::{Batch, Loader};
use crate::error::{Error, Result};
use crate::gpu::Readback;
use crate::nn::{Mode, Vit};
use crate::ops::{self, CrossEntropy};

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

/// Batches in flight: the host prepares one while the device works on another.
const AHEAD: usize = 2;

/// Runs the plain model over every sample that `loader` gives, at full length and without randomness.
///
/// # Errors
/// If the data cannot be read, a label is out of range, or the device fails.
pub fn evaluate(model: &Vit, loader: &Loader) -> Result<Evaluation> {
    let mut sums = Evaluation::default();
    let mut ahead = VecDeque::new();
    for batch in loader.epoch(0)? {
        ahead.push_back(no_grad(|| record(model, &batch?))?);
        if ahead.len() > AHEAD
            && let Some(done) = ahead.pop_front()
        {
            add(&mut sums, done)?;
        }
    }
    for done in ahead {
        add(&mut sums, done)?;
    }
    let samples = sums.samples.max(1) as f64;
    Ok(Evaluation { loss: sums.loss / samples, accuracy: sums.accuracy / samples, samples: sums.samples })
}

fn record(model: &Vit, batch: &Batch) -> Result<(usize, Readback)> {
    let (images, labels) = upload(model.gpu(), batch, 0..batch.labels.len(), model.config().img_size)?;
    let logits = model.forward(&images, &[], &Mode::evaluation())?;
    let loss = ops::cross_entropy(&logits, &labels, &CrossEntropy::default())?;
    let correct = ops::count_correct(&logits, &labels, None)?;
    Ok((batch.labels.len(), model.gpu().read(&[loss.buffer(), correct.buffer()])?))
}

fn add(sums: &mut Evaluation, (samples, results): (usize, Readback)) -> Result<()> {
    let bytes = results.wait()?;
    let [loss, correct] = bytes.as_slice() else {
        return Err(Error::Graph { op: "evaluate", what: "results are missing" });
    };
    sums.loss += f64::from(f32_of(loss)) * samples as f64;
    sums.accuracy += f64::from(u32_of(correct));
    sums.samples += samples as u64;
    Ok(())
}
