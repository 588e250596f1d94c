//! Stored scores, and the products that they come from and go into.

use super::packed::Dims;
use crate::error::Result;
use crate::gpu::BufferView;
use crate::ops::matmul::{Epilogue, Gemm, Layout, Operand};
use crate::ops::shape;
use crate::ops::softmax::Rows;
use crate::shape::{DType, Shape};

/// The scores of T queries and some number of keys, for every head of every sample.
#[derive(Clone, Copy)]
pub(super) struct Scores {
    /// Of the queries.
    pub(super) dims: Dims,
    pub(super) keys: usize,
}

impl Scores {
    /// From a row to the next: the keys, rounded up to whole vec4s.
    pub(super) fn stride(&self) -> usize {
        self.keys.next_multiple_of(4)
    }

    /// `[B, H, T, stride]`.
    pub(super) fn shape(&self, op: &'static str) -> Result<Shape> {
        let Dims { batch, heads, tokens, .. } = self.dims;
        shape(op, &[batch, heads, tokens, self.stride()])
    }

    pub(super) fn rows(&self) -> Rows {
        let Dims { batch, heads, tokens, .. } = self.dims;
        Rows { rows: batch * heads * tokens, width: self.keys, stride: self.stride() }
    }

    /// The matrices in `f32[B, H, T, stride]`.
    pub(super) fn operand<'a>(&self, view: &'a BufferView) -> Operand<'a> {
        let size = self.dims.tokens * self.stride();
        Operand { view, offset: 0, row: self.stride(), step: [self.dims.heads * size, size] }
    }

    /// C = alpha · A·B, or C += it.
    fn product<'a>(
        &self,
        (layout, size): (Layout, [usize; 3]),
        [a, b, c]: [Operand<'a>; 3],
        alpha: f32,
        accumulate: bool,
    ) -> Gemm<'a> {
        let (batch, epilogue) = ([self.dims.batch, self.dims.heads], Epilogue::Plain { alpha, accumulate });
        Gemm { layout, size, batch, types: [DType::F32; 3], a, b, c, epilogue }
    }

    /// Scores of `queries` and `keys`, rows of D: alpha · Q·Kᵀ.
    pub(super) fn of<'a>(&self, queries: Operand<'a>, keys: Operand<'a>, scores: Operand<'a>, alpha: f32) -> Gemm<'a> {
        let form = (Layout::Nt, [self.dims.tokens, self.keys, self.dims.width]);
        self.product(form, [queries, keys, scores], alpha, false)
    }

    /// Sums of the keys' `rows`, weighted: alpha · P·V, into a row for each query.
    pub(super) fn mix<'a>(
        &self,
        weights: Operand<'a>,
        rows: Operand<'a>,
        sums: Operand<'a>,
        alpha: f32,
        accumulate: bool,
    ) -> Gemm<'a> {
        let form = (Layout::Nn, [self.dims.tokens, self.dims.width, self.keys]);
        self.product(form, [weights, rows, sums], alpha, accumulate)
    }

    /// Sums of the queries' `rows`, weighted: alpha · Pᵀ·dO, into a row for each key.
    pub(super) fn mix_queries<'a>(
        &self,
        weights: Operand<'a>,
        rows: Operand<'a>,
        sums: Operand<'a>,
        alpha: f32,
        accumulate: bool,
    ) -> Gemm<'a> {
        let form = (Layout::Tn, [self.keys, self.dims.width, self.dims.tokens]);
        self.product(form, [weights, rows, sums], alpha, accumulate)
    }
}
