//! Random numbers that depend on what they are for, never on when or on which thread they are drawn.

use rand_distr::{Distribution, StandardNormal};
use rand_pcg::Pcg32;
use rand_pcg::rand_core::Rng;

use crate::hash::{GOLDEN, finalise};

/// What a stream of random numbers is for. Streams of different purposes are unrelated even under equal keys.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    /// Dividing one split into several: keyed by (seed, class).
    Divide = 1,
    /// The order of an epoch: keyed by (seed, epoch).
    Order = 2,
    /// The augmentation of one sample: keyed by (seed, epoch, sample).
    Augment = 3,
    /// The mixing of one batch: keyed by (seed, epoch, batch).
    Mix = 4,
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

/// A number from 0 up to but not including 1, with 53 random bits.
pub(crate) fn unit(rng: &mut Pcg32) -> f64 {
    (rng.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// A number between the two.
pub(crate) fn uniform(rng: &mut Pcg32, (low, high): (f64, f64)) -> f64 {
    low + (high - low) * unit(rng)
}

/// A number from the Beta(α, α) distribution, α above 0: x / (x + y) of two numbers from Gamma(α). In logarithms, since
/// for a small α both may be below what a float can hold.
pub(crate) fn beta(rng: &mut Pcg32, alpha: f64) -> f64 {
    let (x, y) = (ln_gamma_draw(rng, alpha), ln_gamma_draw(rng, alpha));
    1.0 / (1.0 + (y - x).exp())
}

/// The logarithm of a number from the Gamma(`shape`) distribution (Marsaglia and Tsang, "A simple method for generating
/// gamma variables", 2000). They take shapes from 1; a smaller one is Gamma(`shape` + 1) · u^(1 / `shape`).
fn ln_gamma_draw(rng: &mut Pcg32, shape: f64) -> f64 {
    if shape < 1.0 {
        let u = 1.0 - unit(rng);
        return ln_gamma_draw(rng, shape + 1.0) + u.ln() / shape;
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    // At least 95 of 100 draws are accepted.
    loop {
        let x: f64 = StandardNormal.sample(rng);
        let v = (1.0 + c * x).powi(3);
        let u = 1.0 - unit(rng);
        if v > 0.0 && u.ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return (d * v).ln();
        }
    }
}

/// Shuffles in place (Fisher and Yates).
pub(crate) fn shuffle(rng: &mut Pcg32, items: &mut [u32]) {
    for last in (1..items.len()).rev() {
        // A slice of sample numbers is never longer than u32 can count: `Split` sees to it.
        let other = below(rng, last as u32 + 1) as usize;
        items.swap(last, other);
    }
}
