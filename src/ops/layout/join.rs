//! Tensors put together, and put into larger ones.

use std::ops::Range;

use super::view::part;
use crate::autograd::{Backward, Destination, ParentGradients, record};
use crate::error::{Error, Result};
use crate::ops::strided::{View, copy_view, sizes};
use crate::ops::{axis, expect_f32, expect_match, reshape, shape};
use crate::shape::{DType, Shape};
use crate::tensor::Tensor;

/// Joins tensors along the axis `along`: `f32[.., N₀, ..]`, `f32[.., N₁, ..]`, .. to `f32[.., N₀ + N₁ + .., ..]`. In the other axes their
/// sizes are equal.
///
/// # Errors
/// If there is no part, a part is not f32 or lacks the axis, or other sizes differ.
pub fn concat(parts: &[&Tensor], along: usize) -> Result<Tensor> {
    const OP: &str = "concat";
    let first = first_of(OP, parts)?;
    let along = axis(OP, first, along)?;
    let mut dims = first.dims().to_vec();
    let mut ranges = Vec::with_capacity(parts.len());
    let mut end = 0;
    for part in parts {
        expect_f32(OP, part)?;
        let others = |x: &Tensor| x.dims().iter().enumerate().filter(|(i, _)| *i != along).map(|(_, d)| *d).collect();
        let (a, b): (Vec<usize>, Vec<usize>) = (others(first), others(part));
        let fits = part.shape().rank() == first.shape().rank() && a == b;
        expect_match(OP, first, part, fits, "sizes must be equal but along the axis")?;
        ranges.push(end..end + part.dims()[along]);
        end += part.dims()[along];
    }
    dims[along] = end;
    let joined = Joined { shape: shape(OP, &dims)?, along, ranges };
    let y = Tensor::unwritten(first.gpu(), DType::F32, joined.shape)?;
    let whole = Destination { tensor: y, accumulate: false };
    for (x, range) in parts.iter().zip(&joined.ranges) {
        copy_view(x, View::all(sizes(x.shape())), &whole, joined.part(range))?;
    }
    Ok(record(whole.tensor, parts, || joined))
}

/// Joins N tensors of one shape along a new axis, which stands before the axis `along` of each, or after the last: `f32[.., M, ..]` each to
/// `f32[.., N, M, ..]`.
///
/// # Errors
/// As [`concat()`], or if the result has too many axes.
pub fn stack(parts: &[&Tensor], along: usize) -> Result<Tensor> {
    const OP: &str = "stack";
    let first = first_of(OP, parts)?;
    if along > first.shape().rank() {
        let expected = format!("at most {}, the rank of {}", first.shape().rank(), first.info());
        return Err(Error::argument(OP, "axis", expected, along));
    }
    let mut dims = first.dims().to_vec();
    dims.insert(along, 1);
    for part in parts {
        expect_match(OP, first, part, part.shape() == first.shape(), "shapes differ")?;
    }
    let lines: Vec<Tensor> = parts.iter().map(|part| reshape(part, &dims)).collect::<Result<_>>()?;
    concat(&lines.iter().collect::<Vec<_>>(), along)
}

fn first_of<'a>(op: &'static str, parts: &[&'a Tensor]) -> Result<&'a Tensor> {
    parts.first().copied().ok_or_else(|| Error::argument(op, "parts", "at least one tensor", 0))
}

struct Joined {
    /// Of the result.
    shape: Shape,
    along: usize,
    /// Of each part, along the axis.
    ranges: Vec<Range<usize>>,
}

impl Joined {
    fn part(&self, range: &Range<usize>) -> View {
        part(self.shape, self.along, range.clone())
    }
}

impl Backward for Joined {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        for (i, range) in self.ranges.iter().enumerate() {
            if let Some(to) = parents.destination(i)? {
                let part = self.part(range);
                copy_view(&dy, part, &to, View::all(part.sizes))?;
            }
        }
        Ok(())
    }

    fn reads(&self, _i: usize) -> bool {
        false
    }
}

/// `x` with `widths[k] = (before, after)` elements of `value` around it along each axis k (NumPy's `pad`, constant mode): `f32[.., N, ..]` to
/// `f32[.., before + N + after, ..]`.
///
/// # Errors
/// If `x` is not f32, or there is not one pair for each axis.
pub fn pad(x: &Tensor, widths: &[(usize, usize)], value: f32) -> Result<Tensor> {
    const OP: &str = "pad";
    expect_f32(OP, x)?;
    if widths.len() != x.shape().rank() {
        let expected = format!("a pair for each of the {} axes", x.shape().rank());
        return Err(Error::argument(OP, "widths", expected, widths.len()));
    }
    let padded = |(&size, &(before, after)): (&usize, &(usize, usize))| size.checked_add(before)?.checked_add(after);
    let dims: Option<Vec<usize>> = x.dims().iter().zip(widths).map(padded).collect();
    let whole = shape(OP, &dims.unwrap_or_else(|| vec![0]))?;
    let mut inside = View::all(sizes(whole));
    for (axis, (size, (before, _))) in x.dims().iter().zip(widths).enumerate() {
        inside = inside.part(Shape::MAX_RANK - whole.rank() + axis, *before, *size);
    }
    let y = filled(x, whole, value)?;
    let to = Destination { tensor: y, accumulate: false };
    copy_view(x, View::all(inside.sizes), &to, inside)?;
    Ok(record(to.tensor, &[x], || Padded { inside }))
}

/// A tensor of `value`s.
fn filled(x: &Tensor, shape: Shape, value: f32) -> Result<Tensor> {
    let tensor = Tensor::unwritten(x.gpu(), DType::F32, shape)?;
    if value == 0.0 {
        x.gpu().clear(tensor.buffer())?;
        return Ok(tensor);
    }
    let one = Tensor::from_slice(x.gpu(), &[], &[value])?;
    let repeated = View { sizes: sizes(shape), strides: [0; Shape::MAX_RANK], offset: 0 };
    let to = Destination { tensor, accumulate: false };
    copy_view(&one, repeated, &to, View::all(repeated.sizes))?;
    Ok(to.tensor)
}

struct Padded {
    /// Where x lies in the result.
    inside: View,
}

impl Backward for Padded {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        parents.destination(0)?.map_or(Ok(()), |dx| copy_view(&dy, self.inside, &dx, View::all(self.inside.sizes)))
    }

    fn reads(&self, _i: usize) -> bool {
        false
    }
}
