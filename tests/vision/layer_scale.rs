//! Layer scale: DeiT3, and DINOv2 with registers and without.

use std::fs;

use super::reference::{
    RANDOM_LTD, Reference, WHOLE, bits, check_gradients, check_half_precision, check_resized, check_return,
    check_steps, folder, logits, model, opened,
};
use crate::common::{assert_close, gpu};
use wgrad::Tensor;
use wgrad::checkpoint::HostTensor;
use wgrad::models::vit::{
    ExportOptions, OpenOptions, Pool, Resampling, Vit, VitConfig, check_export_hf, export_hf, export_timm, open,
};
use wgrad::nn::Mode;

const DEIT3: &str = "timm_deit3";
const TIMM: &str = "timm_dinov2_reg4";
const DINOV2: &str = "hf_dinov2";
const WITH_REGISTERS: &str = "hf_dinov2_with_registers";

#[test]
fn torch_deit3_gradients() {
    check_gradients(DEIT3, WHOLE);
}

#[test]
fn torch_deit3_gradients_with_random_ltd() {
    check_gradients(DEIT3, RANDOM_LTD);
}

#[test]
fn torch_deit3_ten_steps() {
    check_steps(DEIT3, WHOLE);
    check_steps(DEIT3, RANDOM_LTD);
}

#[test]
fn torch_dinov2_of_timm_gradients() {
    check_gradients(TIMM, WHOLE);
}

#[test]
fn torch_dinov2_of_timm_gradients_with_random_ltd() {
    check_gradients(TIMM, RANDOM_LTD);
}

#[test]
fn torch_dinov2_of_timm_ten_steps() {
    check_steps(TIMM, WHOLE);
    check_steps(TIMM, RANDOM_LTD);
}

#[test]
fn torch_dinov2_gradients() {
    check_gradients(DINOV2, WHOLE);
}

#[test]
fn torch_dinov2_ten_steps() {
    check_steps(DINOV2, WHOLE);
}

#[test]
fn torch_dinov2_with_registers_gradients() {
    check_gradients(WITH_REGISTERS, WHOLE);
}

#[test]
fn torch_dinov2_with_registers_ten_steps() {
    check_steps(WITH_REGISTERS, WHOLE);
}

#[test]
fn torch_dinov2_and_deit3_in_half_precision() {
    check_half_precision(DEIT3, WHOLE);
    check_half_precision(TIMM, RANDOM_LTD);
    check_half_precision(DINOV2, WHOLE);
}

#[test]
fn torch_dinov2_of_other_picture_sizes() {
    check_resized(DINOV2, Resampling::Plain);
    check_resized(WITH_REGISTERS, Resampling::Antialiased);
    check_resized(TIMM, Resampling::Antialiased);
}

/// The names that transformers has used in memory since its version 5.
#[test]
fn dinov2_is_opened_by_its_new_names() {
    for name in [DINOV2, WITH_REGISTERS] {
        let copy = tempfile::tempdir().unwrap();
        let to = |file: &str| copy.path().join(file);
        for file in ["config.json", "preprocessor_config.json"] {
            fs::copy(folder(name).join(file), to(file)).unwrap();
        }
        fs::copy(folder(name).join("model_v5_names.safetensors"), to("model.safetensors")).unwrap();
        let new = open(copy.path(), &OpenOptions::default()).unwrap();
        let old = opened(name);
        assert_eq!(new.config, old.config);
        assert_eq!(bits(&new.checkpoint.tensors), bits(&old.checkpoint.tensors));
    }
}

/// Published ones have positions for 518 pixels, and a processor that shows them 224.
#[test]
fn dinov2_is_shown_what_its_processor_says() {
    let copy = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(folder(DINOV2).join(file), copy.path().join(file)).unwrap();
    }
    let own = fs::read_to_string(folder(DINOV2).join("preprocessor_config.json")).unwrap();
    let told = |sides: &str| {
        let text = own.replace("\"height\": 30", &format!("\"height\": {sides}"));
        let text = text.replace("\"width\": 30", &format!("\"width\": {sides}"));
        fs::write(copy.path().join("preprocessor_config.json"), text).unwrap();
        open(copy.path(), &OpenOptions::default()).unwrap()
    };
    assert_eq!(told("30").shown, None, "as its positions are");
    assert_eq!(told("20").shown, None, "patches of 6 do not fill 20");
    let mut smaller = told("18");
    assert_eq!((smaller.config.img_size, smaller.shown), ((30, 30), Some((18, 18))));
    smaller.resize((18, 18)).unwrap();
    assert_eq!(smaller.checkpoint.tensors["pos_embed"].shape[1], 1 + 9);
}

