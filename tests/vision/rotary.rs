//! Rotary positions: DINOv3.

use super::reference::{
    RANDOM_LTD, Reference, WHOLE, check_gradients, check_half_precision, check_resized, check_return, check_steps,
    folder, logits, model, opened,
};
use crate::common::{assert_close, each_family, gpu};
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use wgrad::Tensor;
use wgrad::checkpoint;
use wgrad::models::vit::{
    CropMode, ExportOptions, Interpolation, OpenOptions, Pool, Resampling, Vit, VitConfig, export_hf, export_timm, open,
};
use wgrad::nn::{Mode, Span};
use wgrad::ops::{self, Normalize, Rotary, TokenIndices};

const TIMM: &str = "timm_dinov3";
const DINOV3: &str = "hf_dinov3";

#[test]
fn torch_dinov3_of_timm_gradients() {
    check_gradients(TIMM, WHOLE);
}

#[test]
fn torch_dinov3_of_timm_gradients_with_random_ltd() {
    check_gradients(TIMM, RANDOM_LTD);
}

#[test]
fn torch_dinov3_of_timm_ten_steps() {
    check_steps(TIMM, WHOLE);
    check_steps(TIMM, RANDOM_LTD);
}

#[test]
fn torch_dinov3_gradients() {
    check_gradients(DINOV3, WHOLE);
}

#[test]
fn torch_dinov3_gradients_with_random_ltd() {
    check_gradients(DINOV3, RANDOM_LTD);
}

#[test]
fn torch_dinov3_ten_steps() {
    check_steps(DINOV3, WHOLE);
    check_steps(DINOV3, RANDOM_LTD);
}

#[test]
fn torch_dinov3_in_half_precision() {
    check_half_precision(TIMM, RANDOM_LTD);
    check_half_precision(DINOV3, WHOLE);
}

#[test]
fn torch_dinov3_of_other_picture_sizes() {
    check_resized(TIMM, Resampling::Antialiased);
    check_resized(DINOV3, Resampling::Antialiased);
}

/// Queries and keys of kept tokens, turned by DINOv3's angles for 3 × 5 patches behind five other tokens.
#[test]
fn torch_rotary() {
    let bytes = std::fs::read(folder("ops.safetensors")).unwrap();
    let floats = checkpoint::read_bytes(&bytes, "ops").unwrap();
    let keep = SafeTensors::deserialize(&bytes).unwrap().tensor("rotary/keep").unwrap().data().to_vec();
    let keep: Vec<u32> = bytemuck::pod_collect_to_vec(&keep);
    let [sin, cos] = ["sin", "cos"].map(|name| floats.get(&format!("rotary/half/{name}")).unwrap().data.clone());
    // The first half of a head's channels tells the second.
    let angle = |i: usize| f64::from(sin[i]).atan2(cos[i].into());
    let angles: Vec<f64> = (0..20).flat_map(|place| (0..8).map(move |j| place * 16 + j)).map(angle).collect();
    // [sample, head, token, channel] to q, k and v of [sample, token, head, channel], each the same.
    let packed = |name: &str| -> Vec<f32> {
        let data = &floats.get(name).unwrap().data;
        let row = |at: usize| {
            (0..2).flat_map(move |head| (0..16).map(move |c| ((at / 13 * 2 + head) * 13 + at % 13) * 16 + c))
        };
        (0..2 * 13).flat_map(|at| (0..3).flat_map(move |_| row(at))).map(|i| data[i]).collect()
    };
    let queries = |packed: &[f32]| packed.chunks(96).flat_map(|row| row[..64].to_vec()).collect::<Vec<f32>>();
    for gpu in each_family() {
        let turns = Rotary::new(&gpu, 20, &angles).unwrap();
        let kept = TokenIndices::new(&gpu, [2, 13], 20, &keep).unwrap();
        let on_device = |name: &str| Tensor::from_slice(&gpu, &[2, 13, 96], &packed(name)).unwrap();
        let x = on_device("rotary/x").requires_grad().unwrap();
        let y = ops::rotary(x.clone(), 2, &turns, Some(&kept)).unwrap();
        let expected = queries(&packed("rotary/half/y"));
        assert_close("turned", &queries(&y.to_vec::<f32>().unwrap()), &expected, 1e-6);
        let gradients = y.backward_from(&on_device("rotary/dy")).unwrap();
        let dx: Vec<f32> = gradients.get(&x).unwrap().to_vec().unwrap();
        assert_close("turned back", &queries(&dx), &queries(&packed("rotary/half/dx")), 1e-6);
    }
}

