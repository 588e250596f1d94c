//! Attention pooling: SigLIP.

use super::reference::{
    Reference, WHOLE, check_gradients, check_half_precision, check_return, check_steps, logits, model, opened,
    reopened, weights, with_identity_head,
};
use crate::common::{assert_close, gpu};
use wgrad::models::vit::{ExportOptions, Pool, export_hf};
use wgrad::ops::Gelu;

const TIMM: &str = "timm_siglip_map";
const REGISTERS: &str = "timm_map_reg4";
const SIGLIP: &str = "hf_siglip";

#[test]
fn torch_siglip_map_of_timm_gradients() {
    check_gradients(TIMM, WHOLE);
}

#[test]
fn torch_siglip_map_of_timm_ten_steps() {
    check_steps(TIMM, WHOLE);
}

/// What is pooled are the patches: registers are not seen.
#[test]
fn torch_attention_pooling_beside_registers_gradients() {
    check_gradients(REGISTERS, WHOLE);
    check_return(REGISTERS, &[]);
}

#[test]
fn torch_attention_pooling_beside_registers_ten_steps() {
    check_steps(REGISTERS, WHOLE);
}

#[test]
fn torch_siglip_map_in_half_precision() {
    check_half_precision(TIMM, WHOLE);
}

/// A published file has no classifier: what its library calls the pooled output is read.
#[test]
fn torch_siglip_as_it_is_published() {
    let mut tensors = weights(SIGLIP);
    tensors.retain(|name, _| !name.starts_with("classifier."));
    let published = reopened(SIGLIP, &tensors);
    assert_eq!((published.config.global_pool, published.config.act_layer), (Pool::Map, Gelu::Tanh));
    let reference = Reference::read(SIGLIP, WHOLE);
    let pooled = logits(&with_identity_head(published), &reference.images);
    assert_close("pooler_output", &pooled, &reference.get("pooler_output").data, 5e-6);
}

#[test]
fn attention_pooling_is_told_by_its_files_and_returns() {
    let pretrained = opened(TIMM);
    assert_eq!((pretrained.config.global_pool, pretrained.config.act_layer), (Pool::Map, Gelu::Erf));
    check_return(TIMM, &[]);
    let out = tempfile::tempdir().unwrap();
    let map = model(&gpu(), &pretrained);
    let refused = export_hf(&out.path().join("x"), &map, &ExportOptions::default()).unwrap_err().to_string();
    assert!(refused.contains("global_pool") && refused.contains("export it for timm"), "{refused}");
}
