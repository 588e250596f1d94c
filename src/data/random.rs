//! Random numbers that depend on what they are for, never on when or on which thread they are drawn.

use rand_pcg::Pcg32;
use rand_pcg::rand_core::Rng;

use crate::hash::{GOLDEN, finalise};

/// What a stream of random numbers is for. Streams of different purposes are unrelated even under equal keys.
#[derive(Clone, Copy)]
#[cfg_attr(
    not(all(feature = "pictures", feature = "text")),
    expect(dead_code, reason = "pictures and text have their own")
)]
pub(crate) enum Purpose {
    /// Dividing one split into several: keyed by (seed, class).
    Divide = 1,
    /// The order of an epoch: keyed by (seed, epoch).
    Order = 2,
    /// The augmentation of one sample: keyed by (seed, epoch, sample).
    Augment = 3,
    /// The mixing of one batch: keyed by (seed, epoch, batch).
    Mix = 4,
    /// The masking of one sequence: keyed by (seed, epoch, sample).
    MaskTokens = 5,
}

/// A generator for one purpose and key. The words are absorbed one after the other, `h = finalise(h + word + GOLDEN)`,
/// so that (1, 2) and (2, 1) differ; the last two states seed the generator and choose its stream.
pub(crate) fn keyed(purpose: Purpose, seed: u64, key: [u64; 2]) -> Pcg32 {
    let absorb = |state: u64, word: u64| finalise(state.wrapping_add(word).wrapping_add(GOLDEN));
    let state = [purpose as u64, seed, key[0], key[1]].into_iter().fold(0, absorb);
    Pcg32::new(state, absorb(state, 0))
}

/// A number below `bound`; 0 where `bound` is 0. The multiply-shift takes one draw whatever the bound is, which keeps
/// the later draws of a sample in place; its bias is below `bound` / 2³².
pub(crate) fn below(rng: &mut Pcg32, bound: u32) -> u32 {
    ((u64::from(rng.next_u32()) * u64::from(bound)) >> 32) as u32
}

/// Shuffles in place (Fisher and Yates).
pub(crate) fn shuffle(rng: &mut Pcg32, items: &mut [u32]) {
    for last in (1..items.len()).rev() {
        // A slice of sample numbers is never longer than u32 can count: `Split` sees to it.
        let other = below(rng, last as u32 + 1) as usize;
        items.swap(last, other);
    }
}
