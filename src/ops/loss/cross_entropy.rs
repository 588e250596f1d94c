//! Softmax cross-entropy with class labels: the loss of classifiers, and how many they get right.

use crate::autograd::{Backward, Destination, ParentGradients, record};
use crate::error::{Error, Result};
use crate::gpu::{Access, Fault, FaultSource, Gpu, Grid, Kernel, Params, looped, params, rounds, wgsl};
use crate::ops::item::reduce_rounds;
use crate::ops::reduce::column_sum::column_sum;
use crate::ops::variants::ByFamily;
use crate::ops::{expect, expect_f32, expect_match, shape};
use crate::shape::DType;
use crate::tensor::Tensor;

params!(CrossEntropyParams {
    rows: u32,
    classes: u32,
    ignores: u32,
    ignored: u32,
    mixed: u32,
    weighted: u32,
    smoothing: f32,
    weight_sum: f32,
    accumulate: u32,
    fault: u32,
});

static ROWS_LANE: Kernel = Kernel {
    name: "cross_entropy.rows_lane",
    sources: &[wgsl!("cross_entropy.wgsl"), wgsl!("lib/grid.wgsl"), wgsl!("lib/reduce.wgsl"), wgsl!("lib/fault.wgsl")],
    entry: "rows_lane",
    bindings: &[Access::Read, Access::Read, Access::Write, Access::Write, Access::Read, Access::Read, Access::Read],
    params: CrossEntropyParams::FIELDS,
    constants: &[],
    rounds: rounds!(CrossEntropyParams, |p, _| 2 * looped(p.classes, 0)),
};

static ROWS_GROUP: Kernel = Kernel {
    name: "cross_entropy.rows_group",
    entry: "rows_group",
    rounds: rounds!(CrossEntropyParams, |p, _| 2 * (looped(p.classes.div_ceil(64), 0) + reduce_rounds())),
    ..ROWS_LANE
};

static MEAN: Kernel = Kernel {
    name: "cross_entropy.mean",
    entry: "mean",
    bindings: &[Access::Read, Access::Write, Access::Write],
    rounds: rounds!(CrossEntropyParams, |p, _| looped(p.rows.div_ceil(64), 0) + reduce_rounds()),
    ..ROWS_LANE
};

static BACKWARD: Kernel = Kernel {
    name: "cross_entropy.backward",
    entry: "backward",
    bindings: &[
        Access::Read,
        Access::Read,
        Access::Read,
        Access::Read,
        Access::Read,
        Access::Read,
        Access::Read,
        Access::Write,
    ],
    rounds: rounds!(CrossEntropyParams, |p, _| looped(p.classes.div_ceil(64), 0)),
    ..ROWS_LANE
};

static CORRECT_LANE: Kernel = Kernel {
    name: "cross_entropy.correct_lane",
    entry: "correct_lane",
    bindings: &[Access::Read, Access::Read, Access::Write, Access::Write],
    rounds: rounds!(CrossEntropyParams, |p, _| looped(p.classes, 0)),
    ..ROWS_LANE
};

static CORRECT_GROUP: Kernel = Kernel {
    name: "cross_entropy.correct_group",
    entry: "correct_group",
    rounds: rounds!(CrossEntropyParams, |p, _| looped(p.classes.div_ceil(64), 0) + reduce_rounds()),
    ..CORRECT_LANE
};

pub(crate) const KERNELS: &[&Kernel] = &[&ROWS_LANE, &ROWS_GROUP, &MEAN, &BACKWARD, &CORRECT_LANE, &CORRECT_GROUP];

const ROWS: ByFamily = ByFamily { lane: &ROWS_LANE, group: &ROWS_GROUP };
const CORRECT: ByFamily = ByFamily { lane: &CORRECT_LANE, group: &CORRECT_GROUP };

const LANES: usize = 64;

/// Settings of [`cross_entropy()`].
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

    /// The weights on the device, and their sum over V `classes`.
    fn weights_on(&self, op: &'static str, gpu: &Gpu, classes: usize) -> Result<(Option<Tensor>, f32)> {
        let Some(weights) = &self.class_weights else { return Ok((None, classes as f32)) };
        if weights.len() != classes {
            return Err(Error::argument(op, "class_weights", format!("{classes}, one a class"), weights.len()));
        }
        if let Some(bad) = weights.iter().find(|weight| !(weight.is_finite() && **weight >= 0.0)) {
            return Err(Error::argument(op, "class_weights", "finite and at least 0", bad));
        }
        let sum = weights.iter().map(|&weight| f64::from(weight)).sum::<f64>() as f32;
        Ok((Some(Tensor::from_slice(gpu, &[classes], weights)?), sum))
    }
}

