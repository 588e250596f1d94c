//! Rotary positions of patches: DINOv3's and EVA-02's.

use super::config::VitConfig;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::ops::Rotary;

/// The angles of every token's place, of a base of periods `temperature`: of patch (i, j) of h × w, which lies at y and x, y·f_k and behind
/// them x·f_k with f_k = temperature^(−4k/D) for k below D/4. Tokens before the patches are not turned.
///
/// In DINOv3 (Siméoni et al., "DINOv3", 2025, and timm's `RotaryEmbeddingDinoV3`) a patch lies at y = 2π(2(i + ½)/h − 1), x likewise, and
/// turns the halves of a head. In EVA-02 (Fang et al., "EVA-02: A Visual Representation for Neon Genesis", 2023, and timm's
/// `RotaryEmbeddingCat`) it lies at y = i·H/h with H the rows of `ref_feat_shape`, x likewise, and turns neighbouring channels.
pub(super) fn positions(gpu: &Gpu, config: &VitConfig, temperature: f32) -> Result<Rotary> {
    let (height, width) = (config.img_size.0 / config.patch_size, config.img_size.1 / config.patch_size);
    let quarter = config.embed_dim / config.num_heads / 4;
    let frequency = |k: usize| f64::from(temperature).powf(-(k as f64) / quarter as f64);
    let frequencies: Vec<f64> = (0..quarter).map(frequency).collect();
    let turns = |at: f64| frequencies.iter().map(move |frequency| at * frequency);
    let lies_at = |i: usize, of: usize, reference: Option<usize>| match reference {
        Some(reference) => (i * reference) as f64 / of as f64,
        None => std::f64::consts::TAU * ((2 * i + 1) as f64 / of as f64 - 1.0),
    };
    let (rows, columns) = config.ref_feat_shape.unzip();
    let patch = |i: usize, j: usize| (lies_at(i, height, rows), lies_at(j, width, columns));
    let patches = (0..height).flat_map(|i| (0..width).map(move |j| (i, j))).map(|(i, j)| patch(i, j));
    let prefix = std::iter::repeat_n(0.0, config.prefix_tokens() * 2 * quarter);
    let angles: Vec<f64> = prefix.chain(patches.flat_map(|(y, x)| turns(y).chain(turns(x)))).collect();
    let rotary = Rotary::new(gpu, config.tokens(), &angles)?;
    Ok(if config.ref_feat_shape.is_some() { rotary.interleaved() } else { rotary })
}
