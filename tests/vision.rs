//! Vision Transformers with layer scale, as people have them, against timm and transformers: DeiT3, and DINOv2 with registers and
//! without. Logits, loss, every gradient by name, ten steps of AdamW and another picture size, from folders as those libraries
//! save them (`tests/reference/README.md`); `WGRAD_REFERENCE` names another folder with the same files.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::common::{assert_adam_close, assert_close, each_family, gpu};
use safetensors::{Dtype, SafeTensors};
use wgrad::checkpoint::{self, Checkpoint, HostTensor, MatchOptions, load_parameters};
use wgrad::models::vit::{
    ExportOptions, OpenOptions, Pool, Pretrained, Resampling, Vit, VitConfig, export_hf, export_timm, open,
};
use wgrad::nn::{Mode, Precision, Span};
use wgrad::ops::{CrossEntropy, RandomKey, TokenIndices, cross_entropy};
use wgrad::optim::{AdamW, Optimizer, Rule, StepReport};
use wgrad::{Gpu, Tensor};

type Tensors = BTreeMap<String, HostTensor>;

const DEIT3: &str = "timm_deit3";
const TIMM: &str = "timm_dinov2_reg4";
const DINOV2: &str = "hf_dinov2";
const WITH_REGISTERS: &str = "hf_dinov2_with_registers";

const WHOLE: &str = "expected.safetensors";
const RANDOM_LTD: &str = "random_ltd.safetensors";

fn folder(name: &str) -> PathBuf {
    let shipped = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference");
    std::env::var_os("WGRAD_REFERENCE").map_or_else(shipped, PathBuf::from).join("vision").join(name)
}

fn opened(name: &str) -> Pretrained {
    open(folder(name), &OpenOptions::default()).unwrap()
}

/// A model of exactly these tensors.
fn model(gpu: &Gpu, pretrained: &Pretrained) -> Vit {
    let model = Vit::new(gpu, pretrained.config.clone(), 0).unwrap();
    let report = load_parameters(model.parameters(), &pretrained.checkpoint, &MatchOptions::default()).unwrap();
    assert_eq!((report.loaded.len(), report.unused.len()), (model.parameters().len(), 0), "{report}");
    model
}

/// The logits in evaluation.
fn logits(pretrained: &Pretrained, images: &HostTensor) -> Vec<f32> {
    let gpu = gpu();
    let images = Tensor::from_slice(&gpu, &images.shape, &images.data).unwrap();
    model(&gpu, pretrained).forward(&images, &[], &Mode::evaluation()).unwrap().to_vec().unwrap()
}

/// What a library computes with the weights of a folder.
struct Reference {
    name: String,
    floats: Checkpoint,
    /// Pictures and classes, which lie with what all tokens give.
    images: HostTensor,
    labels: Vec<u32>,
    /// Of the blocks with random-LTD: `[step, sample, kept]`.
    kept: BTreeMap<usize, (Vec<usize>, Vec<u32>)>,
    pretrained: Pretrained,
}

impl Reference {
    fn read(name: &str, file: &str) -> Self {
        let bytes = |file: &str| fs::read(folder(name).join(file)).unwrap();
        let (whole, own) = (bytes(WHOLE), bytes(file));
        let labels = SafeTensors::deserialize(&whole).unwrap().tensor("labels").unwrap().data().to_vec();
        let labels: Vec<i64> = bytemuck::pod_collect_to_vec(&labels);
        let integers = SafeTensors::deserialize(&own).unwrap();
        let kept = integers.iter().filter(|(_, view)| view.dtype() == Dtype::I32).map(|(name, view)| {
            let block = name.strip_prefix("keep/").unwrap().parse().unwrap();
            (block, (view.shape().to_vec(), bytemuck::pod_collect_to_vec(view.data())))
        });
        Reference {
            name: format!("{name}/{file}"),
            images: checkpoint::read_bytes(&whole, name).unwrap().get("images").unwrap().clone(),
            labels: labels.into_iter().map(|label| label as u32).collect(),
            kept: kept.collect(),
            floats: checkpoint::read_bytes(&own, name).unwrap(),
            pretrained: opened(name),
        }
    }

    fn get(&self, name: &str) -> &HostTensor {
        self.floats.get(name).unwrap()
    }

