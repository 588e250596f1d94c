//! Sums and largest elements over any axes: the passes beneath [`super::sum_axes`] and its kin, and beneath the gradient of
//! whatever is broadcast. Not differentiable by themselves.

use crate::autograd::Destination;
use crate::error::{Error, Result};
use crate::gpu::lib::reduce_rounds;
use crate::gpu::{Access, Grid, Kernel, KernelFamily, Params, looped, params, rounds, wgsl};
use crate::ops::item::LANES;
use crate::ops::strided::{Axes, sizes};
use crate::ops::variants::ByItem;
use crate::shape::{DType, Shape};
use crate::tensor::Tensor;

params!(ReduceParams { outer: u32, len: u32, inner: u32, slice: u32, slices: u32, factor: f32, accumulate: u32 });

/// The kernels of one reduction.
pub(super) struct Reduction {
    lane: ByItem,
    /// Along rows, by a workgroup.
    group: &'static Kernel,
}

macro_rules! reduction {
    ($name:literal, $file:literal, $team:literal, $vec4:ident, $scalar:ident, $group:ident, $reduction:ident) => {
        static $vec4: Kernel = Kernel {
            name: concat!("reduce.", $name, ".vec4"),
            sources: &[
                wgsl!("reduce.wgsl"),
                wgsl!("lib/grid.wgsl"),
                wgsl!("lib/nan.wgsl"),
                wgsl!($file),
                wgsl!("tiles/vec4.wgsl"),
            ],
            entry: "reduce_lane",
            bindings: &[Access::Read, Access::Write],
            params: ReduceParams::FIELDS,
            constants: &[],
            rounds: rounds!(ReduceParams, |p, _| looped(p.slice.div_ceil(32), looped(32u64, 0))),
        };
        static $scalar: Kernel = Kernel {
            name: concat!("reduce.", $name, ".scalar"),
            sources: &[
                wgsl!("reduce.wgsl"),
                wgsl!("lib/grid.wgsl"),
                wgsl!("lib/nan.wgsl"),
                wgsl!($file),
                wgsl!("tiles/scalar.wgsl"),
            ],
            ..$vec4
        };
        static $group: Kernel = Kernel {
            name: concat!("reduce.", $name, ".group"),
            sources: &[
                wgsl!("reduce_rows.wgsl"),
                wgsl!("lib/grid.wgsl"),
                wgsl!("lib/nan.wgsl"),
                wgsl!("lib/reduce.wgsl"),
                wgsl!($file),
                wgsl!($team),
                wgsl!("tiles/scalar.wgsl"),
            ],
            entry: "reduce_group",
            rounds: rounds!(ReduceParams, |p, _| looped(p.slice.div_ceil(LANES as u32), 0) + 2 * reduce_rounds()),
            ..$vec4
        };
        pub(super) static $reduction: Reduction = Reduction { lane: ByItem::new(&$vec4, &$scalar), group: &$group };
    };
}

reduction!("sum", "reduce/sum.wgsl", "reduce/sum_team.wgsl", SUM_VEC4, SUM_SCALAR, SUM_GROUP, SUM);
reduction!("max", "reduce/max.wgsl", "reduce/max_team.wgsl", MAX_VEC4, MAX_SCALAR, MAX_GROUP, MAX);

pub(crate) const KERNELS: &[&Kernel] = &[&SUM_VEC4, &SUM_SCALAR, &SUM_GROUP, &MAX_VEC4, &MAX_SCALAR, &MAX_GROUP];

/// So many elements are reduced in one pass; longer axes are cut into slices of a quarter.
pub(super) const ONE_PASS: usize = 1024;
pub(super) const SLICE: usize = ONE_PASS / 4;

/// Rows of so many elements are one invocation's: a workgroup would leave most of its own idle.
const SHORT: usize = 32;

/// How an axis of `len` is cut: elements of a slice.
pub(super) fn slice_of(len: usize) -> usize {
    if len <= ONE_PASS { len } else { SLICE }
}

impl Reduction {
    /// `to` = factor · the reduction of `x` over its axes marked in `over`, or += it. `to` has x's elements without those axes, or
    /// with 1 in their place.
    pub(super) fn run(&self, x: &Tensor, over: [bool; Shape::MAX_RANK], factor: f32, to: &Destination) -> Result<()> {
        let mut rest = groups(sizes(x.shape()), over);
        let mut x = x.detach();
        let last = rest.pop().unwrap_or(Group { outer: 1, len: 1, inner: x.numel() });
        // From the innermost on, so that what is left of an outer group's inner axes is known.
        for group in rest {
            let y = Tensor::unwritten(x.gpu(), DType::F32, crate::ops::shape("reduce", &[group.outer, group.inner])?)?;
            self.run_group(&x, group, 1.0, &Destination { tensor: y.clone(), accumulate: false })?;
            x = y;
        }
        self.run_group(&x, last, factor, to)
    }

