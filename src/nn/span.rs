//! Blocks that see only some of the tokens.

use std::ops::Range;

use crate::error::{Error, Result};

/// Blocks through which only some tokens of each sample go. Random-LTD is a span of one block for each block that drops
/// tokens; TokenBypass is one over the middle of the model; PatchDropout one over all of it that does not rejoin.
///
/// `P` is how the positions are held: `u32[B, R]` in the host's memory, or [`crate::ops::TokenIndices`] on the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span<P> {
    /// The blocks, counted from 0.
    pub blocks: Range<usize>,
    /// The tokens that go through them.
    pub positions: P,
    /// Whether the others take part again behind the last of these blocks, as they were before the first. If not they are
    /// gone for good, and the span goes on to the last block of the model.
    pub rejoins: bool,
}

impl<P> Span<P> {
    /// The tokens go through these blocks, and the others rejoin them behind.
    pub fn bypass(blocks: Range<usize>, positions: P) -> Self {
        Span { blocks, positions, rejoins: true }
    }

    /// The others leave the model of `depth` blocks before block `first`.
    pub fn leave(first: usize, depth: usize, positions: P) -> Self {
        Span { blocks: first..depth, positions, rejoins: false }
    }

    /// The same blocks with their positions in another form.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn try_map<Q>(self, f: impl FnOnce(P) -> Result<Q>) -> Result<Span<Q>> {
        let Span { blocks, positions, rejoins } = self;
        Ok(Span { blocks, positions: f(positions)?, rejoins })
    }
}

/// Whether the spans are within `depth` blocks, in order, none empty or inside another, and only the last does not rejoin.
pub(super) fn check<P>(spans: &[Span<P>], depth: usize) -> Result<()> {
    let mut free = 0;
    for Span { blocks, rejoins, .. } in spans {
        if blocks.start < free || blocks.is_empty() || blocks.end > depth {
            let expected = format!("blocks in order, below {depth}, in one span each");
            return Err(Error::argument("encoder", "spans", expected, format_args!("{blocks:?}")));
        }
        if !rejoins && blocks.end != depth {
            let expected = format!("one that goes on to the last of {depth} blocks where tokens do not rejoin");
            return Err(Error::argument("encoder", "spans", expected, format_args!("{blocks:?}")));
        }
        free = blocks.end;
    }
    Ok(())
}
