//! EVA-02, with learned and rotary positions, the first EVA, whose keys have no bias, and BEiT-3, with norms within its blocks' halves.

use std::fs;

use super::reference::{
    RANDOM_LTD, Reference, WHOLE, bits, check_gradients, check_half_precision, check_resized, check_return,
    check_steps, folder, logits, model, opened,
};
use crate::common::{assert_close, gpu};
use wgrad::Tensor;
use wgrad::checkpoint;
use wgrad::models::vit::{
    ExportOptions, OpenOptions, Pool, Resampling, Vit, VitConfig, export_hf, export_timm, open, save,
};
use wgrad::nn::{Mode, Span};
use wgrad::ops::TokenIndices;

const EVA02: &str = "timm_eva02";
const EVA02_CLIP: &str = "timm_eva02_clip";
const EVA: &str = "timm_eva_giant";
const BEIT3: &str = "timm_beit3";

#[test]
fn torch_eva02_gradients() {
    check_gradients(EVA02, WHOLE);
    check_gradients(EVA02_CLIP, WHOLE);
}

#[test]
fn torch_eva02_gradients_with_random_ltd() {
    check_gradients(EVA02, RANDOM_LTD);
}

#[test]
fn torch_eva02_ten_steps() {
    check_steps(EVA02, WHOLE);
    check_steps(EVA02, RANDOM_LTD);
    check_steps(EVA02_CLIP, WHOLE);
}

#[test]
fn torch_eva02_in_half_precision() {
    check_half_precision(EVA02, RANDOM_LTD);
    check_half_precision(EVA02_CLIP, WHOLE);
}

#[test]
fn torch_eva02_of_another_picture_size() {
    check_resized(EVA02, Resampling::Antialiased);
}

#[test]
fn torch_eva_and_beit3_gradients_and_ten_steps() {
    for name in [EVA, BEIT3] {
        check_gradients(name, WHOLE);
        check_steps(name, WHOLE);
    }
}

#[test]
fn eva02_is_told_by_its_files_and_returns() {
    let small = opened(EVA02).config;
    let expected = VitConfig {
        img_size: (24, 24),
        patch_size: 4,
        num_classes: 7,
        mlp_ratio: small.mlp_ratio,
        gated_mlp: true,
        key_bias: false,
        global_pool: Pool::Avg,
        rope_temperature: Some(10_000.0),
        ref_feat_shape: Some((3, 3)),
        normalize: small.normalize,
        ..VitConfig::custom(32, 2, 2)
    };
    assert_eq!(small, expected);
    assert_eq!((small.hidden(), small.positions()), (170, 37));
    let clip = VitConfig {
        scale_attn_norm: true,
        scale_mlp_norm: true,
        global_pool: Pool::Token,
        ref_feat_shape: Some((16, 16)),
        ..expected
    };
    assert_eq!(opened(EVA02_CLIP).config, clip);
    check_return(EVA02, &[]);
    check_return(EVA02_CLIP, &[]);
    check_return(BEIT3, &[]);
}

/// From one library to the other, to a file of this crate and back.
#[test]
fn eva_goes_to_timm_and_to_own_files() {
    let out = tempfile::tempdir().unwrap();
    for name in [EVA02, EVA02_CLIP, EVA, BEIT3] {
        let reference = Reference::read(name, WHOLE);
        let model = model(&gpu(), &reference.pretrained);
        let [timm, own] = ["timm", "own.safetensors"].map(|place| out.path().join(name).join(place));
        fs::create_dir_all(out.path().join(name)).unwrap();
        export_timm(&timm, &model, &ExportOptions::default()).unwrap();
        save(&own, &model, &[]).unwrap();
        for path in [timm, own] {
            let again = open(&path, &OpenOptions::default()).unwrap();
            assert_eq!(again.config, reference.pretrained.config, "{name}");
            assert_eq!(bits(&again.checkpoint.tensors), bits(&reference.pretrained.checkpoint.tensors), "{name}");
            assert_close(name, &logits(&again, &reference.images), &reference.get("logits").data, 5e-6);
        }
        let refused = export_hf(&out.path().join("hf"), &model, &ExportOptions::default()).unwrap_err().to_string();
        assert!(refused.contains("export it for timm"), "{name}: {refused}");
    }
}