/// What [`cross_entropy()`] compares logits with: a label a row (`&Tensor` converts), or two with their shares.
#[derive(Clone, Copy, Debug)]
pub struct Targets<'a> {
    labels: &'a Tensor,
    mixed: Option<(&'a Tensor, &'a Tensor)>,
}

impl<'a> Targets<'a> {
    /// Rows that belong to two classes, as mixup and CutMix make them: to that of `labels` by `shares`, to that of
    /// `others` by what is left to 1. Labels are `u32[N]`, shares `f32[N]` from 0 to 1 (which is not checked).
    pub fn mixed(labels: &'a Tensor, others: &'a Tensor, shares: &'a Tensor) -> Self {
        Targets { labels, mixed: Some((others, shares)) }
    }
}

impl<'a> From<&'a Tensor> for Targets<'a> {
    fn from(labels: &'a Tensor) -> Self {
        Targets { labels, mixed: None }
    }
}

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
/// If `logits` are not `f32[N, V]`, labels not `u32[N]`, shares not `f32[N]`, ε is not from 0 to 1, or weights are not V,
/// finite and at least 0.
pub fn cross_entropy<'a>(logits: &Tensor, targets: impl Into<Targets<'a>>, settings: &CrossEntropy) -> Result<Tensor> {
    const OP: &str = "cross_entropy";
    let smoothing = settings.label_smoothing;
    if !(0.0..=1.0).contains(&smoothing) {
        return Err(Error::argument(OP, "label_smoothing", "from 0 to 1", smoothing));
    }
    let Targets { labels, mixed } = targets.into();
    let params = params_of(OP, logits, labels, settings)?;
    let (gpu, rows) = (logits.gpu(), params.rows as usize);
    // Buffers that nobody reads stand in for what is not there.
    let (others, shares) = mixed.unwrap_or((labels, logits));
    if mixed.is_some() {
        expect(OP, others, others.dtype() == DType::U32, "needs labels u32[N]")?;
        expect_match(OP, logits, others, others.dims() == [rows], "labels must be u32[N] of logits f32[N, V]")?;
        expect_f32(OP, shares)?;
        expect_match(OP, logits, shares, shares.dims() == [rows], "shares must be f32[N] of logits f32[N, V]")?;
    }
    let (weights, weight_sum) = settings.weights_on(OP, gpu, params.classes as usize)?;
    let (mixed, weighted) = (u32::from(mixed.is_some()), u32::from(weights.is_some()));
    let faults = gpu.fault_place(Fault::Label, &FaultSource::default())?;
    let params = CrossEntropyParams { mixed, weighted, weight_sum, fault: faults.code, ..params };
    let class_weights = weights.unwrap_or_else(|| logits.detach());
    let stats = Tensor::unwritten(gpu, DType::F32, shape(OP, &[rows, 8])?)?;
    let (kernel, grid) = ROWS.by_row(gpu, &params, grids(&params));
    let [logits_view, labels_view, others_view] = [logits, labels, others].map(Tensor::buffer);
    let [stats_view, shares_view, weights_view] = [&stats, shares, &class_weights].map(Tensor::buffer);
    let views = [logits_view, labels_view, &faults.table, stats_view, others_view, shares_view, weights_view];
    gpu.dispatch(kernel, &params, &views, grid)?;
    let (loss, weight) = mean(&params, &stats)?;
    let rule = || Rule {
        logits: logits.detach(),
        labels: labels.detach(),
        others: others.detach(),
        class_weights,
        stats,
        weight,
        params,
    };
    Ok(record(loss, &[logits], rule))
}

