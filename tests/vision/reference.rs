//! What timm and transformers compute with the weights of a folder, and this crate beside it.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::common::{assert_adam_close, assert_close, assert_loss_close, each_family, gpu};
use safetensors::{Dtype, SafeTensors};
use wgrad::checkpoint::{self, Checkpoint, HostTensor, MatchOptions, load_parameters};
use wgrad::models::vit::{ExportOptions, OpenOptions, Pretrained, Resampling, Vit, export_hf, export_timm, open};
use wgrad::nn::{Mode, Precision, Span};
use wgrad::ops::{self, CrossEntropy, RandomKey, TokenIndices, cross_entropy};
use wgrad::optim::{AdamW, Optimizer, Rule, StepReport};
use wgrad::{Gpu, Tensor};

pub type Tensors = BTreeMap<String, HostTensor>;

pub const WHOLE: &str = "expected.safetensors";
pub const RANDOM_LTD: &str = "random_ltd.safetensors";

/// The folder of a model.
pub fn folder(name: &str) -> PathBuf {
    crate::common::reference(&format!("vision/{name}"))
}

pub fn opened(name: &str) -> Pretrained {
    reopened(name, &weights(name))
}

/// The weights of a folder, with a head that its library's class does not have.
pub fn weights(name: &str) -> Tensors {
    let mut tensors = checkpoint::read(folder(name).join("model.safetensors")).unwrap().tensors;
    let expected = checkpoint::read(folder(name).join(WHOLE)).unwrap().tensors;
    let head =
        expected.into_iter().filter_map(|(name, tensor)| Some((name.strip_prefix("param/")?.to_owned(), tensor)));
    tensors.extend(head);
    tensors
}

/// Tensors beside the descriptions of a folder.
pub fn reopened(name: &str, tensors: &Tensors) -> Pretrained {
    let copy = tempfile::tempdir().unwrap();
    for file in ["config.json", "preprocessor_config.json"] {
        if folder(name).join(file).exists() {
            fs::copy(folder(name).join(file), copy.path().join(file)).unwrap();
        }
    }
    checkpoint::write(copy.path().join("model.safetensors"), tensors, &BTreeMap::new()).unwrap();
    open(copy.path(), &OpenOptions::default()).unwrap()
}

/// A model of exactly these tensors.
pub fn model(gpu: &Gpu, pretrained: &Pretrained) -> Vit {
    let model = Vit::new(gpu, pretrained.config.clone(), 0).unwrap();
    let report = load_parameters(model.parameters(), &pretrained.checkpoint, &MatchOptions::default()).unwrap();
    assert_eq!((report.loaded.len(), report.unused.len()), (model.parameters().len(), 0), "{report}");
    model
}

/// The logits in evaluation.
pub fn logits(pretrained: &Pretrained, images: &HostTensor) -> Vec<f32> {
    let gpu = gpu();
    let images = Tensor::from_slice(&gpu, &images.shape, &images.data).unwrap();
    model(&gpu, pretrained).forward(&images, &[], &Mode::evaluation()).unwrap().to_vec().unwrap()
}

/// What a library computes with the weights of a folder.
pub struct Reference {
    pub name: String,
    pub floats: Checkpoint,
    /// Pictures and classes, which lie with what all tokens give.
    pub images: HostTensor,
    pub labels: Vec<u32>,
    /// A teacher's classes, for the second of two heads.
    pub teacher: Option<Vec<u32>>,
    /// Of the blocks with random-LTD: `[step, sample, kept]`.
    pub kept: BTreeMap<usize, (Vec<usize>, Vec<u32>)>,
    pub pretrained: Pretrained,
}

