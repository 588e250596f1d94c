//! Softmax cross-entropy with class labels: the loss of classifiers, and how many they get right.

use super::{expect, expect_f32, expect_match};
use crate::autograd::{Backward, ParentGradients, record};
use crate::error::{Error, Result};
use crate::gpu::{Access, Gpu, Grid, Kernel, KernelFamily, Params, params, wgsl};
use crate::shape::DType;
use crate::tensor::Tensor;

params!(CrossEntropyParams { rows: u32, classes: u32, ignores: u32, ignored: u32, smoothing: f32, accumulate: u32 });

static ROWS_LANE: Kernel = Kernel {
    name: "cross_entropy.rows_lane",
    sources: &[wgsl!("cross_entropy.wgsl"), wgsl!("lib/grid.wgsl"), wgsl!("lib/reduce.wgsl"), wgsl!("lib/fault.wgsl")],
    entry: "rows_lane",
    bindings: &[Access::Read, Access::Read, Access::Write, Access::Write],
    params: CrossEntropyParams::FIELDS,
    constants: &[],
};

static ROWS_GROUP: Kernel = Kernel { name: "cross_entropy.rows_group", entry: "rows_group", ..ROWS_LANE };

static MEAN: Kernel = Kernel {
    name: "cross_entropy.mean",
    entry: "mean",
    bindings: &[Access::Read, Access::Write, Access::Write],
    ..ROWS_LANE
};

static BACKWARD: Kernel = Kernel {
    name: "cross_entropy.backward",
    entry: "backward",
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::Read, Access::Write],
    ..ROWS_LANE
};

static CORRECT_LANE: Kernel = Kernel { name: "cross_entropy.correct_lane", entry: "correct_lane", ..ROWS_LANE };

static CORRECT_GROUP: Kernel = Kernel { name: "cross_entropy.correct_group", entry: "correct_group", ..ROWS_LANE };

pub(crate) const KERNELS: &[&Kernel] = &[&ROWS_LANE, &ROWS_GROUP, &MEAN, &BACKWARD, &CORRECT_LANE, &CORRECT_GROUP];

const LANES: usize = 64;

/// Settings of [`cross_entropy()`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CrossEntropy {
    /// ε from 0 to 1: the share of the target that is spread evenly over all classes (Szegedy et al., 2016).
    pub label_smoothing: f32,
    /// Rows with this label count neither in the loss nor in its mean.
    pub ignore_index: Option<u32>,
}

/// Mean over the rows of (1−ε)·(−log softmax(z)\[label\]) + ε·mean(−log softmax(z)): logits z `f32[N, V]`, labels
/// `u32[N]` to a scalar `f32[]`, as PyTorch's `cross_entropy`.
///
/// Rows whose label is ignored do not count. If none counts, the loss and its gradient are 0, where PyTorch gives NaN. A
/// label that is neither ignored nor below V makes the next read-back an [`Error::OutOfRange`]; its row does not count.
///
/// # Errors
/// If `logits` are not `f32[N, V]`, `labels` not `u32[N]`, or ε is not from 0 to 1.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor, settings: &CrossEntropy) -> Result<Tensor> {
    const OP: &str = "cross_entropy";
    let smoothing = settings.label_smoothing;
    if !(0.0..=1.0).contains(&smoothing) {
        return Err(Error::argument(OP, "label_smoothing", "from 0 to 1", smoothing));
    }
    let params = params_of(OP, logits, labels, settings)?;
    let (gpu, rows) = (logits.gpu(), params.rows as usize);
    let stats = Tensor::empty(gpu, DType::F32, super::shape(OP, &[rows, 4])?)?;
    let (kernel, grid) = row_form(gpu, rows, &ROWS_LANE, &ROWS_GROUP);
    gpu.dispatch(kernel, &params, &[logits.buffer(), labels.buffer(), &gpu.faults(), stats.buffer()], grid)?;
    let scalar = super::shape(OP, &[])?;
    let loss = Tensor::empty(gpu, DType::F32, scalar)?;
    let weight = Tensor::empty(gpu, DType::F32, scalar)?;
    gpu.dispatch(&MEAN, &params, &[stats.buffer(), loss.buffer(), weight.buffer()], Grid::new(1, 1, 1))?;
    let rule = || Rule { logits: logits.detach(), labels: labels.detach(), stats, weight, params };
    Ok(record(loss, &[logits], rule))
}

