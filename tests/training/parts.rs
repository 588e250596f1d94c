//! Micro-batches, checkpointed blocks, parts of a model and parts of a rate.

use super::{
    BATCH, CLASSES, KEY, PLAIN_SGD, TOKENS, assert_same, batch, config, constant_rate, images, ltd, making,
    random_config, settings, spans, task, weights,
};
use crate::common::{assert_close, each_family, gpu};
use wgrad::autograd::Parameter;
use wgrad::data::{ImageBatch, Mixed};
use wgrad::ltd::TokenDrop;
use wgrad::models::vit::{Vit, VitConfig};
use wgrad::nn::{Mode, Model};
use wgrad::ops::{self, CrossEntropy, RandomKey, TokenIndices};
use wgrad::optim::{Ema, layer_scale};
use wgrad::train::{Classify, Freeze, TrainSettings, Trainer, Workload, estimate};
use wgrad::{Error, Tensor};

/// Logits' loss and the gradients of all parameters that have one, in a mode.
fn gradients_in(
    model: &Vit,
    images: &Tensor,
    kept: &[Option<TokenIndices>],
    mode: Mode,
) -> (f32, Vec<Option<Vec<f32>>>) {
    let labels: Vec<u32> = (0..images.dims()[0] as u32).map(|i| i % CLASSES as u32).collect();
    let labels = Tensor::from_slice(model.gpu(), &[labels.len()], &labels).unwrap();
    model.parameters().zero_grad();
    let logits = model.forward(images, &spans(kept), &mode).unwrap();
    let loss = ops::cross_entropy(&logits, &labels, &CrossEntropy::default()).unwrap();
    loss.backward().unwrap();
    let gradients = model.parameters().iter().map(|p| p.grad().map(|g| g.to_vec().unwrap())).collect();
    (loss.item().unwrap(), gradients)
}

/// With dropout, stochastic depth and dropped tokens, plain and frozen in part.
#[test]
fn checkpointed_blocks_give_the_same_gradients() {
    for gpu in each_family() {
        let model = Vit::new(&gpu, random_config(), 5).unwrap();
        let images = images(&gpu, 2);
        let rows: Vec<u32> = [1u32, 4, 5, 9, 16, 2, 3, 4, 8, 15].to_vec();
        let kept = TokenIndices::new(&gpu, [2, 5], TOKENS, &rows).unwrap();
        let key = RandomKey { seed: 3, step: 2, ..KEY };
        for frozen in ["nothing", "embed", "blocks.0", "blocks."] {
            for p in model.parameters() {
                let below = ["cls_token", "pos_embed", "patch_embed"].iter().any(|name| p.path().starts_with(name));
                let is_frozen = p.path().starts_with(frozen) || (frozen != "nothing" && below);
                p.set_trainable(!is_frozen);
            }
            for kept in [vec![], vec![None, Some(kept.clone()), None], vec![Some(kept.clone()); 3]] {
                let plain = gradients_in(&model, &images, &kept, Mode::training(key));
                let checkpointed = gradients_in(&model, &images, &kept, Mode::training(key).recomputing(true));
                assert_eq!(plain.0.to_bits(), checkpointed.0.to_bits());
                for ((p, a), b) in model.parameters().iter().zip(&plain.1).zip(&checkpointed.1) {
                    assert_eq!(a.is_some(), p.is_trainable(), "{}", p.path());
                    let bits = |g: &Option<Vec<f32>>| g.iter().flatten().map(|v| v.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(a), bits(b), "{}, frozen: {frozen}", p.path());
                }
            }
        }
    }
}

/// Whole runs end with the same weights, bit for bit.
#[test]
fn checkpointed_training_is_the_same_training() {
    for gpu in each_family() {
        let run = |recompute_blocks| {
            let model = Vit::new(&gpu, random_config(), 5).unwrap();
            let settings = TrainSettings { recompute_blocks, ..settings(ltd(9)) };
            let mut trainer = Trainer::new(task(&model), settings).unwrap();
            let mut metrics = Vec::new();
            for step in 0..5 {
                metrics.extend(trainer.step(&batch(step, BATCH)).unwrap());
            }
            metrics.extend(trainer.finish().unwrap());
            (metrics, weights(&model), model)
        };
        let ((plain, first, model), (checkpointed, second, _)) = (run(false), run(true));
        assert_eq!(plain, checkpointed);
        assert_same(&model, &first, &second);
    }
}

