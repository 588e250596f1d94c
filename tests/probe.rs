//! Linear probes on features that are computed once: the same head as training it behind the frozen model gives, runs that go on,
//! and the program's `--probe`.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Stdio;

use crate::common::{assert_close, each_family, gpu};
use crate::data::single;
use crate::programs::{WEIGHTS, example, json, photos, refuse, rows, succeed, text, tiny, until_saved};
use wgrad::checkpoint::download;
use wgrad::data::{FeatureSource, Features, ImageSource, Loader, LoaderOptions, Position, Split, digits};
use wgrad::models::vit::{OpenOptions, Pool, Vit, VitConfig, open};
use wgrad::nn::{Headed, Mode};
use wgrad::ops::CrossEntropy;
use wgrad::optim::{AdamW, LayerTokenRate, LrSchedule, LrShape, Rule};
use wgrad::train::{
    Classify, EpochMetrics, FitData, FitOptions, Freeze, LinearProbe, Observer, RunFolder, RunState, STATE_FILE,
    StepMetrics, Task, TrainSettings, Trainer, Workload, estimate, evaluate, fit, write_weights,
};
use wgrad::{Error, Gpu, Tensor};

const BATCH: usize = 8;

fn config() -> VitConfig {
    VitConfig {
        img_size: (16, 16),
        patch_size: 4,
        num_classes: 10,
        drop_rate: 0.2,
        drop_path_rate: 0.2,
        ..VitConfig::custom(32, 2, 2)
    }
}

/// Class token; the same beside the mean; the mean alone; two heads.
fn configs() -> [VitConfig; 4] {
    let of = |global_pool| VitConfig { global_pool, ..config() };
    [config(), of(Pool::TokenAvg), of(Pool::Avg), VitConfig { distilled: true, ..config() }]
}

fn settings() -> TrainSettings {
    let rule = Rule::AdamW(AdamW::default());
    let rate = LrSchedule::constant(1e-2).unwrap();
    TrainSettings { freeze: Freeze::AllButHead, seed: 5, max_norm: Some(1.0), ..TrainSettings::new(rule, rate) }
}

fn loss() -> CrossEntropy {
    CrossEntropy {
        label_smoothing: 0.1,
        class_weights: Some((1..=10).map(|w| w as f32).collect()),
        ..Default::default()
    }
}

/// The first `n` samples as evaluation shows them.
fn pictures(split: &Split, n: u32, options: LoaderOptions) -> Loader<ImageSource> {
    let data = digits().unwrap();
    single(&split.subset(&(0..n).collect::<Vec<_>>()).unwrap(), data.eval_transform(16), options)
}

fn features(probe: &LinearProbe<&Vit>, split: &Split, n: u32) -> FeatureSource<ImageSource> {
    probe.source(pictures(split, n, LoaderOptions::evaluation(11))).unwrap()
}

/// Nothing goes through blocks whose tokens a rate could follow.
#[test]
fn a_probe_has_no_layer_tokens() {
    let model = Vit::new(&gpu(), config(), 5).unwrap();
    let rate = LayerTokenRate { max: 1e-3, min: 0.0, shape: LrShape::Linear, total: 1e6, warmup: 1e3 };
    let settings = TrainSettings { rate: LrSchedule::layer_token(rate).unwrap(), ..settings() };
    let error = Trainer::new(LinearProbe::new(&model), settings).err().unwrap();
    assert!(matches!(error, Error::Argument { name: "rate", .. }), "{error}");
}