    /// One group of neighbouring axes, in as many passes as its length needs.
    fn run_group(&self, x: &Tensor, group: Group, factor: f32, to: &Destination) -> Result<()> {
        let mut x = x.detach();
        let Group { outer, mut len, inner } = group;
        while slice_of(len) < len {
            let slices = len.div_ceil(slice_of(len));
            let y = Tensor::unwritten(x.gpu(), DType::F32, crate::ops::shape("reduce", &[outer, slices, inner])?)?;
            self.pass(&x, Group { len, ..group }, 1.0, &Destination { tensor: y.clone(), accumulate: false })?;
            (x, len) = (y, slices);
        }
        self.pass(&x, Group { len, ..group }, factor, to)
    }

    fn pass(&self, x: &Tensor, group: Group, factor: f32, to: &Destination) -> Result<()> {
        let Group { outer, len, inner } = group;
        let slice = slice_of(len);
        let slices = len.div_ceil(slice);
        let by_team = x.gpu().family() == KernelFamily::Workgroup && inner == 1 && slice > SHORT;
        let (kernel, item) = if by_team { (self.group, 1) } else { self.lane.pick(inner) };
        let params = ReduceParams {
            outer: outer as u32,
            len: len as u32,
            inner: (inner / item) as u32,
            slice: slice as u32,
            slices: slices as u32,
            factor,
            accumulate: to.flag(),
        };
        let results = outer * slices * (inner / item);
        let grid = Grid::linear(results, if by_team { 1 } else { LANES });
        x.gpu().dispatch(kernel, &params, &[x.buffer(), to.tensor.buffer()], grid)
    }
}

/// Neighbouring axes that are reduced together: x seen as `[outer, len, inner]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Group {
    outer: usize,
    len: usize,
    inner: usize,
}

/// The groups of marked axes, the innermost first. Those before a group have been reduced when it is its turn, and so do not
/// count in its `inner`.
fn groups(sizes: Axes, over: [bool; Shape::MAX_RANK]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut inner = 1;
    for axis in (0..Shape::MAX_RANK).rev() {
        let outer = sizes[..axis].iter().product();
        match groups.last_mut().filter(|_| axis + 1 < Shape::MAX_RANK && over[axis + 1]) {
            Some(group) if over[axis] => (group.len, group.outer) = (group.len * sizes[axis], outer),
            _ if over[axis] => groups.push(Group { outer, len: sizes[axis], inner }),
            _ => inner *= sizes[axis],
        }
    }
    groups
}

/// The sum of `x` over what was broadcast from a tensor of `to`'s shape, times `factor`: the gradient of that tensor.
pub(in crate::ops) fn sum_to(x: &Tensor, factor: f32, to: &Destination) -> Result<()> {
    let (from, into) = (sizes(x.shape()), sizes(to.tensor.shape()));
    SUM.run(x, std::array::from_fn(|axis| from[axis] != into[axis]), factor, to)
}

/// The axes as marks, counted in the padded sizes; every one must be an axis of `x`, and none named twice.
pub(super) fn marks(op: &'static str, x: &Tensor, axes: &[usize]) -> Result<[bool; Shape::MAX_RANK]> {
    let rank = x.shape().rank();
    let mut over = [false; Shape::MAX_RANK];
    for &axis in axes {
        let axis = crate::ops::axis(op, x, axis)?;
        if std::mem::replace(&mut over[Shape::MAX_RANK - rank + axis], true) {
            return Err(Error::argument(op, "axes", "different from each other", format!("{axes:?}")));
        }
    }
    Ok(over)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_axes_are_one_group() {
        let group = |outer, len, inner| Group { outer, len, inner };
        let over = |axes: [u8; 4]| [false, false, axes[0] != 0, axes[1] != 0, axes[2] != 0, axes[3] != 0];
        for (axes, expected) in [
            ([0, 0, 0, 1], vec![group(30, 7, 1)]),
            ([0, 1, 1, 0], vec![group(2, 15, 7)]),
            ([1, 0, 1, 0], vec![group(6, 5, 7), group(1, 2, 21)]),
            ([1, 0, 0, 1], vec![group(30, 7, 1), group(1, 2, 15)]),
            ([1, 1, 1, 1], vec![group(1, 210, 1)]),
            ([0, 0, 0, 0], vec![]),
        ] {
            assert_eq!(groups([1, 1, 2, 3, 5, 7], over(axes)), expected, "{axes:?}");
        }
    }
}
