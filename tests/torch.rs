//! End to end against PyTorch and timm: logits, loss, every gradient by name, ten optimiser steps. See
//! `tests/reference/README.md`; `WGRAD_REFERENCE` names another folder with the same files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::common::{assert_close, each_family};
use safetensors::SafeTensors;
use wgrad::autograd::Parameter;
use wgrad::checkpoint::{self, Checkpoint};
use wgrad::nn::{Mode, Precision, Vit, VitConfig};
use wgrad::ops::{CrossEntropy, RandomKey, TokenIndices, cross_entropy};
use wgrad::optim::{AdamW, Optimizer, Rule, Sgd, StepReport};
use wgrad::{Gpu, Tensor};

const PLAIN: &str = "vit_timm.safetensors";
const RANDOM_LTD: &str = "vit_timm_random_ltd.safetensors";

/// A file of reference vectors.
struct Reference {
    floats: Checkpoint,
    /// Labels and token indices.
    integers: BTreeMap<String, (Vec<usize>, Vec<u32>)>,
    config: VitConfig,
}

impl Reference {
    fn read(name: &str) -> Self {
        let shipped = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference");
        let path = std::env::var_os("WGRAD_REFERENCE").map_or_else(shipped, PathBuf::from).join(name);
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let floats = checkpoint::read_bytes(&bytes, name).unwrap();
        let config = config(&floats.metadata["config"]);
        Reference { floats, integers: integers(&bytes), config }
    }

    fn get(&self, name: &str) -> &[f32] {
        &self.floats.get(name).unwrap().data
    }

    /// Names below `prefix`, without it.
    fn names<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.floats.tensors.keys().filter_map(move |name| name.strip_prefix(prefix))
    }

    fn loss_settings(&self) -> CrossEntropy {
        let label_smoothing = self.floats.metadata["label_smoothing"].parse().unwrap();
        CrossEntropy { label_smoothing, ..Default::default() }
    }

    /// timm's model with its initial parameters.
    fn model(&self, gpu: &Gpu) -> Vit {
        let model = Vit::new(gpu, self.config.clone(), 0).unwrap();
        let mut ours: Vec<_> = model.parameters().iter().map(Parameter::path).collect();
        ours.sort_unstable();
        assert_eq!(ours, self.names("param/").collect::<Vec<_>>(), "parameter names");
        for parameter in model.parameters() {
            let tensor = self.floats.get(&format!("param/{}", parameter.path())).unwrap();
            assert_eq!(parameter.value().dims(), tensor.shape, "{}", parameter.path());
            parameter.set(&tensor.data).unwrap();
        }
        model
    }

    fn inputs(&self, gpu: &Gpu) -> Inputs {
        let images = self.floats.get("images").unwrap();
        let (_, labels) = &self.integers["labels"];
        let kept = |block: usize| {
            let (shape, positions) = self.integers.get(&format!("keep/{block}"))?;
            Some(TokenIndices::new(gpu, shape[0], shape[1], self.config.tokens(), positions).unwrap())
        };
        Inputs {
            images: Tensor::from_slice(gpu, &images.shape, &images.data).unwrap(),
            labels: Tensor::from_slice(gpu, &[labels.len()], labels).unwrap(),
            kept: (0..self.config.depth).map(kept).collect(),
            settings: self.loss_settings(),
        }
    }
}

/// `{"size": 24, "patch": 8, "dim": 48, "depth": 3, "heads": 3, "classes": 7}`
fn config(json: &str) -> VitConfig {
    let sizes: BTreeMap<String, usize> = serde_json::from_str(json).unwrap();
    let size = sizes["size"];
    VitConfig {
        img_size: (size, size),
        patch_size: sizes["patch"],
        num_classes: sizes["classes"],
        ..VitConfig::custom(sizes["dim"], sizes["depth"], sizes["heads"])
    }
}

fn integers(bytes: &[u8]) -> BTreeMap<String, (Vec<usize>, Vec<u32>)> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let integers = file.iter().filter(|(_, view)| view.dtype() == safetensors::Dtype::I32);
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
    integers
        .map(|(name, view)| (name.to_owned(), (view.shape().to_vec(), view.data().chunks(4).map(word).collect())))
        .collect()
}

/// A batch on the device.
struct Inputs {
    images: Tensor,
    labels: Tensor,
    kept: Vec<Option<TokenIndices>>,
    settings: CrossEntropy,
}

impl Inputs {
    /// (logits, loss)
    fn forward(&self, model: &Vit) -> (Tensor, Tensor) {
        self.forward_in(model, Precision::F32)
    }

    fn forward_in(&self, model: &Vit, precision: Precision) -> (Tensor, Tensor) {
        let key = RandomKey { seed: 0, step: 0, layer: 0, first_sample: 0 };
        let mode = Mode::training(key).with_precision(precision);
        let logits = model.forward(&self.images, &self.kept, &mode).unwrap();
        let loss = cross_entropy(&logits, &self.labels, &self.settings).unwrap();
        (logits, loss)
    }
}

/// In the files, AdamW and SGD decay every parameter.
fn every_parameter(_: &str, _: usize) -> bool {
    true
}