/// A batch in micro-batches, of unequal sizes too, is the undivided batch within rounding: tokens and masks are the same.
#[test]
fn micro_batches_add_up_to_the_batch() {
    for gpu in each_family() {
        let run = |accumulate, batch: &ImageBatch, loss: &CrossEntropy| {
            let model = Vit::new(&gpu, random_config(), 5).unwrap();
            let settings = TrainSettings {
                rule: PLAIN_SGD,
                max_norm: None,
                rate: constant_rate(1.0),
                accumulate,
                ..settings(ltd(9))
            };
            let before = weights(&model);
            let mut trainer = Trainer::new(Classify::with_loss(&model, loss.clone()), settings).unwrap();
            trainer.step(batch).unwrap();
            let metrics = trainer.finish().unwrap().expect("a step");
            let moved = |(a, b): (&Vec<f32>, &Vec<f32>)| a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<f32>>();
            let gradients: Vec<Vec<f32>> = before.iter().zip(&weights(&model)).map(moved).collect();
            (metrics, gradients, model)
        };
        // Ignored labels lie unevenly over the micro-batches.
        let mut partly = batch(1, BATCH);
        partly.labels[..3].copy_from_slice(&[99, 0, 99]);
        // Two labels a sample, and classes of different weights.
        let labels: Vec<u32> = batch(1, BATCH).labels.into_iter().rev().collect();
        let shares = (0..BATCH).map(|i| i as f32 / BATCH as f32).collect();
        let mixed = ImageBatch { mixed: Some(Mixed { labels, shares }), ..batch(1, BATCH) };
        let smooth = CrossEntropy { label_smoothing: 0.1, ..Default::default() };
        let ignoring = CrossEntropy { ignore_index: Some(99), ..smooth.clone() };
        let weighted = CrossEntropy { class_weights: Some(vec![0.5, 3.0, 0.0, 1.0]), ..smooth.clone() };
        for (batch, loss) in [(batch(1, BATCH), smooth), (partly, ignoring), (mixed, weighted)] {
            let (whole, expected, model) = run(1, &batch, &loss);
            for accumulate in [2, 4, BATCH, BATCH + 5] {
                let (metrics, gradients, _) = run(accumulate, &batch, &loss);
                assert_eq!((metrics.correct, metrics.samples, metrics.kept), (whole.correct, BATCH, whole.kept));
                assert_close("loss", &[metrics.loss, metrics.grad_norm], &[whole.loss, whole.grad_norm], 1e-5);
                for ((p, got), expected) in model.parameters().iter().zip(&gradients).zip(&expected) {
                    assert_close(&format!("{}, {accumulate} parts", p.path()), got, expected, 1e-4);
                }
            }
        }
    }
}

#[test]
fn accumulating_nothing_is_an_error() {
    let gpu = gpu();
    let model = Vit::new(&gpu, config(), 5).unwrap();
    let error = Trainer::new(task(&model), TrainSettings { accumulate: 0, ..settings(TokenDrop::None) })
        .err()
        .expect("an error");
    assert!(matches!(error, Error::Argument { name: "accumulate", .. }), "{error}");
    let mut trainer = Trainer::new(task(&model), TrainSettings { accumulate: 2, ..settings(TokenDrop::None) }).unwrap();
    let short = ImageBatch { images: vec![0; 100], ..batch(1, BATCH) };
    assert!(matches!(trainer.step(&short), Err(Error::Argument { name: "images", .. })));
    let empty = ImageBatch { images: vec![], labels: vec![], ..batch(1, BATCH) };
    assert!(trainer.step(&empty).is_err());
    let mixed = Some(Mixed { labels: vec![0; BATCH], shares: vec![0.5; BATCH - 1] });
    assert!(matches!(
        trainer.step(&ImageBatch { mixed, ..batch(1, BATCH) }),
        Err(Error::Argument { name: "mixed", .. })
    ));
    // A batch that was refused has not been counted.
    assert_eq!((trainer.steps(), trainer.layer_tokens().full), (0, 0));
    assert!(trainer.step(&batch(1, BATCH)).is_ok() && trainer.finish().unwrap().is_some());
    assert_eq!((trainer.steps(), trainer.layer_tokens().full), (1, (3 * TOKENS * BATCH) as u64));
}

