//! Softmax over the last axis, as an operation and, in place on padded rows, as a part of attention; and its logarithm.

pub mod log_softmax;

pub use log_softmax::log_softmax;

use crate::autograd::{Backward, ParentGradients, record};
use crate::error::Result;
use crate::gpu::lib::reduce_rounds;
use crate::gpu::{Access, BufferView, Gpu, Grid, Kernel, Params, looped, params, rounds, wgsl};
use crate::ops::item::{LANES, rest_rounds, team_of};
use crate::ops::variants::{ByFamily, ByItem};
use crate::ops::{expect_f32, sole_or_copy};
use crate::tensor::Tensor;

params!(SoftmaxParams { rows: u32, width: u32, stride: u32, causal: u32, before: u32, sample: u32, lanes: u32 });

static FORWARD_LANE: Kernel = Kernel {
    name: "softmax.forward_lane",
    sources: &[
        wgsl!("softmax.wgsl"),
        wgsl!("lib/grid.wgsl"),
        wgsl!("lib/four.wgsl"),
        wgsl!("lib/nan.wgsl"),
        wgsl!("lib/reduce.wgsl"),
        wgsl!("tiles/vec4.wgsl"),
        wgsl!("tiles/columns_vec4.wgsl"),
        wgsl!("tiles/widths_whole.wgsl"),
    ],
    entry: "forward_lane",
    bindings: &[Access::Write],
    params: SoftmaxParams::FIELDS,
    constants: &[],
    rounds: rounds!(SoftmaxParams, |p, _| 3 * looped(p.stride, 0) + 1),
};

static FORWARD_GROUP: Kernel = Kernel {
    name: "softmax.forward_group",
    entry: "forward_group",
    rounds: rounds!(SoftmaxParams, |p, _| 3 * rest_rounds(p.stride, p.lanes) + 1 + 2 * reduce_rounds()),
    ..FORWARD_LANE
};

static BACKWARD_LANE: Kernel = Kernel {
    name: "softmax.backward_lane",
    entry: "backward_lane",
    bindings: &[Access::Read, Access::Write],
    rounds: rounds!(SoftmaxParams, |p, _| 2 * looped(p.stride, 0)),
    ..FORWARD_LANE
};

static BACKWARD_GROUP: Kernel = Kernel {
    name: "softmax.backward_group",
    entry: "backward_group",
    rounds: rounds!(SoftmaxParams, |p, _| 2 * rest_rounds(p.stride, p.lanes) + reduce_rounds()),
    ..BACKWARD_LANE
};

static FORWARD_LANE_SCALAR: Kernel = Kernel {
    name: "softmax.forward_lane_scalar",
    sources: &[
        wgsl!("softmax.wgsl"),
        wgsl!("lib/grid.wgsl"),
        wgsl!("lib/four.wgsl"),
        wgsl!("lib/nan.wgsl"),
        wgsl!("lib/reduce.wgsl"),
        wgsl!("tiles/scalar.wgsl"),
        wgsl!("tiles/columns_scalar.wgsl"),
        wgsl!("tiles/widths_whole.wgsl"),
    ],
    ..FORWARD_LANE
};

static FORWARD_GROUP_SCALAR: Kernel =
    Kernel { name: "softmax.forward_group_scalar", sources: FORWARD_LANE_SCALAR.sources, ..FORWARD_GROUP };

static BACKWARD_LANE_SCALAR: Kernel =
    Kernel { name: "softmax.backward_lane_scalar", sources: FORWARD_LANE_SCALAR.sources, ..BACKWARD_LANE };

static BACKWARD_GROUP_SCALAR: Kernel =
    Kernel { name: "softmax.backward_group_scalar", sources: FORWARD_LANE_SCALAR.sources, ..BACKWARD_GROUP };

static FORWARD_LANE_LENGTHS: Kernel = Kernel {
    name: "softmax.forward_lane_lengths",
    sources: &[
        wgsl!("softmax.wgsl"),
        wgsl!("lib/grid.wgsl"),
        wgsl!("lib/four.wgsl"),
        wgsl!("lib/nan.wgsl"),
        wgsl!("lib/reduce.wgsl"),
        wgsl!("tiles/vec4.wgsl"),
        wgsl!("tiles/columns_vec4.wgsl"),
        wgsl!("tiles/widths_of_samples.wgsl"),
    ],
    bindings: &[Access::Write, Access::Read],
    ..FORWARD_LANE
};

static FORWARD_GROUP_LENGTHS: Kernel = Kernel {
    name: "softmax.forward_group_lengths",
    sources: FORWARD_LANE_LENGTHS.sources,
    bindings: FORWARD_LANE_LENGTHS.bindings,
    ..FORWARD_GROUP
};

pub(crate) const KERNELS: &[&Kernel] = &[
    &FORWARD_LANE,
    &FORWARD_GROUP,
    &BACKWARD_LANE,
    &BACKWARD_GROUP,
    &FORWARD_LANE_SCALAR,
    &FORWARD_GROUP_SCALAR,
    &BACKWARD_LANE_SCALAR,
    &BACKWARD_GROUP_SCALAR,
    &FORWARD_LANE_LENGTHS,
    &FORWARD_GROUP_LENGTHS,
];

static FORWARD: ByFamily<ByItem> = ByFamily {
    lane: ByItem::new(&FORWARD_LANE, &FORWARD_LANE_SCALAR),
    group: ByItem::new(&FORWARD_GROUP, &FORWARD_GROUP_SCALAR),
};

/// Of rows that are a multiple of four floats apart.
static FORWARD_LENGTHS: ByFamily<ByItem> = ByFamily {
    lane: ByItem::new(&FORWARD_LANE_LENGTHS, &FORWARD_LANE_LENGTHS),
    group: ByItem::new(&FORWARD_GROUP_LENGTHS, &FORWARD_GROUP_LENGTHS),
};