const ADAMW: Rule = Rule::AdamW(AdamW { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.05 });
const SGD: Rule = Rule::Sgd(Sgd { momentum: 0.9, dampening: 0.0, nesterov: false, weight_decay: 5e-4 });

/// Logits, loss, all gradients and their norm.
fn check_gradients(file: &str) {
    let reference = Reference::read(file);
    for gpu in each_family() {
        let (model, inputs) = (reference.model(&gpu), reference.inputs(&gpu));
        let what = |name: &str| format!("{file} {name} ({:?})", gpu.family());
        let (logits, loss) = inputs.forward(&model);
        assert_close(&what("logits"), &logits.to_vec().unwrap(), reference.get("logits"), 1e-4);
        assert_close(&what("loss"), &loss.to_vec().unwrap(), reference.get("loss"), 1e-5);
        loss.backward().unwrap();
        for parameter in model.parameters() {
            let name = format!("grad/{}", parameter.path());
            let gradient = parameter.grad().unwrap_or_else(|| panic!("{}: none", what(&name)));
            assert_close(&what(&name), &gradient.to_vec().unwrap(), reference.get(&name), 1e-4);
        }
        let mut optimizer = Optimizer::new(model.parameters(), ADAMW, None, every_parameter).unwrap();
        optimizer.step(model.parameters(), 0.0).unwrap();
        let bytes = optimizer.report().read_later().unwrap().wait().unwrap().concat();
        let report = StepReport::decode(&bytes).unwrap();
        assert_close(&what("grad_norm"), &[report.grad_norm], reference.get("grad_norm"), 1e-5);
    }
}

/// With half-precision activations, and a loss scaled as training would scale it: within a hundredth.
fn check_half_precision(file: &str) {
    const SCALE: f32 = 1024.0;
    let reference = Reference::read(file);
    for gpu in each_family().into_iter().filter(Gpu::has_f16) {
        let (model, inputs) = (reference.model(&gpu), reference.inputs(&gpu));
        let what = |name: &str| format!("{file} {name} in f16 ({:?})", gpu.family());
        let (logits, loss) = inputs.forward_in(&model, Precision::F16);
        assert_close(&what("logits"), &logits.to_vec().unwrap(), reference.get("logits"), 1e-2);
        assert_close(&what("loss"), &loss.to_vec().unwrap(), reference.get("loss"), 1e-3);
        loss.backward_from(&Tensor::from_slice(&gpu, &[], &[SCALE]).unwrap()).unwrap();
        for parameter in model.parameters() {
            let name = format!("grad/{}", parameter.path());
            let gradient: Vec<f32> = parameter.grad().unwrap().to_vec().unwrap();
            let unscaled: Vec<f32> = gradient.iter().map(|g| g / SCALE).collect();
            assert_close(&what(&name), &unscaled, reference.get(&name), 1e-2);
        }
    }
}

/// Ten steps: the losses on the way and a few parameters at the end.
fn check_steps(file: &str, name: &str, rule: Rule, rate: f32) {
    let reference = Reference::read(file);
    let losses = reference.get(&format!("{name}/losses"));
    for gpu in each_family() {
        let (model, inputs) = (reference.model(&gpu), reference.inputs(&gpu));
        let what = |detail: &str| format!("{file} {name} {detail} ({:?})", gpu.family());
        let mut optimizer = Optimizer::new(model.parameters(), rule, Some(1.0), every_parameter).unwrap();
        for (step, expected) in losses.iter().enumerate() {
            let (_, loss) = inputs.forward(&model);
            loss.backward().unwrap();
            optimizer.step(model.parameters(), rate).unwrap();
            assert_close(&what(&format!("loss {step}")), &[loss.item().unwrap()], &[*expected], 1e-4);
        }
        let prefix = format!("{name}/param/");
        let mut compared = 0;
        for path in reference.names(&prefix) {
            let value = model.parameters().get(path).unwrap().value().to_vec().unwrap();
            assert_close(&what(path), &value, reference.get(&format!("{prefix}{path}")), 1e-3);
            compared += 1;
        }
        assert!(compared >= 6, "{compared} parameters compared");
    }
}

#[test]
fn gradients() {
    check_gradients(PLAIN);
}

#[test]
fn gradients_with_random_ltd() {
    check_gradients(RANDOM_LTD);
}

#[test]
fn gradients_in_half_precision() {
    check_half_precision(PLAIN);
}

#[test]
fn gradients_in_half_precision_with_random_ltd() {
    check_half_precision(RANDOM_LTD);
}

#[test]
fn ten_adamw_steps() {
    check_steps(PLAIN, "adamw", ADAMW, 1e-3);
}

#[test]
fn ten_adamw_steps_with_random_ltd() {
    check_steps(RANDOM_LTD, "adamw", ADAMW, 1e-3);
}

#[test]
fn ten_sgd_steps() {
    check_steps(PLAIN, "sgd", SGD, 1e-2);
}

#[test]
fn ten_sgd_steps_with_random_ltd() {
    check_steps(RANDOM_LTD, "sgd", SGD, 1e-2);
}