/// Whether the parameter of a path is.
type IsTrained = fn(&str) -> bool;

/// Each way to freeze: what is frozen has no gradient, no part in the norm, and keeps its bits under decay and momentum;
/// the gradients of the rest are those of the whole model.
#[test]
fn frozen_parameters_stay() {
    for gpu in each_family() {
        let whole = Vit::new(&gpu, config(), 5).unwrap();
        let (_, all) = gradients_in(&whole, &images(&gpu, 2), &[], Mode::training(KEY));
        let all: Vec<Vec<f32>> = all.into_iter().map(Option::unwrap).collect();
        let cases: [(Freeze, IsTrained); 6] = [
            (Freeze::AllButHead, |path| path.starts_with("head")),
            (Freeze::Blocks(0), |path| !["cls_token", "pos_embed"].contains(&path) && !path.starts_with("patch_embed")),
            (Freeze::Blocks(2), |path| ["blocks.2", "norm", "head"].iter().any(|name| path.starts_with(name))),
            (Freeze::AllButNormsAndBiases, |path| {
                path.starts_with("head") || path.contains("norm") || path.ends_with("bias")
            }),
            (Freeze::AllButBiases, |path| path.starts_with("head") || path.ends_with("bias")),
            (Freeze::AllButNorms, |path| path.starts_with("head") || path.contains("norm")),
        ];
        for (freeze, is_trained) in cases {
            let model = Vit::new(&gpu, config(), 5).unwrap();
            freeze.apply(&model).unwrap();
            let (_, gradients) = gradients_in(&model, &images(&gpu, 2), &[], Mode::training(KEY));
            for ((p, got), all) in model.parameters().iter().zip(&gradients).zip(&all) {
                assert_eq!(got.is_some(), is_trained(p.path()), "{freeze:?} {}", p.path());
                if let Some(got) = got {
                    assert_close(p.path(), got, all, 1e-5);
                }
            }
            let before = weights(&model);
            let mut trainer = Trainer::new(task(&model), TrainSettings { freeze, ..settings(ltd(9)) }).unwrap();
            for step in 0..3 {
                trainer.step(&batch(step, BATCH)).unwrap();
            }
            trainer.finish().unwrap();
            for ((p, before), after) in model.parameters().iter().zip(&before).zip(&weights(&model)) {
                assert_eq!(before != after, is_trained(p.path()), "{freeze:?} {}", p.path());
            }
        }
        let error = Freeze::Blocks(4).apply(&whole).unwrap_err();
        assert!(matches!(error, Error::Argument { name: "blocks", .. }), "{error}");
    }
}

/// What one run has frozen, the next one thaws; what was frozen by hand stays so under each, until it is thawed by hand.
#[test]
fn a_freeze_ends_with_the_next_trainer() {
    let gpu = gpu();
    let model = Vit::new(&gpu, config(), 5).unwrap();
    let by_hand = model.parameters().get("head.bias").unwrap();
    by_hand.set_trainable(false);
    let trained = |freeze: Freeze| {
        let mut trainer = Trainer::new(task(&model), TrainSettings { freeze, ..settings(TokenDrop::None) }).unwrap();
        let before = weights(&model);
        trainer.step(&batch(1, BATCH)).unwrap();
        trainer.finish().unwrap();
        let moved = model.parameters().iter().zip(before.iter().zip(weights(&model)));
        moved.filter(|(_, (before, after))| *before != after).map(|(p, _)| p.path()).collect::<Vec<_>>()
    };
    let all: Vec<&str> = model.parameters().iter().map(Parameter::path).filter(|&path| path != "head.bias").collect();
    assert_eq!(trained(Freeze::AllButHead), ["head.weight"]);
    assert_eq!(trained(Freeze::Nothing), all);
    assert!(trained(Freeze::Blocks(2)).iter().all(|path| !path.starts_with("blocks.0")));
    assert!(trained(Freeze::AllButNormsAndBiases).contains(&"blocks.0.attn.qkv.bias"));
    by_hand.set_trainable(true);
    assert_eq!(trained(Freeze::AllButHead), ["head.weight", "head.bias"]);
    // By hand, what a run has frozen is thawed too.
    Freeze::AllButHead.apply(&model).unwrap();
    let block = model.parameters().get("blocks.1.norm1.weight").unwrap();
    block.set_trainable(true);
    assert_eq!(model.parameters().iter().filter(|p| p.is_trainable()).count(), 3);
}