impl Reference {
    pub fn read(name: &str, file: &str) -> Self {
        let bytes = |file: &str| fs::read(folder(name).join(file)).unwrap();
        let (whole, own) = (bytes(WHOLE), bytes(file));
        let classes = |name: &str| -> Option<Vec<u32>> {
            let classes = SafeTensors::deserialize(&whole).unwrap().tensor(name).ok()?.data().to_vec();
            let classes: Vec<i64> = bytemuck::pod_collect_to_vec(&classes);
            Some(classes.into_iter().map(|class| class as u32).collect())
        };
        let integers = SafeTensors::deserialize(&own).unwrap();
        let kept = integers.iter().filter(|(_, view)| view.dtype() == Dtype::I32).map(|(name, view)| {
            let block = name.strip_prefix("keep/").unwrap().parse().unwrap();
            (block, (view.shape().to_vec(), bytemuck::pod_collect_to_vec(view.data())))
        });
        Reference {
            name: format!("{name}/{file}"),
            images: checkpoint::read_bytes(&whole, name).unwrap().get("images").unwrap().clone(),
            labels: classes("labels").unwrap(),
            teacher: classes("teacher_labels"),
            kept: kept.collect(),
            floats: checkpoint::read_bytes(&own, name).unwrap(),
            pretrained: opened(name),
        }
    }

    pub fn get(&self, name: &str) -> &HostTensor {
        self.floats.get(name).unwrap()
    }

    /// The tensors below `prefix` in the places of parameters of the folder's file, opened as that is: so they get this crate's
    /// names and layouts.
    pub fn opened(&self, prefix: &str, rest: Tensors) -> Tensors {
        let own = self.floats.tensors.iter();
        let own = own.filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone())));
        let tensors = rest.into_iter().chain(own).collect();
        reopened(self.name.split('/').next().unwrap(), &tensors).checkpoint.tensors
    }

    pub fn spans(&self, gpu: &Gpu, step: usize) -> Vec<Span<TokenIndices>> {
        let span = |(&block, (shape, positions)): (&usize, &(Vec<usize>, Vec<u32>))| {
            let size = shape[1] * shape[2];
            let positions = &positions[step * size..(step + 1) * size];
            let tokens = self.pretrained.config.tokens();
            let kept = TokenIndices::new(gpu, [shape[1], shape[2]], tokens, positions).unwrap();
            Span::bypass(block..block + 1, kept)
        };
        self.kept.iter().map(span).collect()
    }

    /// Logits and loss of a step; with a teacher, half the loss is each head's.
    pub fn forward(&self, model: &Vit, step: usize, mode: &Mode) -> (Tensor, Tensor) {
        let gpu = model.gpu();
        let images = Tensor::from_slice(gpu, &self.images.shape, &self.images.data).unwrap();
        let loss = |logits: &Tensor, classes: &[u32]| {
            let classes = Tensor::from_slice(gpu, &[classes.len()], classes).unwrap();
            cross_entropy(logits, &classes, &CrossEntropy::default()).unwrap()
        };
        let features = model.features(&images, &self.spans(gpu, step), mode).unwrap();
        let logits = model.classify(&features, mode).unwrap();
        let Some(teacher) = &self.teacher else {
            let loss = loss(&logits, &self.labels);
            return (logits, loss);
        };
        let heads = model.classify_each(&features, mode).unwrap();
        let both = ops::add(&loss(&heads[0], &self.labels), &loss(&heads[1], teacher)).unwrap();
        (logits, ops::scale(&both, 0.5).unwrap())
    }
}

pub fn training() -> Mode {
    Mode::training(RandomKey { seed: 0, step: 0, layer: 0, first_sample: 0 })
}

/// The keys' part of a packed bias, whose true gradient is 0.
pub fn key_biases(name: &str, length: usize) -> Range<usize> {
    match name {
        "attn_pool.kv.bias" => 0..length / 2,
        _ if name.ends_with("attn.qkv.bias") => length / 3..2 * length / 3,
        _ => 0..0,
    }
}

pub const ADAMW: Rule = Rule::AdamW(AdamW { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.05 });

/// In the files, every parameter decays.
pub fn every_parameter(_: &str, _: usize) -> bool {
    true
}

/// The norm of all gradients, as a step measures it that moves nothing.
pub fn grad_norm(model: &Vit) -> f32 {
    let mut optimizer = Optimizer::new(model.parameters(), ADAMW, None, every_parameter).unwrap();
    optimizer.step(model.parameters(), 0.0).unwrap();
    let report = optimizer.report().read_later().unwrap().wait().unwrap().concat();
    StepReport::decode(&report).unwrap().grad_norm
}

