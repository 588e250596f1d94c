//! Losses besides cross-entropy: means over all elements, named as PyTorch's.

use crate::error::Result;
use crate::ops::{expect_match, mean, mul, softplus, sub};
use crate::tensor::Tensor;

/// The mean squared difference: `f32[..]` and `f32[..]` of one shape to `f32[]`.
///
/// # Errors
/// If a tensor is not f32 or the shapes differ.
pub fn mse_loss(x: &Tensor, target: &Tensor) -> Result<Tensor> {
    // A target that is broadcast is nearly always a mistake.
    expect_match("mse_loss", x, target, x.shape() == target.shape(), "shapes differ")?;
    let difference = sub(x, target)?;
    mean(&mul(&difference, &difference)?)
}

/// The mean of −t·ln σ(x) − (1 − t)·ln(1 − σ(x)) = ln(1 + eˣ) − t·x, for logits x and targets t in 0..=1: `f32[..]` and
/// `f32[..]` of one shape to `f32[]`. It is right to the rounding of the logits, so that of a loss near 0 little may be right; its gradient,
/// σ(x) − t, is as PyTorch's.
///
/// # Errors
/// If a tensor is not f32 or the shapes differ.
pub fn binary_cross_entropy_with_logits(logits: &Tensor, target: &Tensor) -> Result<Tensor> {
    const OP: &str = "binary_cross_entropy_with_logits";
    expect_match(OP, logits, target, logits.shape() == target.shape(), "shapes differ")?;
    mean(&sub(&softplus(logits)?, &mul(target, logits)?)?)
}

/// The same on the CPU, slowly.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    /// Σ (x − t)² / n.
    pub fn mse_loss(x: &[f32], target: &[f32]) -> f32 {
        let squares = x.iter().zip(target).map(|(&x, &t)| (f64::from(x) - f64::from(t)).powi(2));
        (squares.sum::<f64>() / x.len() as f64) as f32
    }

    /// Σ −t·ln σ(x) − (1 − t)·ln(1 − σ(x)) / n.
    pub fn binary_cross_entropy_with_logits(logits: &[f32], target: &[f32]) -> f32 {
        let term = |(&x, &t): (&f32, &f32)| {
            let (x, t) = (f64::from(x), f64::from(t));
            t * (-x).exp().ln_1p() + (1.0 - t) * x.exp().ln_1p()
        };
        (logits.iter().zip(target).map(term).sum::<f64>() / logits.len() as f64) as f32
    }
}