/// The head, its losses and what is measured of it: those of the whole model with all else frozen and nothing random below the head,
/// from the same batches; with dropout before the head, label smoothing, class weights and micro-batches.
#[test]
fn a_probe_is_a_head_behind_a_frozen_model() {
    let data = digits().unwrap();
    for gpu in each_family() {
        for config in configs() {
            let what = |part: &str| format!("{part} ({:?}, {:?})", config.global_pool, gpu.family());
            let settings = || TrainSettings { accumulate: 3, ..settings() };
            let own = Vit::new(&gpu, config.clone(), 3).unwrap();
            let order = LoaderOptions::training(BATCH, 4);
            // What is random in the whole model's blocks must not be.
            let frozen = Vit::new(&gpu, VitConfig { drop_path_rate: 0.0, ..config.clone() }, 3).unwrap();
            let mut trainer = Trainer::new(Classify::with_loss(&frozen, loss()), settings()).unwrap();
            let batches = pictures(&data.train, 40, order).batches_from(Position::default()).unwrap();
            let mut losses = Vec::new();
            for batch in batches.take(12) {
                losses.extend(trainer.step(&batch.unwrap()).unwrap());
            }
            losses.extend(trainer.finish().unwrap());

            let probe = LinearProbe::with_loss(&own, loss());
            let source = features(&probe, &data.train, 40);
            assert_eq!((source.features().len(), source.features().width()), (40, own.head_inputs()));
            let before = download(own.parameters()).unwrap();
            let mut trainer = Trainer::new(probe, settings()).unwrap();
            let mut own_losses = Vec::new();
            for batch in Loader::new(source, order).unwrap().batches_from(Position::default()).unwrap().take(12) {
                own_losses.extend(trainer.step(&batch.unwrap()).unwrap());
            }
            own_losses.extend(trainer.finish().unwrap());
            let of = |metrics: &[StepMetrics]| metrics.iter().map(|m| m.loss).collect::<Vec<_>>();
            assert_close(&what("losses"), &of(&own_losses), &of(&losses), 1e-4);
            let correct = |metrics: &[StepMetrics]| metrics.iter().map(|m| m.correct).sum::<u32>();
            assert!(correct(&own_losses).abs_diff(correct(&losses)) <= 1, "{}", what("right answers"));
            for parameter in frozen.parameters() {
                let (path, value) = (parameter.path(), parameter.value().to_vec::<f32>().unwrap());
                let ours = own.parameters().get(path).unwrap().value().to_vec::<f32>().unwrap();
                let is_head = path.starts_with("head");
                assert_eq!(before[path].data == ours, !is_head, "{}", what(path));
                assert_close(&what(path), &ours, &value, if is_head { 1e-3 } else { 0.0 });
            }

            let whole = pictures(&data.validation, 20, LoaderOptions::evaluation(7));
            let whole = evaluate(&Classify::with_loss(&own, loss()), whole.epoch(0).unwrap()).unwrap();
            let source = features(&LinearProbe::new(&own), &data.validation, 20);
            let loader = Loader::new(source, LoaderOptions::evaluation(20)).unwrap();
            let probed = evaluate(&LinearProbe::with_loss(&own, loss()), loader.epoch(0).unwrap()).unwrap();
            assert_eq!((whole.accuracy, whole.counted), (probed.accuracy, probed.counted));
            assert!((whole.loss - probed.loss).abs() < 1e-5, "{whole:?}, {probed:?}");
        }
    }
}

/// Logits are those of the head on what it reads.
#[test]
fn logits_are_the_head_on_what_it_reads() {
    let gpu = gpu();
    for config in configs() {
        let model = Vit::new(&gpu, config, 1).unwrap();
        let images = Tensor::from_slice(&gpu, &[2, 3, 16, 16], &(0..2 * 3 * 256).map(|i| i as u8).collect::<Vec<_>>());
        let (images, mode) = (images.unwrap(), Mode::evaluation());
        let read = model.pre_logits(&images, &mode).unwrap();
        assert_eq!(read.dims(), [2, model.head_inputs()]);
        let [whole, head] = [model.forward(&images, &[], &mode), model.head(&read, &mode)];
        assert_eq!(whole.unwrap().to_vec::<f32>().unwrap(), head.unwrap().to_vec::<f32>().unwrap());
        let narrow = Tensor::from_slice(&gpu, &[2, 5], &[0f32; 10]).unwrap();
        assert!(model.head(&narrow, &mode).unwrap_err().to_string().contains("what the head reads"));
    }
}