static BACKWARD: ByFamily<ByItem> = ByFamily {
    lane: ByItem::new(&BACKWARD_LANE, &BACKWARD_LANE_SCALAR),
    group: ByItem::new(&BACKWARD_GROUP, &BACKWARD_GROUP_SCALAR),
};

/// Dispatches a pass for `params`, whose stride is still in floats.
fn dispatch(pass: &ByFamily<ByItem>, gpu: &Gpu, params: SoftmaxParams, buffers: &[&BufferView]) -> Result<()> {
    let (rows, stride) = (params.rows as usize, params.stride as usize);
    let (kernels, item) = (pass.map(|forms| forms.pick(stride).0), pass.lane.pick(stride).1);
    let team = team_of(stride / item);
    let params = SoftmaxParams { stride: (stride / item) as u32, lanes: team as u32, ..params };
    let (kernel, grid) = kernels.by_row(gpu, &params, [LANES, LANES / team].map(|share| Grid::linear(rows, share)));
    gpu.dispatch(kernel, &params, buffers, grid)
}

/// exp(x) / Σ exp(x) over the last axis: `f32[.., V]` to the same shape. An entry of −∞ gives 0, a row of nothing else gives
/// zeros.
///
/// # Errors
/// If `x` is not f32.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    expect_f32("softmax", x)?;
    let y = x.copied()?;
    let (rows, width) = (x.shape().rows(), x.shape().last());
    softmax_rows(x.gpu(), y.buffer(), Rows { rows, width, stride: width }, Seen::ALL)?;
    let saved = y.detach();
    Ok(record(y, &[x], || Rule { y: saved }))
}

/// Rows of scores: `width` each, `stride` ≥ `width` floats from the last. Fastest where `stride` is a multiple of 4.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) stride: usize,
}

impl Rows {
    fn params(&self) -> SoftmaxParams {
        let Rows { rows, width, stride } = *self;
        SoftmaxParams {
            rows: rows as u32,
            width: width as u32,
            stride: stride as u32,
            causal: 0,
            before: 0,
            sample: 0,
            lanes: 0,
        }
    }
}

/// Which scores of a row count; the others become 0.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    /// Of row r, the first before + 1 + r mod queries, given (queries, before).
    pub(super) causal: Option<(usize, usize)>,
    /// The first of so many as the row's sample has, given `u32[B]` and the rows of a sample; `stride` must be a multiple of 4.
    pub(super) lengths: Option<(&'a BufferView, usize)>,
}

impl Seen<'_> {
    pub(super) const ALL: Self = Seen { causal: None, lengths: None };
}

/// Softmax in place. What lies between a row's width and the next row becomes 0, and so does a row that sees nothing.
pub(super) fn softmax_rows(gpu: &Gpu, scores: &BufferView, rows: Rows, seen: Seen<'_>) -> Result<()> {
    let (causal, before) = seen.causal.unwrap_or((0, 0));
    let params = SoftmaxParams { causal: causal as u32, before: before as u32, ..rows.params() };
    match seen.lengths {
        None => dispatch(&FORWARD, gpu, params, &[scores]),
        Some((lengths, sample)) => {
            let params = SoftmaxParams { sample: sample as u32, ..params };
            dispatch(&FORWARD_LENGTHS, gpu, params, &[scores, lengths])
        }
    }
}

/// Turns dP into dS = P ∘ (dP − Σ P ∘ dP) in place of `d`, for `probabilities` P that [`softmax_rows`] made of such rows. What
/// lies between a row's width and the next row becomes 0, whatever it was.
pub(super) fn softmax_rows_backward(gpu: &Gpu, probabilities: &BufferView, d: &BufferView, rows: Rows) -> Result<()> {
    dispatch(&BACKWARD, gpu, rows.params(), &[probabilities, d])
}

struct Rule {
    y: Tensor,
}

impl Backward for Rule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let dx = sole_or_copy(&dy)?;
        let (rows, width) = (dx.shape().rows(), dx.shape().last());
        softmax_rows_backward(dx.gpu(), self.y.buffer(), dx.buffer(), Rows { rows, width, stride: width })?;
        parents.give(0, dx)
    }

    fn reads(&self, _i: usize) -> bool {
        false
    }
}

/// The same on the CPU, slowly.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    /// Softmax of rows of `width` elements.
    pub fn forward(x: &[f32], width: usize) -> Vec<f32> {
        let row = |row: &[f32]| {
            let largest = row.iter().fold(f64::from(f32::MIN), |m, &v| m.max(v.into()));
            let e: Vec<_> = row.iter().map(|&v| (f64::from(v) - largest).exp()).collect();
            let sum: f64 = e.iter().sum();
            e.into_iter().map(|e| if sum == 0.0 { 0.0 } else { (e / sum) as f32 }).collect::<Vec<_>>()
        };
        x.chunks(width).flat_map(row).collect()
    }

    /// dx = y ∘ (dy − Σ y ∘ dy), with y = softmax(x).
    pub fn backward(x: &[f32], dy: &[f32], width: usize) -> Vec<f32> {
        let y = forward(x, width);
        let row = |(y, dy): (&[f32], &[f32])| {
            let dot: f64 = y.iter().zip(dy).map(|(&y, &dy)| f64::from(y) * f64::from(dy)).sum();
            y.iter().zip(dy).map(|(&y, &dy)| (f64::from(y) * (f64::from(dy) - dot)) as f32).collect::<Vec<_>>()
        };
        y.chunks(width).zip(dy.chunks(width)).flat_map(row).collect()
    }
}
