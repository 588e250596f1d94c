//! What a model says of each sample, and where it is wrong.

use std::collections::BTreeMap;

use super::Evaluation;
use super::evaluate::{Logits, Measure, Sums, each_batch};
use super::step::f32_of;
use crate::data::{ImageSource, Loader};
use crate::error::{Error, Result};
use crate::models::vit::Vit;
use crate::ops::{self, CrossEntropy};

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

/// Runs the plain model over every sample that `loader` gives, as [`super::evaluate`] does, and keeps what it says of each:
/// N·V floats. The largest probability of a row is its prediction; of several, the first counts. The loss is the plain
/// cross-entropy; [`predict_with`] has that of a training run.
///
/// # Errors
/// If the data cannot be read, a label is out of range, or the device fails; [`Error::Argument`] if the model's output is not
/// finite, as that of damaged weights may be.
pub fn predict(model: &Vit, loader: &Loader<ImageSource>) -> Result<Predictions> {
    predict_with(model, loader, &CrossEntropy::default())
}

/// [`predict`] measured as [`super::evaluate_with`] does. A row whose label is ignored has its probabilities, and is
/// neither right nor wrong.
///
/// # Errors
/// As [`predict`], or if the weights are not the model's.
pub fn predict_with(model: &Vit, loader: &Loader<ImageSource>, loss: &CrossEntropy) -> Result<Predictions> {
    let classes = model.config().num_classes;
    let (mut sums, measure) = (Sums::default(), Measure::new(model, loss));
    let mut all = Predictions { classes, ignored: loss.ignore_index, ..Predictions::default() };
    let record = |Logits { logits, labels }: Logits| {
        let loss = ops::cross_entropy(&logits, &labels, &measure.loss)?;
        let probabilities = ops::softmax(&logits)?;
        model.gpu().read(&[loss.buffer(), probabilities.buffer()])
    };
    each_batch(model, loader, record, |batch, bytes| {
        let [loss, probabilities] = bytes else {
            return Err(Error::Graph { op: "predict", what: "results are missing" });
        };
        let count = batch.labels.len();
        let values = probabilities.chunks_exact(4).map(f32_of).take(count * classes);
        all.probabilities.extend(values);
        if all.probabilities.len() != (all.labels.len() + count) * classes {
            return Err(Error::Graph { op: "predict", what: "probabilities are missing" });
        }
        if let Some(bad) = all.probabilities[all.labels.len() * classes..].iter().position(|p| !p.is_finite()) {
            let got = format!("NaN for sample {}", batch.indices[bad / classes]);
            return Err(Error::argument("predict", "model", "one whose output is finite", got));
        }
        sums.add(f32_of(loss), measure.weight(&batch.labels), 0, 0);
        all.labels.extend(batch.labels);
        all.samples.extend(batch.indices);
        Ok(())
    })?;
    all.loss = sums.mean_loss();
    Ok(all)
}

impl Predictions {
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

    /// Loss and accuracy over all rows that count, as [`super::evaluate_with`] measures them.
    pub fn evaluation(&self) -> Evaluation {
        let (mut correct, mut samples) = (0, 0);
        for (_, label, (class, _)) in self.judged() {
            samples += 1;
            correct += u64::from(class == label);
        }
        Evaluation { loss: self.loss, accuracy: correct as f64 / samples.max(1) as f64, samples }
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