/// transformers' configuration has a whole number for the width of a Dinov2's MLP, and refuses another.
#[test]
fn dinov2_with_an_uneven_mlp_does_not_go_to_transformers() {
    let config = VitConfig { init_values: Some(1.0), mlp_ratio: 2.5, ..VitConfig::custom(32, 2, 2) };
    let refused = check_export_hf(&config).unwrap_err().to_string();
    assert!(refused.contains("mlp_ratio") && refused.contains("export it for timm"), "{refused}");
    check_export_hf(&VitConfig { mlp_ratio: 3.0, ..config }).unwrap();
}

#[test]
fn dinov2_is_told_by_its_files() {
    let sizes = VitConfig {
        img_size: (30, 30),
        patch_size: 6,
        num_classes: 7,
        mlp_ratio: 2.0,
        init_values: Some(1.0),
        global_pool: Pool::TokenAvg,
        ..VitConfig::custom(32, 3, 2)
    };
    let dinov2 = opened(DINOV2);
    let normalize = dinov2.config.normalize;
    assert!((normalize.mean[0] - 0.485).abs() < 1e-6);
    assert_eq!(dinov2.config, VitConfig { normalize, ..sizes.clone() });
    assert_eq!(dinov2.crop_fraction, Some(30.0 / 34.0));
    let registers = VitConfig { reg_tokens: 4, no_embed_reg: true, normalize, ..sizes.clone() };
    assert_eq!(opened(WITH_REGISTERS).config, registers);
    let timm = VitConfig { global_pool: Pool::Token, init_values: Some(1e-5), normalize, ..sizes };
    let of_timm = VitConfig { reg_tokens: 4, no_embed_class: true, ..timm.clone() };
    assert_eq!(opened(TIMM).config, of_timm);
    let deit3 = VitConfig { img_size: (24, 24), patch_size: 4, no_embed_class: true, ..timm };
    assert_eq!(opened(DEIT3).config, deit3);
}

#[test]
fn dinov2_and_deit3_go_back_to_where_they_came_from() {
    for name in [DEIT3, TIMM, DINOV2, WITH_REGISTERS] {
        check_return(name, &["mask_token"]);
    }
}

/// In the other library's layout a model gives the same logits.
#[test]
fn dinov2_and_deit3_go_to_the_other_library() {
    let out = tempfile::tempdir().unwrap();
    for name in [DEIT3, TIMM] {
        let reference = Reference::read(name, WHOLE);
        let path = out.path().join(name);
        export_hf(&path, &model(&gpu(), &reference.pretrained), &ExportOptions::default()).unwrap();
        let theirs = open(&path, &OpenOptions::default()).unwrap();
        assert_eq!(theirs.config.global_pool, Pool::TokenAvg);
        assert_close(name, &logits(&theirs, &reference.images), &reference.get("logits").data, 5e-6);
    }
    let reference = Reference::read(WITH_REGISTERS, WHOLE);
    let mut pretrained = reference.pretrained.clone();
    let path = out.path().join(WITH_REGISTERS);
    let refused = export_timm(&path, &model(&gpu(), &pretrained), &ExportOptions::default()).unwrap_err().to_string();
    assert!(refused.contains("global_pool") && refused.contains("transformers"), "{refused}");
    // With a head that timm has.
    pretrained.config.global_pool = Pool::Token;
    let head = pretrained.checkpoint.tensors.get_mut("head.weight").unwrap();
    head.data = head.data.chunks(64).flat_map(|row| row[..32].to_vec()).collect();
    head.shape = vec![7, 32];
    let expected = logits(&pretrained, &reference.images);
    export_timm(&path, &model(&gpu(), &pretrained), &ExportOptions::default()).unwrap();
    let timms = open(&path, &OpenOptions::default()).unwrap();
    assert!(timms.config.no_embed_class && !timms.config.no_embed_reg);
    assert_close(WITH_REGISTERS, &logits(&timms, &reference.images), &expected, 5e-6);
    // Registers with positions of their own.
    let config = VitConfig { no_embed_reg: false, img_size: (18, 18), ..pretrained.config };
    let own = Vit::new(&gpu(), config, 5).unwrap();
    let images = HostTensor { shape: vec![1, 3, 18, 18], data: crate::common::values(3, 3 * 18 * 18) };
    let on_device = Tensor::from_slice(own.gpu(), &images.shape, &images.data).unwrap();
    let expected: Vec<f32> = own.forward(&on_device, &[], &Mode::evaluation()).unwrap().to_vec().unwrap();
    export_hf(&path.with_extension("own"), &own, &ExportOptions::default()).unwrap();
    let theirs = open(path.with_extension("own"), &OpenOptions::default()).unwrap();
    assert_close("positions of registers", &logits(&theirs, &images), &expected, 5e-6);
    // transformers reshapes positions of any other size to a square.
    let oblong = Vit::new(&gpu(), VitConfig { img_size: (12, 18), ..own.config().clone() }, 5).unwrap();
    let refused =
        export_hf(&path.with_extension("oblong"), &oblong, &ExportOptions::default()).unwrap_err().to_string();
    assert!(refused.contains("img_size") && refused.contains("square"), "{refused}");
}
