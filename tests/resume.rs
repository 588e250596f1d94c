//! Runs that go on where they were interrupted, to the same bits, also after being killed at any moment.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::{each_family, gpu, this_program};
use crate::data::single;
use serde_json::{Value, json};
use wgrad::checkpoint::{self, HostTensor};
use wgrad::data::{DataSet, ImageSource, Loader, LoaderOptions, Split, digits};
use wgrad::ltd::{RandomLtd, Schedule, TokenDrop};
use wgrad::models::vit::{OpenOptions, Vit, VitConfig, VitFile, open};
use wgrad::nn::{Classifier, Precision};
use wgrad::ops::CrossEntropy;
use wgrad::optim::{AdamW, Ema, LossScale, LrSchedule, LrShape, Rule, ShapedRate};
use wgrad::train::{
    Classify, EpochMetrics, FitData, FitOptions, Observer, Outcome, RunFolder, RunState, STATE_FILE, StepMetrics,
    TrainSettings, fit,
};
use wgrad::{Error, Gpu};

/// T of the model: 16 patches and the class token.
const TOKENS: usize = 17;
/// Steps of an epoch.
pub const EPOCH: u64 = 6;

/// A small model with everything that is random in training.
pub fn config() -> VitConfig {
    VitConfig {
        img_size: (16, 16),
        patch_size: 4,
        num_classes: 10,
        drop_rate: 0.1,
        proj_drop_rate: 0.1,
        drop_path_rate: 0.2,
        ..VitConfig::custom(32, 3, 2)
    }
}

/// With everything that has a state: moments, an average whose decay rises, a loss scale that moves where there is half
/// precision, a rate and a kept length that change.
pub fn settings(gpu: &Gpu) -> TrainSettings {
    let rate =
        LrSchedule::new(ShapedRate { base: 3e-3, min: 0.0, warmup: 3, total: 60, shape: LrShape::Cosine }).unwrap();
    let ltd = RandomLtd::new(3, Schedule::linear(5, TOKENS, 12, 1).unwrap()).unwrap();
    TrainSettings {
        max_norm: Some(1.0),
        drop: TokenDrop::RandomLtd(ltd.with_seed(3)),
        ema: Some(Ema { decay: 0.9, warmup: true }),
        seed: 7,
        accumulate: 2,
        precision: if gpu.has_f16() { Precision::F16 } else { Precision::F32 },
        // It overflows at first, and grows after every four good steps.
        loss_scale: LossScale { initial: 1e9, interval: 4, ..LossScale::default() },
        layer_decay: 0.8,
        ..TrainSettings::new(Rule::AdamW(AdamW::default()), rate)
    }
}

pub fn task<M: Classifier>(model: M) -> Classify<M> {
    Classify::with_loss(model, CrossEntropy { label_smoothing: 0.1, ..CrossEntropy::default() })
}

/// Checkpoints as a model of these sizes writes them.
fn run_folder(path: &Path, config: VitConfig) -> RunFolder<'static> {
    let class_names = digits().unwrap().class_names;
    RunFolder::new(path, move |path, weights| {
        VitFile { config: &config, class_names: &class_names, crop_fraction: None }.write(path, weights)
    })
}

/// 48 digits to learn from in batches of 8, 20 to be measured on.
pub struct Digits {
    pub train: Loader<ImageSource>,
    validation: Loader<ImageSource>,
}

impl Digits {
    pub fn new() -> Self {
        Self::with_seed(1)
    }

    fn with_seed(seed: u64) -> Self {
        Self::with(seed, |_| 0, &digits().unwrap().class_names)
    }

    /// Each training sample is the first digit of its class from a place on that `from` says, or from its own.
    fn with(seed: u64, from: impl Fn(u32) -> u32, names: &[String]) -> Self {
        let data: DataSet = digits().unwrap();
        let labels = data.train.labels();
        let pick = |sample: u32| {
            let same = |other: &u32| labels[*other as usize] == labels[sample as usize];
            (from(sample).max(sample)..labels.len() as u32).find(same).unwrap()
        };
        let few = |split: &Split, n: u32| split.subset(&(0..n).collect::<Vec<_>>()).unwrap();
        let train = data.train.subset(&(0..48).map(pick).collect::<Vec<_>>()).unwrap().with_class_names(names);
        let train = single(&train, data.train_transform(16), LoaderOptions::training(8, seed));
        let validation = few(&data.validation, 20);
        let validation = single(&validation, data.eval_transform(16), LoaderOptions::evaluation(20));
        Digits { train, validation }
    }

