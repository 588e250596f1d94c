//! The training loop: the same twice, random-LTD as it should be, bad steps, checkpoints, whole runs.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use crate::common::{assert_close, each_family, gpu, gpu_with_f16, values};
use crate::data::single;
use wgrad::autograd::{Parameter, Parameters, no_grad};
use wgrad::checkpoint::{self, MatchOptions, load_parameters};
use wgrad::data::{
    Crop, FolderOptions, ImageBatch, ImageSource, Loader, LoaderOptions, Mixed, Position, Split, Transform,
    image_folder,
};
use wgrad::ltd::{PatchDrop, RandomLtd, SampleKey, Schedule, TokenDrop, sample_kept_batch};
use wgrad::models::vit::{OpenOptions, Pool, Vit, VitConfig, VitFile, open, save};
use wgrad::nn::{Init, Linear, Mode, Model, Precision, Span};
use wgrad::ops::{self, CrossEntropy, Mask, RandomKey, TokenIndices};
use wgrad::optim::{AdamW, Ema, LrSchedule, Rule, Sgd, layer_scale};
use wgrad::train::{
    Classify, EpochMetrics, Evaluation, FitData, FitOptions, Freeze, Observer, Pending, RunFolder, RunState,
    STATE_FILE, StepMetrics, TUNING_BUDGET, TrainSettings, Trainer, TuningStore, Workload, check_memory, estimate,
    evaluate, fit, predict, rehearse, remedies, tune, tuned,
};
use wgrad::{Error, Gpu, Tensor};

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

