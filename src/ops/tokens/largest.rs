//! The tokens that are worth most, chosen on the device.

use super::indices::TokenIndices;
use crate::error::{Error, Result};
use crate::gpu::{Access, Grid, Kernel, Params, looped, params, rounds, wgsl};
use crate::ops::item::{LANES, pieces};
use crate::ops::{expect, expect_f32, expect_match, shape};
use crate::shape::DType;
use crate::tensor::Tensor;

params!(KeepParams {
    samples: u32,
    tokens: u32,
    kept: u32,
    prefix: u32,
    groups: u32,
    first: u32,
    end: u32,
    has_lengths: u32,
});

static RANK: Kernel = Kernel {
    name: "keep_largest.rank",
    sources: &[wgsl!("keep_largest.wgsl"), wgsl!("lib/grid.wgsl")],
    entry: "rank",
    bindings: &[Access::Read, Access::Read, Access::Write],
    params: KeepParams::FIELDS,
    constants: &[],
    rounds: rounds!(KeepParams, |p, _| looped(p.end.saturating_sub(p.first), 0)),
};

static PLACE: Kernel =
    Kernel { name: "keep_largest.place", entry: "place", bindings: &[Access::Write, Access::Write], ..RANK };

pub(crate) const KERNELS: &[&Kernel] = &[&RANK, &PLACE];

/// Tokens that a dispatch counts over.
const AT_ONCE: usize = 32_768;

const OP: &str = "keep_largest";

/// The `kept` tokens of each sample with the largest scores: `f32[B, T]` to indices `u32[B, R]` for T tokens. The first
/// `keep_prefix` are always among them. With `lengths`, `u32[B]`, tokens at or beyond their sample's length are taken only where
/// there are not enough others. Of equal scores the first is taken, and NaN counts as the largest. Nothing leaves the device; no
/// gradient.
///
/// # Errors
/// If the scores are not `f32[B, T]` or the lengths not `u32[B]`, more than T tokens are to be kept or none, or fewer than the
/// prefix has.
pub fn keep_largest(
    scores: &Tensor,
    kept: usize,
    keep_prefix: usize,
    lengths: Option<&Tensor>,
) -> Result<TokenIndices> {
    expect_f32(OP, scores)?;
    let Some([samples, tokens]) = scores.shape().to_array::<2>() else {
        return Err(Error::Shape { op: OP, what: "needs scores f32[B, T]", got: scores.info() });
    };
    if keep_prefix > kept {
        return Err(Error::argument(
            OP,
            "keep_prefix",
            format!("at most {kept}, the tokens that are kept"),
            keep_prefix,
        ));
    }
    if let Some(lengths) = lengths {
        expect(OP, lengths, lengths.dtype() == DType::U32, "needs lengths u32[B]")?;
        expect_match(OP, scores, lengths, lengths.dims() == [samples], "lengths must be u32[B] of scores f32[B, T]")?;
    }
    let gpu = scores.gpu();
    let positions = Tensor::unwritten(gpu, DType::U32, shape(OP, &[samples, kept])?)?;
    let indices = TokenIndices::of_device(positions, tokens)?;
    let counts = Tensor::zeros(gpu, DType::U32, &[2, samples, tokens])?;
    let groups = tokens.div_ceil(LANES);
    let params = |first: usize, end: usize| KeepParams {
        samples: samples as u32,
        tokens: tokens as u32,
        kept: kept as u32,
        prefix: keep_prefix as u32,
        groups: groups as u32,
        first: first as u32,
        end: end as u32,
        has_lengths: u32::from(lengths.is_some()),
    };
    let grid = Grid::linear(samples * groups, 1);
    // Without lengths, a buffer that nobody reads.
    let ranked = [scores.buffer(), lengths.unwrap_or(scores).buffer(), counts.buffer()];
    for part in pieces(0..tokens, AT_ONCE) {
        gpu.dispatch(&RANK, &params(part.start, part.end), &ranked, grid)?;
    }
    for part in pieces(0..tokens, AT_ONCE) {
        let placed = [counts.buffer(), indices.positions().buffer()];
        gpu.dispatch(&PLACE, &params(part.start, part.end), &placed, grid)?;
    }
    Ok(indices)
}

/// The same on the CPU, slowly.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    use std::cmp::Ordering;

    /// The places in one sample of `length` tokens, the rest padding.
    pub fn places(scores: &[f32], kept: usize, keep_prefix: usize, length: usize) -> Vec<u32> {
        let class = |i: usize| if i < keep_prefix { 0 } else { 1 + u8::from(i >= length) };
        let by_score = |a: usize, b: usize| match scores[b].is_nan().cmp(&scores[a].is_nan()) {
            Ordering::Equal => scores[b].partial_cmp(&scores[a]).unwrap_or(Ordering::Equal),
            unequal => unequal,
        };
        let mut order: Vec<usize> = (0..scores.len()).collect();
        // Stable, so that of equals the first stays first.
        order.sort_by(|&a, &b| {
            class(a).cmp(&class(b)).then_with(|| if class(a) == 1 { by_score(a, b) } else { a.cmp(&b) })
        });
        let mut places: Vec<u32> = order[..kept].iter().map(|&i| i as u32).collect();
        places.sort_unstable();
        places
    }
}
