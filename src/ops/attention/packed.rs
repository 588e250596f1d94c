//! The sizes of packed queries, keys and values.

use crate::error::{Error, Result};
use crate::ops::{expect, expect_float};
use crate::tensor::Tensor;

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
    pub(super) fn of(op: &'static str, qkv: &Tensor, heads: usize) -> Result<Self> {
        expect_float(op, qkv)?;
        let &[batch, tokens, packed] = qkv.dims() else {
            return Err(Error::Shape { op, what: "needs [B, T, 3·C]", got: qkv.info() });
        };
        let divides = heads > 0 && heads <= packed && packed.is_multiple_of(3 * heads);
        expect(op, qkv, divides, "the last axis must be 3·heads·D")?;
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
