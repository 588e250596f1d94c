//! What a model says of each sample, and where it is wrong.

use std::collections::BTreeMap;

use super::{Classify, in_mode};
use crate::data::ImageBatch;
use crate::error::{Error, Result};
use crate::gpu::Readback;
use crate::nn::{Classifier, Mode};
use crate::ops;
use crate::train::evaluate::{Sums, each_batch};
use crate::train::step::f32_of;
use crate::train::{Evaluation, Part, Task};

/// The class probabilities of samples, and the classes that they should have. Samples are counted in the loader's order,
/// from 0: a *row* below; a photo that could not be read has none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Predictions {
    classes: usize,
    /// `f32[N, V]`.
    probabilities: Vec<f32>,
    labels: Vec<u32>,
    samples: Vec<u32>,
    ignored: Option<u32>,
    /// The mean loss.
    loss: f64,
}

/// How a model does on the samples of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassAccuracy {
    /// Samples with this label.
    pub samples: u64,
    /// Of them, those that the model took for it.
    pub correct: u64,
}

impl ClassAccuracy {
    /// The share of the class's samples that were recognised (its recall), in 0..=1; `None` if there were no samples.
    pub fn accuracy(&self) -> Option<f64> {
        (self.samples > 0).then(|| self.correct as f64 / self.samples as f64)
    }
}

/// Runs the plain model over all batches, as [`crate::train::evaluate`] does, and keeps what it says of each sample: N·V
/// floats. The largest probability of a row is its prediction; of several, the first counts. A row whose label is ignored has its
/// probabilities, and is neither right nor wrong. Awaiting it blocks no thread.
///
/// # Errors
/// Those of `batches`, if a label is out of range, or the device fails; [`Error::Argument`] if the model's output is not
/// finite, as that of damaged weights may be.
pub async fn predict_async<M: Classifier>(
    task: &Classify<M>,
    batches: impl IntoIterator<Item = Result<ImageBatch>>,
) -> Result<Predictions> {
    collect(task, batches, Readback::bytes).await
}

/// [`predict_async`], blocking the thread.
///
/// # Errors
/// As [`predict_async`].
#[cfg(not(target_arch = "wasm32"))]
pub fn predict<M: Classifier>(
    task: &Classify<M>,
    batches: impl IntoIterator<Item = Result<ImageBatch>>,
) -> Result<Predictions> {
    pollster::block_on(collect(task, batches, async |results: Readback| results.wait()))
}

async fn collect<M: Classifier>(
    task: &Classify<M>,
    batches: impl IntoIterator<Item = Result<ImageBatch>>,
    read: impl AsyncFn(Readback) -> Result<Vec<Vec<u8>>>,
) -> Result<Predictions> {
    let (classes, mode) = (task.model.classes(), Mode::evaluation());
    let settings = in_mode(&task.loss, &mode);
    let (mut sums, mut all) = (Sums::default(), Predictions::new(classes, settings.ignore_index));
    let record = |batch: ImageBatch| {
        let whole = Part::whole(&batch);
        let weight = task.weight(&batch, whole.samples.clone());
        let (logits, labels) = task.logits(&whole, &[], &mode)?;
        let (loss, probabilities) = (ops::cross_entropy(&logits, &labels, &settings)?, ops::softmax(&logits)?);
        let results = task.gpu().read(&[loss.buffer(), probabilities.buffer()])?;
        Ok((results, (weight, batch.labels, batch.indices)))
    };
    each_batch(task, batches, record, read, |(weight, labels, indices), bytes| {
        let [loss, probabilities] = bytes else {
            return Err(Error::Graph { op: "predict", what: "results are missing" });
        };
        sums.add(f32_of(loss), weight, 0, 0);
        all.add(probabilities, labels, indices)
    })
    .await?;
    all.loss = sums.mean_loss();
    Ok(all)
}

impl Predictions {
    fn new(classes: usize, ignored: Option<u32>) -> Self {
        Predictions { classes, ignored, ..Predictions::default() }
    }