    /// The tensors below `prefix` in the places of parameters of the folder's file, opened as that is: so they get this crate's
    /// names and layouts.
    fn opened(&self, prefix: &str, rest: Tensors) -> Tensors {
        let own = self.floats.tensors.iter();
        let own = own.filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone())));
        let original = folder(self.name.split('/').next().unwrap());
        let copy = tempfile::tempdir().unwrap();
        fs::copy(original.join("config.json"), copy.path().join("config.json")).unwrap();
        let tensors = rest.into_iter().chain(own).collect();
        checkpoint::write(copy.path().join("model.safetensors"), &tensors, &BTreeMap::new()).unwrap();
        open(copy.path(), &OpenOptions::default()).unwrap().checkpoint.tensors
    }

    fn spans(&self, gpu: &Gpu, step: usize) -> Vec<Span<TokenIndices>> {
        let span = |(&block, (shape, positions)): (&usize, &(Vec<usize>, Vec<u32>))| {
            let size = shape[1] * shape[2];
            let positions = &positions[step * size..(step + 1) * size];
            let tokens = self.pretrained.config.tokens();
            let kept = TokenIndices::new(gpu, [shape[1], shape[2]], tokens, positions).unwrap();
            Span::bypass(block..block + 1, kept)
        };
        self.kept.iter().map(span).collect()
    }

    /// Logits and loss of a step.
    fn forward(&self, model: &Vit, step: usize, mode: &Mode) -> (Tensor, Tensor) {
        let gpu = model.gpu();
        let images = Tensor::from_slice(gpu, &self.images.shape, &self.images.data).unwrap();
        let labels = Tensor::from_slice(gpu, &[self.labels.len()], &self.labels).unwrap();
        let logits = model.forward(&images, &self.spans(gpu, step), mode).unwrap();
        let loss = cross_entropy(&logits, &labels, &CrossEntropy::default()).unwrap();
        (logits, loss)
    }
}

fn training() -> Mode {
    Mode::training(RandomKey { seed: 0, step: 0, layer: 0, first_sample: 0 })
}

/// The middle third of the packed bias, whose true gradient is 0.
fn key_biases(name: &str, length: usize) -> Range<usize> {
    if name.ends_with("attn.qkv.bias") { length / 3..2 * length / 3 } else { 0..0 }
}

const ADAMW: Rule = Rule::AdamW(AdamW { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.05 });

/// In the files, every parameter decays.
fn every_parameter(_: &str, _: usize) -> bool {
    true
}

/// Logits, loss, all gradients and their norm; also with blocks that are computed twice.
fn check_gradients(name: &str, file: &str) {
    let reference = Reference::read(name, file);
    let expected = reference.opened("grad/", Tensors::new());
    for gpu in each_family() {
        for mode in [training(), training().recomputing(true)] {
            let model = model(&gpu, &reference.pretrained);
            let what = |name: &str| format!("{} {name} ({:?}, {mode:?})", reference.name, gpu.family());
            let (logits, loss) = reference.forward(&model, 0, &mode);
            assert_close(&what("logits"), &logits.to_vec().unwrap(), &reference.get("logits").data, 5e-6);
            assert_close(&what("loss"), &loss.to_vec().unwrap(), &reference.get("loss").data, 1e-6);
            loss.backward().unwrap();
            compare_gradients(&model, &expected, &what, 1.0, 1e-5);
            let mut optimizer = Optimizer::new(model.parameters(), ADAMW, None, every_parameter).unwrap();
            optimizer.step(model.parameters(), 0.0).unwrap();
            let report = optimizer.report().read_later().unwrap().wait().unwrap().concat();
            let norm = StepReport::decode(&report).unwrap().grad_norm;
            assert_close(&what("grad_norm"), &[norm], &reference.get("grad_norm").data, 1e-5);
        }
    }
}

fn compare_gradients(model: &Vit, expected: &Tensors, what: &dyn Fn(&str) -> String, scale: f32, tolerance: f32) {
    assert_eq!(model.parameters().len(), expected.len());
    for parameter in model.parameters() {
        let (name, mut expected) = (parameter.path(), expected[parameter.path()].data.clone());
        let gradient: Vec<f32> = parameter.grad().unwrap_or_else(|| panic!("{}: none", what(name))).to_vec().unwrap();
        let mut gradient: Vec<f32> = gradient.iter().map(|g| g / scale).collect();
        for i in key_biases(name, gradient.len()) {
            assert!((gradient[i] - expected[i]).abs() <= 0.1 * tolerance, "{}: {} at {i}", what(name), gradient[i]);
            (gradient[i], expected[i]) = (0.0, 0.0);
        }
        assert_close(&what(name), &gradient, &expected, tolerance);
    }
}

/// With half-precision activations, and a loss scaled as training would scale it: within two hundredths.
fn check_half_precision(name: &str, file: &str) {
    const SCALE: f32 = 1024.0;
    let reference = Reference::read(name, file);
    let expected = reference.opened("grad/", Tensors::new());
    for gpu in each_family().into_iter().filter(Gpu::has_f16) {
        let model = model(&gpu, &reference.pretrained);
        let what = |name: &str| format!("{} {name} in f16 ({:?})", reference.name, gpu.family());
        let (logits, loss) = reference.forward(&model, 0, &training().with_precision(Precision::F16));
        assert_close(&what("logits"), &logits.to_vec().unwrap(), &reference.get("logits").data, 2e-2);
        assert_close(&what("loss"), &loss.to_vec().unwrap(), &reference.get("loss").data, 1e-2);
        loss.backward_from(&Tensor::from_slice(&gpu, &[], &[SCALE]).unwrap()).unwrap();
        compare_gradients(&model, &expected, &what, SCALE, 2e-2);
    }
}