/// Logits, loss, all gradients and their norm; also with blocks that are computed twice.
pub fn check_gradients(name: &str, file: &str) {
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
            assert_close(&what("grad_norm"), &[grad_norm(&model)], &reference.get("grad_norm").data, 1e-5);
        }
    }
}

pub fn compare_gradients(model: &Vit, expected: &Tensors, what: &dyn Fn(&str) -> String, scale: f32, tolerance: f32) {
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
pub fn check_half_precision(name: &str, file: &str) {
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
pub fn check_steps(name: &str, file: &str) {
    const RATE: f32 = 1e-3;
    let reference = Reference::read(name, file);
    let end = reference.opened("adamw/param/", weights(name));
    let first = reference.opened("grad/", Tensors::new());
    // Where a gradient passes near 0, Adam makes a step of its rounding: PyTorch's own losses then differ from those in f64.
    let rounding: BTreeMap<String, f32> = serde_json::from_str(&reference.floats.metadata["f32_against_f64"]).unwrap();
    let tolerance = (20.0 * rounding["adamw/losses"]).max(1e-5);
    for gpu in each_family() {
        let model = model(&gpu, &reference.pretrained);
        let what = |name: &str| format!("{} {name} ({:?})", reference.name, gpu.family());
        let mut optimizer = Optimizer::new(model.parameters(), ADAMW, Some(1.0), every_parameter).unwrap();
        for (step, expected) in reference.get("adamw/losses").data.iter().enumerate() {
            let (_, loss) = reference.forward(&model, step, &training());
            loss.backward().unwrap();
            optimizer.step(model.parameters(), RATE).unwrap();
            assert_loss_close(&what(&format!("loss {step}")), loss.item().unwrap(), *expected, tolerance);
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
pub fn check_resized(name: &str, resampling: Resampling) {
    let reference = Reference::read(name, WHOLE);
    let images = reference.get("resized/images");
    let mut pretrained = opened(name);
    assert_eq!(pretrained.resampling, resampling);
    pretrained.resize((images.shape[2], images.shape[3])).unwrap();
    assert_close(name, &logits(&pretrained, images), &reference.get("resized/logits").data, 5e-6);
}

/// What came from a library goes back to it as it was, but for names with `lost` in them, of which nothing is kept.
pub fn check_return(name: &str, lost: &[&str]) {
    let pretrained = opened(name);
    let model = model(&gpu(), &pretrained);
    let out = tempfile::tempdir().unwrap();
    let out = out.path().join("out");
    let options = ExportOptions { crop_fraction: pretrained.crop_fraction, ..Default::default() };
    let export = if name.starts_with("timm") { export_timm } else { export_hf };
    export(&out, &model, &options).unwrap();
    let tensors_in = |folder: &Path| {
        let mut tensors = checkpoint::read(folder.join("model.safetensors")).unwrap().tensors;
        tensors.retain(|name, _| !lost.iter().any(|part| name.contains(part)));
        tensors
    };
    assert_eq!(bits(&tensors_in(&out)), bits(&tensors_in(&folder(name))), "{name}");
    let again = open(&out, &OpenOptions::default()).unwrap();
    assert_eq!(again.config, pretrained.config);
    assert!((again.crop_fraction.unwrap() - pretrained.crop_fraction.unwrap()).abs() < 1e-3);
}

pub fn bits(tensors: &Tensors) -> BTreeMap<&String, (&Vec<usize>, Vec<u32>)> {
    let bits = |tensor: &HostTensor| tensor.data.iter().map(|v| v.to_bits()).collect();
    tensors.iter().map(|(name, tensor)| (name, (&tensor.shape, bits(tensor)))).collect()
}

/// A head that passes on what it reads.
pub fn with_identity_head(mut pretrained: Pretrained) -> Pretrained {
    let width = pretrained.config.embed_dim;
    let one = |i: usize| f32::from(i / width == i % width);
    let weight = HostTensor { shape: vec![width, width], data: (0..width * width).map(one).collect() };
    let bias = HostTensor { shape: vec![width], data: vec![0.0; width] };
    pretrained.checkpoint.tensors.extend([("head.weight".to_owned(), weight), ("head.bias".to_owned(), bias)]);
    pretrained.config.num_classes = width;
    pretrained
}