/// Where learned positions stand beside rotary ones, tokens that leave from the start keep the angles of their places.
#[test]
fn eva02_turns_the_tokens_that_stay() {
    let reference = Reference::read(EVA02, WHOLE);
    let gpu = gpu();
    let model = model(&gpu, &reference.pretrained);
    let images = Tensor::from_slice(&gpu, &reference.images.shape, &reference.images.data).unwrap();
    let kept: Vec<u32> = (0..3).flat_map(|sample| (0..1).chain(1 + sample..21 + sample)).collect();
    let kept = TokenIndices::new(&gpu, [3, 21], 37, &kept).unwrap();
    let features = |spans: &[Span<TokenIndices>]| model.features(&images, spans, &Mode::evaluation()).unwrap();
    let left: Vec<f32> = features(&[Span::leave(0, 2, kept.clone())]).to_vec().unwrap();
    let each: Vec<_> = (0..2).map(|block| Span::bypass(block..block + 1, kept.clone())).collect();
    let rejoined: Vec<f32> = wgrad::ops::token_gather(&features(&each), &kept).unwrap().to_vec().unwrap();
    assert_close("those that stay", &left, &rejoined, 1e-6);
}

#[test]
fn eva_without_what_tells_of_it_is_refused() {
    let alone = tempfile::tempdir().unwrap();
    let path = alone.path().join("model.safetensors");
    let message = |name: &str| {
        fs::copy(folder(name).join("model.safetensors"), &path).unwrap();
        let options = OpenOptions { heads: Some(2), trained_on: Some((24, 24)) };
        open(&path, &options).unwrap_err().to_string()
    };
    for (name, tensor) in [(EVA02, "blocks.0.attn.q_bias"), (EVA02_CLIP, "attn.q_proj"), (EVA, "blocks.0.attn.q_bias")]
    {
        let refused = message(name);
        assert!(refused.contains(tensor) && refused.contains("config.json"), "{name}: {refused}");
    }
    // timm's post-norm EVA-02 has the same tensors as the others.
    let config = fs::read_to_string(folder(EVA02_CLIP).join("config.json")).unwrap();
    let config = config.replace("eva02_base_patch16_clip_224", "eva02_enormous_patch14_clip_224");
    fs::write(alone.path().join("config.json"), config).unwrap();
    let refused = message(EVA02_CLIP);
    assert!(refused.contains("eva02_enormous_patch14_clip_224") && refused.contains("norms behind"), "{refused}");
    // A part without those beside it.
    let mut tensors = checkpoint::read(folder(EVA02_CLIP).join("model.safetensors")).unwrap().tensors;
    tensors.remove("blocks.1.attn.k_proj.weight");
    fs::copy(folder(EVA02_CLIP).join("config.json"), alone.path().join("config.json")).unwrap();
    checkpoint::write(&path, &tensors, &Default::default()).unwrap();
    let refused = open(&path, &OpenOptions::default()).unwrap_err().to_string();
    assert!(refused.contains("k_proj"), "{refused}");
}

#[test]
fn positions_beside_rotary_ones_ask_for_these() {
    let config = VitConfig { ref_feat_shape: Some((16, 16)), ..VitConfig::custom(32, 1, 2) };
    assert!(Vit::new(&gpu(), config.clone(), 0).unwrap_err().to_string().contains("ref_feat_shape"));
    let config = VitConfig { ref_feat_shape: Some((0, 16)), rope_temperature: Some(1e4), ..config };
    assert!(Vit::new(&gpu(), config, 0).unwrap_err().to_string().contains("ref_feat_shape"));
}
