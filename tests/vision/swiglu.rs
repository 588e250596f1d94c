//! A gated MLP: DINOv2 giant.

use std::fs;

use super::reference::{
    Reference, WHOLE, check_gradients, check_half_precision, check_return, check_steps, folder, logits, model, opened,
};
use crate::common::{assert_close, each_family, gpu};
use wgrad::checkpoint::{self, HostTensor};
use wgrad::models::vit::{ExportOptions, OpenOptions, export_hf, open};
use wgrad::{Tensor, ops};

const TIMM: &str = "timm_swiglu";
const DINOV2: &str = "hf_dinov2_swiglu";

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
