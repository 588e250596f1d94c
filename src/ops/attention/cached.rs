//! Attention of new tokens to those before them, whose keys and values are kept: what generation does, token by token.

use super::packed::Dims;
use super::scores::Scores;
use crate::autograd::Destination;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::ops::cast::cast;
use crate::ops::matmul::gemm;
use crate::ops::softmax::{Seen, softmax_rows};
use crate::ops::strided::{View, copy_view, sizes};
use crate::ops::{expect_match, shape};
use crate::shape::{DType, Shape};
use crate::tensor::Tensor;

const OP: &str = "attention_cached";

/// The keys and values of the tokens that one layer has seen, with room for more.
#[derive(Debug)]
pub struct KeyValues {
    /// k and v side by side: `f32[B, T, 2·C]`, of which the first `len` tokens are there.
    rows: Tensor,
    len: usize,
}

impl KeyValues {
    /// Room for `tokens` tokens of `channels` channels in each of `batch` samples; none is there yet.
    ///
    /// # Errors
    /// If the device has no room.
    pub fn new(gpu: &Gpu, batch: usize, tokens: usize, channels: usize) -> Result<Self> {
        let shape = shape(OP, &[batch, tokens, channels.saturating_mul(2)])?;
        Ok(KeyValues { rows: Tensor::unwritten(gpu, DType::F32, shape)?, len: 0 })
    }

    /// How many tokens are there.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many there is room for.
    pub fn capacity(&self) -> usize {
        self.rows.dims()[1]
    }

    /// Forgets all but the first `len` tokens, if there are more.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Puts k and v of `qkv`, `f32[B, S, 3·C]`, behind those that are there, which the caller then counts.
    fn write_behind(&self, qkv: &Tensor, dims: Dims) -> Result<()> {
        let [tokens, channels] = [Shape::MAX_RANK - 2, Shape::MAX_RANK - 1];
        let from = View::all(sizes(qkv.shape())).part(channels, dims.channels(), 2 * dims.channels());
        let into = View::all(sizes(self.rows.shape())).part(tokens, self.len, dims.tokens);
        copy_view(qkv, from, &Destination { tensor: self.rows.clone(), accumulate: false }, into)
    }
}

/// Causal [`super::attention()`] of S new tokens, whose keys and values are put behind those in `cache`: each sees all that were
/// there and, of the new, those up to itself. `f32` or `f16[B, S, 3·C]` to the same dtype `[B, S, C]`. Keeps nothing for
/// backward.
///
/// # Errors
/// If `qkv` is not `f32` or `f16[B, S, 3·heads·D]` with the cache's B and C, is in a graph (call it within
/// [`crate::autograd::no_grad`]), or is of more tokens than there is room for.
pub fn attention_cached(qkv: &Tensor, heads: usize, cache: &mut KeyValues) -> Result<Tensor> {
    let dims = Dims::of(OP, qkv, heads)?;
    if qkv.node().is_some() {
        return Err(Error::Graph { op: OP, what: "it keeps nothing for backward; call it within no_grad" });
    }
    let fits = [cache.rows.dims()[0], cache.rows.dims()[2]] == [dims.batch, 2 * dims.channels()];
    expect_match(OP, qkv, &cache.rows, fits, "qkv [B, S, 3·C] and the cache f32[B, T, 2·C] differ in B or C")?;
    let keys = cache.len + dims.tokens;
    if keys > cache.capacity() {
        let expected = format!("room for {} more", dims.tokens);
        let got = format!("{} of {} taken", cache.len, cache.capacity());
        return Err(Error::argument(OP, "cache", expected, got));
    }
    let wide = cast(qkv, DType::F32)?;
    cache.write_behind(&wide, dims)?;

    let (gpu, scores) = (qkv.gpu(), Scores { dims, keys });
    let weights = Tensor::unwritten(gpu, DType::F32, scores.shape(OP)?)?;
    let out = Tensor::unwritten(gpu, DType::F32, shape(OP, &[dims.batch, dims.tokens, dims.channels()])?)?;
    let [q, ..] = dims.qkv(wide.buffer());
    let [k, v] = [0, 1].map(|i| dims.part(cache.rows.buffer(), cache.capacity(), [i, 2]));
    gemm(gpu, &scores.of(q, k, scores.operand(weights.buffer()), dims.scale()))?;
    let seen = Seen { causal: Some((dims.tokens, cache.len)), lengths: None };
    softmax_rows(gpu, weights.buffer(), scores.rows(), seen)?;
    gemm(gpu, &scores.mix(scores.operand(weights.buffer()), v, dims.heads_of(out.buffer()), 1.0, false))?;
    cache.len = keys;
    cast(&out, qkv.dtype())
}
