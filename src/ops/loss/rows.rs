//! The passes over rows of logits that the losses by class labels are made of.

use super::settings::{CrossEntropy, Targets};
use crate::autograd::{Destination, needs_grad};
use crate::error::{Error, Result};
use crate::gpu::lib::reduce_rounds;
use crate::gpu::{Access, BufferView, Fault, FaultSource, Gpu, Grid, Kernel, Params, looped, params, rounds, wgsl};
use crate::ops::item::LANES;
use crate::ops::reduce::column_sum::column_sum;
use crate::ops::variants::ByFamily;
use crate::ops::{expect, expect_f32, expect_match, shape};
use crate::shape::DType;
use crate::tensor::Tensor;

params!(CrossEntropyParams {
    rows: u32,
    first_row: u32,
    classes: u32,
    stride: u32,
    ignores: u32,
    ignored: u32,
    mixed: u32,
    weighted: u32,
    smoothing: f32,
    weight_sum: f32,
    accumulate: u32,
    fault: u32,
});

/// Rounds of sums over so many classes, in blocks of 64.
fn blocks_of(classes: u32) -> u64 {
    looped(classes.div_ceil(64), looped(64u64, 0))
}

static ROWS_LANE: Kernel = Kernel {
    name: "cross_entropy.rows_lane",
    sources: &[
        wgsl!("cross_entropy.wgsl"),
        wgsl!("lib/grid.wgsl"),
        wgsl!("lib/reduce.wgsl"),
        wgsl!("lib/fault.wgsl"),
        wgsl!("lib/nan.wgsl"),
        wgsl!("tiles/scalar.wgsl"),
    ],
    entry: "rows_lane",
    bindings: &[Access::Read, Access::Read, Access::Write, Access::Write, Access::Read, Access::Read, Access::Read],
    params: CrossEntropyParams::FIELDS,
    constants: &[],
    rounds: rounds!(CrossEntropyParams, |p, _| looped(p.classes, 0) + blocks_of(p.classes)),
};

