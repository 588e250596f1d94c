//! Copies rows of tokens between tensors of different lengths: what slices, embeddings and their gradients share.
//! Not differentiable by itself.

use crate::error::{Error, Result};
use crate::gpu::{Access, Kernel, Params, params, rounds, wgsl};
use crate::ops::expect_f32;
use crate::ops::item::{sample_grid, sample_rounds};
use crate::ops::variants::ByItem;
use crate::tensor::Tensor;

params!(CopyRowsParams {
    items: u32,
    samples: u32,
    x_first: u32,
    x_stride: u32,
    y_first: u32,
    y_stride: u32,
    accumulate: u32,
});

static VEC4: Kernel = Kernel {
    name: "copy_rows.vec4",
    sources: &[wgsl!("copy_rows.wgsl"), wgsl!("tiles/vec4.wgsl")],
    entry: "copy_rows",
    bindings: &[Access::Read, Access::Write],
    params: CopyRowsParams::FIELDS,
    constants: &[],
    rounds: rounds!(CopyRowsParams, |p, groups| sample_rounds(p.items, p.samples, groups, 0)),
};

static SCALAR: Kernel =
    Kernel { name: "copy_rows.scalar", sources: &[wgsl!("copy_rows.wgsl"), wgsl!("tiles/scalar.wgsl")], ..VEC4 };

const FORMS: ByItem = ByItem::new(&VEC4, &SCALAR);

pub(crate) const KERNELS: &[&Kernel] = &[&VEC4, &SCALAR];

/// B, T and C, if `x` is `f32[B, T, C]`.
pub(super) fn token_sizes(op: &'static str, x: &Tensor) -> Result<[usize; 3]> {
    expect_f32(op, x)?;
    x.shape().to_array().ok_or(Error::Shape { op, what: "needs f32[B, T, C]", got: x.info() })
}

/// A tensor `f32[B, T, C]` (or the gradient of one) and the first of the rows that are meant.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) tensor: &'a Tensor,
    /// T, which the tensor's own shape may not say.
    pub(super) tokens: usize,
    pub(super) first: usize,
}

/// Copies `count` rows of `width` floats in each of `samples`; adds them to `to` if `accumulate` is 1.
pub(super) fn copy_rows(
    from: Rows<'_>,
    to: Rows<'_>,
    [samples, count, width]: [usize; 3],
    accumulate: u32,
) -> Result<()> {
    debug_assert!(from.first + count <= from.tokens && from.tensor.numel() == samples * from.tokens * width);
    debug_assert!(to.first + count <= to.tokens && to.tensor.numel() == samples * to.tokens * width);
    let (kernel, item) = FORMS.pick(width);
    let items_of = |rows: usize| (rows * (width / item)) as u32;
    let params = CopyRowsParams {
        items: items_of(count),
        samples: samples as u32,
        x_first: items_of(from.first),
        x_stride: items_of(from.tokens),
        y_first: items_of(to.first),
        y_stride: items_of(to.tokens),
        accumulate,
    };
    let grid = sample_grid(count * width / item, samples);
    from.tensor.gpu().dispatch(kernel, &params, &[from.tensor.buffer(), to.tensor.buffer()], grid)
}
