//! Puts the kept tokens back among the others: the way out of a random-LTD block (Yao et al., 2022, arXiv 2211.11586).

use super::indices::TokenIndices;
use super::rows::{TokenRows, channels_of};
use crate::autograd::{Backward, ParentGradients, record};
use crate::error::Result;
use crate::gpu::Fault;
use crate::ops::{expect_f32, expect_match, sole_or_copy};
use crate::tensor::Tensor;

/// `x` with the kept rows replaced: y\[b, indices\[b, r\]\] = rows\[b, r\], else y = x; `f32[B, T, C]`, `f32[B, R, C]` and
/// `u32[B, R]` to `f32[B, T, C]`. The gradient with respect to `x` is zero on the replaced rows.
///
/// Works in the memory of `x` if this is its last handle, else on a copy.
///
/// # Errors
/// If `x` is not `f32[B, T, C]` of the B and T that `indices` are for, or `rows` is not `f32[B, R, C]`.
pub fn token_scatter(x: Tensor, rows: &Tensor, indices: &TokenIndices) -> Result<Tensor> {
    const OP: &str = "token_scatter";
    let channels = channels_of(OP, &x, indices)?;
    expect_f32(OP, rows)?;
    let fits = rows.dims() == [indices.batch(), indices.kept(), channels];
    expect_match(
        OP,
        rows,
        indices.positions(),
        fits,
        "rows must be f32[B, R, C] of x f32[B, T, C] and indices u32[B, R]",
    )?;
    let y = sole_or_copy(&x)?;
    TokenRows::new(indices, channels, Fault::ScatterIndex).scatter(rows, &y, false)?;
    Ok(record(y, &[&x, rows], || Rule { indices: indices.clone() }))
}

struct Rule {
    indices: TokenIndices,
}

impl Backward for Rule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let rows = TokenRows::new(&self.indices, dy.shape().last(), Fault::ScatterIndex);
        let drows = parents.destination(1)?;
        if !parents.wants(0) {
            return drows.map_or(Ok(()), |drows| rows.gather(&dy, &drows.tensor, drows.accumulate));
        }
        let dx = sole_or_copy(&dy)?;
        match drows {
            Some(drows) => rows.take(&dx, &drows.tensor, drows.accumulate)?,
            None => rows.zero(&dx)?,
        }
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
    /// y `f32[B, T, C]` of x `f32[B, T, C]` and rows `f32[B, R, C]`; `indices` are `u32[B, R]`.
    pub fn forward(x: &[f32], rows: &[f32], indices: &[u32], batch: usize, tokens: usize) -> Vec<f32> {
        let (kept, channels) = (indices.len() / batch, rows.len() / indices.len());
        let mut y = x.to_vec();
        for (i, &token) in indices.iter().enumerate() {
            let at = (i / kept * tokens + token as usize) * channels;
            y[at..at + channels].copy_from_slice(&rows[i * channels..(i + 1) * channels]);
        }
        y
    }

    /// (dx `f32[B, T, C]`, drows `f32[B, R, C]`) of dy `f32[B, T, C]`.
    pub fn backward(dy: &[f32], indices: &[u32], batch: usize, tokens: usize) -> (Vec<f32>, Vec<f32>) {
        let drows = super::super::gather::reference::forward(dy, indices, batch, tokens);
        let dx = forward(dy, &vec![0.0; drows.len()], indices, batch, tokens);
        (dx, drows)
    }
}
