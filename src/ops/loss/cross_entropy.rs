//! Softmax cross-entropy with class labels: the loss of classifiers, and how many they get right.

use super::rows::{Criterion, Logits, Mean};
use super::settings::{CrossEntropy, Targets};
use crate::autograd::{Backward, ParentGradients, record};
use crate::error::{Error, Result};
use crate::ops::expect_f32;
use crate::shape::DType;
use crate::tensor::Tensor;

/// Mean over the rows of (1−ε)·w\[y\]·(−log softmax(z)\[y\]) + ε/V·Σ w·(−log softmax(z)): logits z `f32[N, V]`, labels y
/// `u32[N]` to a scalar `f32[]`, as PyTorch's `cross_entropy` with its `weight` w and its `label_smoothing` ε. With
/// weights the mean is the sum divided by that of the rows' w\[y\].
///
/// A row with two labels and a share h counts as h rows with its own label and 1 − h with the other: its loss is
/// h·loss(own) + (1−h)·loss(other), and its part of the divisor h·w\[own\] + (1−h)·w\[other\]. (PyTorch's soft targets
/// are the same without weights; with them it divides by N.)
///
/// Labels that are ignored do not count. If none counts, or only such of weight 0, the loss and its gradient are 0, where
/// PyTorch gives NaN. A label that is neither ignored nor below V does not count, and makes the first read of the loss, or of
/// what depends on it, an [`Error::OutOfRange`].
///
/// # Errors
/// If `logits` are not `f32[N, V]`, labels not `u32[N]`, shares not `f32[N]` or in a graph, ε is not from 0 to 1, or
/// weights are not V, finite and at least 0.
pub fn cross_entropy<'a>(logits: &Tensor, targets: impl Into<Targets<'a>>, settings: &CrossEntropy) -> Result<Tensor> {
    let criterion = criterion("cross_entropy", logits, targets.into(), settings)?;
    let stats = criterion.new_stats()?;
    criterion.rows(Logits::all(logits), &stats)?;
    let Mean { loss, weight } = criterion.mean(&stats)?;
    Ok(record(loss, &[logits], || Rule { logits: logits.detach(), criterion, stats, weight }))
}

/// How many rows have their largest logit at their label; of several largest the first counts, as in PyTorch's `argmax`. Logits
/// `f32[N, V]`, labels `u32[N]` to a scalar `u32[]`. Rows whose label is `ignore_index` are not counted, nor are those with a
/// NaN. Of mixed samples the own labels are given: what is counted is then only indicative. No gradient. A bad label is
/// reported as by [`cross_entropy()`].
///
/// # Errors
/// If `logits` are not `f32[N, V]` or `labels` not `u32[N]`.
pub fn count_correct(logits: &Tensor, labels: &Tensor, ignore_index: Option<u32>) -> Result<Tensor> {
    let settings = CrossEntropy { ignore_index, ..Default::default() };
    let criterion = criterion("count_correct", logits, labels.into(), &settings)?;
    let count = Tensor::zeros(logits.gpu(), DType::U32, &[])?;
    criterion.count(Logits::all(logits), &count)?;
    Ok(count)
}

fn criterion(op: &'static str, logits: &Tensor, targets: Targets<'_>, settings: &CrossEntropy) -> Result<Criterion> {
    expect_f32(op, logits)?;
    let Some([_, classes]) = logits.shape().to_array::<2>() else {
        return Err(Error::Shape { op, what: "needs logits f32[N, V]", got: logits.info() });
    };
    Criterion::new(op, logits, classes, targets, settings)
}

struct Rule {
    logits: Tensor,
    criterion: Criterion,
    /// What is kept of each row.
    stats: Tensor,
    /// 1 / the divisor: `f32[]`.
    weight: Tensor,
}

impl Backward for Rule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Some(dlogits) = parents.destination(0)? else { return Ok(()) };
        let Rule { logits, criterion, stats, weight } = *self;
        criterion.backward(&logits, &stats, &weight, &dy, &dlogits)
    }
}

