//! Learning rates that fall with depth.

/// Layer-wise learning-rate decay: `decay`^(`depth` + 1 − `layer`) for a parameter of that layer of a model of `depth` blocks
/// ([`crate::nn::Model::layer`]), so 1 for the head and the least for the embedding.
/// Source: Bao et al., 2022, arXiv 2106.08254 (BEiT), as its published finetuning does.
pub fn layer_scale(layer: usize, depth: usize, decay: f32) -> f32 {
    f64::from(decay).powf((depth + 1).saturating_sub(layer) as f64) as f32
}
