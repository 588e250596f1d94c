//! The towers of pictures of CLIP and SigLIP: other forms of GELU, a first norm, no last one, no class token.

use std::collections::BTreeMap;

use super::reference::{
    RANDOM_LTD, Reference, Tensors, WHOLE, check_gradients, check_half_precision, check_return, check_steps, folder,
    logits, model, opened, weights, with_identity_head,
};
use crate::common::{assert_close, gpu};
use wgrad::checkpoint::{self, HostTensor};
use wgrad::models::vit::{
    CropMode, ExportOptions, Interpolation, OpenOptions, Pool, Pretrained, Resampling, VitConfig, export_hf,
    export_timm, open,
};
use wgrad::ops::{Gelu, Normalize};

const TIMM_CLIP: &str = "timm_clip";
const CLIP: &str = "hf_clip";
const TIMM_SIGLIP: &str = "timm_siglip_gap";
const SIGLIP: &str = "hf_siglip";

#[test]
fn torch_clip_of_timm_gradients() {
    check_gradients(TIMM_CLIP, WHOLE);
}

#[test]
fn torch_clip_of_timm_gradients_with_random_ltd() {
    check_gradients(TIMM_CLIP, RANDOM_LTD);
}

#[test]
fn torch_clip_of_timm_ten_steps() {
    check_steps(TIMM_CLIP, WHOLE);
    check_steps(TIMM_CLIP, RANDOM_LTD);
}

#[test]
fn torch_clip_gradients() {
    check_gradients(CLIP, WHOLE);
}

#[test]
fn torch_clip_ten_steps() {
    check_steps(CLIP, WHOLE);
}

#[test]
fn torch_siglip_gap_of_timm_gradients() {
    check_gradients(TIMM_SIGLIP, WHOLE);
}

#[test]
fn torch_siglip_gap_of_timm_ten_steps() {
    check_steps(TIMM_SIGLIP, WHOLE);
}

#[test]
fn torch_siglip_gradients() {
    check_gradients(SIGLIP, WHOLE);
}

#[test]
fn torch_siglip_ten_steps() {
    check_steps(SIGLIP, WHOLE);
}

#[test]
fn torch_clip_and_siglip_in_half_precision() {
    check_half_precision(TIMM_CLIP, RANDOM_LTD);
    check_half_precision(CLIP, WHOLE);
    check_half_precision(TIMM_SIGLIP, WHOLE);
    check_half_precision(SIGLIP, WHOLE);
}

#[test]
fn towers_are_told_by_their_files() {
    let sizes = VitConfig { num_classes: 7, mlp_ratio: 2.0, ..VitConfig::custom(32, 3, 2) };
    let normalize = opened(TIMM_CLIP).config.normalize;
    assert!((normalize.mean[0] - 0.48145).abs() < 1e-4 && (normalize.std[2] - 0.27578).abs() < 1e-4);
    let clip = VitConfig {
        img_size: (32, 32),
        patch_size: 8,
        pre_norm: true,
        patch_bias: false,
        act_layer: Gelu::Quick,
        eps: 1e-5,
        normalize,
        ..sizes.clone()
    };
    assert_eq!(opened(TIMM_CLIP).config, clip);
    let theirs = opened(CLIP);
    assert_eq!(theirs.config, VitConfig { global_pool: Pool::Avg, final_norm: false, ..clip });
    assert_eq!((theirs.resampling, theirs.crop_fraction), (Resampling::Plain, Some(1.0)));
    let siglip = VitConfig {
        img_size: (24, 24),
        patch_size: 4,
        class_token: false,
        global_pool: Pool::Avg,
        fc_norm: Some(false),
        act_layer: Gelu::Tanh,
        normalize: Normalize::INCEPTION,
        ..sizes
    };
    assert_eq!(opened(TIMM_SIGLIP).config, siglip);
    assert_eq!(opened(SIGLIP).config, VitConfig { crop_mode: CropMode::Squash, ..siglip });
}

