//! The training loop.

mod awaited;
mod batches;
mod language;
mod memory;
mod nan;
mod out_of_memory;
mod parts;
#[cfg(feature = "pictures")]
mod runs;
mod step;
mod tokens;
#[cfg(feature = "pictures")]
mod tuning;

use crate::common::values;
use wgrad::autograd::Parameter;
use wgrad::data::{ImageBatch, Position};
use wgrad::ltd::{RandomLtd, Schedule, TokenDrop};
use wgrad::models::vit::{Vit, VitConfig};
use wgrad::nn::{Classifier, Mode, Span};
use wgrad::ops::{self, CrossEntropy, RandomKey, TokenIndices};
use wgrad::optim::{AdamW, LrSchedule, Rule, Sgd};
use wgrad::train::{Classify, TrainSettings};
use wgrad::{Gpu, Tensor};

const CLASSES: usize = 4;
/// T of [`config`]: 16 patches and the class token.
const TOKENS: usize = 17;
const BATCH: usize = 6;

/// 32 wide, 3 deep, 16×16 images in patches of 4.
fn config() -> VitConfig {
    VitConfig { img_size: (16, 16), patch_size: 4, num_classes: CLASSES, ..VitConfig::custom(32, 3, 2) }
}

/// With everything that is random in training.
fn random_config() -> VitConfig {
    VitConfig { drop_rate: 0.1, pos_drop_rate: 0.1, proj_drop_rate: 0.1, drop_path_rate: 0.3, ..config() }
}

fn settings(drop: impl Into<TokenDrop>) -> TrainSettings {
    TrainSettings {
        max_norm: Some(1.0),
        drop: drop.into(),
        seed: 7,
        ..TrainSettings::new(Rule::AdamW(AdamW::default()), constant_rate(1e-2))
    }
}

fn task<M: Classifier>(model: M) -> Classify<M> {
    Classify::with_loss(model, CrossEntropy { label_smoothing: 0.1, ..Default::default() })
}

/// Makes the task of a model of these sizes, for rehearsals.
fn making(config: &VitConfig) -> impl Fn(&Gpu) -> wgrad::Result<Classify<Vit>> {
    |gpu| Ok(Classify::new(Vit::new(gpu, config.clone(), 0)?))
}

fn constant_rate(rate: f32) -> LrSchedule {
    LrSchedule::constant(rate).unwrap()
}

/// At rate 1 the weights then show the gradient.
const PLAIN_SGD: Rule = Rule::Sgd(Sgd { momentum: 0.0, dampening: 0.0, nesterov: false, weight_decay: 0.0 });

fn ltd(kept: usize) -> RandomLtd {
    RandomLtd::new(3, Schedule::constant(kept).unwrap()).unwrap().with_seed(3)
}

fn bytes(seed: u64, n: usize) -> Vec<u8> {
    values(seed, n).iter().map(|v| (v * 127.0 + 128.0) as u8).collect()
}

fn batch(seed: u64, samples: usize) -> ImageBatch {
    ImageBatch {
        images: bytes(seed, samples * 3 * 16 * 16),
        labels: (0..samples).map(|i| (i % CLASSES) as u32).collect(),
        mixed: None,
        indices: (0..samples as u32).collect(),
        position: Position::default(),
    }
}

fn weights(model: &Vit) -> Vec<Vec<f32>> {
    model.parameters().iter().map(|p| p.value().to_vec().unwrap()).collect()
}

fn bits(values: &[Vec<f32>]) -> Vec<Vec<u32>> {
    values.iter().map(|v| v.iter().map(|v| v.to_bits()).collect()).collect()
}

#[track_caller]
fn assert_same(model: &Vit, got: &[Vec<f32>], expected: &[Vec<f32>]) {
    for ((p, got), expected) in model.parameters().iter().zip(bits(got)).zip(bits(expected)) {
        let differs = got.iter().zip(&expected).position(|(a, b)| a != b);
        assert_eq!(differs, None, "{}: first difference", p.path());
    }
}

const KEY: RandomKey = RandomKey { seed: 0, step: 0, layer: 0, first_sample: 0 };

fn images(gpu: &Gpu, samples: usize) -> Tensor {
    Tensor::from_slice(gpu, &[samples, 3, 16, 16], &values(11, samples * 3 * 16 * 16)).unwrap()
}

/// A span for each block that has tokens of its own.
fn spans(kept: &[Option<TokenIndices>]) -> Vec<Span<TokenIndices>> {
    let span = |(block, kept): (usize, &Option<TokenIndices>)| Some(Span::bypass(block..block + 1, kept.clone()?));
    kept.iter().enumerate().filter_map(span).collect()
}

/// Logits and all gradients of a step on two samples.
fn pass(model: &Vit, images: &Tensor, kept: &[Option<TokenIndices>]) -> (Vec<f32>, Vec<Vec<f32>>) {
    let labels = Tensor::from_slice(model.gpu(), &[images.dims()[0]], &vec![1u32; images.dims()[0]]).unwrap();
    model.parameters().zero_grad();
    let logits = model.forward(images, &spans(kept), &Mode::training(KEY)).unwrap();
    ops::cross_entropy(&logits, &labels, &CrossEntropy::default()).unwrap().backward().unwrap();
    let gradient = |p: &Parameter| p.grad().expect("a gradient").to_vec().unwrap();
    (logits.to_vec().unwrap(), model.parameters().iter().map(gradient).collect())
}
