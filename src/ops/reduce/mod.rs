//! Reductions over any axes: sum, mean, largest, variance, and the place of the largest.
//!
//! `keep` is PyTorch's `keepdim`: with it the reduced axes stay, with size 1, so that the result can be broadcast against the
//! input again.

mod argmax;
pub(super) mod column_sum;
mod passes;
pub mod sum;

pub use argmax::argmax;
pub(super) use passes::sum_to;
use passes::{MAX, Reduction, SUM, marks};
pub use sum::{mean, sum};

use super::elementwise::eq;
use super::strided::{View, copy_view, repeating_strides, sizes};
use super::{expect_f32, mul, reshape, scale, sub};
use crate::autograd::{Backward, Destination, ParentGradients, no_grad, record};
use crate::error::{Error, Result};
use crate::gpu::Kernel;
use crate::shape::{DType, Shape};
use crate::tensor::Tensor;

/// The kernels of this module.
pub(crate) fn kernels() -> Vec<&'static Kernel> {
    [argmax::KERNELS, column_sum::KERNELS, passes::KERNELS, sum::KERNELS].concat()
}

/// The sum over `axes`, which are counted from 0 and may be none: `f32[..]` to the other axes.
///
/// # Errors
/// If `x` is not f32, or an axis is not one of x's or named twice.
pub fn sum_axes(x: &Tensor, axes: &[usize], keep: bool) -> Result<Tensor> {
    scaled_sum("sum_axes", x, axes, keep, |_| 1.0)
}

/// The mean over `axes`: `f32[..]` to the other axes.
///
/// # Errors
/// As [`sum_axes`].
pub fn mean_axes(x: &Tensor, axes: &[usize], keep: bool) -> Result<Tensor> {
    scaled_sum("mean_axes", x, axes, keep, |n| 1.0 / n as f32)
}

/// The largest element over `axes`, NaN where one is NaN: `f32[..]` to the other axes. Equals share the gradient, as in PyTorch's
/// `amax`.
///
/// # Errors
/// As [`sum_axes`].
pub fn max_axes(x: &Tensor, axes: &[usize], keep: bool) -> Result<Tensor> {
    let reduced = Reduced::new("max_axes", x, axes, keep)?;
    let y = reduced.run(x, &MAX, 1.0)?;
    let saved = y.detach();
    Ok(record(y, &[x], || MaxRule { x: x.detach(), y: saved, reduced }))
}

/// The variance over `axes`, Σ (x − mean)² / (n − `correction`), n elements each: `f32[..]` to the other axes. PyTorch's default
/// correction is 1, Bessel's; 0 gives the mean squared deviation.
///
/// # Errors
/// As [`sum_axes`], or if n is not above the correction.
pub fn var_axes(x: &Tensor, axes: &[usize], correction: usize, keep: bool) -> Result<Tensor> {
    const OP: &str = "var_axes";
    let n = Reduced::new(OP, x, axes, true)?.count;
    if n <= correction {
        return Err(Error::argument(OP, "correction", format!("below {n}, the elements of a variance"), correction));
    }
    let centred = |x: &Tensor| sub(x, &mean_axes(x, axes, true)?);
    // Twice, since the mean of large numbers is rounded, and the square of what it is off by would be added.
    let deviation = centred(&centred(x)?)?;
    scaled_sum(OP, &mul(&deviation, &deviation)?, axes, keep, |_| 1.0 / (n - correction) as f32)
}

fn scaled_sum(
    op: &'static str,
    x: &Tensor,
    axes: &[usize],
    keep: bool,
    factor: impl Fn(usize) -> f32,
) -> Result<Tensor> {
    let reduced = Reduced::new(op, x, axes, keep)?;
    let factor = factor(reduced.count);
    let y = reduced.run(x, &SUM, factor)?;
    Ok(record(y, &[x], || SumRule { reduced, factor }))
}