#[test]
fn features_are_checked() {
    let mut features = Features::new(2);
    for (values, labels, indices) in
        [(vec![1.0; 3], vec![0], vec![0]), (vec![1.0; 2], vec![0], vec![]), (vec![1.0; 2], vec![], vec![])]
    {
        assert!(features.extend(values, labels, indices).unwrap_err().to_string().contains("features"));
    }
    let nan = features.extend(vec![1.0, 0.0, 1.0, f32::NAN], vec![0, 1], vec![7, 9]).unwrap_err().to_string();
    assert!(nan.contains("NaN for sample 9"), "{nan}");
    assert!(features.is_empty());
    features.extend(vec![1.0, 2.0, 3.0, 4.0], vec![0, 1], vec![7, 9]).unwrap();
    let batch = features.batch(&[1, 0], Position::default()).unwrap();
    assert_eq!((batch.features, batch.labels, batch.indices), (vec![3.0, 4.0, 1.0, 2.0], vec![1, 0], vec![9, 7]));
    assert!(features.batch(&[2], Position::default()).unwrap_err().to_string().contains("below 2"));
    let model = Vit::new(&gpu(), config(), 1).unwrap();
    let short = features.batch(&[0], Position::default()).unwrap();
    assert!(LinearProbe::new(&model).check(&short).unwrap_err().to_string().contains("32 numbers a sample"));
}

/// Ends a run after some steps.
struct After(u64);

