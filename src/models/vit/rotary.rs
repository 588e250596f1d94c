//! DINOv3's rotary positions.

use super::config::VitConfig;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::ops::Rotary;

/// The angles of every token's place, of a base of periods `temperature` (Siméoni et al., "DINOv3", 2025, and timm's
/// `RotaryEmbeddingDinoV3`): patch (i, j) of h × w lies at y = 2(i + ½)/h − 1 and x = 2(j + ½)/w − 1, and its angles are 2π·y·f_k and
/// behind them 2π·x·f_k with f_k = temperature^(−4k/D) for k below D/4. Tokens before the patches are not turned.
pub(super) fn positions(gpu: &Gpu, config: &VitConfig, temperature: f32) -> Result<Rotary> {
    let (height, width) = (config.img_size.0 / config.patch_size, config.img_size.1 / config.patch_size);
    let quarter = config.embed_dim / config.num_heads / 4;
    let frequency = |k: usize| f64::from(temperature).powf(-(k as f64) / quarter as f64);
    let frequencies: Vec<f64> = (0..quarter).map(frequency).collect();
    let centre = |i: usize, of: usize| (2 * i + 1) as f64 / of as f64 - 1.0;
    let turns = |at: f64| frequencies.iter().map(move |frequency| std::f64::consts::TAU * at * frequency);
    let patches = (0..height).flat_map(|i| (0..width).map(move |j| (centre(i, height), centre(j, width))));
    let prefix = std::iter::repeat_n(0.0, config.prefix_tokens() * 2 * quarter);
    let angles: Vec<f64> = prefix.chain(patches.flat_map(|(y, x)| turns(y).chain(turns(x)))).collect();
    Rotary::new(gpu, config.tokens(), &angles)
}