/// How many rows have their largest logit at their label; of several largest the first counts, as in PyTorch's `argmax`. Logits
/// `f32[N, V]`, labels `u32[N]` to a scalar `u32[]`. Rows whose label is `ignore_index` are not counted, nor are those with a
/// NaN. Of mixed samples the own labels are given: what is counted is then only indicative. No gradient. A bad label is
/// reported as by [`cross_entropy()`].
///
/// # Errors
/// If `logits` are not `f32[N, V]` or `labels` not `u32[N]`.
pub fn count_correct(logits: &Tensor, labels: &Tensor, ignore_index: Option<u32>) -> Result<Tensor> {
    const OP: &str = "count_correct";
    let settings = CrossEntropy { ignore_index, ..Default::default() };
    let params = params_of(OP, logits, labels, &settings)?;
    let gpu = logits.gpu();
    let count = Tensor::zeros(gpu, DType::U32, &[])?;
    let (kernel, grid) = CORRECT.by_row(gpu, &params, grids(&params));
    let faults = gpu.fault_place(Fault::Label, &FaultSource::default())?;
    let params = CrossEntropyParams { fault: faults.code, ..params };
    gpu.dispatch(kernel, &params, &[logits.buffer(), labels.buffer(), &faults.table, count.buffer()], grid)?;
    Ok(count)
}

fn params_of(
    op: &'static str,
    logits: &Tensor,
    labels: &Tensor,
    settings: &CrossEntropy,
) -> Result<CrossEntropyParams> {
    expect_f32(op, logits)?;
    let Some([rows, classes]) = logits.shape().to_array::<2>() else {
        return Err(Error::Shape { op, what: "needs logits f32[N, V]", got: logits.info() });
    };
    expect(op, labels, labels.dtype() == DType::U32, "needs labels u32[N]")?;
    expect_match(op, logits, labels, labels.dims() == [rows], "labels must be u32[N] of logits f32[N, V]")?;
    Ok(CrossEntropyParams {
        rows: rows as u32,
        classes: classes as u32,
        ignores: u32::from(settings.ignore_index.is_some()),
        ignored: settings.ignore_index.unwrap_or(0),
        mixed: 0,
        weighted: 0,
        smoothing: settings.label_smoothing,
        weight_sum: classes as f32,
        accumulate: 0,
        fault: 0,
    })
}

/// A row for each invocation, or a workgroup for each row.
fn grids(params: &CrossEntropyParams) -> [Grid; 2] {
    [LANES, 1].map(|share| Grid::linear(params.rows as usize, share))
}

/// The loss and 1 / the divisor, both `f32[]`, from what [`ROWS_LANE`] has left of each row.
fn mean(params: &CrossEntropyParams, stats: &Tensor) -> Result<(Tensor, Tensor)> {
    const OP: &str = "cross_entropy";
    let (gpu, rows, grid) = (stats.gpu(), params.rows as usize, Grid::new(1, 1, 1));
    let (mut all, mut params) = (stats.detach(), *params);
    if !MEAN.fits(&params, grid) {
        // The mean of one row that holds the sums of all.
        all = Tensor::unwritten(gpu, DType::F32, shape(OP, &[1, 8])?)?;
        column_sum(stats, rows, 8, &Destination { tensor: all.detach(), accumulate: false })?;
        params.rows = 1;
    }
    let scalar = shape(OP, &[])?;
    let (loss, weight) = (Tensor::unwritten(gpu, DType::F32, scalar)?, Tensor::unwritten(gpu, DType::F32, scalar)?);
    gpu.dispatch(&MEAN, &params, &[all.buffer(), loss.buffer(), weight.buffer()], grid)?;
    Ok((loss, weight))
}

struct Rule {
    logits: Tensor,
    labels: Tensor,
    others: Tensor,
    class_weights: Tensor,
    /// Of each row: loss, max(z), 1/Σexp(z − max(z)), its part of the divisor, and the four numbers of its target:
    /// `f32[N, 8]`.
    stats: Tensor,
    /// 1 / the divisor: `f32[]`.
    weight: Tensor,
    params: CrossEntropyParams,
}

impl Backward for Rule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Some(dlogits) = parents.destination(0)? else { return Ok(()) };
        let params = CrossEntropyParams { accumulate: dlogits.flag(), ..self.params };
        let Rule { logits, labels, others, class_weights, stats, weight, .. } = &*self;
        let inputs = [logits, labels, stats, weight, others, &dy, class_weights, &dlogits.tensor];
        dy.gpu().dispatch(&BACKWARD, &params, &inputs.map(Tensor::buffer), Grid::linear(params.rows as usize, 1))
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