/// How many rows have their largest logit at their label; of several largest the first counts, as in PyTorch's `argmax`.
/// Logits `f32[N, V]`, labels `u32[N]` to a scalar `u32[]`. Rows whose label is `ignore_index` are not counted, nor are
/// those with a NaN. No gradient. A bad label is reported as by [`cross_entropy()`].
///
/// # Errors
/// If `logits` are not `f32[N, V]` or `labels` not `u32[N]`.
pub fn count_correct(logits: &Tensor, labels: &Tensor, ignore_index: Option<u32>) -> Result<Tensor> {
    const OP: &str = "count_correct";
    let settings = CrossEntropy { ignore_index, ..Default::default() };
    let params = params_of(OP, logits, labels, &settings)?;
    let gpu = logits.gpu();
    let count = Tensor::zeros(gpu, DType::U32, &[])?;
    let (kernel, grid) = row_form(gpu, params.rows as usize, &CORRECT_LANE, &CORRECT_GROUP);
    gpu.dispatch(kernel, &params, &[logits.buffer(), labels.buffer(), &gpu.faults(), count.buffer()], grid)?;
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
        smoothing: settings.label_smoothing,
        accumulate: 0,
    })
}

/// A row for each invocation, or a workgroup for each row.
fn row_form(gpu: &Gpu, rows: usize, lane: &'static Kernel, group: &'static Kernel) -> (&'static Kernel, Grid) {
    match gpu.family() {
        KernelFamily::Lane => (lane, Grid::linear(rows, LANES)),
        KernelFamily::Workgroup => (group, Grid::linear(rows, 1)),
    }
}

struct Rule {
    logits: Tensor,
    labels: Tensor,
    /// Of each row: loss, max(z), 1/Σexp(z − max(z)), whether it counts: `f32[N, 4]`.
    stats: Tensor,
    /// 1 / the number of rows that count: `f32[]`.
    weight: Tensor,
    params: CrossEntropyParams,
}

impl Backward for Rule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Some(dlogits) = parents.destination(0)? else { return Ok(()) };
        let params = CrossEntropyParams { accumulate: dlogits.flag(), ..self.params };
        let inputs = [&self.logits, &self.labels, &self.stats, &self.weight, &dy, &dlogits.tensor];
        dy.gpu().dispatch(&BACKWARD, &params, &inputs.map(Tensor::buffer), Grid::linear(params.rows as usize, 1))
    }
}

/// The same on the CPU, slowly.
pub mod reference {
    use super::CrossEntropy;

    /// The rows that count, each with its label.
    fn counted<'a>(
        logits: &'a [f32],
        labels: &'a [u32],
        settings: &CrossEntropy,
    ) -> impl Iterator<Item = (usize, &'a [f32], usize)> {
        let (classes, ignored) = (logits.len() / labels.len(), settings.ignore_index);
        let rows = logits.chunks(classes).zip(labels).enumerate();
        let counts = move |label: u32| Some(label) != ignored && (label as usize) < classes;
        rows.filter(move |(_, (_, label))| counts(**label)).map(|(i, (row, label))| (i, row, *label as usize))
    }

    fn log_softmax(row: &[f32]) -> Vec<f64> {
        let largest = row.iter().fold(f64::NEG_INFINITY, |m, &z| m.max(z.into()));
        let log_sum = row.iter().map(|&z| (f64::from(z) - largest).exp()).sum::<f64>().ln();
        row.iter().map(|&z| f64::from(z) - largest - log_sum).collect()
    }

    /// The mean loss of logits `f32[N, V]` and labels `u32[N]`.
    pub fn forward(logits: &[f32], labels: &[u32], settings: &CrossEntropy) -> f32 {
        let smoothing = f64::from(settings.label_smoothing);
        let (mut sum, mut count) = (0.0, 0);
        for (_, row, label) in counted(logits, labels, settings) {
            let log = log_softmax(row);
            sum -= (1.0 - smoothing) * log[label];
            if smoothing > 0.0 {
                sum -= smoothing * log.iter().sum::<f64>() / row.len() as f64;
            }
            count += 1;
        }
        if count == 0 { 0.0 } else { (sum / f64::from(count)) as f32 }
    }

    /// dlogits `f32[N, V]`, given `dy`, the gradient of the mean.
    pub fn backward(logits: &[f32], labels: &[u32], settings: &CrossEntropy, dy: f32) -> Vec<f32> {
        let (classes, smoothing) = (logits.len() / labels.len(), f64::from(settings.label_smoothing));
        let weight = f64::from(dy) / counted(logits, labels, settings).count().max(1) as f64;
        let mut dlogits = vec![0.0; logits.len()];
        for (i, row, label) in counted(logits, labels, settings) {
            for (class, log) in log_softmax(row).into_iter().enumerate() {
                let hot = if class == label { 1.0 - smoothing } else { 0.0 };
                dlogits[i * classes + class] = (weight * (log.exp() - hot - smoothing / classes as f64)) as f32;
            }
        }
        dlogits
    }

    /// Rows whose first largest logit is at their label.
    pub fn count_correct(logits: &[f32], labels: &[u32], ignore_index: Option<u32>) -> u32 {
        let settings = CrossEntropy { ignore_index, ..Default::default() };
        let right = |(_, row, label): &(usize, &[f32], usize)| {
            let first = (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
            first == *label
        };
        counted(logits, labels, &settings).filter(right).count() as u32
    }
}