/// What a reduction makes of a shape.
#[derive(Clone, Copy)]
struct Reduced {
    over: [bool; Shape::MAX_RANK],
    /// Of the input.
    from: Shape,
    /// With 1 for each reduced axis.
    kept: Shape,
    /// Of the result.
    to: Shape,
    /// Elements in one reduction.
    count: usize,
}

impl Reduced {
    fn new(op: &'static str, x: &Tensor, axes: &[usize], keep: bool) -> Result<Self> {
        expect_f32(op, x)?;
        let over = marks(op, x, axes)?;
        let marked = &over[Shape::MAX_RANK - x.shape().rank()..];
        let axes = || x.dims().iter().zip(marked);
        let kept: Vec<usize> = axes().map(|(&size, &over)| if over { 1 } else { size }).collect();
        let left: Vec<usize> = axes().filter(|(_, over)| !**over).map(|(&size, _)| size).collect();
        let kept = super::shape(op, &kept)?;
        let to = if keep { kept } else { super::shape(op, &left)? };
        Ok(Reduced { over, from: x.shape(), kept, to, count: x.numel() / kept.numel() })
    }

    fn run(&self, x: &Tensor, reduction: &Reduction, factor: f32) -> Result<Tensor> {
        let tensor = Tensor::unwritten(x.gpu(), DType::F32, self.to)?;
        reduction.run(x, self.over, factor, &Destination { tensor: tensor.clone(), accumulate: false })?;
        Ok(tensor)
    }

    /// Repeats `y`, a result's gradient, along the reduced axes.
    fn spread(&self, y: &Tensor, to: &Destination) -> Result<()> {
        let sizes = sizes(self.from);
        let kept = super::strided::sizes(self.kept);
        copy_view(y, View { sizes, strides: repeating_strides(kept), offset: 0 }, to, View::all(sizes))
    }
}

struct SumRule {
    reduced: Reduced,
    factor: f32,
}

impl Backward for SumRule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Some(dx) = parents.destination(0)? else { return Ok(()) };
        let dy = if self.factor == 1.0 { dy } else { scale(&dy.detach(), self.factor)? };
        self.reduced.spread(&dy, &dx)
    }

    fn reads(&self, _i: usize) -> bool {
        false
    }
}

struct MaxRule {
    x: Tensor,
    y: Tensor,
    reduced: Reduced,
}

impl Backward for MaxRule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        if !parents.wants(0) {
            return Ok(());
        }
        let dx = no_grad(|| {
            let kept = self.reduced.kept.dims();
            let (y, dy) = (reshape(&self.y, kept)?, reshape(&dy, kept)?);
            let is_largest = eq(&self.x, &y)?;
            let axes: Vec<usize> = (0..kept.len()).filter(|&axis| kept[axis] != self.x.dims()[axis]).collect();
            let share = super::div(&dy, &sum_axes(&is_largest, &axes, true)?)?;
            mul(&is_largest, &share)
        })?;
        parents.give(0, dx)
    }
}

/// The same on the CPU, slowly: reductions of groups of elements, which a test gathers.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    pub use super::sum::reference::{mean, sum};

    /// The largest, NaN if one is.
    pub fn max(x: &[f32]) -> f32 {
        x.iter().copied().fold(f32::NEG_INFINITY, |m, v| if v > m || v.is_nan() { v } else { m })
    }

    /// Σ (x − mean)² / (n − correction).
    pub fn var(x: &[f32], correction: usize) -> f32 {
        let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / x.len() as f64;
        let squares: f64 = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum();
        (squares / (x.len() - correction) as f64) as f32
    }

    /// The place of the largest, the first of equals; a NaN counts as the largest.
    pub fn argmax(x: &[f32]) -> u32 {
        let largest = max(x);
        x.iter().position(|v| v.total_cmp(&largest).is_eq() || *v == largest).unwrap_or(0) as u32
    }
}
