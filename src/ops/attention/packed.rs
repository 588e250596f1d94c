//! Packed queries, keys and values: their sizes, and where each head's lie.

use crate::error::{Error, Result};
use crate::gpu::BufferView;
use crate::ops::matmul::Operand;
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

    /// Every head's matrix in part `i` of the `parts` that lie side by side in `f32[B, tokens, parts·C]`.
    pub(super) fn part<'a>(&self, view: &'a BufferView, tokens: usize, [i, parts]: [usize; 2]) -> Operand<'a> {
        let row = parts * self.channels();
        Operand { view, offset: i * self.channels(), row, step: [tokens * row, self.width] }
    }

    /// Q, K and V in `f32[B, T, 3·C]`.
    pub(super) fn qkv<'a>(&self, view: &'a BufferView) -> [Operand<'a>; 3] {
        [0, 1, 2].map(|i| self.part(view, self.tokens, [i, 3]))
    }

    /// The heads in `f32[B, T, C]`.
    pub(super) fn heads_of<'a>(&self, view: &'a BufferView) -> Operand<'a> {
        self.part(view, self.tokens, [0, 1])
    }

    /// 1/√D.
    pub(super) fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }
}