/// Ten steps: the losses on the way, and the parameters that the file has at the end, but key biases, whose gradients are rounding.
fn check_steps(name: &str, file: &str) {
    const RATE: f32 = 1e-3;
    let reference = Reference::read(name, file);
    let start = checkpoint::read(folder(name).join("model.safetensors")).unwrap().tensors;
    let end = reference.opened("adamw/param/", start);
    let first = reference.opened("grad/", Tensors::new());
    for gpu in each_family() {
        let model = model(&gpu, &reference.pretrained);
        let what = |name: &str| format!("{} {name} ({:?})", reference.name, gpu.family());
        let mut optimizer = Optimizer::new(model.parameters(), ADAMW, Some(1.0), every_parameter).unwrap();
        for (step, expected) in reference.get("adamw/losses").data.iter().enumerate() {
            let (_, loss) = reference.forward(&model, step, &training());
            loss.backward().unwrap();
            optimizer.step(model.parameters(), RATE).unwrap();
            assert_close(&what(&format!("loss {step}")), &[loss.item().unwrap()], &[*expected], 1e-5);
        }
        let mut compared = 0;
        for (name, expected) in &end {
            if *expected == reference.pretrained.checkpoint.tensors[name] {
                continue;
            }
            let mut value: Vec<f32> = model.parameters().get(name).unwrap().value().to_vec().unwrap();
            for i in key_biases(name, value.len()) {
                value[i] = expected.data[i];
            }
            assert_adam_close(&what(name), &value, &expected.data, &first[name].data, RATE, 1e-4);
            compared += 1;
        }
        assert!(compared >= 20, "{compared} parameters compared");
    }
}

/// Pictures of another size than the model's own.
fn check_resized(name: &str, resampling: Resampling) {
    let reference = Reference::read(name, WHOLE);
    let images = reference.get("resized/images");
    let mut pretrained = opened(name);
    assert_eq!(pretrained.resampling, resampling);
    pretrained.resize((images.shape[2], images.shape[3])).unwrap();
    assert_close(name, &logits(&pretrained, images), &reference.get("resized/logits").data, 5e-6);
}

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

fn bits(tensors: &Tensors) -> BTreeMap<&String, (&Vec<usize>, Vec<u32>)> {
    let bits = |tensor: &HostTensor| tensor.data.iter().map(|v| v.to_bits()).collect();
    tensors.iter().map(|(name, tensor)| (name, (&tensor.shape, bits(tensor)))).collect()
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

/// What came from a library goes back to it as it was, but for the mask token, of which nothing is kept.
#[test]
fn dinov2_and_deit3_go_back_to_where_they_came_from() {
    for (name, is_timms) in [(DEIT3, true), (TIMM, true), (DINOV2, false), (WITH_REGISTERS, false)] {
        let pretrained = opened(name);
        let model = model(&gpu(), &pretrained);
        let out = tempfile::tempdir().unwrap();
        let out = out.path().join("out");
        let options = ExportOptions { crop_fraction: pretrained.crop_fraction, ..Default::default() };
        let export = if is_timms { export_timm } else { export_hf };
        export(&out, &model, &options).unwrap();
        let tensors_in = |folder: &Path| {
            let mut tensors = checkpoint::read(folder.join("model.safetensors")).unwrap().tensors;
            tensors.retain(|name, _| !name.ends_with("mask_token"));
            tensors
        };
        assert_eq!(bits(&tensors_in(&out)), bits(&tensors_in(&folder(name))), "{name}");
        let again = open(&out, &OpenOptions::default()).unwrap();
        assert_eq!(again.config, pretrained.config);
        assert!((again.crop_fraction.unwrap() - pretrained.crop_fraction.unwrap()).abs() < 1e-3);
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
    let config = VitConfig { no_embed_reg: false, img_size: (12, 18), ..pretrained.config };
    let own = Vit::new(&gpu(), config, 5).unwrap();
    let images = HostTensor { shape: vec![1, 3, 12, 18], data: crate::common::values(3, 3 * 12 * 18) };
    let on_device = Tensor::from_slice(own.gpu(), &images.shape, &images.data).unwrap();
    let expected: Vec<f32> = own.forward(&on_device, &[], &Mode::evaluation()).unwrap().to_vec().unwrap();
    export_hf(&path.with_extension("own"), &own, &ExportOptions::default()).unwrap();
    let theirs = open(path.with_extension("own"), &OpenOptions::default()).unwrap();
    assert_close("positions of registers", &logits(&theirs, &images), &expected, 5e-6);
}
