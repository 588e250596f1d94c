//! Draws from distributions.

use rand_distr::{Distribution, StandardNormal};
use rand_pcg::Pcg32;
use rand_pcg::rand_core::Rng;

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
