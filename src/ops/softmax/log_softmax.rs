//! The logarithm of softmax over the last axis.

use crate::autograd::{Backward, ParentGradients, no_grad, record};
use crate::error::Result;
use crate::ops::{axis, exp, expect_f32, log, max_axes, mul, sub, sum_axes};
use crate::tensor::Tensor;

/// x − ln Σ eˣ over the last axis: `f32[.., V]` to the same shape.
///
/// # Errors
/// If `x` is not f32 or has no axis.
pub fn log_softmax(x: &Tensor) -> Result<Tensor> {
    const OP: &str = "log_softmax";
    expect_f32(OP, x)?;
    let last = axis(OP, x, x.shape().rank().saturating_sub(1))?;
    let y = no_grad(|| {
        let x = sub(x, &max_axes(x, &[last], true)?)?;
        sub(&x, &log(&sum_axes(&exp(&x)?, &[last], true)?)?)
    })?;
    let saved = y.detach();
    Ok(record(y, &[x], || Rule { y: saved, last }))
}

struct Rule {
    y: Tensor,
    last: usize,
}

/// dx = dy − softmax(x) · Σ dy.
impl Backward for Rule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        if !parents.wants(0) {
            return Ok(());
        }
        let dx = no_grad(|| sub(&dy, &mul(&exp(&self.y)?, &sum_axes(&dy, &[self.last], true)?)?))?;
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
    /// Rows of `width` elements.
    pub fn forward(x: &[f32], width: usize) -> Vec<f32> {
        let row = |row: &[f32]| {
            let largest = row.iter().fold(f64::MIN, |m, &v| m.max(v.into()));
            let sum: f64 = row.iter().map(|&v| (f64::from(v) - largest).exp()).sum();
            row.iter().map(|&v| (f64::from(v) - largest - sum.ln()) as f32).collect::<Vec<_>>()
        };
        x.chunks(width).flat_map(row).collect()
    }

    /// dx = dy − eʸ · Σ dy.
    pub fn backward(x: &[f32], dy: &[f32], width: usize) -> Vec<f32> {
        let y = forward(x, width);
        let row = |(y, dy): (&[f32], &[f32])| {
            let sum: f64 = dy.iter().map(|&v| f64::from(v)).sum();
            y.iter().zip(dy).map(|(&y, &dy)| (f64::from(dy) - f64::from(y).exp() * sum) as f32).collect::<Vec<_>>()
        };
        y.chunks(width).zip(dy.chunks(width)).flat_map(row).collect()
    }
}