impl Observer for After {
    fn step(&mut self, _: &StepMetrics) -> ControlFlow<()> {
        self.0 = self.0.saturating_sub(1);
        if self.0 == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn epoch(&mut self, _: &EpochMetrics) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// A run of 25 steps, or of `stop` of them; from where it stood if there is a state.
fn run(gpu: &Gpu, folder: &Path, stop: u64, model_seed: u64, pictures: u32) -> wgrad::Result<()> {
    let data = digits()?;
    let model = Vit::new(gpu, config(), model_seed)?;
    let probe = LinearProbe::with_loss(&model, loss());
    let train = Loader::new(features(&probe, &data.train, pictures), LoaderOptions::training(BATCH, 1))?;
    let validation = Loader::new(features(&probe, &data.validation, 20), LoaderOptions::evaluation(20))?;
    let state = folder.join(STATE_FILE);
    let resume = state.exists().then(|| RunState::read(state)).transpose()?;
    let folder = Some(RunFolder::new(folder, write_weights));
    let data = FitData { train: &train, validation: &validation, steps: 25, folder };
    let options = FitOptions { save_state: true, resume, ..FitOptions::default() };
    fit(probe, &data, settings(), options, &mut After(stop)).map(drop)
}

/// To the same bits; and not with other weights below the head, or other pictures, which are named.
#[test]
fn a_probe_goes_on_where_it_was_interrupted() {
    let (gpu, place) = (gpu(), tempfile::tempdir().unwrap());
    let [whole, parts] = ["whole", "parts"].map(|name| place.path().join(name));
    fs::create_dir(&whole).unwrap();
    fs::create_dir(&parts).unwrap();
    run(&gpu, &whole, 1_000, 1, 40).unwrap();
    run(&gpu, &parts, 7, 1, 40).unwrap();
    let message = |seed, pictures| run(&gpu, &parts, 1_000, seed, pictures).unwrap_err().to_string();
    assert!(message(2, 40).contains("features of a model with other weights"), "{}", message(2, 40));
    assert!(message(1, 41).contains("other training data"), "{}", message(1, 41));
    run(&gpu, &parts, 9, 1, 40).unwrap();
    run(&gpu, &parts, 1_000, 1, 40).unwrap();
    for name in WEIGHTS.iter().chain([&STATE_FILE]) {
        let [a, b] = [&whole, &parts].map(|folder| fs::read(folder.join(name)).unwrap());
        assert!(a == b, "{name}");
    }
}

/// Gradients and moments are the head's, and activations a few numbers; what features take is the pass that gives them.
#[test]
fn a_probe_takes_the_memory_of_its_head() {
    let gpu = gpu();
    let config = VitConfig { num_classes: 10, ..VitConfig::tiny() };
    let settings = settings();
    let make = |gpu: &Gpu| Ok(LinearProbe::new(Vit::new(gpu, config.clone(), 0)?));
    let needs = estimate(&gpu, &Workload { make: &make, settings: &settings, batch: 64, steps: 2 }).unwrap();
    let head = 4 * (192 * 10 + 10);
    assert!((head..2 * head).contains(&needs.gradients), "{needs:?}");
    assert!(needs.moments < 8 * head && needs.activations < 1_000_000, "{needs:?}");
}

/// The program: as evaluation shows the pictures, an ordinary checkpoint, the same after an interruption; and no options that
/// a probe would pass over.
#[test]
fn the_program_probes() {
    let (photos, outputs) = (photos(), tempfile::tempdir().unwrap());
    let [whole, stopped] = ["whole", "stopped"].map(|name| outputs.path().join(name));
    const LONG: &str = "--steps 600 --save-every 50";
    let base = outputs.path().join("base");
    succeed(tiny(photos.path(), &base, "--steps 30 --drop none"));
    let probe = |output: &Path, more: &str| {
        let mut command = example("vit_finetune");
        command.args("--data folder --probe --batch-size 10 --lr 0.01".split_whitespace());
        command.args(more.split_whitespace()).arg("--weights").arg(&base);
        command.arg("--data-dir").arg(photos.path()).arg("--output").arg(output);
        command
    };
    let said = text(&succeed(probe(&whole, "--steps 20 --export timm")).stdout);
    assert!(said.contains("the head alone learns") && said.contains("features of"), "{said}");
    let report = json(&whole.join("report.json"));
    let run = &report["runs"][0];
    assert!(run["features_seconds"].as_f64().unwrap() > 0.0 && run["layer_tokens"] == 0, "{run}");
    let [before, after] = [&base, &whole].map(|run| open(run, &OpenOptions::default()).unwrap().checkpoint.tensors);
    for (name, tensor) in &before {
        assert_eq!(after[name] == *tensor, !name.starts_with("head"), "{name}");
    }
    let answers = outputs.path().join("answers.csv");
    let mut predict = example("vit_predict");
    predict.arg("--weights").arg(whole.join("export")).arg("--csv").arg(&answers).arg(photos.path());
    succeed(predict);
    assert_eq!(rows(&answers).len(), 80);

    let mut child = probe(&stopped, LONG).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until_saved(&mut child, &stopped);
    child.kill().unwrap();
    child.wait().unwrap();
    let mut resume = example("vit_finetune");
    resume.arg("--resume").arg(&stopped);
    succeed(resume);
    let uninterrupted = outputs.path().join("uninterrupted");
    succeed(probe(&uninterrupted, LONG));
    for name in WEIGHTS.iter().chain([&STATE_FILE]) {
        let [a, b] = [&stopped, &uninterrupted].map(|run| fs::read(run.join(name)).unwrap());
        assert!(a == b, "{name}");
    }
    for (more, parts) in [
        ("--lora qkv", &["--lora has no effect", "--probe"][..]),
        ("--drop random-ltd", &["--drop has no effect", "--probe"]),
        ("--mixup 0.2", &["--mixup has no effect", "computes the features of each picture once"]),
        ("--auto-augment trivial", &["--auto-augment has no effect"]),
        ("--mirror on", &["--mirror has no effect"]),
        ("--freeze none", &["--freeze has no effect"]),
        ("--precision f16", &["--precision has no effect"]),
        ("--recompute-blocks", &["--recompute-blocks has no effect"]),
        ("--recipe deepspeed-cifar", &["--recipe has no effect"]),
        ("--lr-schedule layer-token", &["--lr-schedule has no effect", "layer tokens"]),
        ("--compare", &["--probe", "--compare"]),
    ] {
        let folder = outputs.path().join("refused");
        refuse(probe(&folder, more), parts);
        assert!(!folder.exists(), "{more}");
    }
}
