//! A stack of blocks.

use super::span;
use super::{Block, BlockConfig, Init, Mode, Precision, Span};
use crate::error::{Error, Result};
use crate::ops::{self, KeyValues, Mask, Rotary, TokenIndices};
use crate::tensor::Tensor;

/// The blocks of a transformer, one behind the other, any of which may see only some of the tokens.
#[derive(Clone)]
pub struct Encoder {
    blocks: Vec<Block>,
    rotary: Option<Rotary>,
}

impl Encoder {
    /// Blocks `0..depth` below `init`, each of what `config` says of its number. They are the first blocks of a model:
    /// two such stacks in one model would draw the same masks of dropout and stochastic depth ([`Encoder::numbered`]).
    ///
    /// # Errors
    /// As [`Block::new`].
    pub fn new(init: Init<'_>, depth: usize, config: impl Fn(usize) -> BlockConfig) -> Result<Self> {
        Self::numbered(init, 0, depth, config)
    }

    /// As [`Encoder::new`], of a model with `first` other blocks before these, as where it has two towers: their random
    /// layers are numbered from there on, so that no two blocks draw alike. Parameters' paths and `config` count from 0
    /// all the same, as spans do.
    ///
    /// # Errors
    /// As [`Block::new`].
    pub fn numbered(
        mut init: Init<'_>,
        first: usize,
        depth: usize,
        config: impl Fn(usize) -> BlockConfig,
    ) -> Result<Self> {
        let block = |i: usize| Block::new(init.at(&i.to_string()), config(i), first.saturating_add(i));
        Ok(Encoder { blocks: (0..depth).map(block).collect::<Result<_>>()?, rotary: None })
    }

    /// The encoder with queries and keys turned by the angles of their tokens' places, of which `rotary` has one for
    /// each of the T tokens; within a span, by those of the kept ones.
    pub fn with_rotary(self, rotary: &Rotary) -> Self {
        let blocks = self.blocks.into_iter().map(|block| block.with_rotary(rotary.clone())).collect();
        Encoder { blocks, rotary: Some(rotary.clone()) }
    }

    /// `f32[B, T, C]` to the same shape; to `f32[B, R, C]` if the last of `spans` does not rejoin. A span's gather and scatter
    /// happen in the first norm's read and the last product's store wherever a block allows it. `mask` is that of all T tokens:
    /// within a span it is what it says of the kept ones. Takes `x` by value so that the scatter may work in place.
    ///
    /// # Errors
    /// [`crate::Error::Argument`] if the spans are not in order, overlap, or go beyond the last block; otherwise as
    /// [`Block::forward`].
    pub fn forward(&self, x: Tensor, spans: &[Span<TokenIndices>], mask: &Mask, mode: &Mode) -> Result<Tensor> {
        span::check(spans, self.blocks.len())?;
        let (mut x, mut done) = (x, 0);
        for Span { blocks, positions, rejoins } in spans {
            x = run(&self.blocks[done..blocks.start], x, None, mask, mode)?;
            let inside = &self.blocks[blocks.clone()];
            let theirs = mask.gathered(positions)?;
            x = match (inside, rejoins) {
                (inside, false) => run(inside, gather(x, positions)?, Some(positions), &theirs, mode)?,
                ([block], true) => block.forward(x, Some(positions), &theirs, mode)?,
                (inside, true) => bypass(inside, x, positions, &theirs, mode)?,
            };
            done = blocks.end;
        }
        run(&self.blocks[done..], x, None, mask, mode)
    }

    /// New tokens alone, `f32[B, S, C]` to the same shape. They see the tokens that went through before, whose keys and
    /// values `caches` hold, one for each block, and each other causally; theirs are there from then on. Where
    /// positions are rotary, theirs are the places behind those. For generation, within [`crate::autograd::no_grad`].
    ///
    /// # Errors
    /// [`Error::Argument`] unless there is a cache for each block; where positions are rotary also if the caches hold
    /// tokens of different number, or there are more tokens than positions; otherwise as [`ops::attention_cached()`].
    pub fn forward_cached(&self, x: Tensor, caches: &mut [KeyValues], precision: Precision) -> Result<Tensor> {
        if caches.len() != self.blocks.len() {
            let expected = format!("one for each of {} blocks", self.blocks.len());
            return Err(Error::argument("encoder", "caches", expected, caches.len()));
        }
        let places = self.rotary.as_ref().map(|rotary| places_behind(caches, &x, rotary)).transpose()?;
        self.blocks
            .iter()
            .zip(caches)
            .try_fold(x, |x, (block, cache)| block.forward_cached(&x, cache, places.as_ref(), precision))
    }

    /// Its blocks.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }
}

/// The places of new tokens, `f32[B, S, C]`, behind those that each of `caches` holds.
fn places_behind(caches: &[KeyValues], x: &Tensor, rotary: &Rotary) -> Result<TokenIndices> {
    let &[batch, new, _] = x.dims() else {
        return Err(Error::Shape { op: "encoder", what: "needs tokens [B, S, C]", got: x.info() });
    };
    let held = caches.first().map_or(0, KeyValues::len);
    if let Some(other) = caches.iter().map(KeyValues::len).find(|&len| len != held) {
        let expected = format!("{held} tokens in each, where positions are rotary");
        return Err(Error::argument("encoder", "caches", expected, other));
    }
    let (positions, end) = (rotary.tokens(), held.saturating_add(new));
    if end > positions {
        return Err(Error::argument("encoder", "tokens", format!("at most {positions}, the rotary positions"), end));
    }
    let places: Vec<u32> = (0..batch).flat_map(|_| held as u32..end as u32).collect();
    TokenIndices::new(x.gpu(), [batch, new], positions, &places)
}

fn run(blocks: &[Block], x: Tensor, places: Option<&TokenIndices>, mask: &Mask, mode: &Mode) -> Result<Tensor> {
    blocks.iter().try_fold(x, |x, block| block.forward_rows(x, places, mask, mode))
}

/// The kept rows alone; the others are let go.
fn gather(x: Tensor, positions: &TokenIndices) -> Result<Tensor> {
    ops::token_gather(&x, positions)
}

/// Several blocks on the kept rows, which then take their places among the others.
fn bypass(blocks: &[Block], x: Tensor, positions: &TokenIndices, mask: &Mask, mode: &Mode) -> Result<Tensor> {
    let rows = run(blocks, ops::token_gather(&x, positions)?, Some(positions), mask, mode)?;
    ops::token_scatter(x, &rows, positions)
}
