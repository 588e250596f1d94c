//! The place of the largest element along an axis.

use super::passes::slice_of;
use crate::error::Result;
use crate::gpu::{Access, Grid, Kernel, Params, looped, params, rounds, wgsl};
use crate::ops::item::LANES;
use crate::ops::{axis, expect_f32, shape};
use crate::shape::DType;
use crate::tensor::Tensor;

params!(ArgmaxParams { outer: u32, len: u32, inner: u32, entrants: u32, slice: u32, slices: u32, has_candidates: u32 });

static ARGMAX: Kernel = Kernel {
    name: "argmax",
    sources: &[wgsl!("argmax.wgsl"), wgsl!("lib/grid.wgsl"), wgsl!("lib/nan.wgsl"), wgsl!("tiles/scalar.wgsl")],
    entry: "argmax",
    bindings: &[Access::Read, Access::Read, Access::Write],
    params: ArgmaxParams::FIELDS,
    constants: &[],
    rounds: rounds!(ArgmaxParams, |p, _| looped(p.slice, 0)),
};

pub(crate) const KERNELS: &[&Kernel] = &[&ARGMAX];

/// The place of the largest element along `along`, counted from 0, the first of equals; a NaN counts as the largest. `f32[..]` to
/// `u32` of the other axes. Has no gradient. Over all axes: of the tensor [reshaped](super::super::reshape()) to one.
///
/// # Errors
/// If `x` is not f32 or has no such axis.
pub fn argmax(x: &Tensor, along: usize) -> Result<Tensor> {
    const OP: &str = "argmax";
    expect_f32(OP, x)?;
    let along = axis(OP, x, along)?;
    let (before, after) = (&x.dims()[..along], &x.dims()[along + 1..]);
    let (outer, len, inner): (usize, usize, usize) = (before.iter().product(), x.dims()[along], after.iter().product());
    // In the first pass nothing has won yet, and x stands in the place of what is not read.
    let (mut candidates, mut entrants) = (None::<Tensor>, len);
    loop {
        let slice = slice_of(entrants);
        let slices = entrants.div_ceil(slice);
        let to = if slices == 1 { [before, after].concat() } else { vec![outer, slices, inner] };
        let places = Tensor::unwritten(x.gpu(), DType::U32, shape(OP, &to)?)?;
        let params = ArgmaxParams {
            outer: outer as u32,
            len: len as u32,
            inner: inner as u32,
            entrants: entrants as u32,
            slice: slice as u32,
            slices: slices as u32,
            has_candidates: u32::from(candidates.is_some()),
        };
        let buffers = [x.buffer(), candidates.as_ref().unwrap_or(x).buffer(), places.buffer()];
        x.gpu().dispatch(&ARGMAX, &params, &buffers, Grid::linear(outer * slices * inner, LANES))?;
        if slices == 1 {
            return Ok(places);
        }
        (candidates, entrants) = (Some(places), slices);
    }
}