static ROWS_GROUP: Kernel = Kernel {
    name: "cross_entropy.rows_group",
    entry: "rows_group",
    rounds: rounds!(CrossEntropyParams, |p, _| {
        looped(p.classes.div_ceil(64), 0) + blocks_of(p.classes.div_ceil(64)) + 2 * reduce_rounds()
    }),
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

static BACKWARD_IN_PLACE: Kernel = Kernel {
    name: "cross_entropy.backward_in_place",
    entry: "backward_in_place",
    bindings: &[Access::Write, Access::Read, Access::Read, Access::Read, Access::Read, Access::Read, Access::Read],
    rounds: rounds!(CrossEntropyParams, |p, _| looped(p.stride.div_ceil(64), 0)),
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

pub(super) const KERNELS: &[&Kernel] =
    &[&ROWS_LANE, &ROWS_GROUP, &MEAN, &BACKWARD, &BACKWARD_IN_PLACE, &CORRECT_LANE, &CORRECT_GROUP];

const ROWS: ByFamily = ByFamily { lane: &ROWS_LANE, group: &ROWS_GROUP };
const CORRECT: ByFamily = ByFamily { lane: &CORRECT_LANE, group: &CORRECT_GROUP };

/// Floats that are kept of a row: its loss, max(z), 1/Σexp(z − max(z)), its part of the divisor, and the four numbers of its target.
pub(super) const STATS: usize = 8;

/// Logits of some of the rows.
#[derive(Clone, Copy)]
pub(super) struct Logits<'a> {
    pub(super) view: &'a BufferView,
    /// The first of the rows, among all.
    pub(super) first: usize,
    pub(super) rows: usize,
    /// From a row to the next: V or more.
    pub(super) stride: usize,
}

impl<'a> Logits<'a> {
    /// All of them, one after the other.
    pub(super) fn all(logits: &'a Tensor) -> Self {
        Logits { view: logits.buffer(), first: 0, rows: logits.shape().rows(), stride: logits.shape().last() }
    }

    /// A row an invocation, or a workgroup.
    fn grids(&self) -> [Grid; 2] {
        [LANES, 1].map(|share| Grid::linear(self.rows, share))
    }
}

/// The loss of N rows, and what their gradient needs of them all.
pub(super) struct Mean {
    /// `f32[]`
    pub(super) loss: Tensor,
    /// 1 / the divisor: `f32[]`.
    pub(super) weight: Tensor,
}

/// What N rows of logits over V classes are compared with, and how.
pub(super) struct Criterion {
    labels: Tensor,
    /// Second labels, and the first ones' shares.
    mixed: Option<(Tensor, Tensor)>,
    class_weights: Option<Tensor>,
    params: CrossEntropyParams,
    /// What all passes find in the labels is one fault.
    source: FaultSource,
}

impl Criterion {
    /// For the rows of `logits`, or of what logits are made of.
    pub(super) fn new(
        op: &'static str,
        logits: &Tensor,
        classes: usize,
        Targets { labels, mixed }: Targets<'_>,
        settings: &CrossEntropy,
    ) -> Result<Self> {
        let smoothing = settings.label_smoothing;
        if !(0.0..=1.0).contains(&smoothing) {
            return Err(Error::argument(op, "label_smoothing", "from 0 to 1", smoothing));
        }
        let rows = logits.shape().rows();
        for labels in [Some(labels), mixed.map(|(others, _)| others)].into_iter().flatten() {
            expect(op, labels, labels.dtype() == DType::U32, "needs labels u32[N]")?;
            expect_match(op, logits, labels, labels.dims() == [rows], "labels must be u32[N] of logits f32[N, V]")?;
        }
        if let Some((_, shares)) = mixed {
            expect_f32(op, shares)?;
            expect_match(op, logits, shares, shares.dims() == [rows], "shares must be f32[N] of logits f32[N, V]")?;
            expect(op, shares, !needs_grad(&[shares]), "shares have no gradient")?;
        }
        let (class_weights, weight_sum) = weights_on(op, logits.gpu(), classes, settings)?;
        let params = CrossEntropyParams {
            rows: rows as u32,
            first_row: 0,
            classes: classes as u32,
            stride: classes as u32,
            ignores: u32::from(settings.ignore_index.is_some()),
            ignored: settings.ignore_index.unwrap_or(0),
            mixed: u32::from(mixed.is_some()),
            weighted: u32::from(class_weights.is_some()),
            smoothing,
            weight_sum,
            accumulate: 0,
            fault: 0,
        };
        let mixed = mixed.map(|(others, shares)| (others.detach(), shares.detach()));
        Ok(Criterion { labels: labels.detach(), mixed, class_weights, params, source: FaultSource::default() })
    }

    /// Memory for what is kept of each row.
    pub(super) fn new_stats(&self) -> Result<Tensor> {
        let shape = shape("cross_entropy", &[self.params.rows as usize, STATS])?;
        Tensor::unwritten(self.labels.gpu(), DType::F32, shape)
    }

    fn params(&self, logits: Logits<'_>) -> CrossEntropyParams {
        let Logits { first, rows, stride, .. } = logits;
        CrossEntropyParams { rows: rows as u32, first_row: first as u32, stride: stride as u32, ..self.params }
    }

    /// Second labels, shares and weights; buffers that nobody reads stand in for what is not there.
    fn others(&self) -> [&BufferView; 3] {
        let stand_in = self.labels.buffer();
        let (others, shares) = self.mixed.as_ref().map_or((stand_in, stand_in), |(a, b)| (a.buffer(), b.buffer()));
        [others, shares, self.class_weights.as_ref().map_or(stand_in, Tensor::buffer)]
    }

    /// Fills the stats of some rows.
    pub(super) fn rows(&self, logits: Logits<'_>, stats: &Tensor) -> Result<()> {
        let gpu = self.labels.gpu();
        let (kernel, grid) = ROWS.by_row(gpu, &self.params(logits), logits.grids());
        let faults = gpu.fault_place(Fault::Label, &self.source)?;
        let params = CrossEntropyParams { fault: faults.code, ..self.params(logits) };
        let [others, shares, weights] = self.others();
        let views = [logits.view, self.labels.buffer(), &faults.table, stats.buffer(), others, shares, weights];
        gpu.dispatch(kernel, &params, &views, grid)
    }

    /// Adds to `correct`, `u32[]`, how many of some rows have their largest logit at their label.
    pub(super) fn count(&self, logits: Logits<'_>, correct: &Tensor) -> Result<()> {
        let gpu = self.labels.gpu();
        let (kernel, grid) = CORRECT.by_row(gpu, &self.params(logits), logits.grids());
        let faults = gpu.fault_place(Fault::Label, &self.source)?;
        let params = CrossEntropyParams { fault: faults.code, ..self.params(logits) };
        gpu.dispatch(kernel, &params, &[logits.view, self.labels.buffer(), &faults.table, correct.buffer()], grid)
    }

    /// The loss, from the stats of all rows.
    pub(super) fn mean(&self, stats: &Tensor) -> Result<Mean> {
        const OP: &str = "cross_entropy";
        let (gpu, mut params, grid) = (stats.gpu(), self.params, Grid::new(1, 1, 1));
        let mut all = stats.detach();
        if !MEAN.fits(&params, grid) {
            // The mean of one row that holds the sums of all.
            all = Tensor::unwritten(gpu, DType::F32, shape(OP, &[1, STATS])?)?;
            let sums = Destination { tensor: all.detach(), accumulate: false };
            column_sum(stats, params.rows as usize, STATS, &sums)?;
            params.rows = 1;
        }
        let scalar = shape(OP, &[])?;
        let [loss, weight] = [Tensor::unwritten(gpu, DType::F32, scalar)?, Tensor::unwritten(gpu, DType::F32, scalar)?];
        gpu.dispatch(&MEAN, &params, &[all.buffer(), loss.buffer(), weight.buffer()], grid)?;
        Ok(Mean { loss, weight })
    }

    /// The gradient of all logits, given that of the loss.
    pub(super) fn backward(
        &self,
        logits: &Tensor,
        stats: &Tensor,
        weight: &Tensor,
        dy: &Tensor,
        to: &Destination,
    ) -> Result<()> {
        let params = CrossEntropyParams { accumulate: to.flag(), ..self.params };
        let ([others, _, class_weights], labels) = (self.others(), self.labels.buffer());
        let [logits, stats, weight, dy, to] = [logits, stats, weight, dy, &to.tensor].map(Tensor::buffer);
        let views = [logits, labels, stats, weight, others, dy, class_weights, to];
        self.labels.gpu().dispatch(&BACKWARD, &params, &views, Grid::linear(params.rows as usize, 1))
    }

    /// The gradient of some logits in their place, with zeros behind each row.
    pub(super) fn backward_in_place(
        &self,
        logits: Logits<'_>,
        stats: &Tensor,
        weight: &Tensor,
        dy: &Tensor,
    ) -> Result<()> {
        let ([others, _, class_weights], labels) = (self.others(), self.labels.buffer());
        let [stats, weight, dy] = [stats, weight, dy].map(Tensor::buffer);
        let views = [logits.view, labels, stats, weight, others, dy, class_weights];
        let grid = Grid::linear(logits.rows, 1);
        self.labels.gpu().dispatch(&BACKWARD_IN_PLACE, &self.params(logits), &views, grid)
    }
}

/// The classes' weights on the device, and their sum.
fn weights_on(op: &'static str, gpu: &Gpu, classes: usize, settings: &CrossEntropy) -> Result<(Option<Tensor>, f32)> {
    let Some(weights) = &settings.class_weights else { return Ok((None, classes as f32)) };
    if weights.len() != classes {
        return Err(Error::argument(op, "class_weights", format!("{classes}, one a class"), weights.len()));
    }
    if let Some(bad) = weights.iter().find(|weight| !(weight.is_finite() && **weight >= 0.0)) {
        return Err(Error::argument(op, "class_weights", "finite and at least 0", bad));
    }
    let sum = weights.iter().map(|&weight| f64::from(weight)).sum::<f64>() as f32;
    Ok((Some(Tensor::from_slice(gpu, &[classes], weights)?), sum))
}
