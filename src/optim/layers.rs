//! Which layer a parameter belongs to, and learning rates that fall with depth.

/// First parts of the names of what lies below the first block.
const STEM: [&str; 7] = ["cls_token", "pos_embed", "patch_embed", "reg_token", "dist_token", "norm_pre", "mask_token"];

/// The layer of a ViT of `depth` blocks that the parameter `path` belongs to: 0 for patches, tokens and positions, i + 1 for
/// block i, `depth` + 1 for the last norm and the head. As BEiT numbers them.
pub fn layer(path: &str, depth: usize) -> usize {
    let mut parts = path.split('.');
    let first = parts.next().unwrap_or(path);
    if STEM.contains(&first) {
        return 0;
    }
    let block = (first == "blocks").then(|| parts.next()?.parse::<usize>().ok()).flatten();
    block.map_or(depth + 1, |block| block.saturating_add(1).min(depth + 1))
}

/// Layer-wise learning-rate decay: `decay`^(`depth` + 1 − layer), so 1 for the head and the least for the embedding.
/// Source: Bao et al., 2022, arXiv 2106.08254 (BEiT), as its published finetuning does.
pub fn layer_scale(path: &str, depth: usize, decay: f32) -> f32 {
    f64::from(decay).powf((depth + 1 - layer(path, depth)) as f64) as f32
}
