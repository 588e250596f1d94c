//! A gated MLP: DINOv2 giant, and the larger DINOv3s.

use std::fs;

use super::reference::{
    RANDOM_LTD, Reference, Tensors, WHOLE, check_gradients, check_half_precision, check_return, check_steps, folder,
    logits, model, opened, weights,
};
use crate::common::{assert_close, each_family, gpu};
use wgrad::checkpoint::{self, HostTensor};
use wgrad::models::vit::{ExportOptions, OpenOptions, export_hf, export_timm, open};
use wgrad::{Tensor, ops};

const TIMM: &str = "timm_swiglu";
const DINOV2: &str = "hf_dinov2_swiglu";
const TIMM_DINOV3: &str = "timm_dinov3_plus";
const DINOV3: &str = "hf_dinov3_gated";

#[test]
fn torch_dinov2_swiglu_of_timm_gradients() {
    check_gradients(TIMM, WHOLE);
}

#[test]
fn torch_dinov2_swiglu_of_timm_ten_steps() {
    check_steps(TIMM, WHOLE);
}

#[test]
fn torch_dinov2_swiglu_gradients() {
    check_gradients(DINOV2, WHOLE);
}

#[test]
fn torch_dinov2_swiglu_ten_steps() {
    check_steps(DINOV2, WHOLE);
}

#[test]
fn torch_dinov3_swiglu_of_timm_gradients() {
    check_gradients(TIMM_DINOV3, WHOLE);
    check_gradients(TIMM_DINOV3, RANDOM_LTD);
}

#[test]
fn torch_dinov3_swiglu_of_timm_ten_steps() {
    check_steps(TIMM_DINOV3, WHOLE);
    check_steps(TIMM_DINOV3, RANDOM_LTD);
}

#[test]
fn torch_dinov3_swiglu_gradients() {
    check_gradients(DINOV3, WHOLE);
}

#[test]
fn torch_dinov3_swiglu_ten_steps() {
    check_steps(DINOV3, WHOLE);
}

#[test]
fn torch_dinov3_swiglu_in_half_precision() {
    check_half_precision(TIMM_DINOV3, RANDOM_LTD);
    check_half_precision(DINOV3, WHOLE);
}

#[test]
fn torch_dinov2_swiglu_in_half_precision() {
    check_half_precision(TIMM, WHOLE);
    check_half_precision(DINOV2, WHOLE);
}

#[test]
fn torch_swiglu() {
    let floats = checkpoint::read_bytes(&fs::read(folder("ops.safetensors")).unwrap(), "ops").unwrap();
    for gpu in each_family() {
        let of = |name: &str| {
            let HostTensor { shape, data } = floats.get(&format!("swiglu/{name}")).unwrap();
            Tensor::from_slice(&gpu, shape, data).unwrap()
        };
        let x = of("x").requires_grad().unwrap();
        let y = ops::swiglu(&x).unwrap();
        assert_close("y", &y.to_vec().unwrap(), &floats.get("swiglu/y").unwrap().data, 1e-6);
        let gradients = y.backward_from(&of("dy")).unwrap();
        let dx: Vec<f32> = gradients.get(&x).unwrap().to_vec().unwrap();
        assert_close("dx", &dx, &floats.get("swiglu/dx").unwrap().data, 1e-6);
    }
}

#[test]
fn gated_models_are_told_by_their_files_and_return() {
    let config = opened(TIMM).config;
    assert!(config.gated_mlp && config.hidden() == 170 && config.init_values == Some(1e-5));
    assert!(opened(DINOV2).config.gated_mlp);
    check_return(TIMM, &[]);
    check_return(DINOV2, &["mask_token"]);
    let new = tempfile::tempdir().unwrap();
    fs::copy(folder(DINOV2).join("config.json"), new.path().join("config.json")).unwrap();
    fs::copy(folder(DINOV2).join("model_v5_names.safetensors"), new.path().join("model.safetensors")).unwrap();
    let reference = Reference::read(DINOV2, WHOLE);
    let opened = open(new.path(), &OpenOptions::default()).unwrap();
    assert_close("new names", &logits(&opened, &reference.images), &reference.get("logits").data, 5e-6);
    // transformers rounds the width up to a multiple of eight, which 85 is none of.
    let out = tempfile::tempdir().unwrap();
    let timm = model(&gpu(), &super::reference::opened(TIMM));
    let refused = export_hf(&out.path().join("x"), &timm, &ExportOptions::default()).unwrap_err().to_string();
    assert!(refused.contains("mlp_ratio"), "{refused}");
}

