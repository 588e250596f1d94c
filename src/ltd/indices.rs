//! Which tokens are kept: draws that depend on nothing but a key, so that resuming, recomputing, micro-batches, several
//! machines and every vendor's GPU see the same tokens.
//!
//! The draw of a key is a format, pinned by golden vectors in the tests:
//!
//! 1. Words w = seed, step, block, sample are absorbed in that order, all arithmetic modulo 2⁶⁴:
//!    `h = 0`, then `h = finalise((h + 0x9e3779b97f4a7c15) xor w)`, where `finalise` is SplitMix64's (variant 13 of
//!    Stafford's: shifts 30, 27, 31, multipliers `0xbf58476d1ce4e5b9`, `0x94d049bb133111eb`).
//! 2. A `Pcg32` (PCG-XSH-RR 64/32) starts with state `h` and stream `finalise(h + 0x9e3779b97f4a7c15)`.
//! 3. A number below `bound` is the high half of `x * bound`, with `x` the next 32 bits, drawn again while the low half
//!    is below `2³² mod bound` (Lemire, 2019, arXiv 1805.10941): exactly uniform.
//! 4. Positions are visited in order. With k still to keep among m left, a position is kept if a number below m is below k
//!    (selection sampling, Knuth's algorithm S, TAOCP 3.4.2). No number is drawn where k = 0 or k = m.

use rand_pcg::Pcg32;
use rand_pcg::rand_core::Rng;

use crate::error::{Error, Result};
use crate::hash::absorb;

/// What a draw depends on, besides the lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SampleKey {
    /// The run's seed.
    pub seed: u64,
    /// The optimiser step, from 0: not the micro-step.
    pub step: u64,
    /// The block, from 0.
    pub block: u32,
    /// The sample's position in the *global* batch, over all micro-batches and machines.
    pub sample: u64,
}

impl SampleKey {
    /// The generator of this key's draw.
    fn generator(&self) -> Pcg32 {
        let state = [self.seed, self.step, u64::from(self.block), self.sample].into_iter().fold(0, absorb);
        Pcg32::new(state, absorb(state, 0))
    }
}

/// An exactly uniform number below `bound`, which is not 0.
fn below(rng: &mut Pcg32, bound: u32) -> u32 {
    loop {
        let product = u64::from(rng.next_u32()) * u64::from(bound);
        let low = product as u32;
        // 2³² mod bound is below bound: the division is needed only where `low` is below it too.
        if low >= bound || low >= bound.wrapping_neg() % bound {
            return (product >> 32) as u32;
        }
    }
}

/// Draws `kept` of `tokens` positions without replacement, each such set with equal probability but that positions
/// `0..keep_prefix` are always among them and count towards `kept`. Returns `u32[kept]`, ascending.
///
/// # Errors
/// [`Error::Argument`] unless `keep_prefix <= kept`, `1 <= kept <= tokens` and `tokens < 2³²`.
pub fn sample_kept(key: &SampleKey, tokens: usize, kept: usize, keep_prefix: usize) -> Result<Vec<u32>> {
    sample_kept_batch(key, 1, tokens, kept, keep_prefix)
}

/// [`sample_kept`] for `batch` samples at consecutive positions in the global batch, the first of which is
/// `first.sample`. Returns `u32[batch, kept]`, each row ascending.
///
/// # Errors
/// As for [`sample_kept`], and if `batch` is 0, `batch * kept` is above 2³²−1, or a sample's position is above 2⁶⁴−1.
pub fn sample_kept_batch(
    first: &SampleKey,
    batch: usize,
    tokens: usize,
    kept: usize,
    keep_prefix: usize,
) -> Result<Vec<u32>> {
    let lengths = Lengths::new(tokens, kept, keep_prefix)?;
    let count = batch.checked_mul(kept).filter(|&count| count > 0 && u32::try_from(count).is_ok());
    let (Some(count), Some(end)) = (count, first.sample.checked_add(batch as u64)) else {
        let expected = format!("at least 1, with batch * {kept} below 2^32 and sample + batch below 2^64");
        return Err(Error::argument(OP, "batch", expected, batch));
    };
    let mut rows = Vec::with_capacity(count);
    for sample in first.sample..end {
        lengths.draw(&mut SampleKey { sample, ..*first }.generator(), &mut rows);
    }
    Ok(rows)
}

const OP: &str = "sample_kept";

/// Checked lengths of a draw.
#[derive(Clone, Copy)]
struct Lengths {
    tokens: u32,
    kept: u32,
    keep_prefix: u32,
}

impl Lengths {
    fn new(tokens: usize, kept: usize, keep_prefix: usize) -> Result<Self> {
        if kept == 0 || kept > tokens {
            return Err(Error::argument(OP, "kept", format!("1 to {tokens}, the number of tokens"), kept));
        }
        if keep_prefix > kept {
            let expected = format!("at most {kept}, the number of kept tokens");
            return Err(Error::argument(OP, "keep_prefix", expected, keep_prefix));
        }
        let Ok(tokens) = u32::try_from(tokens) else {
            return Err(Error::argument(OP, "tokens", "below 2^32", tokens));
        };
        // Neither is above `tokens`, which fits.
        Ok(Lengths { tokens, kept: kept as u32, keep_prefix: keep_prefix as u32 })
    }

    /// Appends one row.
    fn draw(self, rng: &mut Pcg32, row: &mut Vec<u32>) {
        row.extend(0..self.keep_prefix);
        let mut wanted = self.kept - self.keep_prefix;
        let mut position = self.keep_prefix;
        while wanted > 0 {
            let left = self.tokens - position;
            if wanted == left {
                row.extend(position..self.tokens);
                return;
            }
            if below(rng, left) < wanted {
                row.push(position);
                wanted -= 1;
            }
            position += 1;
        }
    }
}