/// Backward ends where nothing below is trained, and nothing is kept for it; the norm is that of what is trained.
#[test]
fn frozen_parameters_cost_nothing() {
    let gpu = gpu();
    let run = |freeze: Freeze| {
        let model = Vit::new(&gpu, config(), 5).unwrap();
        let settings = TrainSettings { freeze, ..settings(TokenDrop::None) };
        let work = Workload { make: &making(model.config()), settings: &settings, batch: BATCH, steps: 1 };
        let activations = estimate(&gpu, &work).unwrap().activations;
        let mut trainer = Trainer::new(task(&model), settings.clone()).unwrap();
        let before = gpu.stats().dispatches;
        trainer.step(&batch(1, BATCH)).unwrap();
        let norm = trainer.finish().unwrap().unwrap().grad_norm;
        (gpu.stats().dispatches - before, activations, norm)
    };
    let (all, head, half) = (run(Freeze::Nothing), run(Freeze::AllButHead), run(Freeze::Blocks(2)));
    assert!(head.0 * 2 < all.0 && head.0 < half.0 && half.0 < all.0, "dispatches: {head:?} {half:?} {all:?}");
    assert!(head.1 < half.1 && half.1 < all.1, "activations: {head:?} {half:?} {all:?}");
    assert!(0.0 < head.2 && head.2 < half.2 && half.2 < all.2, "norms: {head:?} {half:?} {all:?}");
}

/// A linear probe of ViT-B takes its weights, and little more: no gradient, moment or average of what is frozen, and no
/// activation but those of the layer that runs.
#[test]
fn a_linear_probe_takes_its_weights() {
    const MB: u64 = 1_000_000;
    let config = VitConfig::base();
    let head = 4 * (config.num_classes * config.embed_dim + config.num_classes).next_multiple_of(64) as u64;
    for gpu in each_family() {
        let run = |freeze| {
            let settings = TrainSettings { freeze, ema: Some(Ema::default()), ..settings(TokenDrop::None) };
            estimate(&gpu, &Workload { make: &making(&config), settings: &settings, batch: 8, steps: 1 }).unwrap()
        };
        let (whole, probe) = (run(Freeze::Nothing), run(Freeze::AllButHead));
        assert_eq!(probe.parameters, whole.parameters);
        assert!(whole.gradients == whole.parameters && whole.moments >= 3 * whole.parameters, "{whole:?}");
        assert!(probe.gradients <= head + 256 && probe.moments <= 3 * head + MB / 2, "{probe:?}");
        assert!(probe.activations * 8 < whole.activations, "{probe:?} {whole:?}");
        assert!(probe.peak < probe.parameters + 4 * head + 110 * MB, "{probe:?}");
    }
}

/// Under plain SGD each parameter moves by its gradient times its layer's factor.
#[test]
fn layer_wise_decay_of_the_rate() {
    let gpu = gpu();
    let run = |layer_decay| {
        let model = Vit::new(&gpu, config(), 5).unwrap();
        let rate = constant_rate(1.0);
        let plain = settings(TokenDrop::None);
        let settings = TrainSettings { rule: PLAIN_SGD, max_norm: None, rate, layer_decay, ..plain };
        let before = weights(&model);
        let mut trainer = Trainer::new(task(&model), settings)?;
        trainer.step(&batch(1, BATCH))?;
        trainer.finish()?;
        let moved = |(a, b): (&Vec<f32>, &Vec<f32>)| a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<f32>>();
        let moved: Vec<Vec<f32>> = before.iter().zip(&weights(&model)).map(moved).collect();
        Ok::<_, Error>((moved, model))
    };
    let ((plain, model), (decayed, _)) = (run(1.0).unwrap(), run(0.5).unwrap());
    for ((p, plain), decayed) in model.parameters().iter().zip(&plain).zip(&decayed) {
        let expected: Vec<f32> = plain.iter().map(|v| v * layer_scale(model.layer(p.path()), 3, 0.5)).collect();
        assert_close(p.path(), decayed, &expected, 1e-3);
    }
    for bad in [0.0, -1.0, 1.5, f32::NAN] {
        assert!(matches!(run(bad).err(), Some(Error::Argument { name: "layer_decay", .. })));
    }
}
