//! A distillation token and a head of its own: distilled DeiTs.

use super::reference::{
    Reference, WHOLE, check_gradients, check_half_precision, check_return, check_steps, folder, logits, model, opened,
};
use crate::common::{assert_close, gpu};
use wgrad::Tensor;
use wgrad::checkpoint;
use wgrad::models::vit::{CropMode, ExportOptions, HeadFit, OpenOptions, VitConfig, export_hf, export_timm, open};
use wgrad::nn::{Mode, Model};
use wgrad::ops::{CrossEntropy, cross_entropy};

const TIMM: &str = "timm_deit_distilled";
const DEIT: &str = "hf_deit_distilled";

/// By DeiT's hard distillation, with a teacher's classes for the second head.
#[test]
fn torch_deit_distilled_of_timm_gradients() {
    check_gradients(TIMM, WHOLE);
}

#[test]
fn torch_deit_distilled_of_timm_ten_steps() {
    check_steps(TIMM, WHOLE);
}

#[test]
fn torch_deit_distilled_gradients() {
    check_gradients(DEIT, WHOLE);
}

#[test]
fn torch_deit_distilled_ten_steps() {
    check_steps(DEIT, WHOLE);
}

#[test]
fn torch_deit_distilled_in_half_precision() {
    check_half_precision(TIMM, WHOLE);
    check_half_precision(DEIT, WHOLE);
}

#[test]
fn torch_deit_distilled_by_its_heads() {
    let gpu = gpu();
    for (name, expected) in
        [(TIMM, ["train/logits", "train/logits_dist"]), (DEIT, ["cls_logits", "distillation_logits"])]
    {
        let reference = Reference::read(name, WHOLE);
        let model = model(&gpu, &reference.pretrained);
        let images = Tensor::from_slice(&gpu, &reference.images.shape, &reference.images.data).unwrap();
        let features = model.features(&images, &[], &Mode::evaluation()).unwrap();
        let heads = model.classify_each(&features, &Mode::evaluation()).unwrap();
        assert_eq!(heads.len(), 2);
        for (logits, expected) in heads.iter().zip(expected) {
            assert_close(expected, &logits.to_vec().unwrap(), &reference.get(expected).data, 5e-6);
        }
        if name == TIMM {
            // Ordinary finetuning.
            let labels = Tensor::from_slice(&gpu, &[reference.labels.len()], &reference.labels).unwrap();
            let mean = model.classify(&features, &Mode::evaluation()).unwrap();
            let loss = cross_entropy(&mean, &labels, &CrossEntropy::default()).unwrap();
            assert_close("average", &[loss.item().unwrap()], &reference.get("average/loss").data, 1e-6);
        }
    }
}

#[test]
fn distilled_models_are_told_by_their_files_and_return() {
    for (name, eps) in [(TIMM, 1e-6), (DEIT, 1e-12)] {
        let config = opened(name).config;
        let expected = VitConfig {
            img_size: (24, 24),
            patch_size: 4,
            num_classes: 7,
            mlp_ratio: 2.0,
            distilled: true,
            eps,
            normalize: config.normalize,
            crop_mode: if name == DEIT { CropMode::Squash } else { CropMode::Center },
            ..VitConfig::custom(32, 3, 2)
        };
        assert_eq!((config.prefix_tokens(), config.prefix_positions()), (2, 2));
        assert_eq!(config, expected);
        check_return(name, &[]);
    }
    let out = tempfile::tempdir().unwrap();
    for (name, to_timm) in [(DEIT, true), (TIMM, false)] {
        let export = if to_timm { export_timm } else { export_hf };
        let reference = Reference::read(name, WHOLE);
        let path = out.path().join(name);
        export(&path, &model(&gpu(), &reference.pretrained), &ExportOptions::default()).unwrap();
        let theirs = open(&path, &OpenOptions::default()).unwrap();
        assert_close(name, &logits(&theirs, &reference.images), &reference.get("logits").data, 5e-6);
    }
}

/// Both heads follow the classes.
#[test]
fn heads_of_distilled_models_go_together() {
    let mut pretrained = opened(TIMM);
    let [class, distilled] =
        ["head.weight", "head_dist.weight"].map(|name| pretrained.checkpoint.get(name).unwrap().data.clone());
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    pretrained.class_names = Some(names(&["a", "b", "c", "d", "e", "f", "g"]));
    assert_eq!(pretrained.set_classes(&names(&["c", "a"])), HeadFit::ByName { of: 7 });
    for (name, before) in [("head.weight", class), ("head_dist.weight", distilled)] {
        let picked = [&before[2 * 32..3 * 32], &before[..32]].concat();
        assert_eq!(pretrained.checkpoint.get(name).unwrap().data, picked);
    }
    let model = model(&gpu(), &pretrained);
    assert!(model.is_head("head_dist.bias") && model.is_head("head.weight") && !model.is_head("dist_token"));
    // Heads of different numbers of classes.
    let mut tensors = opened(TIMM).checkpoint.tensors;
    tensors.insert("head_dist.weight".to_owned(), tensors["blocks.0.attn.proj.weight"].clone());
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(self::folder(TIMM).join("config.json"), folder.path().join("config.json")).unwrap();
    checkpoint::write(folder.path().join("model.safetensors"), &tensors, &Default::default()).unwrap();
    let refused = open(folder.path(), &OpenOptions::default()).unwrap_err().to_string();
    assert!(refused.contains("head_dist.weight") && refused.contains("number of classes"), "{refused}");
}

/// `DeiTForImageClassification` reads the class token alone: the other is a register there.
#[test]
fn a_distillation_token_without_a_head_is_a_register() {
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(folder(DEIT).join("config.json"), copy.path().join("config.json")).unwrap();
    let mut tensors = checkpoint::read(folder(DEIT).join("model.safetensors")).unwrap().tensors;
    tensors.retain(|name, _| !name.starts_with("distillation_classifier"));
    for kind in ["weight", "bias"] {
        let head = tensors.remove(&format!("cls_classifier.{kind}")).unwrap();
        tensors.insert(format!("classifier.{kind}"), head);
    }
    checkpoint::write(copy.path().join("model.safetensors"), &tensors, &Default::default()).unwrap();
    let one = open(copy.path(), &OpenOptions::default()).unwrap();
    assert_eq!((one.config.distilled, one.config.reg_tokens), (false, 1));
    let reference = Reference::read(DEIT, WHOLE);
    assert_close("class token", &logits(&one, &reference.images), &reference.get("cls_logits").data, 5e-6);
}
