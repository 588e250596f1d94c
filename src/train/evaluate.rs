//! Measuring a model.

use std::collections::VecDeque;

use super::step::{f32_of, u32_of};
use super::{Part, Task};
use crate::autograd::no_grad;
use crate::error::{Error, Result};
use crate::gpu::Readback;
use crate::nn::Mode;
use crate::tensor::Tensor;

/// How well a model does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// Mean loss, without what only training adds to it.
    pub loss: f64,
    /// Share of answers that were right, in 0..=1; 0 where right ones are not counted.
    pub accuracy: f64,
    /// Answers that could be right: labels that are not ignored, or tokens that have a target. 0 where right ones are not counted.
    pub counted: u64,
}

impl Evaluation {
    /// What the better of two has more of: the accuracy, or where right answers are not counted the loss's negative.
    pub fn score(&self) -> f64 {
        if self.counted > 0 { self.accuracy } else { -self.loss }
    }
}

/// Runs the plain model over all batches, at full length and without randomness; awaiting it blocks no thread. The mean loss is that
/// of all samples at once ([`Task::weight`]).
///
/// # Errors
/// Those of `batches`; [`Error::OutOfRange`] if a label is; [`Error::Shape`] if the task's loss is not one f32 or its
/// count of right answers not one u32; or if the device fails.
pub async fn evaluate_async<T: Task>(
    task: &T,
    batches: impl IntoIterator<Item = Result<T::Batch>>,
) -> Result<Evaluation> {
    measure(task, batches, Readback::bytes).await
}

/// [`evaluate_async`], blocking the thread.
///
/// # Errors
/// As [`evaluate_async`].
#[cfg(not(target_arch = "wasm32"))]
pub fn evaluate<T: Task>(task: &T, batches: impl IntoIterator<Item = Result<T::Batch>>) -> Result<Evaluation> {
    pollster::block_on(measure(task, batches, async |results: Readback| results.wait()))
}

async fn measure<T: Task>(
    task: &T,
    batches: impl IntoIterator<Item = Result<T::Batch>>,
    read: impl AsyncFn(Readback) -> Result<Vec<Vec<u8>>>,
) -> Result<Evaluation> {
    let mut sums = Sums::default();
    let record = |batch: T::Batch| {
        let whole = Part::whole(&batch);
        let weight = task.weight(&batch, whole.samples.clone());
        let scored = task.loss(&whole, &[], &Mode::evaluation())?;
        scored.check()?;
        let correct = scored.correct.as_ref();
        let tensors = [Some(&scored.loss), correct.map(|correct| &correct.count)];
        let views: Vec<_> = tensors.into_iter().flatten().map(Tensor::buffer).collect();
        Ok((task.model().parameters().gpu().read(&views)?, (weight, correct.map_or(0, |correct| correct.of))))
    };
    each_batch(task, batches, record, read, |(weight, counted), bytes| {
        let (loss, correct) = match bytes {
            [loss] => (loss, 0),
            [loss, correct] => (loss, u32_of(correct)),
            _ => return Err(Error::Graph { op: "evaluate", what: "results are missing" }),
        };
        sums.add(f32_of(loss), weight, correct, counted);
        Ok(())
    })
    .await?;
    Ok(Evaluation { loss: sums.mean_loss(), accuracy: sums.accuracy(), counted: sums.counted })
}

/// Sums over batches, of which means are made. The mean of nothing is 0, as the loss of a batch without a counted row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sums {
    /// Of loss·weight.
    pub(super) loss: f64,
    /// What the samples count in the mean loss.
    pub(super) weight: f64,
    pub(super) correct: u64,
    /// Answers that could be right.
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

/// Batches in flight: the host prepares one while the device works on another.
const AHEAD: usize = 2;

/// For each batch, outside any graph: `record` lets the model run on it and asks for results; `take` gets those, as `read` gets
/// them, in the batches' order with what else `record` says.
pub(super) async fn each_batch<T: Task, X>(
    task: &T,
    batches: impl IntoIterator<Item = Result<T::Batch>>,
    record: impl Fn(T::Batch) -> Result<(Readback, X)>,
    read: impl AsyncFn(Readback) -> Result<Vec<Vec<u8>>>,
    mut take: impl FnMut(X, &[Vec<u8>]) -> Result<()>,
) -> Result<()> {
    let mut ahead: VecDeque<(Readback, X)> = VecDeque::new();
    for batch in batches {
        let batch = batch?;
        task.check(&batch)?;
        ahead.push_back(no_grad(|| record(batch))?);
        if ahead.len() > AHEAD
            && let Some((results, rest)) = ahead.pop_front()
        {
            take(rest, &read(results).await?)?;
        }
    }
    for (results, rest) in ahead {
        take(rest, &read(results).await?)?;
    }
    Ok(())
}