#[test]
fn dinov3_is_told_by_its_files_and_returns() {
    let timm = opened(TIMM).config;
    let expected = VitConfig {
        img_size: (24, 24),
        patch_size: 4,
        num_classes: 7,
        mlp_ratio: 2.0,
        reg_tokens: 4,
        qkv_bias: false,
        global_pool: Pool::Avg,
        fc_norm: Some(false),
        rope_temperature: Some(100.0),
        eps: 1e-5,
        init_values: Some(1e-5),
        normalize: timm.normalize,
        ..VitConfig::custom(32, 4, 2)
    };
    assert_eq!(timm, expected);
    let theirs = VitConfig {
        num_classes: 1,
        depth: 3,
        qkv_bias: true,
        key_bias: false,
        global_pool: Pool::Token,
        fc_norm: None,
        init_values: Some(1.0),
        interpolation: Interpolation::Bilinear,
        crop_mode: CropMode::Squash,
        ..expected
    };
    assert_eq!(open(folder(DINOV3), &OpenOptions::default()).unwrap().config, theirs);
    check_return(TIMM, &[]);
    check_return(DINOV3, &["mask_token", "classifier"]);
    // A file by itself is known by its tensors, but for the size of its pictures.
    let bare = open(folder(TIMM).join("model.safetensors"), &OpenOptions::default());
    assert!(bare.is_ok(), "its folder's config.json is beside it");
    let alone = tempfile::tempdir().unwrap();
    std::fs::copy(folder(TIMM).join("model.safetensors"), alone.path().join("model.safetensors")).unwrap();
    let options = OpenOptions { heads: Some(2), trained_on: None };
    let refused = open(alone.path(), &options).unwrap_err().to_string();
    assert!(refused.contains("pos_embed") && refused.contains("trained_on"), "{refused}");
    let told = open(alone.path(), &OpenOptions { trained_on: Some((24, 24)), ..options }).unwrap();
    let timm = open(folder(TIMM), &OpenOptions::default()).unwrap();
    // What only the file beside it tells: pooling. timm's default is the mean of the patches.
    let VitConfig { global_pool, fc_norm, num_classes, .. } = timm.config;
    assert_eq!(told.config.global_pool, Pool::Avg);
    assert_eq!(timm.config.normalize, Normalize::IMAGENET);
    assert_eq!(VitConfig { global_pool, fc_norm, num_classes, ..told.config }, timm.config);
    assert_eq!(told.checkpoint.tensors, timm.checkpoint.tensors);
    // timm's other models with rotary positions have layer scale and registers too; their files by themselves are of none.
    let mut tensors = checkpoint::read(folder(TIMM).join("model.safetensors")).unwrap().tensors;
    tensors.remove("cls_token");
    checkpoint::write(alone.path().join("model.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    let options = OpenOptions { heads: Some(2), trained_on: Some((24, 24)) };
    let refused = open(alone.path(), &options).unwrap_err().to_string();
    assert!(refused.contains("blocks.0.gamma_1") && refused.contains("not computed here"), "{refused}");
}

#[test]
fn dinov3_is_opened_by_its_new_names_and_goes_to_timm() {
    let reference = Reference::read(DINOV3, WHOLE);
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(folder(DINOV3).join("config.json"), copy.path().join("config.json")).unwrap();
    let old = checkpoint::read(folder(DINOV3).join("model.safetensors")).unwrap().tensors;
    let renamed = |name: String| if name.starts_with("layer.") { format!("model.{name}") } else { name };
    let new = old.into_iter().map(|(name, tensor)| (renamed(name), tensor)).collect();
    checkpoint::write(copy.path().join("model.safetensors"), &new, &Default::default()).unwrap();
    let opened = open(copy.path(), &OpenOptions::default()).unwrap();
    for (name, tensor) in &opened.checkpoint.tensors {
        assert_eq!(tensor, reference.pretrained.checkpoint.get(name).unwrap(), "{name}");
    }
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("timm");
    export_timm(&path, &model(&gpu(), &reference.pretrained), &ExportOptions::default()).unwrap();
    let timms = open(&path, &OpenOptions::default()).unwrap();
    assert!(!timms.config.key_bias && timms.config.qkv_bias);
    assert_close("timm's", &logits(&timms, &reference.images), &reference.get("logits").data, 5e-6);
    let timm = model(&gpu(), &super::reference::opened(TIMM));
    let refused = export_hf(&out.path().join("hf"), &timm, &ExportOptions::default()).unwrap_err().to_string();
    assert!(refused.contains("global_pool") && refused.contains("DINOv3ViTModel"), "{refused}");
}

/// Tokens that bypass several blocks or leave for good keep the angles of their places.
#[test]
fn rotary_positions_follow_tokens_through_any_span() {
    let reference = Reference::read(TIMM, RANDOM_LTD);
    let gpu = gpu();
    let model = model(&gpu, &reference.pretrained);
    let images = Tensor::from_slice(&gpu, &reference.images.shape, &reference.images.data).unwrap();
    let features = |spans: &[Span<TokenIndices>]| -> Vec<f32> {
        model.features(&images, spans, &Mode::evaluation()).unwrap().to_vec().unwrap()
    };
    let kept: Vec<u32> = (0..3).flat_map(|sample| (0..5).chain(5 + sample..25 + sample)).collect();
    let kept = TokenIndices::new(&gpu, [3, 25], 41, &kept).unwrap();
    let apart: Vec<_> = (1..3).map(|block| Span::bypass(block..block + 1, kept.clone())).collect();
    assert_close("one span of two blocks", &features(&[Span::bypass(1..3, kept.clone())]), &features(&apart), 1e-6);
    let all: Vec<u32> = (0..3).flat_map(|_| 0..41).collect();
    let all = TokenIndices::new(&gpu, [3, 41], 41, &all).unwrap();
    assert_close("all stay", &features(&[Span::leave(0, 4, all)]), &features(&[]), 1e-6);
    // Those that left from the start, put back in their places, are as if all blocks had dropped the others.
    let left = features(&[Span::leave(0, 4, kept.clone())]);
    let each: Vec<_> = (0..4).map(|block| Span::bypass(block..block + 1, kept.clone())).collect();
    let rejoined = Tensor::from_slice(&gpu, &[3, 41, 32], &features(&each)).unwrap();
    let rejoined: Vec<f32> = ops::token_gather(&rejoined, &kept).unwrap().to_vec().unwrap();
    assert_close("those that stay", &left, &rejoined, 1e-6);
}

#[test]
fn rotary_positions_ask_for_heads_that_they_fit() {
    let config = VitConfig { rope_temperature: Some(100.0), ..VitConfig::custom(36, 1, 6) };
    assert!(Vit::new(&gpu(), config.clone(), 0).unwrap_err().to_string().contains("multiple of 4"));
    let config = VitConfig { num_heads: 3, rope_temperature: Some(f32::NAN), ..config };
    assert!(Vit::new(&gpu(), config, 0).unwrap_err().to_string().contains("rope_temperature"));
    // Nothing in a file vouches for the table's size.
    let large = VitConfig { img_size: (4096, 4096), patch_size: 4, ..VitConfig::custom(32, 1, 2) };
    let config = VitConfig { rope_temperature: Some(100.0), ..large };
    assert!(Vit::new(&gpu(), config, 0).unwrap_err().to_string().contains("rotary angles"));
    let config = VitConfig { key_bias: false, ..VitConfig::custom(32, 1, 2) };
    assert!(Vit::new(&gpu(), config, 0).unwrap_err().to_string().contains("key_bias"));
}