/// Of timm's names, those whose activation is another than the exact GELU.
#[test]
fn names_of_architectures_tell_the_activation() {
    let pretrained = opened(TIMM_SIGLIP);
    for (architecture, expected) in [
        ("vit_base_patch16_clip_224", Gelu::Erf),
        ("vit_huge_patch14_clip_quickgelu_378", Gelu::Quick),
        ("vit_base_patch16_siglip_gap_512", Gelu::Erf),
        ("vit_base_patch32_siglip_gap_256", Gelu::Tanh),
        ("vit_large_patch16_siglip_gap_384", Gelu::Erf),
        ("vit_large_patch16_siglip_gap_512", Gelu::Tanh),
        ("vit_so400m_patch14_siglip_gap_384", Gelu::Erf),
        ("vit_so400m_patch16_siglip_gap_256", Gelu::Tanh),
        ("vit_giantopt_patch16_siglip_gap_384", Gelu::Tanh),
    ] {
        let config = format!(r#"{{"architecture": "{architecture}", "model_args": {{"num_heads": 2}}}}"#);
        assert_eq!(reopened(&pretrained.checkpoint.tensors, &config).config.act_layer, expected, "{architecture}");
    }
}

/// Opens tensors as a folder with this config.json.
fn reopened(tensors: &Tensors, config: &str) -> Pretrained {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    checkpoint::write(folder.path().join("model.safetensors"), tensors, &Default::default()).unwrap();
    open(folder.path(), &OpenOptions::default()).unwrap()
}

/// A published file holds the tower for texts too and no classifier: what its library calls the pooled output is read.
#[test]
fn torch_clip_as_it_is_published() {
    let config = std::fs::read_to_string(folder(CLIP).join("config.json")).unwrap();
    let mut tensors = checkpoint::read(folder(CLIP).join("model.safetensors")).unwrap().tensors;
    tensors.retain(|name, _| !name.starts_with("classifier."));
    let bare: Tensors =
        tensors.iter().map(|(name, tensor)| (name.replace("vision_model.", ""), tensor.clone())).collect();
    let number = |data| HostTensor { shape: vec![], data: vec![data] };
    for name in [
        "logit_scale",
        "visual_projection.weight",
        "text_projection.weight",
        "text_model.encoder.layers.0.layer_norm1.weight",
        "vision_model.embeddings.position_ids",
    ] {
        tensors.insert(name.to_owned(), number(0.5));
    }
    let published = reopened(&tensors, &config);
    assert_eq!((published.config.global_pool, published.config.final_norm), (Pool::Token, true));
    assert_eq!(published.checkpoint, reopened(&bare, &config).checkpoint);
    let reference = Reference::read(CLIP, WHOLE);
    let pooled = logits(&with_identity_head(published), &reference.images);
    assert_close("pooler_output", &pooled, &reference.get("pooler_output").data, 5e-6);
}

#[test]
fn towers_go_back_to_where_they_came_from() {
    check_return(TIMM_CLIP, &[]);
    check_return(CLIP, &["post_layernorm"]);
    check_return(TIMM_SIGLIP, &[]);
    check_return(SIGLIP, &["vision_model.head."]);
}

#[test]
fn towers_go_to_the_other_library() {
    let out = tempfile::tempdir().unwrap();
    for (name, to_timm) in [(CLIP, true), (SIGLIP, true), (TIMM_SIGLIP, false)] {
        let export = if to_timm { export_timm } else { export_hf };
        let reference = Reference::read(name, WHOLE);
        let path = out.path().join(name);
        export(&path, &model(&gpu(), &reference.pretrained), &ExportOptions::default()).unwrap();
        let theirs = open(&path, &OpenOptions::default()).unwrap();
        assert_close(name, &logits(&theirs, &reference.images), &reference.get("logits").data, 5e-6);
    }
    let clip = model(&gpu(), &opened(TIMM_CLIP));
    let refused = export_hf(&out.path().join("x"), &clip, &ExportOptions::default()).unwrap_err().to_string();
    assert!(refused.contains("global_pool") && refused.contains("CLIPForImageClassification"), "{refused}");
}

/// The filter of the file beside the weights, else that of the library's published models; and on to what is exported.
#[test]
fn how_pictures_are_resized_is_told_by_files_and_goes_on() {
    let (gpu, place) = (gpu(), tempfile::tempdir().unwrap());
    let filter_of = |name: &str, beside: &str, text: Option<String>| {
        let copy = place.path().join("copy");
        let _ = std::fs::remove_dir_all(&copy);
        std::fs::create_dir(&copy).unwrap();
        std::fs::copy(folder(name).join("config.json"), copy.join("config.json")).unwrap();
        if let Some(text) = text {
            std::fs::write(copy.join(beside), text).unwrap();
        }
        checkpoint::write(copy.join("model.safetensors"), &weights(name), &BTreeMap::new()).unwrap();
        let opened = open(&copy, &OpenOptions::default()).unwrap();
        let exported = place.path().join("exported");
        let export = if name.starts_with("timm") { export_timm } else { export_hf };
        export(&exported, &model(&gpu, &opened), &ExportOptions::default()).unwrap();
        assert_eq!(open(&exported, &OpenOptions::default()).unwrap().config, opened.config, "{name}");
        opened.config.interpolation
    };
    for (name, usual) in [("hf_dinov3", Interpolation::Bilinear), ("hf_clip", Interpolation::Bicubic)] {
        let told = |resample: u32| {
            let text = format!(r#"{{"resample": {resample}}}"#);
            filter_of(name, "preprocessor_config.json", Some(text))
        };
        assert_eq!([told(2), told(3), told(1)], [Interpolation::Bilinear, Interpolation::Bicubic, usual], "{name}");
        assert_eq!(filter_of(name, "preprocessor_config.json", None), usual, "{name}");
    }
    let timm = std::fs::read_to_string(folder(TIMM_CLIP).join("config.json")).unwrap();
    assert_eq!(filter_of(TIMM_CLIP, "config.json", None), Interpolation::Bicubic);
    let squashed = timm.replace(r#""crop_mode": "center""#, r#""crop_mode": "squash""#);
    assert!(squashed.contains("squash"));
    filter_of(TIMM_CLIP, "config.json", Some(squashed));
    assert_eq!(open(place.path().join("copy"), &OpenOptions::default()).unwrap().config.crop_mode, CropMode::Squash);
    for (name, filter) in [("bilinear", Interpolation::Bilinear), ("lanczos", Interpolation::Bicubic)] {
        let text = timm.replace(r#""interpolation": "bicubic""#, &format!(r#""interpolation": "{name}""#));
        assert!(text.contains(name));
        assert_eq!(filter_of(TIMM_CLIP, "config.json", Some(text)), filter);
    }
}

/// Without a file that tells it, pictures are normalised as those of the family's published models.
#[test]
fn what_pictures_are_normalised_with_follows_from_the_family() {
    let cases = [
        (CLIP, Normalize::CLIP),
        (SIGLIP, Normalize::INCEPTION),
        ("hf_dinov2", Normalize::IMAGENET),
        ("hf_dinov3", Normalize::IMAGENET),
        ("hf_deit_distilled", Normalize::IMAGENET),
    ];
    for (name, expected) in cases {
        let copy = tempfile::tempdir().unwrap();
        std::fs::copy(folder(name).join("config.json"), copy.path().join("config.json")).unwrap();
        checkpoint::write(copy.path().join("model.safetensors"), &weights(name), &BTreeMap::new()).unwrap();
        let opened = open(copy.path(), &OpenOptions::default()).unwrap();
        assert_eq!(opened.config.normalize, expected, "{name}");
    }
}