fn task(model: &Vit) -> Classify<&Vit> {
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

// ---- the same twice ----

#[test]
fn one_seed_gives_one_result() {
    for gpu in each_family() {
        let run = |seed: u64| {
            let model = Vit::new(&gpu, random_config(), 5).unwrap();
            let mut trainer = Trainer::new(task(&model), TrainSettings { seed, ..settings(ltd(9)) }).unwrap();
            let mut losses = Vec::new();
            for step in 0..8 {
                losses.extend(trainer.step(&batch(step, BATCH)).unwrap());
            }
            losses.extend(trainer.finish().unwrap());
            assert_eq!(losses.len(), 8);
            (losses, weights(&model), model)
        };
        let ((losses, first, model), (again, second, _)) = (run(1), run(1));
        assert_eq!(losses, again);
        assert_same(&model, &first, &second);
        let (_, other, _) = run(2);
        assert_ne!(bits(&first), bits(&other), "the seed matters");
    }
}

#[test]
fn steps_report_what_they_did() {
    let gpu = gpu();
    let model = Vit::new(&gpu, config(), 5).unwrap();
    let schedule = Schedule::linear(5, TOKENS, 2, 1).unwrap();
    let mut trainer = Trainer::new(task(&model), settings(Some(RandomLtd::new(3, schedule).unwrap()))).unwrap();
    assert!(trainer.step(&batch(0, BATCH)).unwrap().is_none(), "nothing has been read yet");
    let mut kept = Vec::new();
    for step in 1..4u64 {
        let metrics = trainer.step(&batch(step, BATCH)).unwrap().expect("the step before");
        assert_eq!((metrics.step, metrics.samples, metrics.tokens), (step - 1, BATCH, TOKENS));
        assert!(metrics.loss.is_finite() && metrics.grad_norm > 0.0 && metrics.correct <= BATCH as u32);
        kept.push(metrics.kept);
    }
    let last = trainer.finish().unwrap().expect("the last step");
    kept.push(last.kept);
    assert_eq!((last.step, kept), (3, vec![5, 11, 17, 17]));
    assert!(trainer.finish().unwrap().is_none() && trainer.steps() == 4);
    let consumed = (0..4).map(|i| [5u64, 11, 17, 17][i] + 2 * 17).sum::<u64>() * BATCH as u64;
    assert_eq!(trainer.layer_tokens().consumed, consumed);
}

/// Enough steps on one batch learn it, also with tokens dropped.
#[test]
fn learns_a_batch() {
    for gpu in each_family() {
        let model = Vit::new(&gpu, config(), 5).unwrap();
        let mut trainer = Trainer::new(task(&model), settings(ltd(9))).unwrap();
        let mut metrics = Vec::new();
        for _ in 0..60 {
            metrics.extend(trainer.step(&batch(1, BATCH)).unwrap());
        }
        let last = trainer.finish().unwrap().expect("a step");
        assert!(last.loss < 0.6 && metrics[0].loss > 1.2 && last.correct == BATCH as u32, "{last:?}");
    }
}

// ---- random-LTD ----

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

#[test]
fn all_tokens_kept_is_the_plain_model() {
    for gpu in each_family() {
        let model = Vit::new(&gpu, random_config(), 5).unwrap();
        let images = images(&gpu, 2);
        let (logits, gradients) = pass(&model, &images, &[]);
        let positions: Vec<u32> = (0..2).flat_map(|_| 0..TOKENS as u32).collect();
        let all = TokenIndices::new(&gpu, [2, TOKENS], TOKENS, &positions).unwrap();
        let (ltd_logits, ltd_gradients) = pass(&model, &images, &[None, Some(all.clone()), Some(all)]);
        assert_eq!(logits, ltd_logits);
        for ((p, plain), kept) in model.parameters().iter().zip(&gradients).zip(&ltd_gradients) {
            assert_eq!(plain, kept, "{}", p.path());
        }
        let (none_logits, _) = pass(&model, &images, &[None, None, None]);
        assert_eq!(logits, none_logits);
    }
    // And the schedule at full length draws no indices at all.
    let plan = ltd(TOKENS).plan(0, TOKENS).draw(0, 2).unwrap();
    assert!(plan.iter().all(Option::is_none));
}

/// Evaluation, and training after the schedule's end, do not depend on random-LTD.
#[test]
fn random_ltd_ends_with_its_schedule() {
    let gpu = gpu();
    let run = |ltd: Option<RandomLtd>| {
        let model = Vit::new(&gpu, config(), 5).unwrap();
        let mut trainer = Trainer::new(task(&model), settings(ltd)).unwrap();
        trainer.step(&batch(1, BATCH)).unwrap();
        trainer.finish().unwrap();
        weights(&model)
    };
    let over = Schedule::linear(5, TOKENS, 1, 1).unwrap();
    assert_ne!(bits(&run(None)), bits(&run(Some(RandomLtd::new(3, over).unwrap()))), "step 0 drops");
    let model = Vit::new(&gpu, config(), 5).unwrap();
    for schedule in [Schedule::constant(TOKENS), Schedule::constant(TOKENS + 1)] {
        let ltd = RandomLtd::new(3, schedule.unwrap()).unwrap();
        let error = Trainer::new(task(&model), settings(Some(ltd))).err().expect("never drops a token");
        assert!(matches!(error, Error::Argument { name: "schedule", .. }), "{error}");
    }
    let other_depth = RandomLtd::new(4, Schedule::constant(5).unwrap()).unwrap();
    let error = Trainer::new(task(&model), settings(Some(other_depth))).err().expect("another depth");
    assert!(matches!(error, Error::Argument { name: "total_blocks", .. }), "{error}");
}

/// What follows a block whose class token is dropped in every sample: the head on the embedded class token, as if there
/// were no block. Its gradient is the identity through the block.
#[test]
fn dropped_rows_pass_a_block_unchanged() {
    for gpu in each_family() {
        let model = Vit::new(&gpu, VitConfig { depth: 1, ..config() }, 5).unwrap();
        let images = images(&gpu, 2);
        let rows = [1u32, 4, 5, 9, 16, 2, 3, 4, 8, 15];
        let kept = TokenIndices::new(&gpu, [2, 5], TOKENS, &rows).unwrap();
        let (logits, gradients) = pass(&model, &images, &[Some(kept)]);

        let parameter = |path: &str| model.parameters().get(path).unwrap();
        let value = |path: &str| parameter(path).value().to_vec::<f32>().unwrap();
        let embedded: Vec<f32> = value("cls_token").iter().zip(value("pos_embed")).map(|(c, p)| c + p).collect();
        let both = Tensor::from_slice(&gpu, &[2, 32], &embedded.repeat(2)).unwrap().requires_grad().unwrap();
        model.parameters().zero_grad();
        let normed = ops::layernorm(&both, &parameter("norm.weight").value(), &parameter("norm.bias").value(), 1e-6);
        let head = (parameter("head.weight").value(), parameter("head.bias").value());
        let expected = ops::linear(&normed.unwrap(), &head.0, Some(&head.1)).unwrap();
        assert_eq!(logits, expected.to_vec::<f32>().unwrap());

        let labels = Tensor::from_slice(&gpu, &[2], &[1u32, 1]).unwrap();
        let loss = ops::cross_entropy(&expected, &labels, &CrossEntropy::default()).unwrap();
        let d_embedded = loss.backward().unwrap().get(&both).unwrap().to_vec::<f32>().unwrap();
        let d_class: Vec<f32> = (0..32).map(|c| d_embedded[c] + d_embedded[32 + c]).collect();
        for (p, gradient) in model.parameters().iter().zip(&gradients) {
            match p.path() {
                "cls_token" => assert_close("cls_token", gradient, &d_class, 1e-6),
                // The class token's position is the first; the patches' outputs are not looked at.
                "pos_embed" => {
                    assert_close("pos_embed", &gradient[..32], &d_class, 1e-6);
                    assert!(gradient[32..].iter().all(|g| *g == 0.0));
                }
                path if path.starts_with("blocks.") => assert!(gradient.iter().all(|g| *g == 0.0), "{path}"),
                _ => {}
            }
        }
    }
}

/// With the mean of all patches as the output, every dropped row of a sample gets the same gradient, the mean's; a kept
/// row's goes through the block.
#[test]
fn gradient_of_dropped_rows_is_the_identity() {
    for gpu in each_family() {
        let config = VitConfig { depth: 1, global_pool: Pool::Avg, class_token: false, ..config() };
        let model = Vit::new(&gpu, config, 5).unwrap();
        let rows = [0u32, 3, 9, 15];
        let kept = TokenIndices::new(&gpu, [1, 4], 16, &rows).unwrap();
        pass(&model, &images(&gpu, 1), &[Some(kept)]);
        let gradient = model.parameters().get("pos_embed").unwrap().grad().unwrap().to_vec::<f32>().unwrap();
        let row = |i: usize| &gradient[i * 32..(i + 1) * 32];
        for i in (0..16).filter(|i| !rows.contains(i)) {
            assert_eq!(row(i as usize), row(1), "row {i}");
        }
        for i in rows {
            assert_ne!(row(i as usize), row(1), "row {i}");
        }
        assert!(row(1).iter().any(|g| *g != 0.0));
    }
}

/// A span over several blocks: those blocks on the kept rows alone, and the others as they were.
#[test]
fn tokens_bypass_several_blocks() {
    for gpu in each_family() {
        let config = VitConfig { global_pool: Pool::Avg, class_token: false, ..random_config() };
        let model = Vit::new(&gpu, config.clone(), 5).unwrap();
        let (images, mode) = (images(&gpu, 2), Mode::training(KEY));
        let kept = TokenIndices::new(&gpu, [2, 5], 16, &[1, 4, 5, 9, 15, 2, 3, 4, 8, 15]).unwrap();
        let gradients = |logits: Tensor| {
            let labels = Tensor::from_slice(&gpu, &[2], &[1u32, 3]).unwrap();
            ops::cross_entropy(&logits, &labels, &CrossEntropy::default()).unwrap().backward().unwrap();
            let gradients = model.parameters().iter().map(|p| p.grad().unwrap().to_vec().unwrap()).collect::<Vec<_>>();
            model.parameters().zero_grad();
            (logits.to_vec::<f32>().unwrap(), gradients)
        };
        for checkpointed in [false, true] {
            let mode = mode.recomputing(checkpointed);
            let got = gradients(model.forward(&images, &[Span::bypass(1..3, kept.clone())], &mode).unwrap());
            // By hand.
            let blocks = model.encoder().blocks();
            let x = blocks[0].forward(model.embed(&images, &mode).unwrap(), None, Mask::None, &mode).unwrap();
            let mut rows = ops::token_gather(&x, &kept).unwrap();
            for block in &blocks[1..] {
                rows = block.forward(rows, None, Mask::None, &mode).unwrap();
            }
            let x = ops::token_scatter(x, &rows, &kept).unwrap();
            let expected = gradients(model.classify(&x, &mode).unwrap());
            assert_close("logits", &got.0, &expected.0, 1e-6);
            for ((p, got), expected) in model.parameters().iter().zip(&got.1).zip(&expected.1) {
                assert_close(p.path(), got, expected, 1e-5);
            }
        }
    }
}

#[test]
fn forward_checks_its_inputs() {
    let gpu = gpu();
    let model = Vit::new(&gpu, config(), 5).unwrap();
    let message = |images: &Tensor, kept: &[Span<TokenIndices>]| {
        no_grad(|| model.forward(images, kept, &Mode::evaluation())).unwrap_err().to_string()
    };
    let good = images(&gpu, 2);
    let zeros = |dims: &[usize]| Tensor::zeros(&gpu, wgrad::DType::F32, dims).unwrap();
    assert!(message(&zeros(&[2, 3, 16]), &[]).contains("needs images [B, 3, H, W]"));
    assert!(message(&zeros(&[2, 1, 16, 16]), &[]).contains("needs images [B, 3, H, W]"));
    assert!(message(&zeros(&[2, 3, 16, 20]), &[]).contains("not of the model's img_size"));
    let all: Vec<u32> = (0..2).flat_map(|_| 0..TOKENS as u32).collect();
    let all = TokenIndices::new(&gpu, [2, TOKENS], TOKENS, &all).unwrap();
    let bypass = |blocks| Span::bypass(blocks, all.clone());
    for bad in
        [vec![bypass(2..4)], vec![bypass(1..1)], vec![bypass(0..2), bypass(1..3)], vec![bypass(2..3), bypass(0..1)]]
    {
        assert!(message(&good, &bad).contains("blocks in order, below 3"));
    }
    let leaves_early = Span { rejoins: false, ..bypass(0..2) };
    assert!(message(&good, &[leaves_early]).contains("goes on to the last of 3 blocks"));
    let other_batch = TokenIndices::new(&gpu, [1, 1], TOKENS, &[3]).unwrap();
    message(&good, &[Span::bypass(1..2, other_batch)]);
    let other_length = TokenIndices::new(&gpu, [2, 1], 9, &[3, 4]).unwrap();
    message(&good, &[Span::bypass(1..2, other_length)]);
}

/// In half precision, a layer without a bias adds to the residual as one with a bias of zeros does.
#[test]
fn a_layer_without_bias_adds_in_half_precision() {
    let Some(gpu) = gpu_with_f16() else { return };
    let mut parameters = Parameters::new(&gpu);
    let mut init = Init::new(&mut parameters, 1);
    let [bare, full] =
        [("bare", false), ("full", true)].map(|(name, bias)| Linear::new(init.at(name), 8, 5, bias).unwrap());
    full.weight.set(&bare.weight.value().to_vec::<f32>().unwrap()).unwrap();
    let x = Tensor::from_slice(&gpu, &[3, 8], &values(1, 24)).unwrap();
    let x = ops::cast(&x, wgrad::DType::F16).unwrap();
    let residual = Tensor::from_slice(&gpu, &[3, 5], &values(2, 15)).unwrap();
    let [without, with] = [&bare, &full].map(|layer| {
        let y = layer.forward_add(&x, &residual).unwrap();
        ops::sum(&y).unwrap().backward().unwrap();
        [y.to_vec::<f32>().unwrap(), layer.weight.grad().unwrap().to_vec().unwrap()]
    });
    assert_close("sum", &without[0], &with[0], 1e-3);
    assert_close("gradient", &without[1], &with[1], 1e-3);
}

// ---- bad steps ----

/// A loss that is not finite: the weights stay, the error names the step, and the next good step is what it would have
/// been.
#[test]
fn step_that_is_not_finite() {
    for gpu in each_family() {
        let model = Vit::new(&gpu, config(), 5).unwrap();
        let bias = model.parameters().get("head.bias").unwrap();
        let mut trainer = Trainer::new(task(&model), settings(TokenDrop::None)).unwrap();
        trainer.step(&batch(1, BATCH)).unwrap();
        trainer.finish().unwrap();
        let before = weights(&model);
        let good_bias = bias.value().to_vec::<f32>().unwrap();

        bias.set(&[f32::NAN; CLASSES]).unwrap();
        trainer.step(&batch(2, BATCH)).unwrap();
        match trainer.finish() {
            Err(Error::NonFinite { step: 1, parameter }) => assert_eq!(parameter, "cls_token", "the first of all"),
            other => panic!("{other:?}"),
        }
        bias.set(&good_bias).unwrap();
        assert_same(&model, &weights(&model), &before);

        trainer.step(&batch(3, BATCH)).unwrap();
        assert!(trainer.finish().unwrap().expect("a step").loss.is_finite());
        let after = weights(&model);
        assert_ne!(bits(&after), bits(&before));
        assert!(after.iter().flatten().all(|v| v.is_finite()));
    }
}

/// NaN that comes in with the images reaches every gradient and no weight.
#[test]
fn images_that_are_not_finite() {
    use wgrad::optim::{Optimizer, StepReport};
    for gpu in each_family() {
        let model = Vit::new(&gpu, config(), 5).unwrap();
        let before = weights(&model);
        let mut optimizer =
            Optimizer::new(model.parameters(), Rule::AdamW(AdamW::default()), Some(1.0), |path, rank| {
                model.decays(path, rank)
            })
            .unwrap();
        let mut step = |pixels: &[f32]| {
            let images = Tensor::from_slice(&gpu, &[2, 3, 16, 16], pixels).unwrap();
            pass(&model, &images, &[]);
            optimizer.step(model.parameters(), 0.1).unwrap();
            StepReport::decode(&optimizer.report().read_later().unwrap().wait().unwrap().concat()).unwrap()
        };
        let mut pixels = values(11, 2 * 3 * 16 * 16);
        pixels[700] = f32::NAN;
        let report = step(&pixels);
        assert!(!report.finite && report.bad_parameter.is_some());
        assert_same(&model, &weights(&model), &before);
        assert!(step(&values(11, 2 * 3 * 16 * 16)).finite);
        assert_ne!(bits(&weights(&model)), bits(&before));
    }
}

/// A label out of range is reported once, by the step that met it; the weights are what they are without that sample.
#[test]
fn label_out_of_range() {
    for gpu in each_family() {
        let run = |ignore_index| {
            let model = Vit::new(&gpu, config(), 5).unwrap();
            let loss = CrossEntropy { label_smoothing: 0.0, ignore_index, ..Default::default() };
            let mut trainer = Trainer::new(Classify::with_loss(&model, loss), settings(TokenDrop::None)).unwrap();
            let mut results = Vec::new();
            for step in 0..5 {
                let mut batch = batch(step, BATCH);
                if step == 1 {
                    batch.labels[2] = 99;
                }
                results.push(trainer.step(&batch).map(|m| m.map(|m| m.step)));
            }
            results.push(trainer.finish().map(|m| m.map(|m| m.step)));
            (results, weights(&model), model)
        };
        let (results, bad, model) = run(None);
        match results.as_slice() {
            [Ok(None), Ok(Some(0)), Err(error), Ok(Some(2)), Ok(Some(3)), Ok(Some(4))] => {
                assert!(matches!(error, Error::OutOfRange { op: "cross_entropy", value: 99, bound: 4, .. }), "{error}");
            }
            other => panic!("{other:?}"),
        }
        let (results, ignored, _) = run(Some(99));
        assert!(results.iter().all(Result::is_ok));
        assert_same(&model, &bad, &ignored);
    }
}

// ---- memory ----

/// With R constant a step allocates nothing once it has warmed up, and finds the bind groups of the step before.
#[test]
fn steady_steps_allocate_nothing() {
    for gpu in each_family() {
        let model = Vit::new(&gpu, random_config(), 5).unwrap();
        let mut trainer = Trainer::new(task(&model), settings(ltd(9))).unwrap();
        let mut memory = Vec::new();
        for step in 0..40 {
            if step == 20 {
                gpu.reset_peak_memory();
            }
            trainer.step(&batch(step, BATCH)).unwrap();
            memory.push(gpu.memory());
        }
        let [steady @ .., last] = &memory[20..] else { panic!("steps") };
        assert!(steady.iter().all(|m| m == last), "{:?}", &memory[20..]);
        assert_eq!(last.peak_allocated, last.allocated, "no peak between the steps");
        let before = gpu.stats();
        trainer.step(&batch(40, BATCH)).unwrap();
        let after = gpu.stats();
        assert!(after.dispatches > before.dispatches);
        assert_eq!(after.bind_groups, before.bind_groups);
    }
}

/// When R grows, the memory of the old sizes is let go within a few steps.
#[test]
fn memory_follows_the_kept_length() {
    let gpu = gpu();
    let config = VitConfig { img_size: (32, 32), ..config() };
    let steps = 30;
    let run = |ltd: Option<RandomLtd>| {
        gpu.trim();
        gpu.reset_peak_memory();
        let model = Vit::new(&gpu, config.clone(), 5).unwrap();
        let mut trainer = Trainer::new(task(&model), settings(ltd)).unwrap();
        let images = bytes(1, BATCH * 3 * 32 * 32);
        for step in 0..steps {
            trainer.step(&ImageBatch { images: images.clone(), ..batch(step, BATCH) }).unwrap();
        }
        gpu.memory()
    };
    let plain = run(None);
    let grown = run(Some(RandomLtd::new(3, Schedule::linear(8, 65, 15, 1).unwrap()).unwrap()));
    for (grown, plain) in [(grown.allocated, plain.allocated), (grown.peak_allocated, plain.peak_allocated)] {
        assert!(grown as f64 <= 1.05 * plain as f64, "{grown} bytes with R growing, {plain} without random-LTD");
    }
}

/// Dropped tokens never take more memory than all of them, at no length on the way.
#[test]
fn random_ltd_does_not_raise_the_peak() {
    for gpu in each_family() {
        let small = VitConfig { img_size: (32, 32), patch_size: 4, ..VitConfig::custom(64, 6, 4) };
        let long = VitConfig { img_size: (64, 64), ..small.clone() };
        // On CPU drivers, scores are stored, R² and T² of them. Beside checkpointed blocks they are most of the peak.
        for (config, recompute_blocks) in [(&small, false), (&small, true), (&long, false), (&long, true)] {
            let tokens = config.tokens();
            let peak = |ltd: Option<RandomLtd>| {
                let settings = TrainSettings { recompute_blocks, ..settings(ltd) };
                estimate(&gpu, &Workload { make: &making(config), settings: &settings, batch: 8, steps: 400 })
                    .unwrap()
                    .peak
            };
            let full = peak(None);
            let schedule = Schedule::linear(3, tokens, 300, 1).unwrap();
            let dropped = peak(Some(RandomLtd::new(config.depth, schedule).unwrap()));
            assert!(dropped as f64 <= 1.05 * full as f64, "{dropped} bytes, {full} at full length");
        }
    }
}

/// What a dry run says before a run is what the run then takes.
#[test]
fn estimate_is_what_is_taken() {
    let rising = || TokenDrop::from(RandomLtd::new(3, Schedule::linear(4, TOKENS, 6, 1).unwrap()).unwrap());
    let patches = |until| TokenDrop::from(PatchDrop::new(9, 1).unwrap().with_until(until));
    let cases: [(&str, TokenDrop, usize, bool, Option<Ema>); 9] = [
        ("plain", TokenDrop::None, 1, false, None),
        ("random-LTD", ltd(9).into(), 1, false, None),
        ("rising R", rising(), 1, false, None),
        ("patches dropped", patches(u64::MAX), 1, false, None),
        ("patches dropped at first", patches(4), 1, false, None),
        ("checkpointed", TokenDrop::None, 1, true, None),
        ("accumulated", TokenDrop::None, 4, false, None),
        ("averaged", TokenDrop::None, 1, false, Some(Ema::default())),
        ("all", rising(), 4, true, Some(Ema::default())),
    ];
    for (name, drop, accumulate, recompute_blocks, ema) in cases {
        for gpu in each_family() {
            let config = random_config();
            let settings = TrainSettings { accumulate, recompute_blocks, ema, ..settings(drop.clone()) };
            let work = Workload { make: &making(&config), settings: &settings, batch: BATCH, steps: 8 };
            let before = gpu.memory();
            let estimate = estimate(&gpu, &work).unwrap();
            assert_eq!(gpu.memory(), before, "nothing is allocated");
            let parts = [estimate.parameters, estimate.gradients, estimate.moments, estimate.activations];
            assert_eq!(parts.iter().sum::<u64>(), estimate.peak);

            let model = Vit::new(&gpu, config.clone(), 5).unwrap();
            assert_eq!(gpu.memory().live - before.live, estimate.parameters);
            let mut trainer = Trainer::new(task(&model), settings.clone()).unwrap();
            for step in 0..8 {
                trainer.step(&batch(step, BATCH)).unwrap();
            }
            let taken = gpu.memory().peak_allocated - before.allocated;
            let ratio = estimate.peak as f64 / taken as f64;
            assert!((0.95..1.05).contains(&ratio), "{name}: {estimate:?}, {taken} were taken");
        }
    }
}

/// The kernels of a rehearsed step are those that a step then dispatches, as often; and all of them can be compiled beforehand.
#[test]
fn a_rehearsal_counts_what_a_step_dispatches() {
    for gpu in each_family() {
        let settings = settings(ltd(9));
        let config = config();
        let work = Workload { make: &making(&config), settings: &settings, batch: BATCH, steps: 8 };
        let rehearsal = rehearse(&gpu, &work).unwrap();
        let [step] = rehearsal.steps.as_slice() else { panic!("one kept length: {rehearsal:?}") };
        assert_eq!(step.stage.kept, 9);
        // The products of the blocks alone: 24·C² a token in each, forward, and twice that backward.
        let blocks = 3 * 24 * 32 * 32 * BATCH as u64 * (17 + 9 + 17);
        assert!(step.flops() > blocks && step.flops() < blocks * 2, "{} and {blocks}", step.flops());
        assert!(step.kernels.iter().all(|used| used.bytes > 0 && used.count > 0));

        let model = Vit::new(&gpu, config.clone(), 5).unwrap();
        let mut trainer = Trainer::new(task(&model), settings.clone()).unwrap();
        gpu.warm_up(rehearsal.kernels()).unwrap();
        let before = gpu.stats();
        trainer.step(&batch(1, BATCH)).unwrap();
        trainer.finish().unwrap();
        let after = gpu.stats();
        assert_eq!(after.compile_time, before.compile_time, "nothing is left to compile");
        assert_eq!(after.dispatches - before.dispatches, step.kernels.iter().map(|used| used.count).sum::<u64>());
    }
}

#[test]
fn what_does_not_fit_names_what_would() {
    let gpu = gpu();
    let config = VitConfig { img_size: (64, 64), patch_size: 4, ..VitConfig::custom(64, 6, 2) };
    let rising = RandomLtd::new(6, Schedule::linear(100, 256, 50, 1).unwrap()).unwrap();
    let settings = settings(Some(rising));
    let work = Workload { make: &making(&config), settings: &settings, batch: 16, steps: 100 };
    let whole = check_memory(&gpu, &work, None).unwrap();
    assert_eq!(check_memory(&gpu, &work, Some(whole.peak)).unwrap(), whole);
    let budget = whole.peak * 4 / 5;
    let found = remedies(&gpu, &work, Some(budget));
    let kinds: Vec<_> = found.iter().map(|r| (r.accumulate, r.recompute_blocks, r.longest.is_some())).collect();
    assert_eq!(kinds, [(2, false, false), (1, true, false), (1, false, true)]);
    for remedy in &found {
        assert!(remedy.estimate.peak <= budget);
        assert!(remedy.longest.is_none_or(|longest| (100..256).contains(&longest)));
    }
    let message = check_memory(&gpu, &work, Some(budget)).unwrap_err().to_string();
    for part in
        ["the run does not fit: ", "MB are needed", "accumulate 2 (", "or with recompute_blocks (", "kept tokens"]
    {
        assert!(message.contains(part), "{message}");
    }
    // A limit of the device: 128 MiB a binding do not hold the hidden layer of 600 samples.
    let message = check_memory(&gpu, &Workload { batch: 600, ..work }, None).unwrap_err().to_string();
    assert!(message.contains("max_storage_buffer_binding_size") && message.contains("accumulate"), "{message}");
    let error = check_memory(&gpu, &work, Some(1000)).unwrap_err();
    assert!(error.to_string().contains("a smaller model"), "{error}");
    assert!(estimate(&gpu, &Workload { batch: 0, ..work }).is_err());
    assert!(estimate(&gpu, &Workload { batch: usize::MAX, ..work }).is_err());
    assert!(estimate(&gpu, &Workload { steps: 0, ..work }).is_err());
    let huge = VitConfig { embed_dim: 1 << 20, num_heads: 1, ..config.clone() };
    assert!(matches!(
        estimate(&gpu, &Workload { make: &making(&huge), ..work }),
        Err(Error::Argument { .. } | Error::Limit { .. })
    ));
}

// ---- micro-batches and checkpointed blocks ----

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

/// Steps whose results are awaited later, in another order, are the same steps.
#[test]
fn recorded_steps_are_read_when_it_suits() {
    for gpu in each_family() {
        let [first, second] = [(); 2].map(|()| Vit::new(&gpu, random_config(), 5).unwrap());
        let mut waiting = Trainer::new(task(&first), settings(ltd(9))).unwrap();
        let mut expected: Vec<StepMetrics> =
            (0..3).filter_map(|step| waiting.step(&batch(step, BATCH)).unwrap()).collect();
        expected.extend(waiting.finish().unwrap());
        // A trainer that owns what it trains.
        let mut trainer = Trainer::new(task(&second), settings(ltd(9))).unwrap();
        let pending: Vec<Pending> = (0..3).map(|step| trainer.record(&batch(step, BATCH)).unwrap()).collect();
        gpu.wait().unwrap();
        assert!(pending.iter().all(Pending::is_ready));
        let mut got: Vec<StepMetrics> =
            pending.into_iter().rev().map(|p| pollster::block_on(p.read()).unwrap()).collect();
        got.reverse();
        assert_eq!(got, expected);
        assert_same(&first, &weights(&second), &weights(&first));
    }
}

/// A trainer that is brought back to where it stood goes on as it did from there, in its own place or in that of another.
#[test]
fn snapshots_are_gone_back_to() {
    for gpu in each_family() {
        let all = || TrainSettings { ema: Some(Ema { decay: 0.9, warmup: true }), ..settings(ltd(9)) };
        let model = Vit::new(&gpu, random_config(), 5).unwrap();
        let mut trainer = Trainer::new(task(&model), all()).unwrap();
        let go_on = |trainer: &mut Trainer<Classify<&Vit>>| {
            let mut seen = Vec::new();
            for step in 3..6 {
                seen.extend(trainer.step(&batch(step, BATCH)).unwrap());
            }
            seen.extend(trainer.finish().unwrap());
            seen
        };
        for step in 0..3 {
            trainer.step(&batch(step, BATCH)).unwrap();
        }
        let snapshot = trainer.snapshot().unwrap();
        assert_eq!(snapshot.steps(), 3);
        trainer.finish().unwrap();
        let expected = go_on(&mut trainer);
        let after = weights(&model);
        trainer.restore(&snapshot).unwrap();
        assert_eq!(
            (go_on(&mut trainer), trainer.layer_tokens().full),
            (expected.clone(), 6 * (3 * TOKENS * BATCH) as u64)
        );
        assert_same(&model, &weights(&model), &after);

        let other = Vit::new(&gpu, random_config(), 6).unwrap();
        let mut another = Trainer::new(task(&other), all()).unwrap();
        another.restore(&snapshot).unwrap();
        assert_eq!(go_on(&mut another), expected);
        assert_same(&model, &weights(&other), &after);

        // What does not fit changes nothing.
        let small = Vit::new(&gpu, VitConfig { depth: 2, ..random_config() }, 5).unwrap();
        let before = weights(&small);
        let mut wrong = Trainer::new(task(&small), settings(TokenDrop::None)).unwrap();
        assert!(matches!(wrong.restore(&snapshot), Err(Error::Argument { name: "tensors", .. })));
        let deep = Vit::new(&gpu, VitConfig { depth: 4, ..random_config() }, 5).unwrap();
        let mut missing = Trainer::new(task(&deep), settings(TokenDrop::None)).unwrap();
        assert!(matches!(missing.restore(&snapshot), Err(Error::Parameter { .. })));
        assert_same(&small, &weights(&small), &before);
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

// ---- patches dropped ----

/// Keeping the upper half of the patches is a model of pictures of half the height, with its positions: logits and all
/// gradients, with everything that is random in training.
#[test]
fn dropped_patches_are_not_there() {
    for gpu in each_family() {
        let model = Vit::new(&gpu, random_config(), 5).unwrap();
        let small = Vit::new(&gpu, VitConfig { img_size: (8, 16), ..random_config() }, 6).unwrap();
        for p in small.parameters() {
            let value = model.parameters().get(p.path()).unwrap().value().to_vec::<f32>().unwrap();
            p.set(&value[..p.value().numel()]).unwrap();
        }
        let pixels = values(11, 2 * 3 * 16 * 16);
        let upper: Vec<f32> = pixels.chunks(16 * 16).flat_map(|channel| &channel[..8 * 16]).copied().collect();
        let images = images(&gpu, 2);
        let upper = Tensor::from_slice(&gpu, &[2, 3, 8, 16], &upper).unwrap();
        let positions: Vec<u32> = (0..2).flat_map(|_| 0..9).collect();
        let subset = TokenIndices::new(&gpu, [2, 9], TOKENS, &positions).unwrap();

        let labels = Tensor::from_slice(&gpu, &[2], &[1u32, 3]).unwrap();
        let learn = |model: &Vit, logits: Tensor| {
            model.parameters().zero_grad();
            ops::cross_entropy(&logits, &labels, &CrossEntropy::default()).unwrap().backward().unwrap();
            logits.to_vec::<f32>().unwrap()
        };
        for checkpointed in [false, true] {
            let mode = Mode::training(KEY).recomputing(checkpointed);
            let expected = learn(&small, small.forward(&upper, &[], &mode).unwrap());
            let got = learn(&model, model.forward(&images, &[Span::leave(0, 3, subset.clone())], &mode).unwrap());
            assert_close("logits", &got, &expected, 1e-6);
            for (p, expected) in model.parameters().iter().zip(small.parameters()) {
                let got = p.grad().unwrap().to_vec::<f32>().unwrap();
                let expected = expected.grad().unwrap().to_vec::<f32>().unwrap();
                assert_close(p.path(), &got[..expected.len()], &expected, 1e-5);
                assert!(got[expected.len()..].iter().all(|g| *g == 0.0), "{}: positions that are not there", p.path());
            }
        }
    }
}

/// A trainer's step drops what the keyed draw says, whole or in micro-batches, and counts it.
#[test]
fn trainer_drops_patches() {
    let gpu = gpu();
    let drop = PatchDrop::new(7, 1).unwrap().with_seed(21).with_until(1);
    let run = |drop: TokenDrop, accumulate| {
        let model = Vit::new(&gpu, config(), 5).unwrap();
        let rate = constant_rate(1.0);
        let settings = TrainSettings { rule: PLAIN_SGD, max_norm: None, rate, accumulate, ..settings(drop) };
        let mut trainer = Trainer::new(task(&model), settings).unwrap();
        trainer.step(&batch(1, BATCH)).unwrap();
        let first = trainer.finish().unwrap().unwrap();
        let after = weights(&model);
        trainer.step(&batch(2, BATCH)).unwrap();
        (first, after, trainer.finish().unwrap().unwrap(), trainer.layer_tokens(), model)
    };
    let (first, after, second, tokens, model) = run(drop.clone().into(), 1);
    assert_eq!((first.kept, second.kept, first.tokens), (7, TOKENS, TOKENS));
    assert_eq!((tokens.consumed, tokens.full), (6 * 3 * (7 + 17), 6 * 3 * 34));

    let fresh = Vit::new(&gpu, config(), 5).unwrap();
    let before = weights(&fresh);
    let key = SampleKey { seed: 21, step: 0, block: u32::MAX, sample: 0 };
    let drawn = sample_kept_batch(&key, BATCH, TOKENS, 7, 1).unwrap();
    assert!(drawn.chunks(7).all(|row| row[0] == 0), "the class token is always kept");
    let subset = TokenIndices::new(&gpu, [BATCH, 7], TOKENS, &drawn).unwrap();
    let ImageBatch { images, labels, .. } = batch(1, BATCH);
    let images = Tensor::from_slice(&gpu, &[BATCH, 3, 16, 16], &images).unwrap();
    let labels = Tensor::from_slice(&gpu, &[BATCH], &labels).unwrap();
    let logits = fresh.forward(&images, &[Span::leave(0, 3, subset)], &Mode::training(KEY)).unwrap();
    let smoothed = CrossEntropy { label_smoothing: 0.1, ..Default::default() };
    let loss = ops::cross_entropy(&logits, &labels, &smoothed).unwrap();
    loss.backward().unwrap();
    assert_close("loss", &[first.loss], &[loss.item().unwrap()], 1e-6);
    for ((p, before), after) in fresh.parameters().iter().zip(&before).zip(&after) {
        let moved: Vec<f32> = before.iter().zip(after).map(|(a, b)| a - b).collect();
        assert_close(p.path(), &moved, &p.grad().unwrap().to_vec().unwrap(), 1e-4);
    }
    let (_, parts, ..) = run(drop.clone().into(), 4);
    for ((p, whole), parts) in model.parameters().iter().zip(&after).zip(&parts) {
        assert_close(&format!("{} in parts", p.path()), parts, whole, 1e-4);
    }
    // From `until` on it is the plain model.
    let (_, never, ..) = run(drop.with_until(0).into(), 1);
    assert_eq!(bits(&never), bits(&run(TokenDrop::None, 1).1));

    // A class token that could be dropped is refused.
    let bare = PatchDrop::new(7, 0).unwrap();
    let error = Trainer::new(task(&model), settings(bare)).err().expect("no prefix");
    assert!(matches!(error, Error::Argument { name: "keep_prefix", .. }), "{error}");
}

// ---- parts of a model, and parts of a rate ----

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
        let cases: [(Freeze, IsTrained); 4] = [
            (Freeze::AllButHead, |path| path.starts_with("head")),
            (Freeze::Blocks(0), |path| !["cls_token", "pos_embed"].contains(&path) && !path.starts_with("patch_embed")),
            (Freeze::Blocks(2), |path| ["blocks.2", "norm", "head"].iter().any(|name| path.starts_with(name))),
            (Freeze::AllButNormsAndBiases, |path| {
                path.starts_with("head") || path.contains("norm") || path.ends_with("bias")
            }),
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

// ---- averaged weights ----

/// With an average, a run measures and saves that; the model keeps its own weights, which are those of a run without.
#[test]
fn average_is_measured_and_saved() {
    for gpu in each_family() {
        let ema = Ema { decay: 0.9, warmup: true };
        let train = |ema| {
            let model = Vit::new(&gpu, config(), 5).unwrap();
            let mut trainer = Trainer::new(task(&model), TrainSettings { ema, ..settings(ltd(9)) }).unwrap();
            let mut average: Vec<Vec<f64>> =
                weights(&model).iter().map(|w| w.iter().map(|&w| w.into()).collect()).collect();
            for step in 0..6 {
                trainer.step(&batch(step, BATCH)).unwrap();
                trainer.finish().unwrap();
                let decay = f64::from(ema.unwrap_or(Ema { decay: 0.0, warmup: false }).decay_at(step));
                for (a, w) in average.iter_mut().flatten().zip(weights(&model).iter().flatten()) {
                    *a = decay * *a + (1.0 - decay) * f64::from(*w);
                }
            }
            let averaged = trainer.averaged(|_| Ok(weights(&model))).unwrap();
            (weights(&model), averaged, average, model)
        };
        let (plain, same, ..) = train(None);
        assert_eq!(bits(&plain), bits(&same), "without an average there is nothing to exchange");
        let (own, averaged, expected, model) = train(Some(ema));
        assert_same(&model, &own, &plain);
        for ((p, got), expected) in model.parameters().iter().zip(&averaged).zip(&expected) {
            let expected: Vec<f32> = expected.iter().map(|&v| v as f32).collect();
            assert_close(p.path(), got, &expected, 1e-6);
        }
        assert_ne!(bits(&own), bits(&averaged));

        let mut notes = Notes::default();
        let settings = TrainSettings { ema: Some(ema), ..settings(ltd(9)) };
        let (outcome, best, last) = run_fit_with(&gpu, 8, settings, FitOptions::default(), &mut notes);
        assert_eq!(best, outcome.best.map(|(_, best)| best));
        assert_eq!(last, notes.epochs.last().map(|epoch| epoch.validation));
        let mut plain = Notes::default();
        run_fit(&gpu, 8, &mut plain);
        assert_eq!(plain.steps, notes.steps, "training does not see the average");
        assert_ne!(plain.epochs[0].validation.loss, notes.epochs[0].validation.loss);
    }
}

/// Weights that cannot change get no better.
#[test]
fn patience_ends_a_run() {
    let gpu = gpu();
    let still = TrainSettings { rate: constant_rate(0.0), ..settings(TokenDrop::None) };
    let run = |patience, steps| {
        let options = FitOptions { patience, ..FitOptions::default() };
        let mut notes = Notes::default();
        let (outcome, ..) = run_fit_with(&gpu, steps, still.clone(), options, &mut notes);
        (outcome.steps, outcome.stopped, outcome.out_of_patience, notes.epochs.len())
    };
    assert_eq!(run(Some(2), 100), (12, false, true, 3));
    assert_eq!(run(Some(2), 12), (12, false, false, 3), "the run's own end");
    assert_eq!(run(None, 20), (20, false, false, 5));
    // Of equal epochs the latest is the best, which is no progress.
    let mut notes = Notes::default();
    let (outcome, ..) = run_fit_with(&gpu, 12, still.clone(), FitOptions::default(), &mut notes);
    assert!(notes.epochs.iter().all(|epoch| epoch.is_best));
    assert_eq!(outcome.best.map(|(epoch, _)| epoch), Some(2));
    let model = Vit::new(&gpu, config(), 5).unwrap();
    let train = loader(24, LoaderOptions::training(6, 1));
    let data = FitData { train: &train, validation: &train, steps: 4, folder: None };
    let error = fit(
        task(&model),
        &data,
        still,
        FitOptions { patience: Some(0), ..FitOptions::default() },
        &mut Notes::default(),
    )
    .unwrap_err();
    assert!(matches!(error, Error::Argument { name: "patience", .. }), "{error}");
}

// ---- evaluation, checkpoints, whole runs ----

/// `n` samples whose class shows in their brightness.
fn split(n: usize) -> Split {
    let labels: Vec<u32> = (0..n).map(|i| (i % CLASSES) as u32).collect();
    let noise = bytes(5, n * 16 * 16 * 3);
    let pixel = |i: usize| (labels[i / (16 * 16 * 3)] * 60) as u8 + noise[i] / 16;
    Split::from_pixels(16, 16, (0..noise.len()).map(pixel).collect(), labels).unwrap()
}

const WHOLE: Transform = Transform::new(16, Crop::Whole);

fn loader(n: usize, options: LoaderOptions) -> Loader<ImageSource> {
    single(&split(n), WHOLE, options)
}

#[test]
fn evaluation_counts_every_sample_once() {
    for gpu in each_family() {
        let model = Vit::new(&gpu, random_config(), 5).unwrap();
        let whole =
            evaluate(&Classify::new(&model), loader(20, LoaderOptions::evaluation(20)).epoch(0).unwrap()).unwrap();
        // Batches of 6, 6, 6 and 2.
        let parts =
            evaluate(&Classify::new(&model), loader(20, LoaderOptions::evaluation(6)).epoch(0).unwrap()).unwrap();
        assert_eq!((whole.samples, parts.samples), (20, 20));
        assert_eq!(whole.accuracy, parts.accuracy);
        assert!((whole.loss - parts.loss).abs() < 1e-5, "{whole:?} {parts:?}");

        let batch = loader(20, LoaderOptions::evaluation(20)).epoch(0).unwrap().next().unwrap().unwrap();
        let images = Tensor::from_slice(&gpu, &[20, 3, 16, 16], &batch.images).unwrap();
        let logits = no_grad(|| model.forward(&images, &[], &Mode::evaluation())).unwrap().to_vec::<f32>().unwrap();
        let plain = CrossEntropy::default();
        let loss = ops::cross_entropy::reference::forward(&logits, &batch.labels, &plain);
        let correct = ops::cross_entropy::reference::count_correct(&logits, &batch.labels, None);
        assert!((whole.loss - f64::from(loss)).abs() < 1e-5);
        assert_eq!(whole.accuracy, f64::from(correct) / 20.0);
        assert!(model.parameters().iter().all(|p| p.grad().is_none()));
    }
}

#[test]
fn evaluation_reports_bad_labels() {
    let gpu = gpu();
    let model = Vit::new(&gpu, VitConfig { num_classes: 3, ..config() }, 5).unwrap();
    let error =
        evaluate(&Classify::new(&model), loader(20, LoaderOptions::evaluation(6)).epoch(0).unwrap()).unwrap_err();
    assert!(matches!(error, Error::OutOfRange { what: "label", value: 3, bound: 3, .. }), "{error}");
}

/// `n` samples, every third of which has the label 99.
fn partly_labelled(n: usize) -> Split {
    let whole = split(n);
    let labels = whole.labels().iter().enumerate().map(|(i, &label)| if i % 3 == 1 { 99 } else { label }).collect();
    let pixels = (0..n as u32).flat_map(|i| whole.image(i).unwrap().pixels().to_vec()).collect();
    Split::from_pixels(16, 16, pixels, labels).unwrap()
}

/// Labels that training ignores are ignored in evaluation, and classes weigh what they weigh there: the mean loss is that of
/// one batch of all, whatever the batches are; the accuracy is that of the samples that count.
#[test]
fn evaluation_measures_as_training_does() {
    let ignoring = CrossEntropy { ignore_index: Some(99), label_smoothing: 0.3, ..Default::default() };
    let weighted = CrossEntropy { class_weights: Some(vec![0.5, 3.0, 0.0, 1.0]), ..ignoring.clone() };
    for gpu in each_family() {
        let model = Vit::new(&gpu, config(), 5).unwrap();
        let split = partly_labelled(20);
        let loader = |batch| single(&split, WHOLE, LoaderOptions::evaluation(batch));
        let batch = loader(20).epoch(0).unwrap().next().unwrap().unwrap();
        let images = Tensor::from_slice(&gpu, &[20, 3, 16, 16], &batch.images).unwrap();
        let logits = no_grad(|| model.forward(&images, &[], &Mode::evaluation())).unwrap().to_vec::<f32>().unwrap();
        let correct = ops::cross_entropy::reference::count_correct(&logits, &batch.labels, Some(99));
        for loss in [&ignoring, &weighted] {
            let plain = CrossEntropy { label_smoothing: 0.0, ..loss.clone() };
            let expected = ops::cross_entropy::reference::forward(&logits, &batch.labels, &plain);
            for size in [20, 6, 1] {
                let task = Classify::with_loss(&model, loss.clone());
                let got = evaluate(&task, loader(size).epoch(0).unwrap()).unwrap();
                assert_eq!((got.samples, got.accuracy), (13, f64::from(correct) / 13.0), "{loss:?}");
                assert_close(&format!("{loss:?} in batches of {size}"), &[got.loss as f32], &[expected], 1e-5);
                assert_eq!(predict(&task, loader(size).epoch(0).unwrap()).unwrap().evaluation(), got);
            }
        }
        let bad = evaluate(&Classify::new(&model), loader(6).epoch(0).unwrap());
        assert!(matches!(bad, Err(Error::OutOfRange { value: 99, .. })));

        // A whole run, whose means are those of the rows that count.
        let train = single(&split, WHOLE, LoaderOptions::training(6, 1));
        let data = FitData { train: &train, validation: &loader(6), steps: 3, folder: None };
        let task = Classify::with_loss(&model, weighted.clone());
        let mut notes = Notes::default();
        fit(&task, &data, settings(TokenDrop::None), FitOptions::default(), &mut notes).unwrap();
        let [epoch] = notes.epochs.as_slice() else { panic!("{:?}", notes.epochs) };
        assert_eq!(epoch.validation, evaluate(&task, loader(6).epoch(0).unwrap()).unwrap());
        let sum = |of: &dyn Fn(&StepMetrics) -> f64| notes.steps.iter().map(of).sum::<f64>();
        let loss = sum(&|m| f64::from(m.loss) * m.loss_weight) / sum(&|m| m.loss_weight);
        let accuracy = sum(&|m| m.correct.into()) / sum(&|m| m.counted as f64);
        assert!((epoch.train_loss - loss).abs() < 1e-9 && (epoch.train_accuracy - accuracy).abs() < 1e-9, "{epoch:?}");
        assert!(sum(&|m| m.counted as f64) < 18.0);
    }
}

fn names() -> Vec<String> {
    (0..CLASSES).map(|i| format!("class {i}")).collect()
}

#[test]
fn saved_model_is_the_same_model() {
    let gpu = gpu();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let model = Vit::new(&gpu, random_config(), 5).unwrap();
    save(&path, &model, &names()).unwrap();
    let opened = open(&path, &OpenOptions::default()).unwrap();
    assert_eq!(&opened.config, model.config());
    assert_eq!(opened.class_names, Some(names()));

    let restored = Vit::new(&gpu, opened.config, 6).unwrap();
    assert_ne!(bits(&weights(&restored)), bits(&weights(&model)));
    let report = load_parameters(restored.parameters(), &opened.checkpoint, &MatchOptions::default()).unwrap();
    assert_eq!(report.loaded.len(), model.parameters().len());
    assert!(report.new.is_empty() && report.missing.is_empty() && report.unused.is_empty());
    assert_same(&model, &weights(&restored), &weights(&model));
    let images = images(&gpu, 2);
    let logits =
        |model: &Vit| no_grad(|| model.forward(&images, &[], &Mode::evaluation())).unwrap().to_vec::<f32>().unwrap();
    assert_eq!(logits(&model), logits(&restored));
}

#[test]
fn other_classes_get_a_new_head() {
    let gpu = gpu();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let model = Vit::new(&gpu, config(), 5).unwrap();
    save(&path, &model, &names()).unwrap();
    let file = checkpoint::read(&path).unwrap();

    let wider = Vit::new(&gpu, VitConfig { num_classes: 9, ..config() }, 6).unwrap();
    let before = weights(&wider);
    let error = load_parameters(wider.parameters(), &file, &MatchOptions::default()).unwrap_err();
    assert!(error.to_string().contains("head.weight"), "{error}");
    assert_same(&wider, &weights(&wider), &before);
    let report =
        load_parameters(wider.parameters(), &file, &MatchOptions { head: &["head"], allow_missing: false }).unwrap();
    let new: Vec<_> = report.new.iter().map(|d| d.name.as_str()).collect();
    assert_eq!(new, ["head.weight", "head.bias"]);
    assert!(report.to_string().contains("2 new"), "{report}");
    for (i, p) in wider.parameters().iter().enumerate() {
        let value = p.value().to_vec::<f32>().unwrap();
        if p.path().starts_with("head") {
            assert_eq!(value, before[i], "{} keeps its initial values", p.path());
        } else {
            assert_eq!(value, model.parameters().get(p.path()).unwrap().value().to_vec::<f32>().unwrap());
        }
    }
}

/// Notes what it sees, and breaks after some steps or epochs.
#[derive(Default)]
struct Notes {
    steps: Vec<StepMetrics>,
    epochs: Vec<EpochMetrics>,
    break_after_steps: Option<usize>,
    break_after_epochs: Option<usize>,
}

fn break_at(count: usize, limit: Option<usize>) -> ControlFlow<()> {
    if limit == Some(count) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

impl Observer for Notes {
    fn step(&mut self, metrics: &StepMetrics) -> ControlFlow<()> {
        self.steps.push(*metrics);
        break_at(self.steps.len(), self.break_after_steps)
    }

    fn epoch(&mut self, metrics: &EpochMetrics) -> ControlFlow<()> {
        self.epochs.push(*metrics);
        break_at(self.epochs.len(), self.break_after_epochs)
    }
}

/// Checkpoints as the model writes them.
fn run_folder(path: &Path) -> RunFolder<'static> {
    RunFolder::new(path, |path, weights| {
        VitFile { config: &config(), class_names: &names(), crop_fraction: None }.write(path, weights)
    })
}

/// Runs `fit` on 24 samples in batches of 6; returns its outcome, and what `best` and `last` score when read back.
fn run_fit(
    gpu: &Gpu,
    steps: u64,
    notes: &mut Notes,
) -> (wgrad::train::Outcome, Option<Evaluation>, Option<Evaluation>) {
    run_fit_with(gpu, steps, settings(ltd(9)), FitOptions::default(), notes)
}

fn run_fit_with(
    gpu: &Gpu,
    steps: u64,
    settings: TrainSettings,
    options: FitOptions,
    notes: &mut Notes,
) -> (wgrad::train::Outcome, Option<Evaluation>, Option<Evaluation>) {
    let folder = tempfile::tempdir().unwrap();
    let model = Vit::new(gpu, config(), 5).unwrap();
    let (train, validation) = (loader(24, LoaderOptions::training(6, 1)), loader(10, LoaderOptions::evaluation(6)));
    let data = FitData { train: &train, validation: &validation, steps, folder: Some(run_folder(folder.path())) };
    let outcome = fit(task(&model), &data, settings, options, notes).unwrap();
    let score = |name: &str| {
        let opened = open(folder.path().join(name), &OpenOptions::default()).ok()?;
        let model = Vit::new(gpu, opened.config, 9).unwrap();
        load_parameters(model.parameters(), &opened.checkpoint, &MatchOptions::default()).unwrap();
        Some(evaluate(&Classify::new(&model), validation.epoch(0).unwrap()).unwrap())
    };
    (outcome, score("best.safetensors"), score("last.safetensors"))
}

#[test]
fn whole_run() {
    for gpu in each_family() {
        let mut notes = Notes::default();
        // Four batches an epoch: two whole epochs and a half.
        let (outcome, best, last) = run_fit(&gpu, 10, &mut notes);
        assert_eq!((outcome.steps, outcome.samples, outcome.stopped), (10, 60, false));
        assert_eq!(notes.steps.iter().map(|m| m.step).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
        let ends: Vec<_> = notes.epochs.iter().map(|e| (e.epoch, e.steps)).collect();
        assert_eq!(ends, [(0, 4), (1, 8), (2, 10)]);
        let mean = notes.steps[4..8].iter().map(|m| f64::from(m.loss)).sum::<f64>() / 4.0;
        assert!((notes.epochs[1].train_loss - mean).abs() < 1e-6);
        let top = notes.epochs.iter().map(|e| e.validation.accuracy).fold(0.0, f64::max);
        let (best_epoch, best_result) = outcome.best.expect("a best epoch");
        assert_eq!(best_result.accuracy, top);
        let flagged = notes.epochs.iter().rfind(|e| e.is_best).expect("a best epoch");
        assert_eq!((flagged.epoch, flagged.validation), (best_epoch, best_result));
        assert_eq!(best, Some(best_result), "best.safetensors is the best epoch's model");
        assert_eq!(last, notes.epochs.last().map(|e| e.validation), "last.safetensors is the last model");
    }
}

/// Two readable batches of four, and one whose photos are not, which the loader leaves out.
fn cut_epochs(folder: &Path) -> Split {
    for (class, name) in ["a", "b"].into_iter().enumerate() {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        for i in 0..4 {
            let pixels = bytes(10 * class as u64 + i, 16 * 16 * 3);
            image::save_buffer(folder.join(format!("{i}.png")), &pixels, 16, 16, image::ColorType::Rgb8).unwrap();
        }
    }
    for name in ["b/8.png", "b/9.png"] {
        std::fs::write(folder.join(name), "no picture").unwrap();
    }
    let all = FolderOptions { validation: 0.0, test: 0.0, ..Default::default() };
    image_folder(folder, all).unwrap().train
}

/// An epoch ends with its last batch, also where the loader leaves batches out, at its end too; and a run that was
/// interrupted there goes on as if it had not been.
#[test]
fn epochs_end_where_their_batches_do() {
    let gpu = gpu();
    let photos = tempfile::tempdir().unwrap();
    let split = cut_epochs(photos.path());
    let train = single(&split, WHOLE, LoaderOptions::evaluation(4));
    assert_eq!(train.batches_per_epoch(), 3);
    let validation = loader(10, LoaderOptions::evaluation(6));
    let run = |folder: &Path, steps, break_after_steps, resume| {
        let model = Vit::new(&gpu, config(), 5).unwrap();
        let folder = Some(run_folder(folder));
        let data = FitData { train: &train, validation: &validation, steps, folder };
        let options = FitOptions { save_state: true, resume, ..FitOptions::default() };
        let mut notes = Notes { break_after_steps, ..Notes::default() };
        fit(task(&model), &data, settings(ltd(9)), options, &mut notes).unwrap();
        (notes.steps, notes.epochs)
    };
    let whole = tempfile::tempdir().unwrap();
    let (steps, epochs) = run(whole.path(), 5, None, None);
    assert_eq!(steps.iter().map(|m| (m.step, m.epoch)).collect::<Vec<_>>(), [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2)]);
    assert_eq!(epochs.iter().map(|e| (e.epoch, e.steps)).collect::<Vec<_>>(), [(0, 2), (1, 4), (2, 5)]);
    // Before it is known that nothing more comes of epoch 0, at its end, and in the same place of epoch 1.
    for (break_after, ended) in [(1, 0), (2, 1), (3, 1)] {
        let parts = tempfile::tempdir().unwrap();
        run(parts.path(), 5, Some(break_after), None);
        let resume = RunState::read(parts.path().join(STATE_FILE)).unwrap();
        assert_eq!(
            run(parts.path(), 5, None, Some(resume)).1,
            epochs[ended..],
            "interrupted after result {break_after}"
        );
        let bytes = |folder: &Path| std::fs::read(folder.join(STATE_FILE)).unwrap();
        assert!(bytes(parts.path()) == bytes(whole.path()), "interrupted after result {break_after}");
    }
}

/// Half precision whose forward overflows, which is excused: no sum has it, and what is saved then is gone on from.
#[test]
fn excused_steps_are_in_no_sum() {
    let Some(gpu) = gpu_with_f16() else { return };
    let model = Vit::new(&gpu, config(), 5).unwrap();
    let weight = model.parameters().get("blocks.1.mlp.fc1.weight").unwrap();
    let good = weight.value().to_vec::<f32>().unwrap();
    // Products of more than 65,504.
    weight.set(&good.iter().map(|w| w * 1e8).collect::<Vec<_>>()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (train, validation) = (loader(24, LoaderOptions::training(6, 1)), loader(10, LoaderOptions::evaluation(6)));
    let settings = || TrainSettings { precision: Precision::F16, ..settings(TokenDrop::None) };
    let run = |steps, resume| {
        let folder = Some(run_folder(folder.path()));
        let data = FitData { train: &train, validation: &validation, steps, folder };
        let options = FitOptions { save_every: Some(1), resume, ..FitOptions::default() };
        let mut notes = Notes::default();
        let outcome = fit(task(&model), &data, settings(), options, &mut notes).unwrap();
        (outcome, notes)
    };
    let (outcome, notes) = run(3, None);
    assert!(notes.steps.iter().all(|step| step.excused && !step.loss.is_finite()), "{:?}", notes.steps);
    assert_eq!((outcome.steps, outcome.samples), (3, 18));
    assert_eq!((notes.epochs[0].train_loss, notes.epochs[0].train_accuracy), (0.0, 0.0));

    let state = || RunState::read(folder.path().join(STATE_FILE)).unwrap();
    assert_eq!(state().steps(), 3);
    let (outcome, notes) = run(5, Some(state()));
    assert_eq!((outcome.steps, notes.epochs.len()), (5, 2));
    assert!(notes.steps.iter().all(|step| step.excused));
}

#[test]
fn run_ended_by_the_observer() {
    let gpu = gpu();
    let mut notes = Notes { break_after_steps: Some(3), ..Notes::default() };
    let (outcome, best, last) = run_fit(&gpu, 100, &mut notes);
    // A step's results arrive while the next one runs, which is then finished, counted and saved.
    assert!(outcome.stopped && outcome.steps == 4, "{outcome:?}");
    assert_eq!(notes.steps.len(), 4);
    assert_eq!(outcome.samples, 24);
    assert_eq!(notes.epochs.len(), 1);
    assert_eq!(last, Some(notes.epochs[0].validation));
    assert_eq!(best, last);

    let mut notes = Notes { break_after_epochs: Some(2), ..Notes::default() };
    let (outcome, _, last) = run_fit(&gpu, 100, &mut notes);
    assert!(outcome.stopped && outcome.steps == 8, "{outcome:?}");
    assert_eq!(last, Some(notes.epochs[1].validation));
}

#[test]
fn run_without_steps_is_an_error() {
    let gpu = gpu();
    let model = Vit::new(&gpu, config(), 5).unwrap();
    let train = loader(24, LoaderOptions::training(6, 1));
    let data = FitData { train: &train, validation: &train, steps: 0, folder: None };
    let error =
        fit(task(&model), &data, settings(TokenDrop::None), FitOptions::default(), &mut Notes::default()).unwrap_err();
    assert!(matches!(error, Error::Argument { name: "steps", .. }), "{error}");
}

/// Tables on disk: written once, read ever after, and not believed.
#[test]
fn tuning_is_kept_on_disk() {
    let first = gpu();
    let config = config();
    let rising = RandomLtd::new(3, Schedule::linear(4, TOKENS, 6, 1).unwrap()).unwrap();
    let settings = settings(Some(rising));
    let work = Workload { make: &making(&config), settings: &settings, batch: BATCH, steps: 8 };
    let folder = tempfile::tempdir().unwrap();
    let store = TuningStore::Folder(folder.path().join("new"));
    // As often as it takes to settle all within the budget of each.
    let mut report = tuned(&first, &work, &store, TUNING_BUDGET).unwrap();
    while report.known + report.measured < report.asked {
        report = tuned(&first, &work, &store, TUNING_BUDGET).unwrap();
    }
    let table = first.tuning();
    assert!(report.asked > 10 && table.products.len() == report.asked, "{report:?}");
    let files: Vec<_> = std::fs::read_dir(folder.path().join("new")).unwrap().map(|e| e.unwrap().path()).collect();
    let [file] = files.as_slice() else { panic!("{files:?}") };

    // Another program.
    let second = gpu();
    let again = tuned(&second, &work, &store, Duration::ZERO).unwrap();
    assert_eq!((again.known, again.measured, second.tuning()), (again.asked, 0, table.clone()));
    // What does not go to disk comes from nowhere.
    let report = tune(&second, &work, Duration::ZERO).unwrap();
    assert_eq!((report.known, report.measured), (report.asked, 0));
    let fresh = gpu();
    assert_eq!(tune(&fresh, &work, Duration::ZERO).unwrap().measured, 0);

    let text = std::fs::read_to_string(file).unwrap();
    let hostile = [
        String::new(),
        text[..text.len() / 2].to_owned(),
        "[".repeat(100_000),
        " ".repeat(2 << 20),
        text.replace("\"adapter\": \"", "\"adapter\": \"not "),
        text.replace("\"split\": 1", "\"split\": -1"),
        text.replace("\"batch\": 1", "\"batch\": 1e99"),
    ];
    for text in hostile {
        std::fs::write(file, &text).unwrap();
        let fresh = gpu();
        let report = tuned(&fresh, &work, &store, Duration::ZERO).unwrap();
        assert_eq!(report.known, 0, "{}", &text[..text.len().min(80)]);
    }
    // What was measured goes in its place.
    assert!(tuned(&gpu(), &work, &store, TUNING_BUDGET).unwrap().measured > 0);
    assert!(tuned(&gpu(), &work, &store, Duration::ZERO).unwrap().known > 0);
    std::fs::write(file, text.replace("\"split\": 1", "\"split\": 7").replace("rows", "columns")).unwrap();
    assert_eq!(tuned(&gpu(), &work, &store, Duration::ZERO).unwrap().known, 0, "no entry fits");
}

/// The table of one run is that of the next: the same losses to the last bit.
#[test]
fn a_tuned_run_repeats() {
    let config = config();
    let settings = settings(ltd(9));
    let work = Workload { make: &making(&config), settings: &settings, batch: BATCH, steps: 8 };
    let first = gpu();
    tune(&first, &work, TUNING_BUDGET).unwrap();
    let second = gpu();
    assert_eq!(second.set_tuning(&first.tuning()).ignored, 0);
    let losses = |gpu: &Gpu| {
        let model = Vit::new(gpu, config.clone(), 5).unwrap();
        let mut trainer = Trainer::new(task(&model), settings.clone()).unwrap();
        for step in 0..4 {
            trainer.step(&batch(step, BATCH)).unwrap();
        }
        trainer.finish().unwrap().unwrap()
    };
    assert_eq!(losses(&first), losses(&second));
}