    pub fn data(&self, steps: u64, folder: &Path) -> FitData<'_, ImageSource> {
        let Digits { train, validation } = self;
        FitData { train, validation, steps, folder: Some(run_folder(folder, config())) }
    }
}

/// Calls a function for every step, and breaks after some.
struct Watch<F> {
    seen: F,
    steps: u64,
    break_after: Option<u64>,
    epochs: Vec<EpochMetrics>,
}

impl<F: FnMut()> Watch<F> {
    fn new(seen: F, break_after: Option<u64>) -> Self {
        Watch { seen, steps: 0, break_after, epochs: Vec::new() }
    }
}

impl<F: FnMut()> Observer for Watch<F> {
    fn step(&mut self, _: &StepMetrics) -> ControlFlow<()> {
        (self.seen)();
        self.steps += 1;
        if self.break_after == Some(self.steps) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn epoch(&mut self, metrics: &EpochMetrics) -> ControlFlow<()> {
        self.epochs.push(*metrics);
        ControlFlow::Continue(())
    }
}

pub fn saving() -> FitOptions {
    FitOptions { save_state: true, ..FitOptions::default() }
}

/// A run that begins anew, or goes on; the weights that it begins with are of no matter then.
fn run(gpu: &Gpu, steps: u64, folder: &Path, options: FitOptions, observer: &mut dyn Observer) -> Outcome {
    let digits = Digits::new();
    let seed = if options.resume.is_some() { 99 } else { 5 };
    let model = Vit::new(gpu, config(), seed).unwrap();
    fit(task(&model), &digits.data(steps, folder), settings(gpu), options, observer).unwrap()
}

pub fn bytes(folder: &Path, name: &str) -> Vec<u8> {
    std::fs::read(folder.join(name)).unwrap()
}

fn state(folder: &Path) -> PathBuf {
    folder.join(STATE_FILE)
}

/// Interrupted in the middle of an epoch, at its end, and by saves on the way: the same files to the last byte, the run's
/// whole state among them, and the same account of it.
#[test]
fn resumed_runs_are_the_same_run() {
    const STEPS: u64 = 2 * EPOCH + 3;
    for gpu in each_family() {
        let whole = tempfile::tempdir().unwrap();
        let mut plain = Watch::new(|| {}, None);
        let expected = run(&gpu, STEPS, whole.path(), saving(), &mut plain);
        // The first of three interruptions and the last lie within an epoch.
        let parts = tempfile::tempdir().unwrap();
        let mut epochs = Vec::new();
        for break_after in [Some(2), Some(EPOCH - 3), Some(4), None] {
            let resume = state(parts.path()).exists().then(|| RunState::read(state(parts.path())).unwrap());
            let before = resume.as_ref().map_or(0, RunState::steps);
            let mut watch = Watch::new(|| {}, break_after);
            let options = FitOptions { resume, ..saving() };
            let got = run(&gpu, STEPS, parts.path(), options, &mut watch);
            assert_eq!(watch.steps, got.steps - before);
            epochs.extend(watch.epochs.iter().filter(|e| e.steps % EPOCH == 0 || e.steps == STEPS).copied());
            if break_after.is_none() {
                assert_eq!((got.steps, got.samples, got.stopped), (STEPS, STEPS * 8, false));
                assert_eq!((got.best, got.layer_tokens), (expected.best, expected.layer_tokens));
            } else {
                assert!(got.stopped && RunState::read(state(parts.path())).unwrap().steps() == got.steps);
            }
        }
        assert_eq!(epochs, plain.epochs);
        for name in [STATE_FILE, "last.safetensors", "best.safetensors"] {
            assert!(bytes(whole.path(), name) == bytes(parts.path(), name), "{name} ({:?})", gpu.family());
        }
        // Saved at every step: that changes nothing either.
        let often = tempfile::tempdir().unwrap();
        let options = FitOptions { save_every: Some(1), ..FitOptions::default() };
        run(&gpu, STEPS, often.path(), options, &mut Watch::new(|| {}, None));
        assert!(bytes(whole.path(), STATE_FILE) == bytes(often.path(), STATE_FILE));
        // A run that is done stays so.
        let resume = Some(RunState::read(state(whole.path())).unwrap());
        let mut watch = Watch::new(|| {}, None);
        let again = run(&gpu, STEPS, whole.path(), FitOptions { resume, ..saving() }, &mut watch);
        assert_eq!((again.steps, again.best, watch.steps), (STEPS, expected.best, 0));
    }
}

/// The loss scale has moved in the runs above, down and up, or they would not show that it is saved.
#[test]
fn the_loss_scale_moves() {
    let gpu = gpu();
    if !gpu.has_f16() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let scale = |steps| {
        run(&gpu, steps, folder.path(), saving(), &mut Watch::new(|| {}, None));
        let header = header(&checkpoint::read(state(folder.path())).unwrap());
        f32::from_bits(header["counts"]["optimizer"]["loss_scale"].as_u64().unwrap() as u32)
    };
    let (first, last) = (scale(8), scale(15));
    assert!(first < 1e9 && first != last, "{first} {last}");
}

/// Many short epochs of a model that takes longer to save than to train: files are not written after each, the last state is,
/// and the best weights are those of their epoch all the same.
#[test]
fn saving_takes_a_share_of_the_time() {
    const STEPS: u64 = 16;
    let gpu = gpu();
    let folder = tempfile::tempdir().unwrap();
    let data: DataSet = digits().unwrap();
    let few = |split: &Split, n: u32| split.subset(&(0..n).collect::<Vec<_>>()).unwrap();
    let train = single(&few(&data.train, 4), data.train_transform(16), LoaderOptions::training(4, 1));
    let validation = single(&few(&data.validation, 8), data.eval_transform(16), LoaderOptions::evaluation(8));
    let config = VitConfig { img_size: (16, 16), patch_size: 8, num_classes: 10, ..VitConfig::custom(320, 6, 5) };
    let model = Vit::new(&gpu, config.clone(), 5).unwrap();
    let path = state(folder.path());
    let mut saves = std::collections::BTreeSet::new();
    let mut watch = Watch::new(|| saves.extend(std::fs::metadata(&path).and_then(|file| file.modified()).ok()), None);
    let data = FitData {
        train: &train,
        validation: &validation,
        steps: STEPS,
        folder: Some(run_folder(folder.path(), config.clone())),
    };
    let rate = LrSchedule::constant(1e-3).unwrap();
    let settings = TrainSettings::new(Rule::AdamW(AdamW::default()), rate);
    let outcome = fit(Classify::new(&model), &data, settings, saving(), &mut watch).unwrap();
    let epochs = std::mem::take(&mut watch.epochs);
    assert_eq!((outcome.steps, epochs.len() as u64), (STEPS, STEPS));
    assert!(!saves.is_empty() && saves.len() as u64 <= STEPS / 2, "{} saves, {:?}", saves.len(), outcome.timing);
    assert_eq!(RunState::read(&path).unwrap().steps(), STEPS);
    let measured = |name: &str| {
        let model = Vit::new(&gpu, config.clone(), 9).unwrap();
        let file = checkpoint::read(folder.path().join(name)).unwrap();
        checkpoint::load_parameters(model.parameters(), &file, &checkpoint::MatchOptions::default()).unwrap();
        wgrad::train::evaluate(&Classify::new(&model), validation.epoch(0).unwrap()).unwrap()
    };
    let (best_epoch, best) = outcome.best.unwrap();
    assert_eq!((measured("best.safetensors"), best), (best, epochs[best_epoch as usize].validation));
    assert_eq!(measured("last.safetensors"), epochs.last().unwrap().validation);
}

/// A run out of patience remembers how long it has waited.
#[test]
fn patience_survives() {
    let gpu = gpu();
    let folder = tempfile::tempdir().unwrap();
    let digits = Digits::new();
    let still = || TrainSettings { rate: LrSchedule::constant(0.0).unwrap(), ..settings(&gpu) };
    let part = |resume, break_after| {
        let model = Vit::new(&gpu, config(), 5).unwrap();
        let options = FitOptions { patience: Some(3), resume, ..saving() };
        let mut watch = Watch::new(|| {}, break_after);
        fit(task(&model), &digits.data(100, folder.path()), still(), options, &mut watch).unwrap()
    };
    assert!(part(None, Some(2 * EPOCH + 1)).stopped);
    let outcome = part(Some(RunState::read(state(folder.path())).unwrap()), None);
    assert_eq!((outcome.steps, outcome.out_of_patience), (4 * EPOCH, true));
    assert!(!RunState::read(state(folder.path())).unwrap().is_within_epoch());
}

fn header(file: &checkpoint::Checkpoint) -> Value {
    serde_json::from_str(&file.metadata["run_state"]).unwrap()
}

/// What `fit` says about going on in another run.
fn refused(gpu: &Gpu, state: RunState, config: VitConfig, settings: TrainSettings, digits: &Digits) -> String {
    let model = Vit::new(gpu, config, 5).unwrap();
    let before: Vec<Vec<f32>> = model.parameters().iter().map(|p| p.value().to_vec().unwrap()).collect();
    let folder = tempfile::tempdir().unwrap();
    let options = FitOptions { resume: Some(state), ..saving() };
    let result = fit(task(&model), &digits.data(8, folder.path()), settings, options, &mut Watch::new(|| {}, None));
    let after: Vec<Vec<f32>> = model.parameters().iter().map(|p| p.value().to_vec().unwrap()).collect();
    assert_eq!(before, after, "nothing is changed");
    match result {
        Err(error @ Error::File { .. }) => error.to_string(),
        other => panic!("expected a refused state, got {other:?}"),
    }
}

#[test]
fn states_of_other_runs_are_refused() {
    let gpu = gpu();
    let folder = tempfile::tempdir().unwrap();
    let path = state(folder.path());
    run(&gpu, 8, folder.path(), saving(), &mut Watch::new(|| {}, None));
    let read = || RunState::read(&path).unwrap();
    assert_eq!((read().steps(), VitConfig::from_identity(read().model()).unwrap()), (8, config()));
    assert!(read().best().is_some() && read().is_within_epoch());
    let (digits, own) = (Digits::new(), settings(&gpu));
    let said = refused(&gpu, read(), config(), TrainSettings { seed: 8, ..own.clone() }, &digits);
    assert!(said.contains("other settings: \"seed: 7\" there, \"seed: 8\" here"), "{said}");
    let rate = LrSchedule::piecewise(&[(0, 3e-3), (60, 0.0)]).unwrap();
    let said = refused(&gpu, read(), config(), TrainSettings { rate, ..own.clone() }, &digits);
    assert!(said.contains("other settings: \"rate: {") && said.contains("Piecewise"), "{said}");
    let said = refused(&gpu, read(), config(), TrainSettings { ema: None, ..own.clone() }, &digits);
    assert!(said.contains("other settings: \"ema: {"), "{said}");
    let said = refused(
        &gpu,
        read(),
        VitConfig { depth: 4, ..config() },
        TrainSettings { drop: TokenDrop::None, ..own.clone() },
        &digits,
    );
    assert!(said.contains("another model: \"depth: 3\" there, \"depth: 4\" here"), "{said}");
    let said = refused(&gpu, read(), config(), own.clone(), &Digits::with_seed(2));
    assert!(said.contains("other training data: \"seed: 1\" there, \"seed: 2\" here"), "{said}");

    let mut names = wgrad::data::digits().unwrap().class_names;
    names[4] = "vier".to_owned();
    let said = refused(&gpu, read(), config(), own.clone(), &Digits::with(1, |_| 0, &names));
    assert!(said.contains("other classes: \"4\" there, \"vier\" here"), "{said}");
    let first = wgrad::data::digits().unwrap().train.labels()[0].to_string();
    names[4] = "4".to_owned();
    let other = Digits::with(1, |sample| if sample == 0 { 48 } else { 0 }, &names);
    let said = refused(&gpu, read(), config(), own.clone(), &other);
    assert!(said.contains(&format!("other training data: class \"{first}\" has other pictures here")), "{said}");

    // What is not a state, or is one no longer.
    for name in ["last.safetensors", "best.safetensors"] {
        let error = RunState::read(folder.path().join(name)).unwrap_err();
        assert!(error.to_string().contains("is not the state of a run"), "{error}");
    }
    let whole = bytes(folder.path(), STATE_FILE);
    let cut = folder.path().join("cut");
    for length in [0, 7, 100, 5_000, whole.len() - 1] {
        std::fs::write(&cut, &whole[..length]).unwrap();
        assert!(matches!(RunState::read(&cut), Err(Error::File { .. })), "{length} bytes");
    }
    assert!(matches!(RunState::read(folder.path().join("none")), Err(Error::Io { .. })));
}

/// A run is tied to the pictures that it began with, not to what became of them before its first save.
#[test]
fn pictures_exchanged_on_the_way_are_found_out() {
    let gpu = gpu();
    let folder = tempfile::tempdir().unwrap();
    let file = |i: u8| folder.path().join(format!("{i}.ppm"));
    let write =
        |path: &Path, shade: u8| std::fs::write(path, [&b"P6 16 16 255\n"[..], &[shade; 768]].concat()).unwrap();
    (0..8).for_each(|i| write(&file(i), i));
    let DataSet { class_names, .. } = digits().unwrap();
    let split = Split::from_files((0..8).map(file).collect(), (0..8).map(|i| i % 2).collect()).unwrap();
    let split = split.with_class_names(&class_names);
    let part = |resume, steps, seen: &mut dyn FnMut()| {
        let loader = |options| single(&split, digits().unwrap().eval_transform(16), options);
        let train = loader(LoaderOptions::training(4, 1));
        let validation = loader(LoaderOptions::evaluation(8));
        let folder = Some(run_folder(folder.path(), config()));
        let data = FitData { train: &train, validation: &validation, steps, folder };
        let model = Vit::new(&gpu, config(), 5).unwrap();
        fit(task(&model), &data, settings(&gpu), FitOptions { resume, ..saving() }, &mut Watch::new(seen, None))
    };
    let read = || Some(RunState::read(state(folder.path())).unwrap());
    // Replaced whole, so that the loader, which reads ahead, never meets half a picture.
    let mut exchange = || {
        let new = folder.path().join("new");
        write(&new, 99);
        std::fs::rename(new, file(0)).unwrap();
    };
    part(None, 2, &mut exchange).unwrap();
    let error = part(read(), 4, &mut || {}).unwrap_err().to_string();
    assert!(error.contains("other training data: class \"0\" has other pictures here"), "{error}");
    write(&file(0), 0);
    assert_eq!(part(read(), 4, &mut || {}).unwrap().steps, 4);
}

/// One thing at a time wrong in a file that is sound otherwise.
#[test]
fn bad_states_are_refused() {
    let gpu = gpu();
    let folder = tempfile::tempdir().unwrap();
    run(&gpu, 8, folder.path(), saving(), &mut Watch::new(|| {}, None));
    let sound = checkpoint::read(state(folder.path())).unwrap();
    let path = folder.path().join("changed.safetensors");
    type Change<'a> = (&'a str, &'a dyn Fn(&mut checkpoint::Checkpoint, &mut Value));
    let changes: &[Change<'_>] = &[
        ("of version 2, as another release", &|_, h| {
            // No field of another version is looked at.
            *h = json!({ "version": 2, "optimizer": { "steps": 8 } });
        }),
        ("of version 4, as another release", &|_, h| h["version"] = json!(4)),
        ("updates must be", &|_, h| h["counts"]["optimizer"]["updates"] = json!([8])),
        ("updates must be at most the", &|_, h| h["counts"]["optimizer"]["updates"][3] = json!(9)),
        ("updates must be at most 2147483648", &|_, h| h["counts"]["optimizer"]["words"][4] = json!(u32::MAX)),
        ("counts or sums", &|_, h| h["progress"]["weight_bits"] = json!(f64::INFINITY.to_bits())),
        ("counts that no run reaches", &|_, h| h["counts"]["layer_tokens"] = json!([u64::MAX, 0])),
        ("counts that no run reaches", &|_, h| h["counts"]["layer_tokens"] = json!([0, u64::MAX])),
        ("counts or sums", &|_, h| h["progress"]["best"]["epoch"] = json!(u64::MAX)),
        ("counts or sums", &|_, h| h["progress"]["best"]["samples"] = json!(u64::MAX)),
        ("bad state of a run", &|_, h| h["counts"]["optimizer"]["words"] = json!("x")),
        ("bad state of a run", &|_, h| h["progress"]["batch"] = json!(-1)),
        ("words must be 9, got 3", &|_, h| h["counts"]["optimizer"]["words"] = json!([1, 2, 3])),
        ("loss scale must be", &|_, h| h["counts"]["optimizer"]["loss_scale"] = json!(f32::NAN.to_bits())),
        ("loss scale must be", &|_, h| h["counts"]["optimizer"]["loss_scale"] = json!(0)),
        ("counts or sums", &|_, h| h["progress"]["samples"] = json!(u64::MAX)),
        ("counts or sums", &|_, h| h["progress"]["loss_bits"] = json!(f64::NAN.to_bits())),
        ("is at step 9, the run has only 8", &|_, h| h["counts"]["step"] = json!(9)),
        ("position.batch must be below 6", &|_, h| h["progress"]["batch"] = json!(6)),
        ("weights.head.bias: is missing", &|f, _| drop(f.tensors.remove("weights.head.bias"))),
        ("moment2.cls_token: is missing", &|f, _| drop(f.tensors.remove("moment2.cls_token"))),
        ("average.norm.bias: is missing", &|f, _| drop(f.tensors.remove("average.norm.bias"))),
        ("those of the model, of this optimiser and of the task, got more", &|f, _| {
            f.tensors.insert("more".to_owned(), HostTensor { shape: vec![1], data: vec![0.0] });
        }),
        ("weights.head.bias: has 3 values, not 10", &|f, _| {
            f.tensors.insert("weights.head.bias".to_owned(), HostTensor { shape: vec![3], data: vec![0.0; 3] });
        }),
        ("moment1.head.bias: 3 values do not fit", &|f, _| {
            f.tensors.insert("moment1.head.bias".to_owned(), HostTensor { shape: vec![3], data: vec![0.0; 3] });
        }),
        ("not finite", &|f, _| f.tensors.get_mut("average.head.bias").unwrap().data[2] = f32::NAN),
    ];
    for (said, change) in changes {
        let (mut file, mut header) = (sound.clone(), header(&sound));
        change(&mut file, &mut header);
        file.metadata.insert("run_state".to_owned(), header.to_string());
        checkpoint::write(&path, &file.tensors, &file.metadata).unwrap();
        let result = RunState::read(&path).and_then(|resume| {
            let digits = Digits::new();
            let model = Vit::new(&gpu, config(), 5)?;
            let options = FitOptions { resume: Some(resume), ..saving() };
            fit(task(&model), &digits.data(8, folder.path()), settings(&gpu), options, &mut Watch::new(|| {}, None))
        });
        let error = result.err().map_or_else(String::new, |error| error.to_string());
        assert!(error.contains(said), "expected {said:?}: {error:?}");
    }
}

/// A run whose weights have grown beyond measure: a state that holds them is read again, whatever the model says with them;
/// one that cannot hold them does not take the place of a state that can be read.
#[test]
fn what_is_written_can_be_read() {
    let gpu = gpu();
    let digits = Digits::new();
    let folder = tempfile::tempdir().unwrap();
    let run = |weight_decay| {
        let model = Vit::new(&gpu, config(), 5).unwrap();
        let rule = Rule::AdamW(AdamW { weight_decay, ..AdamW::default() });
        let rate = LrSchedule::constant(1e37).unwrap();
        let settings = TrainSettings { rule, rate, ema: None, precision: Precision::F32, ..settings(&gpu) };
        fit(task(&model), &digits.data(1, folder.path()), settings, saving(), &mut Watch::new(|| {}, None))
    };
    run(0.0).unwrap();
    let best = RunState::read(state(folder.path())).unwrap().best().unwrap();
    assert!(!best.1.loss.is_finite(), "{best:?}");

    let before = bytes(folder.path(), STATE_FILE);
    let error = run(100.0).unwrap_err().to_string();
    assert!(error.contains("is left as it was, since the new state has values in weights."), "{error}");
    assert!(bytes(folder.path(), STATE_FILE) == before);
}

#[test]
fn saving_needs_a_folder() {
    let gpu = gpu();
    let digits = Digits::new();
    let model = Vit::new(&gpu, config(), 5).unwrap();
    let data = FitData { folder: None, ..digits.data(3, Path::new("")) };
    let error = fit(task(&model), &data, settings(&gpu), saving(), &mut Watch::new(|| {}, None)).unwrap_err();
    assert!(matches!(error, Error::Argument { name: "folder", .. }), "{error}");
    let options = FitOptions { save_every: Some(0), ..FitOptions::default() };
    let error = fit(task(&model), &data, settings(&gpu), options, &mut Watch::new(|| {}, None)).unwrap_err();
    assert!(matches!(error, Error::Argument { name: "save_every", .. }), "{error}");
}

// ---- killed ----

/// Names the folder in which this program, started again, is to train until it is killed.
const CHILD: &str = "WGRAD_TEST_TRAIN_UNTIL_KILLED";
/// What the child prints after its first step.
const READY: &str = "a step is done";
/// Steps of the run that is killed.
const LONG: u64 = 5 * EPOCH;
const KILLS: u64 = 20;

fn every_step(folder: &Path) -> FitOptions {
    let resume = state(folder).exists().then(|| RunState::read(state(folder)).unwrap());
    FitOptions { save_every: Some(1), resume, ..FitOptions::default() }
}

/// Does nothing unless started by the test below.
#[test]
fn trains_until_killed() {
    let Some(folder) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let mut watch = Watch::new(|| println!("\n{READY}"), None);
    run(&gpu(), LONG, &folder, every_step(&folder), &mut watch);
}

fn start(folder: &Path) -> Child {
    let words = this_program();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command.args(["resume::trains_until_killed", "--exact", "--nocapture"]).env(CHILD, folder);
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// Twenty kills, most while the child trains and saves after every step. What is on disk is then each time the state, to
/// the byte, that a run without interruption had at the same step; the next child goes on from it.
#[test]
fn killed_at_any_moment() {
    let gpu = gpu();
    let whole = tempfile::tempdir().unwrap();
    let path = state(whole.path());
    let mut states = HashMap::new();
    let mut note = || {
        if path.exists() {
            states.insert(RunState::read(&path).unwrap().steps(), std::fs::read(&path).unwrap());
        }
    };
    run(&gpu, LONG, whole.path(), every_step(whole.path()), &mut Watch::new(&mut note, None));
    note();
    assert_eq!(states.len() as u64, LONG);

    let mut folder = tempfile::tempdir().unwrap();
    let (mut kills, mut seen) = (0, Vec::new());
    while kills < KILLS {
        let mut child = start(folder.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        // Every fifth is not left the time to begin.
        let is_early = kills % 5 == 4;
        if !is_early {
            // From the second on, there is a state.
            (0..=kills % 3).for_each(|_| drop(lines.find(|line| line == READY)));
        }
        std::thread::sleep(Duration::from_micros((kills + 1) * 7_919 % 40_000));
        child.kill().unwrap();
        let has_finished = child.wait().unwrap().success();
        kills += 1;
        for name in ["last.safetensors", "best.safetensors"] {
            let file = folder.path().join(name);
            assert!(!file.exists() || open(&file, &OpenOptions::default()).is_ok());
        }
        if let Ok(bytes) = std::fs::read(state(folder.path())) {
            let steps = RunState::read(state(folder.path())).unwrap().steps();
            assert!(states[&steps] == bytes, "the state at step {steps}, after {kills} kills");
            seen.push(steps);
        }
        if has_finished || seen.last() == Some(&LONG) {
            folder = tempfile::tempdir().unwrap();
        }
    }
    assert!(seen.len() as u64 > KILLS / 2, "{seen:?}");
    run(&gpu, LONG, folder.path(), every_step(folder.path()), &mut Watch::new(|| {}, None));
    for name in [STATE_FILE, "last.safetensors", "best.safetensors"] {
        assert!(bytes(folder.path(), name) == bytes(whole.path(), name), "{name} after {kills} kills, seen {seen:?}");
    }
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 3, "nothing half-written is left");
}