    /// Adds the rows of a batch; `bytes` are `f32[B, V]`.
    fn add(&mut self, bytes: &[u8], labels: Vec<u32>, indices: Vec<u32>) -> Result<()> {
        let values = labels.len() * self.classes;
        let own = self.probabilities.len();
        self.probabilities.extend(bytes.chunks_exact(4).map(f32_of).take(values));
        let added = &self.probabilities[own..];
        if added.len() != values {
            return Err(Error::Graph { op: "predict", what: "probabilities are missing" });
        }
        if let Some(bad) = added.iter().position(|p| !p.is_finite()) {
            let got = format!("NaN for sample {}", indices[bad / self.classes]);
            return Err(Error::argument("predict", "model", "one whose output is finite", got));
        }
        self.labels.extend(labels);
        self.samples.extend(indices);
        Ok(())
    }

    /// N, the rows.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// V.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// `f32[N, V]`, row by row; each row's sum is 1.
    pub fn probabilities(&self) -> &[f32] {
        &self.probabilities
    }

    /// The rows' labels, `u32[N]`.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// The rows' numbers in the split, `u32[N]`.
    pub fn samples(&self) -> &[u32] {
        &self.samples
    }

    /// The probabilities of one row, `f32[V]`; empty if there is no such row.
    pub fn row(&self, row: usize) -> &[f32] {
        let start = row.saturating_mul(self.classes);
        self.probabilities.get(start..start.saturating_add(self.classes)).unwrap_or_default()
    }

    /// The `count` likeliest classes of a row with their probabilities, the likeliest first, at most V.
    pub fn top(&self, row: usize, count: usize) -> Vec<(u32, f32)> {
        let mut classes: Vec<(u32, f32)> = (0..).zip(self.row(row).iter().copied()).collect();
        let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if count < classes.len() {
            classes.select_nth_unstable_by(count, order);
            classes.truncate(count);
        }
        classes.sort_unstable_by(order);
        classes
    }

    /// The prediction for each row, with its probability.
    pub fn predicted(&self) -> impl Iterator<Item = (u32, f32)> {
        let largest = |row: &[f32]| {
            let better = |best: (u32, f32), (class, &p): (u32, &f32)| if p > best.1 { (class, p) } else { best };
            (0..).zip(row).fold((0, f32::NEG_INFINITY), better)
        };
        // A model without classes has no rows either.
        self.probabilities.chunks_exact(self.classes.max(1)).map(largest)
    }

    /// The rows whose label is not ignored: number, label, and prediction with its probability.
    fn judged(&self) -> impl Iterator<Item = (usize, u32, (u32, f32))> {
        let rows = self.predicted().zip(&self.labels).enumerate();
        rows.map(|(row, (predicted, &label))| (row, label, predicted))
            .filter(|&(_, label, _)| Some(label) != self.ignored)
    }

    /// Loss and accuracy over all rows that count, as [`crate::train::evaluate`] measures them.
    pub fn evaluation(&self) -> Evaluation {
        let (mut correct, mut counted) = (0, 0);
        for (_, label, (class, _)) in self.judged() {
            counted += 1;
            correct += u64::from(class == label);
        }
        Evaluation { loss: self.loss, accuracy: correct as f64 / counted.max(1) as f64, counted }
    }

    /// How often a sample of one class is taken for another: counts by (label, prediction), of pairs that occur.
    pub fn confusion(&self) -> BTreeMap<(u32, u32), u64> {
        let mut counts = BTreeMap::new();
        for (_, label, (class, _)) in self.judged() {
            *counts.entry((label, class)).or_default() += 1;
        }
        counts
    }

    /// Each class by itself: V of them, in order.
    pub fn per_class(&self) -> Vec<ClassAccuracy> {
        let mut classes = vec![ClassAccuracy::default(); self.classes];
        for ((label, class), count) in self.confusion() {
            if let Some(of_label) = classes.get_mut(label as usize) {
                of_label.samples += count;
                of_label.correct += if class == label { count } else { 0 };
            }
        }
        classes
    }

    /// The rows whose prediction is wrong, those that the model was surest of first.
    pub fn mistakes(&self) -> Vec<usize> {
        let wrong = |(row, label, (class, p)): (usize, u32, (u32, f32))| (class != label).then_some((row, p));
        let mut mistakes: Vec<(usize, f32)> = self.judged().filter_map(wrong).collect();
        mistakes.sort_by(|a, b| b.1.total_cmp(&a.1));
        mistakes.into_iter().map(|(row, _)| row).collect()
    }
}
