//! End to end against PyTorch, timm and transformers: logits, loss, every gradient by name, ten optimiser steps, from files
//! as those libraries save them. See `tests/reference/README.md`; `WGRAD_REFERENCE` names another folder with the same files.

use crate::common::{assert_adam_close, assert_close, assert_loss_close, each_family, reference};
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use wgrad::checkpoint::{self, Checkpoint, HostTensor, MatchOptions, load_parameters};
use wgrad::models::vit::{OpenOptions, Pretrained, Resampling, Vit, open, resample_pos_embed};
use wgrad::nn::{Mode, Precision, Span};
use wgrad::ops::{CrossEntropy, RandomKey, TokenIndices, cross_entropy};
use wgrad::optim::{AdamW, Optimizer, Rule, Sgd, StepReport};
use wgrad::{Gpu, Tensor};

const PLAIN: &str = "vit_timm.safetensors";
const RANDOM_LTD: &str = "vit_timm_random_ltd.safetensors";

/// transformers' folder, with `expected.safetensors` in it.
const HUGGING_FACE: &str = "vit_hf";
/// Registers, positions of patches alone, a first norm, other pooling.
const VARIANTS: [&str; 3] =
    ["vit_timm_variant_a.safetensors", "vit_timm_variant_b.safetensors", "vit_timm_variant_c.safetensors"];

/// A file of reference vectors.
struct Reference {
    floats: Checkpoint,
    /// Labels and token indices.
    integers: BTreeMap<String, (Vec<usize>, Vec<u32>)>,
    /// The model, as opened from a file.
    pretrained: Pretrained,
}

impl Reference {
    fn read(name: &str) -> Self {
        let path = reference(name);
        let is_folder = path.is_dir();
        let vectors = if is_folder { path.join("expected.safetensors") } else { path.clone() };
        let bytes = std::fs::read(&vectors).unwrap_or_else(|e| panic!("{}: {e}", vectors.display()));
        let floats = checkpoint::read_bytes(&bytes, name).unwrap();
        let pretrained = if is_folder { open(&path, &OpenOptions::default()).unwrap() } else { as_timm_saves(&floats) };
        Reference { floats, integers: integers(&bytes), pretrained }
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

    /// The library's model with its initial parameters.
    fn model(&self, gpu: &Gpu) -> Vit {
        let model = Vit::new(gpu, self.pretrained.config.clone(), 0).unwrap();
        let report =
            load_parameters(model.parameters(), &self.pretrained.checkpoint, &MatchOptions::default()).unwrap();
        assert_eq!((report.loaded.len(), report.unused.len()), (model.parameters().len(), 0), "{report}");
        model
    }

    fn inputs(&self, gpu: &Gpu) -> Inputs {
        let images = self.floats.get("images").unwrap();
        let (_, labels) = &self.integers["labels"];
        let kept = |block: usize| {
            let (shape, positions) = self.integers.get(&format!("keep/{block}"))?;
            let tokens = self.pretrained.config.tokens();
            let kept = TokenIndices::new(gpu, [shape[0], shape[1]], tokens, positions).unwrap();
            Some(Span::bypass(block..block + 1, kept))
        };
        Inputs {
            images: Tensor::from_slice(gpu, &images.shape, &images.data).unwrap(),
            labels: Tensor::from_slice(gpu, &[labels.len()], labels).unwrap(),
            kept: (0..self.pretrained.config.depth).filter_map(kept).collect(),
            settings: self.loss_settings(),
        }
    }
}

/// The parameters written and opened as a file of timm's, with timm's `config.json` beside it.
fn as_timm_saves(floats: &Checkpoint) -> Pretrained {
    let parameters: BTreeMap<String, HostTensor> = floats
        .tensors
        .iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix("param/")?.to_owned(), tensor.clone())))
        .collect();
    let args = match (floats.metadata.get("config"), floats.metadata.get("model_args")) {
        // {"size": 24, "patch": 8, "dim": 48, "depth": 3, "heads": 3, "classes": 7}
        (Some(sizes), _) => {
            let sizes: BTreeMap<String, usize> = serde_json::from_str(sizes).unwrap();
            format!(r#"{{"num_heads": {}, "img_size": {}}}"#, sizes["heads"], sizes["size"])
        }
        (None, args) => args.unwrap().clone(),
    };
    let folder = tempfile::tempdir().unwrap();
    let config = format!(r#"{{"architecture": "vit_tiny_patch16_224", "model_args": {args}}}"#);
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let file = folder.path().join("model.safetensors");
    checkpoint::write(&file, &parameters, &BTreeMap::new()).unwrap();
    open(&file, &OpenOptions::default()).unwrap()
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
    kept: Vec<Span<TokenIndices>>,
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
        let with_gradients = if reference.names("grad/").next().is_some() { model.parameters().len() } else { 0 };
        for parameter in model.parameters().iter().take(with_gradients) {
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
            assert_loss_close(&what(&format!("loss {step}")), loss.item().unwrap(), *expected, 1e-4);
        }
        let prefix = format!("{name}/param/");
        let mut compared = 0;
        for path in reference.names(&prefix) {
            let value = model.parameters().get(path).unwrap().value().to_vec().unwrap();
            let expected = reference.get(&format!("{prefix}{path}"));
            match rule {
                Rule::Sgd(_) => assert_close(&what(path), &value, expected, 1e-3),
                _ => {
                    let first = reference.get(&format!("grad/{path}"));
                    assert_adam_close(&what(path), &value, expected, first, rate, 1e-3);
                }
            }
            compared += 1;
        }
        let has_parameters = reference.names("param/").next().is_some();
        assert!(compared >= if has_parameters { 6 } else { 0 }, "{compared} parameters compared");
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

#[test]
fn gradients_of_variants() {
    for file in VARIANTS {
        check_gradients(file);
    }
}

#[test]
fn ten_steps_of_variants() {
    for file in VARIANTS {
        check_steps(file, "adamw", ADAMW, 1e-3);
        check_steps(file, "sgd", SGD, 1e-2);
    }
}

#[test]
fn logits_and_gradient_norm_of_transformers() {
    check_gradients(HUGGING_FACE);
}

#[test]
fn ten_steps_of_transformers() {
    check_steps(HUGGING_FACE, "adamw", ADAMW, 1e-3);
    check_steps(HUGGING_FACE, "sgd", SGD, 1e-2);
}

/// Position embeddings for other grids, against timm.
#[test]
fn positions_are_resampled_as_by_timm() {
    let grids = [("pos_embed_resample.safetensors", 1, (7, 7)), ("pos_embed_resample_3x5.safetensors", 2, (3, 5))];
    for (file, prefix, from) in grids {
        let reference = checkpoint::read(reference(file)).unwrap();
        let pos = reference.get("pos_embed").unwrap();
        let mut compared = 0;
        for (name, expected) in &reference.tensors {
            let Some(grid) = name.strip_prefix("resampled/") else { continue };
            let sides: Vec<usize> = grid.split('x').map(|side| side.parse().unwrap()).collect();
            let to = (sides[0], *sides.last().unwrap());
            let resampled = resample_pos_embed(pos, prefix, from, to, Resampling::Antialiased).unwrap();
            assert_eq!(resampled.shape, expected.shape, "{name}");
            assert_close(name, &resampled.data, &expected.data, 2e-6);
            compared += 1;
        }
        assert!(compared >= 3);
    }
}
