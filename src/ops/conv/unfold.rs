//! The windows of pictures as rows.

use crate::autograd::{Backward, ParentGradients, record};
use crate::error::{Error, Result};
use crate::gpu::{Access, Grid, Kernel, NO_LOOPS, Params, looped, params, rounds, wgsl};
use crate::ops::item::LANES;
use crate::ops::shape;
use crate::shape::DType;
use crate::tensor::Tensor;

params!(UnfoldParams {
    items: u32,
    accumulate: u32,
    outside: f32,
    c: u32,
    h: u32,
    w: u32,
    oh: u32,
    ow: u32,
    kh: u32,
    kw: u32,
    stride_y: u32,
    stride_x: u32,
    pad_y: u32,
    pad_x: u32,
    dilation_y: u32,
    dilation_x: u32,
    reach_y: u32,
    reach_x: u32,
});

static UNFOLD: Kernel = Kernel {
    name: "unfold",
    sources: &[wgsl!("unfold.wgsl"), wgsl!("lib/grid.wgsl")],
    entry: "unfold",
    bindings: &[Access::Read, Access::Write],
    params: UnfoldParams::FIELDS,
    constants: &[],
    rounds: NO_LOOPS,
};

static FOLD: Kernel = Kernel {
    name: "unfold.fold",
    entry: "fold",
    rounds: rounds!(UnfoldParams, |p, _| {
        let windows = |reach: u32, stride: u32, all: u32| reach.div_ceil(stride).min(all);
        looped(windows(p.reach_y, p.stride_y, p.oh), looped(windows(p.reach_x, p.stride_x, p.ow), 0))
    }),
    ..UNFOLD
};

pub(super) const KERNELS: &[&Kernel] = &[&UNFOLD, &FOLD];

/// The windows of pictures `f32[B, C, H, W]`; pairs are along y and x.
#[derive(Clone, Copy)]
pub(super) struct Windows {
    /// B, C, H, W.
    picture: [usize; 4],
    size: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    dilation: [usize; 2],
}

impl Windows {
    /// Of pictures `x` of rank 4.
    pub(super) fn new(
        op: &'static str,
        x: &Tensor,
        size: [usize; 2],
        stride: [usize; 2],
        padding: [usize; 2],
        dilation: [usize; 2],
    ) -> Result<Self> {
        let picture = x.shape().to_array().ok_or(Error::Shape { op, what: "needs f32[B, C, H, W]", got: x.info() })?;
        // The shader's places are u32, and wrap around where a window begins before the picture.
        const MOST: usize = 1 << 15;
        for (name, pair, least) in
            [("size", size, 1), ("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1)]
        {
            if pair.iter().any(|v| !(least..MOST).contains(v)) {
                return Err(Error::argument(op, name, format!("{least} to {}", MOST - 1), format!("{pair:?}")));
            }
        }
        let windows = Windows { picture, size, stride, padding, dilation };
        let fits = (0..2).all(|axis| windows.reach(axis) <= picture[2 + axis] + 2 * padding[axis]);
        if !fits {
            let expected = format!("within the padded picture of {}", x.info());
            return Err(Error::argument(op, "window", expected, format!("{size:?} with dilation {dilation:?}")));
        }
        Ok(windows)
    }

    /// Pixels from the first tap of a window to its last.
    fn reach(&self, axis: usize) -> usize {
        self.dilation[axis] * (self.size[axis] - 1) + 1
    }

    /// OH and OW.
    pub(super) fn places(&self) -> [usize; 2] {
        let along = |axis| (self.picture[2 + axis] + 2 * self.padding[axis] - self.reach(axis)) / self.stride[axis] + 1;
        [along(0), along(1)]
    }

    fn params(&self, items: usize, outside: f32, accumulate: u32) -> UnfoldParams {
        let [_, c, h, w] = self.picture.map(|v| v as u32);
        let [oh, ow] = self.places().map(|v| v as u32);
        let pair = |pair: [usize; 2]| pair.map(|v| v as u32);
        let ([kh, kw], [stride_y, stride_x]) = (pair(self.size), pair(self.stride));
        let ([pad_y, pad_x], [dilation_y, dilation_x]) = (pair(self.padding), pair(self.dilation));
        UnfoldParams {
            items: items as u32,
            accumulate,
            outside,
            c,
            h,
            w,
            oh,
            ow,
            kh,
            kw,
            stride_y,
            stride_x,
            pad_y,
            pad_x,
            dilation_y,
            dilation_x,
            reach_y: self.reach(0) as u32,
            reach_x: self.reach(1) as u32,
        }
    }
}

/// Each window as a row: `f32[B, C, H, W]` to `f32[B, OH·OW, C·KH·KW]`, with `outside` for pixels beyond the picture.
pub(super) fn unfold(x: &Tensor, windows: Windows, outside: f32) -> Result<Tensor> {
    let ([batch, c, _, _], [oh, ow], [kh, kw]) = (windows.picture, windows.places(), windows.size);
    let y = Tensor::unwritten(x.gpu(), DType::F32, shape("unfold", &[batch, oh * ow, c * kh * kw])?)?;
    let params = windows.params(y.numel(), outside, 0);
    x.gpu().dispatch(&UNFOLD, &params, &[x.buffer(), y.buffer()], Grid::linear(y.numel(), LANES))?;
    Ok(record(y, &[x], || Rule { windows }))
}

struct Rule {
    windows: Windows,
}

impl Backward for Rule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Some(dx) = parents.destination(0)? else { return Ok(()) };
        let items = dx.tensor.numel();
        let params = self.windows.params(items, 0.0, dx.flag());
        dy.gpu().dispatch(&FOLD, &params, &[dy.buffer(), dx.tensor.buffer()], Grid::linear(items, LANES))
    }

    fn reads(&self, _i: usize) -> bool {
        false
    }
}
