//! Data, and comparisons with the references.

use anyhow::{Result, ensure};

/// Of the largest reference value. Sums of thousands of rounded terms stay well within it; a wrong index does not.
const TOLERANCE: f32 = 1e-4;

/// Repeatable values in −1..1.
pub fn values(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(n).collect()
}

/// Every value is near the reference's.
pub fn close(what: &str, got: &[f32], reference: &[f32]) -> Result<()> {
    within(what, got, reference, TOLERANCE)
}

/// Every value is within `tolerance` of the largest of the reference. A NaN is not near anything.
pub fn within(what: &str, got: &[f32], reference: &[f32], tolerance: f32) -> Result<()> {
    ensure!(got.len() == reference.len(), "{what}: {} values, not {}", got.len(), reference.len());
    let largest = reference.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    let near = |(g, r): (&f32, &f32)| (g - r).abs() <= tolerance * largest;
    let bad = got.iter().zip(reference).position(|pair| !near(pair));
    if let Some(i) = bad {
        let (got, reference) = (got[i], reference[i]);
        anyhow::bail!("{what}: value {i} of the sample is {got}, the reference {reference} (largest {largest})");
    }
    Ok(())
}

/// Up to eight numbers below `n`: the ends, where tiles are ragged, and some between.
pub fn sample(n: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..8).map(|i| i * (n - 1) / 7).collect();
    places.dedup();
    places
}

/// These rows of `width` elements.
pub fn pick(x: &[f32], width: usize, rows: &[usize]) -> Vec<f32> {
    rows.iter().flat_map(|&row| &x[row * width..(row + 1) * width]).copied().collect()
}
