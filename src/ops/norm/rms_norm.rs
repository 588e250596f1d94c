//! Root-mean-square normalisation (Zhang and Sennrich, 2019, "Root Mean Square Layer Normalization").

use crate::error::{Error, Result};
use crate::ops::elementwise::rsqrt_above;
use crate::ops::{axis, expect_f32, expect_match, mean_axes, mul};
use crate::tensor::Tensor;

/// weight · x / √(mean(x²) + eps) over the last axis: `f32[.., C]` and `f32[C]` to `f32[.., C]`.
///
/// # Errors
/// If a tensor is not f32, the sizes do not fit, or `eps` is negative or not finite. With an `eps` of 0 a row of zeros gives NaN, as in
/// PyTorch.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    const OP: &str = "rms_norm";
    expect_f32(OP, x)?;
    expect_f32(OP, weight)?;
    let last = axis(OP, x, x.shape().rank().saturating_sub(1))?;
    expect_match(OP, x, weight, weight.dims() == &x.dims()[last..], "the weight must have x's last size")?;
    if !(eps >= 0.0 && eps.is_finite()) {
        return Err(Error::argument(OP, "eps", "finite and not negative", eps));
    }
    let scale = rsqrt_above(&mean_axes(&mul(x, x)?, &[last], true)?, eps)?;
    mul(&mul(x, &scale)?, weight)
}

/// The same on the CPU, slowly.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    /// Rows of the weight's width.
    pub fn forward(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
        let row = |row: &[f32]| {
            let squares: f64 = row.iter().map(|&v| f64::from(v).powi(2)).sum();
            let scale = 1.0 / (squares / row.len() as f64 + f64::from(eps)).sqrt();
            row.iter().zip(weight).map(|(&v, &w)| (f64::from(v) * scale * f64::from(w)) as f32).collect::<Vec<_>>()
        };
        x.chunks(weight.len()).flat_map(row).collect()
    }
}
