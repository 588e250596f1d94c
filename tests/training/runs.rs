//! Evaluation, checkpoints, averages, whole runs.

use std::ops::ControlFlow;
use std::path::Path;

use super::{
    BATCH, CLASSES, assert_same, batch, bits, bytes, config, constant_rate, images, ltd, random_config, settings, task,
    weights,
};
use crate::common::{assert_close, each_family, gpu, gpu_with_f16};
use crate::data::single;
use wgrad::autograd::no_grad;
use wgrad::checkpoint::{self, MatchOptions, load_parameters};
use wgrad::data::{Crop, FolderOptions, ImageSource, Loader, LoaderOptions, Split, Transform, image_folder};
use wgrad::ltd::TokenDrop;
use wgrad::models::vit::{OpenOptions, Vit, VitConfig, VitFile, open, save};
use wgrad::nn::{Mode, Precision};
use wgrad::ops::{self, CrossEntropy};
use wgrad::optim::Ema;
use wgrad::train::{
    Classify, EpochMetrics, Evaluation, FitData, FitOptions, Observer, RunFolder, RunState, STATE_FILE, StepMetrics,
    TrainSettings, Trainer, evaluate, fit, predict,
};
use wgrad::{Error, Gpu, Tensor};

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
        assert_eq!((whole.counted, parts.counted), (20, 20));
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
                assert_eq!((got.counted, got.accuracy), (13, f64::from(correct) / 13.0), "{loss:?}");
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
