//! Takes the kept tokens out of each sample: the way into a random-LTD block (Yao et al., 2022, arXiv 2211.11586).

use super::indices::TokenIndices;
use super::rows::{TokenRows, channels_of};
use crate::autograd::{Backward, ParentGradients, record};
use crate::error::Result;
use crate::gpu::Fault;
use crate::ops::shape;
use crate::shape::DType;
use crate::tensor::Tensor;

/// y\[b, r\] = x\[b, indices\[b, r\]\]: `f32[B, T, C]` and `u32[B, R]` to `f32[B, R, C]`. The gradient of the rows that are
/// not taken is zero; of a row that is taken twice it is undefined ([`TokenIndices::from_tensor`]).
///
/// # Errors
/// If `x` is not `f32[B, T, C]` of the B and T that `indices` are for.
pub fn token_gather(x: &Tensor, indices: &TokenIndices) -> Result<Tensor> {
    const OP: &str = "token_gather";
    let channels = channels_of(OP, x, indices)?;
    let shape = shape(OP, &[indices.batch(), indices.kept(), channels])?;
    let y = Tensor::unwritten(x.gpu(), DType::F32, shape)?;
    TokenRows::new(indices, channels, Fault::GatherIndex).gather(x, &y, false)?;
    Ok(record(y, &[x], || GatherRule::new(indices)))
}

/// The rule of a gather, by itself or in one pass with what follows it.
pub(in crate::ops) struct GatherRule {
    indices: TokenIndices,
}

impl GatherRule {
    pub(in crate::ops) fn new(indices: &TokenIndices) -> Self {
        GatherRule { indices: indices.clone() }
    }
}

impl Backward for GatherRule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Some(dx) = parents.destination(0)? else { return Ok(()) };
        dx.zeroed()?;
        let rows = TokenRows::new(&self.indices, dy.shape().last(), Fault::GatherIndex);
        rows.scatter(&dy, &dx.tensor, dx.accumulate)
    }

    fn reads(&self, _i: usize) -> bool {
        false
    }
}

/// The same on the CPU, slowly.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    /// y `f32[B, R, C]` of x `f32[B, T, C]`; `indices` are `u32[B, R]`.
    pub fn forward(x: &[f32], indices: &[u32], batch: usize, tokens: usize) -> Vec<f32> {
        let (kept, channels) = (indices.len() / batch, x.len() / (batch * tokens));
        let row = |(i, &token): (usize, &u32)| {
            let at = (i / kept * tokens + token as usize) * channels;
            &x[at..at + channels]
        };
        indices.iter().enumerate().flat_map(row).copied().collect()
    }

    /// dx `f32[B, T, C]` of dy `f32[B, R, C]`.
    pub fn backward(dy: &[f32], indices: &[u32], batch: usize, tokens: usize) -> Vec<f32> {
        let (kept, channels) = (indices.len() / batch, dy.len() / indices.len());
        let mut dx = vec![0.0; batch * tokens * channels];
        for (i, &token) in indices.iter().enumerate() {
            let at = (i / kept * tokens + token as usize) * channels;
            for c in 0..channels {
                dx[at + c] += dy[i * channels + c];
            }
        }
        dx
    }
}
