//! Softmax over the last axis, as an operation and, in place on padded rows, as a part of attention; and its logarithm.

pub mod log_softmax;

pub use log_softmax::log_softmax;

use crate::autograd::{Backward, ParentGradients, record};
use crate::error::Result;
use crate::gpu::{Access, BufferView, Gpu, Grid, Kernel, Params, looped, params, rounds, wgsl};
use crate::ops::item::{reduce_rounds, rest_rounds, team_of};
use crate::ops::variants::{ByFamily, ByItem};
use crate::ops::{expect_f32, sole_or_copy};
use crate::tensor::Tensor;

params!(SoftmaxParams { rows: u32, width: u32, stride: u32, causal: u32, lanes: u32 });

static FORWARD_LANE: Kernel = Kernel {
    name: "softmax.forward_lane",
    sources: &[
        wgsl!("softmax.wgsl"),
        wgsl!("lib/grid.wgsl"),
        wgsl!("lib/four.wgsl"),
        wgsl!("lib/reduce.wgsl"),
        wgsl!("tiles/vec4.wgsl"),
        wgsl!("tiles/columns_vec4.wgsl"),
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
        wgsl!("lib/reduce.wgsl"),
        wgsl!("tiles/scalar.wgsl"),
        wgsl!("tiles/columns_scalar.wgsl"),
    ],
    ..FORWARD_LANE
};

static FORWARD_GROUP_SCALAR: Kernel =
    Kernel { name: "softmax.forward_group_scalar", sources: FORWARD_LANE_SCALAR.sources, ..FORWARD_GROUP };

static BACKWARD_LANE_SCALAR: Kernel =
    Kernel { name: "softmax.backward_lane_scalar", sources: FORWARD_LANE_SCALAR.sources, ..BACKWARD_LANE };

static BACKWARD_GROUP_SCALAR: Kernel =
    Kernel { name: "softmax.backward_group_scalar", sources: FORWARD_LANE_SCALAR.sources, ..BACKWARD_GROUP };

pub(crate) const KERNELS: &[&Kernel] = &[
    &FORWARD_LANE,
    &FORWARD_GROUP,
    &BACKWARD_LANE,
    &BACKWARD_GROUP,
    &FORWARD_LANE_SCALAR,
    &FORWARD_GROUP_SCALAR,
    &BACKWARD_LANE_SCALAR,
    &BACKWARD_GROUP_SCALAR,
];

/// Invocations a workgroup, as in the shader.
const LANES: usize = 64;

static FORWARD: ByFamily<ByItem> = ByFamily {
    lane: ByItem::new(&FORWARD_LANE, &FORWARD_LANE_SCALAR),
    group: ByItem::new(&FORWARD_GROUP, &FORWARD_GROUP_SCALAR),
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
    softmax_rows(x.gpu(), y.buffer(), rows, width, width, None)?;
    let saved = y.detach();
    Ok(record(y, &[x], || Rule { y: saved }))
}

/// Softmax in place of `rows` rows of `width` scores, each `stride` ≥ `width` floats from the last; what lies between
/// becomes 0. With `causal_tokens` T, row r sees only its first 1 + r mod T scores; the others become 0. Fastest where
/// `stride` is a multiple of 4.
pub(super) fn softmax_rows(
    gpu: &Gpu,
    scores: &BufferView,
    rows: usize,
    width: usize,
    stride: usize,
    causal_tokens: Option<usize>,
) -> Result<()> {
    let params = SoftmaxParams {
        rows: rows as u32,
        width: width as u32,
        stride: stride as u32,
        causal: causal_tokens.unwrap_or(0) as u32,
        lanes: 0,
    };
    dispatch(&FORWARD, gpu, params, &[scores])
}

/// Turns dP into dS = P ∘ (dP − Σ P ∘ dP) in place of `d`, for `probabilities` P that [`softmax_rows`] made with the same
/// sizes, also the causal ones. What lies between `width` and `stride` becomes 0, whatever it was.
pub(super) fn softmax_rows_backward(
    gpu: &Gpu,
    probabilities: &BufferView,
    d: &BufferView,
    rows: usize,
    width: usize,
    stride: usize,
) -> Result<()> {
    let params = SoftmaxParams { rows: rows as u32, width: width as u32, stride: stride as u32, causal: 0, lanes: 0 };
    dispatch(&BACKWARD, gpu, params, &[probabilities, d])
}

struct Rule {
    y: Tensor,
}

impl Backward for Rule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let dx = sole_or_copy(&dy)?;
        let (rows, width) = (dx.shape().rows(), dx.shape().last());
        softmax_rows_backward(dx.gpu(), self.y.buffer(), dx.buffer(), rows, width, width)?;
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
