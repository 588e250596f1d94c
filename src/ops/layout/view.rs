//! Tensors seen in another order or in part, and copied so.

use std::ops::Range;

use crate::autograd::{Backward, Destination, ParentGradients, record, unchanged};
use crate::error::{Error, Result};
use crate::ops::reduce::sum_to;
use crate::ops::strided::{View, common, copy_view, repeating_strides, sizes};
use crate::ops::{axis, expect_f32, reshape};
use crate::shape::{DType, Shape};
use crate::tensor::{Tensor, checked_shape};

/// The axes in the order `order`, as NumPy's `transpose`: axis k of the result is axis `order[k]` of `x`; `f32[D₀, D₁, ..]` to
/// `f32[D_order[0], D_order[1], ..]`.
///
/// # Errors
/// If `x` is not f32, or `order` does not name each axis once.
pub fn permute(x: &Tensor, order: &[usize]) -> Result<Tensor> {
    const OP: &str = "permute";
    expect_f32(OP, x)?;
    let rank = x.shape().rank();
    let mut sorted = order.to_vec();
    sorted.sort_unstable();
    if !sorted.iter().copied().eq(0..rank) {
        let expected = format!("each of the {rank} axes of {} once", x.info());
        return Err(Error::argument(OP, "order", expected, format!("{order:?}")));
    }
    let dims: Vec<usize> = order.iter().map(|&axis| x.dims()[axis]).collect();
    let all = View::all(sizes(x.shape()));
    let mut view = all;
    let first = Shape::MAX_RANK - rank;
    for (to, &from) in order.iter().enumerate() {
        (view.sizes[first + to], view.strides[first + to]) = (all.sizes[first + from], all.strides[first + from]);
    }
    copied(OP, x, &dims, view)
}

/// `x` with two axes exchanged.
///
/// # Errors
/// If `x` is not f32 or has no such axes.
pub fn transpose(x: &Tensor, a: usize, b: usize) -> Result<Tensor> {
    const OP: &str = "transpose";
    let (a, b) = (axis(OP, x, a)?, axis(OP, x, b)?);
    let mut order: Vec<usize> = (0..x.shape().rank()).collect();
    order.swap(a, b);
    permute(x, &order)
}

/// The part of `x` with indices in `range` along the axis `along`: `f32[.., N, ..]` to `f32[.., range.len(), ..]`. All of
/// them are `x` itself.
///
/// # Errors
/// If `x` is not f32, has no such axis, or the range is empty or goes beyond it.
pub fn slice(x: &Tensor, along: usize, range: Range<usize>) -> Result<Tensor> {
    const OP: &str = "slice";
    expect_f32(OP, x)?;
    let along = axis(OP, x, along)?;
    if range.is_empty() || range.end > x.dims()[along] {
        let expected = format!("not empty and within 0..{}", x.dims()[along]);
        return Err(Error::argument(OP, "range", expected, format!("{range:?}")));
    }
    if range.len() == x.dims()[along] {
        return Ok(unchanged(x));
    }
    let mut dims = x.dims().to_vec();
    dims[along] = range.len();
    copied(OP, x, &dims, part(x.shape(), along, range))
}

/// The part of a shape's elements with indices in `range` along an axis.
pub(super) fn part(shape: Shape, axis: usize, range: Range<usize>) -> View {
    View::all(sizes(shape)).part(Shape::MAX_RANK - shape.rank() + axis, range.start, range.len())
}

/// `x` repeated to the sizes `dims`, `f32[..]` to `f32[dims]`: axes are matched from the last, and those of size 1, or that `x` lacks, are repeated
/// (PyTorch's `broadcast_to`). A tensor of these sizes is returned as it is.
///
/// # Errors
/// If `x` is not f32, or cannot be broadcast to `dims`.
pub fn expand(x: &Tensor, dims: &[usize]) -> Result<Tensor> {
    const OP: &str = "expand";
    expect_f32(OP, x)?;
    let shape = checked_shape(OP, dims)?;
    if common(x.shape(), shape) != Some(shape) {
        let expected = format!("sizes that {} can be repeated to", x.info());
        return Err(Error::argument(OP, "shape", expected, shape));
    }
    if x.shape() == shape {
        return Ok(unchanged(x));
    }
    if x.numel() == shape.numel() {
        return reshape(x, dims);
    }
    let view = View { sizes: sizes(shape), strides: repeating_strides(sizes(x.shape())), offset: 0 };
    let y = fresh(x, shape, view)?;
    Ok(record(y, &[x], || ExpandRule))
}

/// The elements of a view, in memory of their own.
fn fresh(x: &Tensor, shape: Shape, view: View) -> Result<Tensor> {
    let tensor = Tensor::unwritten(x.gpu(), DType::F32, shape)?;
    let to = Destination { tensor: tensor.clone(), accumulate: false };
    copy_view(x, view, &to, View::all(view.sizes))?;
    Ok(tensor)
}

/// [`fresh`] in the graph of `x`, for a view that meets no element twice.
fn copied(op: &'static str, x: &Tensor, dims: &[usize], view: View) -> Result<Tensor> {
    let y = fresh(x, crate::ops::shape(op, dims)?, view)?;
    Ok(record(y, &[x], || ViewRule { view, of: x.numel() }))
}

struct ViewRule {
    view: View,
    /// Elements of x.
    of: usize,
}

impl Backward for ViewRule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Some(dx) = parents.destination(0)? else { return Ok(()) };
        if dy.numel() < self.of {
            dx.zeroed()?;
        }
        copy_view(&dy, View::all(self.view.sizes), &dx, self.view)
    }

    fn reads(&self, _i: usize) -> bool {
        false
    }
}

struct ExpandRule;

impl Backward for ExpandRule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        parents.destination(0)?.map_or(Ok(()), |dx| sum_to(&dy, 1.0, &dx))
    }

    fn reads(&self, _i: usize) -> bool {
        false
    }
}
