//! What the names of timm's architectures stand for and its `config.json` does not repeat.

use super::infer::Hints;
use super::positions::Resampling;
use crate::checkpoint::Checkpoint;
use crate::models::vit::Pool;
use crate::ops::{Gelu, Normalize};

/// Parts of the names of SigLIP's models whose GELU is that by tanh; the others have the exact one.
const BY_TANH: [&str; 5] = [
    "base_patch32_siglip_",
    "large_patch16_siglip_512",
    "large_patch16_siglip_gap_512",
    "so400m_patch16_siglip_",
    "giantopt_patch16_siglip_",
];

/// Parts of the names of architectures that compute something else than is computed here with tensors of the same names, and what that is.
const REFUSED: [(&str, &str); 5] = [
    ("eva02_enormous_", "a model with norms behind attention and MLP"),
    ("_pe_", "the Perception Encoder, whose rotary positions are not in its file"),
    ("_rope_", "a model with rotary positions of another kind than DINOv3's and EVA-02's"),
    ("_rpn_", "a model with norms behind attention and MLP"),
    ("test_vit3", "a model whose attention pooling sees its register too"),
];

/// What a model is, by its name, that is not computed here, though its tensors look as if it were.
pub(super) fn refused(architecture: &str) -> Option<&'static str> {
    REFUSED.iter().find(|(part, _)| architecture.contains(part)).map(|(_, what)| *what)
}

/// The base of the periods of DINOv3's or EVA-02's rotary positions, and whether there are such. Other models of timm's have them of other
/// kinds.
pub(super) fn rope_temperature(architecture: &str) -> Option<f32> {
    if is_eva02(architecture) { Some(10_000.0) } else { is_dinov3(architecture).then_some(100.0) }
}

/// The grid that rotary positions are counted as, where learned ones stand beside them.
pub(super) fn ref_feat_shape(architecture: &str) -> Option<(usize, usize)> {
    is_eva02(architecture).then_some((16, 16))
}

/// The eps of norms, where it is another than most models'.
pub(super) fn eps(architecture: &str) -> Option<f32> {
    (is_dinov3(architecture) || architecture.starts_with("beit3_")).then_some(1e-5)
}

/// Whether keys have no bias where nothing turns them, so that it has no effect: that is the first EVA.
pub(super) fn has_idle_key_bias(architecture: &str) -> bool {
    architecture.starts_with("eva_giant_")
}

fn is_eva02(architecture: &str) -> bool {
    architecture.starts_with("eva02_")
}

/// The hints of a DINOv3, for a file that has its tensors and none beside it that names it. Of timm's other models without learned positions
/// those with this layer scale have no class token, and a norm behind the mean; but Lingbot's, whose head reads the class token.
pub(super) fn dinov3_by_tensors(checkpoint: &Checkpoint) -> Option<Hints> {
    const NAME: &str = "vit_dinov3";
    let has = |name: &str| checkpoint.tensors.contains_key(name);
    let is_one = ["blocks.0.gamma_1", "reg_token", "cls_token"].iter().all(|name| has(name));
    let is_other = ["pos_embed", "fc_norm.weight"].iter().any(|name| has(name));
    (is_one && !is_other).then(|| Hints {
        rope_temperature: rope_temperature(NAME),
        eps: eps(NAME),
        // timm's default, which its models without a head are made with too.
        global_pool: Some(Pool::Avg),
        normalize: Some(Normalize::IMAGENET),
        ..Hints::default()
    })
}

fn is_dinov3(architecture: &str) -> bool {
    architecture.starts_with("vit_") && architecture.contains("_dinov3")
}

/// The heads, where they are others than is usual for their width, or for their width and a gated MLP: Virchow's is such a ViT-H/14.
pub(super) fn heads(architecture: &str) -> Option<usize> {
    if architecture.starts_with("vit_giant_patch16_radio_") {
        return Some(24);
    }
    (architecture == "vit_base_patch16_gap_224" || architecture.starts_with("vit_huge_patch14_")).then_some(16)
}

/// How timm resamples the positions: FlexiViT's and RADIO's otherwise than others, and those of two of RADIO's by a grid of its own.
pub(super) fn resampling(architecture: &str) -> Resampling {
    let is_of = |parts: &[&str]| parts.iter().any(|part| architecture.contains(part));
    if is_of(&["base_patch16_radio_v3", "huge_patch16_radio_v3"]) {
        Resampling::BilinearAligned
    } else if is_of(&["flexi", "radio"]) {
        Resampling::Bilinear
    } else {
        Resampling::Antialiased
    }
}

/// Whether there is a last norm, where there is none.
pub(super) fn final_norm(architecture: &str) -> Option<bool> {
    let without = ["vit_intern300m_", "_radio_v3", "_radio_v4"];
    without.iter().any(|part| architecture.contains(part)).then_some(false)
}

/// The MLP's activation, where it is another than most models'.
pub(super) fn activation(architecture: &str) -> Option<Gelu> {
    if architecture.contains("_quickgelu_") {
        Some(Gelu::Quick)
    } else {
        BY_TANH.iter().any(|part| architecture.contains(part)).then_some(Gelu::Tanh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_that_differ_from_their_sizes_usual_ones() {
        assert_eq!(heads("vit_giant_patch16_radio_v3"), Some(24));
        assert_eq!(heads("vit_giantopt_patch16_siglip_384"), None);
        assert!(refused("test_vit3").is_some() && refused("test_vit2").is_none());
        assert!(refused("eva02_enormous_patch14_clip_224").is_some());
        let rotary = |name| (rope_temperature(name), ref_feat_shape(name));
        assert_eq!(rotary("eva02_large_patch14_448"), (Some(10_000.0), Some((16, 16))));
        assert_eq!(rotary("eva_giant_patch14_560"), (None, None));
        assert_eq!(rotary("vit_large_patch16_dinov3"), (Some(100.0), None));
        assert_eq!((eps("beit3_large_patch16_224"), eps("eva02_large_patch14_448")), (Some(1e-5), None));
        for (name, expected) in [
            ("flexivit_base", Resampling::Bilinear),
            ("vit_so400m_patch16_radio_v4", Resampling::Bilinear),
            ("vit_base_patch16_radio_v3", Resampling::BilinearAligned),
            ("vit_base_patch16_224", Resampling::Antialiased),
        ] {
            assert_eq!(resampling(name), expected, "{name}");
        }
    }
}
