//! What the forms of attention have in common: packed queries, keys and values, and which keys are seen.

use crate::error::{Error, Result};
use crate::ops::expect;
use crate::shape::DType;
use crate::tensor::Tensor;

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mask {
    /// All of them.
    #[default]
    None,
    /// Those at its own position and before.
    Causal,
}

/// The sizes.
#[derive(Clone, Copy)]
pub(super) struct Dims {
    pub(super) batch: usize,
    pub(super) heads: usize,
    pub(super) tokens: usize,
    /// D.
    pub(super) width: usize,
}

impl Dims {
    /// Those of a packed tensor, checked.
    pub(super) fn of(qkv: &Tensor, heads: usize) -> Result<Self> {
        const OP: &str = "attention";
        expect(OP, qkv, matches!(qkv.dtype(), DType::F32 | DType::F16), "needs f32 or f16")?;
        let &[batch, tokens, packed] = qkv.dims() else {
            return Err(Error::Shape { op: OP, what: "needs [B, T, 3·C]", got: qkv.info() });
        };
        let divides = heads > 0 && heads <= packed && packed.is_multiple_of(3 * heads);
        expect(OP, qkv, divides, "the last axis must be 3·heads·D")?;
        Ok(Dims { batch, heads, tokens, width: packed / 3 / heads })
    }

    /// C.
    pub(super) fn channels(&self) -> usize {
        self.heads * self.width
    }

    /// 1/√D.
    pub(super) fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }
}