#[test]
fn gated_dinov3s_are_told_by_their_files_and_return() {
    let timm = opened(TIMM_DINOV3).config;
    assert!(timm.gated_mlp && !timm.qkv_bias && (timm.hidden(), timm.hidden_outputs()) == (128, 64));
    let theirs = opened(DINOV3).config;
    assert!(theirs.gated_mlp && theirs.qkv_bias && !theirs.key_bias && theirs.hidden_outputs() == 48);
    check_return(TIMM_DINOV3, &[]);
    check_return(DINOV3, &["mask_token", "classifier"]);
    // By itself, and from one library to the other.
    let alone = tempfile::tempdir().unwrap();
    fs::copy(folder(TIMM_DINOV3).join("model.safetensors"), alone.path().join("model.safetensors")).unwrap();
    let told = open(alone.path(), &OpenOptions { heads: Some(2), trained_on: Some((24, 24)) }).unwrap();
    assert_eq!(told.checkpoint.tensors, opened(TIMM_DINOV3).checkpoint.tensors);
    let reference = Reference::read(DINOV3, WHOLE);
    let path = alone.path().join("timm");
    export_timm(&path, &model(&gpu(), &reference.pretrained), &ExportOptions::default()).unwrap();
    let timms = open(&path, &OpenOptions::default()).unwrap();
    assert_close("timm's", &logits(&timms, &reference.images), &reference.get("logits").data, 5e-6);
}

/// Files that contradict themselves, or whose gate has another activation.
#[test]
fn gates_that_are_not_computed_here_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let message = |name: &str, from: &str, to: &str, change: &dyn Fn(&mut Tensors)| {
        let config = fs::read_to_string(folder(name).join("config.json")).unwrap();
        assert!(config.contains(from));
        fs::write(place.path().join("config.json"), config.replace(from, to)).unwrap();
        let mut tensors = weights(name);
        change(&mut tensors);
        checkpoint::write(place.path().join("model.safetensors"), &tensors, &Default::default()).unwrap();
        open(place.path(), &OpenOptions::default()).unwrap_err().to_string()
    };
    let geglu = message(DINOV3, r#""hidden_act": "silu""#, r#""hidden_act": "gelu""#, &|_| {});
    assert!(geglu.contains("hidden_act") && geglu.contains("silu"), "{geglu}");
    let plain = message("hf_dinov3", r#""hidden_act": "gelu""#, r#""hidden_act": "silu""#, &|_| {});
    assert!(plain.contains("no gate"), "{plain}");
    let untrue = message(DINOV3, r#""use_gated_mlp": true"#, r#""use_gated_mlp": false"#, &|_| {});
    assert!(untrue.contains("use_gated_mlp"), "{untrue}");
    let single = message(TIMM_DINOV3, "{", "{", &|tensors| {
        tensors.remove("blocks.1.mlp.fc1_x.weight");
    });
    assert!(single.contains("blocks.1.mlp.fc1.weight") && single.contains("fc1_g and fc1_x is missing"), "{single}");
    let both = message(TIMM_DINOV3, "{", "{", &|tensors| {
        let gate = tensors["blocks.1.mlp.fc1_g.weight"].clone();
        tensors.insert("blocks.1.mlp.fc1.weight".to_owned(), gate);
    });
    assert!(both.contains("beside its parts"), "{both}");
    let ungated = message(DINOV3, "{", "{", &|tensors| tensors.retain(|name, _| !name.contains("up_proj")));
    assert!(ungated.contains("gate_proj and up_proj is missing"), "{ungated}");
}