/// The same on the CPU, slowly.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    use super::CrossEntropy;

    /// The labels of N rows: `u32[N]`, and perhaps the second ones, `u32[N]`, with the first ones' shares, `f32[N]`.
    #[derive(Clone, Copy, Debug)]
    pub struct Labels<'a> {
        /// The own labels.
        pub own: &'a [u32],
        /// The second labels and the own ones' shares.
        pub mixed: Option<(&'a [u32], &'a [f32])>,
    }

    impl<'a, T: AsRef<[u32]> + ?Sized> From<&'a T> for Labels<'a> {
        fn from(own: &'a T) -> Self {
            Labels { own: own.as_ref(), mixed: None }
        }
    }

    /// The target of row `i` over V classes, `f64[V]`, and its part of the divisor.
    fn target(labels: &Labels<'_>, i: usize, classes: usize, settings: &CrossEntropy) -> (Vec<f64>, f64) {
        let smoothing = f64::from(settings.label_smoothing);
        let weight = |class: usize| settings.class_weights.as_ref().map_or(1.0, |weights| f64::from(weights[class]));
        let mut both = vec![(labels.own[i], 1.0)];
        if let Some((others, shares)) = labels.mixed {
            both = vec![(labels.own[i], f64::from(shares[i])), (others[i], 1.0 - f64::from(shares[i]))];
        }
        let (mut target, mut divisor) = (vec![0.0; classes], 0.0);
        for (label, share) in both {
            let class = label as usize;
            if Some(label) == settings.ignore_index || class >= classes {
                continue;
            }
            divisor += share * weight(class);
            target[class] += share * (1.0 - smoothing) * weight(class);
            for (class, value) in target.iter_mut().enumerate() {
                *value += share * smoothing / classes as f64 * weight(class);
            }
        }
        (target, divisor)
    }

    fn log_softmax(row: &[f32]) -> Vec<f64> {
        let largest = row.iter().fold(f64::NEG_INFINITY, |m, &z| m.max(z.into()));
        let log_sum = row.iter().map(|&z| (f64::from(z) - largest).exp()).sum::<f64>().ln();
        row.iter().map(|&z| f64::from(z) - largest - log_sum).collect()
    }

    /// The mean loss of logits `f32[N, V]`.
    pub fn forward<'a>(logits: &[f32], labels: impl Into<Labels<'a>>, settings: &CrossEntropy) -> f32 {
        let labels = labels.into();
        let classes = logits.len() / labels.own.len();
        let (mut sum, mut divisor) = (0.0, 0.0);
        for (i, row) in logits.chunks(classes).enumerate() {
            let (target, part) = target(&labels, i, classes, settings);
            let terms = target.iter().zip(log_softmax(row)).filter(|(target, _)| **target != 0.0);
            sum -= terms.map(|(target, log)| target * log).sum::<f64>();
            divisor += part;
        }
        if divisor > 0.0 { (sum / divisor) as f32 } else { 0.0 }
    }

    /// dlogits `f32[N, V]`, given `dy`, the gradient of the mean.
    pub fn backward<'a>(logits: &[f32], labels: impl Into<Labels<'a>>, settings: &CrossEntropy, dy: f32) -> Vec<f32> {
        let labels = labels.into();
        let classes = logits.len() / labels.own.len();
        let targets: Vec<_> = (0..labels.own.len()).map(|i| target(&labels, i, classes, settings)).collect();
        let divisor: f64 = targets.iter().map(|(_, part)| part).sum();
        let scale = if divisor > 0.0 { f64::from(dy) / divisor } else { 0.0 };
        let row = |(row, (target, _)): (&[f32], &(Vec<f64>, f64))| {
            let sum: f64 = target.iter().sum();
            let dz = |(log, target): (f64, &f64)| if sum == 0.0 { 0.0 } else { scale * (sum * log.exp() - target) };
            log_softmax(row).into_iter().zip(target).map(|both| dz(both) as f32).collect::<Vec<_>>()
        };
        logits.chunks(classes).zip(&targets).flat_map(row).collect()
    }

    /// Rows whose first largest logit is at their label.
    pub fn count_correct(logits: &[f32], labels: &[u32], ignore_index: Option<u32>) -> u32 {
        let classes = logits.len() / labels.len();
        let right = |(row, label): &(&[f32], &u32)| {
            let first = (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
            Some(**label) != ignore_index && first == **label as usize
        };
        logits.chunks(classes).zip(labels).filter(right).count() as u32
    }
}
