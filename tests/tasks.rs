//! Whole runs of tasks that have nothing to do with pictures: a line through points, which counts no right answers, and a
//! language model.

use std::ops::ControlFlow;
use std::path::Path;

use crate::common::{assert_close, each_family, gpu};
use wgrad::autograd::Parameters;
use wgrad::checkpoint::{self, MatchOptions, load_parameters};
use wgrad::data::{Batch, Loader, LoaderOptions, Position, Source, TokenBatch, Wanted};
use wgrad::ltd::TokenBypass;
use wgrad::models::gpt2::{Gpt2, Gpt2Config};
use wgrad::nn::{Init, Linear, Mode, Model, Span};
use wgrad::ops::{self, TokenIndices};
use wgrad::optim::{AdamW, Ema, LayerTokenRate, LrSchedule, LrShape, Rule, Sgd};
use wgrad::train::{
    CausalLm, Correct, EpochMetrics, Evaluation, FitData, FitOptions, Freeze, Observer, Outcome, Part, RunFolder,
    RunState, STATE_FILE, Scored, StepMetrics, Task, TrainSettings, Trainer, Workload, evaluate, fit, rehearse,
    write_weights,
};
use wgrad::{Error, Gpu, Result, Tensor};

/// y = w·x + b.
struct Line {
    parameters: Parameters,
    head: Linear,
}

impl Line {
    fn new(gpu: &Gpu) -> Result<Self> {
        let mut parameters = Parameters::new(gpu);
        let head = Linear::new(Init::new(&mut parameters, 1).at("head"), 1, 1, true)?;
        Ok(Line { parameters, head })
    }

    fn values(&self) -> Vec<f32> {
        self.parameters.iter().flat_map(|p| p.value().to_vec::<f32>().unwrap()).collect()
    }
}

impl Model for Line {
    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn identity(&self) -> String {
        r#"{"line": 1}"#.to_owned()
    }
}

impl Task for Line {
    type Batch = Points;

    fn model(&self) -> &dyn Model {
        self
    }

    fn identity(&self) -> String {
        r#""mse""#.to_owned()
    }

    fn loss(&self, part: &Part<'_, Points>, _: &[Span<TokenIndices>], _: &Mode) -> Result<Scored> {
        let range = part.samples.clone();
        let column = |values: &[f32]| Tensor::from_slice(self.parameters.gpu(), &[range.len(), 1], values);
        let (x, y) = (column(&part.batch.x[range.clone()])?, column(&part.batch.y[range.clone()])?);
        Ok(Scored::new(ops::mse_loss(&self.head.forward(&x)?, &y)?))
    }

    fn blank(&self, samples: usize) -> Result<Points> {
        Ok(Points { x: vec![0.0; samples], y: vec![0.0; samples], position: Position::default() })
    }
}

#[derive(Clone)]
struct Points {
    x: Vec<f32>,
    y: Vec<f32>,
    position: Position,
}

impl Batch for Points {
    fn samples(&self) -> usize {
        self.x.len()
    }

    fn position(&self) -> Position {
        self.position
    }
}

/// Points of y = 3·x − 1.
struct Row {
    count: usize,
}

impl Source for Row {
    type Batch = Points;

    fn len(&self) -> usize {
        self.count
    }

    fn identity(&self) -> String {
        format!(r#"{{"count": {}}}"#, self.count)
    }

    fn make(&self, wanted: &Wanted<'_>) -> Result<Option<Points>> {
        let x: Vec<f32> = wanted.samples.iter().map(|&i| i as f32 / self.count as f32 * 2.0 - 1.0).collect();
        let y = x.iter().map(|x| 3.0 * x - 1.0).collect();
        Ok(Some(Points { x, y, position: wanted.position }))
    }
}

#[derive(Default)]
struct Notes {
    steps: Vec<StepMetrics>,
    epochs: Vec<EpochMetrics>,
    break_after: Option<usize>,
}

impl Observer for Notes {
    fn step(&mut self, metrics: &StepMetrics) -> ControlFlow<()> {
        self.steps.push(*metrics);
        if self.break_after == Some(self.steps.len()) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn epoch(&mut self, metrics: &EpochMetrics) -> ControlFlow<()> {
        self.epochs.push(*metrics);
        ControlFlow::Continue(())
    }
}

fn settings(rate: f32) -> TrainSettings {
    let rule = Rule::Sgd(Sgd { momentum: 0.5, dampening: 0.0, nesterov: false, weight_decay: 0.0 });
    let ema = Some(Ema { decay: 0.5, warmup: false });
    TrainSettings { accumulate: 2, ema, ..TrainSettings::new(rule, LrSchedule::constant(rate).unwrap()) }
}

fn loaders() -> (Loader<Row>, Loader<Row>) {
    let train = Loader::new(Row { count: 32 }, LoaderOptions::training(8, 3)).unwrap();
    (train, Loader::new(Row { count: 10 }, LoaderOptions::evaluation(4)).unwrap())
}

fn run(line: &Line, rate: f32, folder: &Path, resume: Option<RunState>, notes: &mut Notes) -> Outcome {
    let (train, validation) = loaders();
    let folder = Some(RunFolder::new(folder, write_weights));
    let data = FitData { train: &train, validation: &validation, steps: 24, folder };
    let options = FitOptions { save_state: true, resume, ..FitOptions::default() };
    fit(line, &data, settings(rate), options, notes).unwrap()
}

#[test]
fn a_run_that_counts_no_right_answers_goes_by_its_loss() {
    for gpu in each_family() {
        let (folder, line, mut notes) = (tempfile::tempdir().unwrap(), Line::new(&gpu).unwrap(), Notes::default());
        let outcome = run(&line, 0.1, folder.path(), None, &mut notes);
        assert_close("w, b", &line.values(), &[3.0, -1.0], 0.02);
        let (epoch, best) = outcome.best.unwrap();
        assert_eq!((epoch, best.counted, best.accuracy), (5, 0, 0.0));
        let losses: Vec<f64> = notes.epochs.iter().map(|epoch| epoch.validation.loss).collect();
        assert!(losses.windows(2).all(|pair| pair[1] < pair[0]), "{losses:?}");
        assert!(notes.epochs.iter().all(|epoch| epoch.is_best && epoch.train_accuracy == 0.0));
        assert!(notes.steps.iter().all(|step| (step.counted, step.correct, step.kept, step.tokens) == (0, 0, 1, 1)));
        // What is measured and saved is the average.
        let saved = checkpoint::read(folder.path().join("best.safetensors")).unwrap();
        let again = Line::new(&gpu).unwrap();
        load_parameters(&again.parameters, &saved, &MatchOptions::default()).unwrap();
        assert_eq!(evaluate(&again, loaders().1.epoch(0).unwrap()).unwrap(), best);
        assert_ne!(again.values(), line.values());
    }
}

/// A rate at which the loss grows: the first epoch is the best, and its weights are what is kept.
#[test]
fn the_best_epoch_may_be_the_first() {
    let (gpu, folder, mut notes) = (gpu(), tempfile::tempdir().unwrap(), Notes::default());
    let outcome = run(&Line::new(&gpu).unwrap(), 1.6, folder.path(), None, &mut notes);
    assert_eq!(outcome.best.map(|(epoch, _)| epoch), Some(0));
    let best = checkpoint::read(folder.path().join("best.safetensors")).unwrap();
    let last = checkpoint::read(folder.path().join("last.safetensors")).unwrap();
    assert_ne!(best.tensors, last.tensors);
}

#[test]
fn any_task_goes_on_where_it_was_interrupted() {
    let gpu = gpu();
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut expected = Notes::default();
    run(&Line::new(&gpu).unwrap(), 0.1, whole.path(), None, &mut expected);
    let mut first = Notes { break_after: Some(6), ..Notes::default() };
    assert!(run(&Line::new(&gpu).unwrap(), 0.1, parts.path(), None, &mut first).stopped);
    let state = RunState::read(parts.path().join(STATE_FILE)).unwrap();
    assert_eq!((state.model(), state.steps()), (r#"{"line": 1}"#, first.steps.len() as u64));
    let mut rest = Notes::default();
    run(&Line::new(&gpu).unwrap(), 0.1, parts.path(), Some(state), &mut rest);
    assert_eq!([first.steps, rest.steps].concat(), expected.steps);
    let read = |folder: &Path| std::fs::read(folder.join(STATE_FILE)).unwrap();
    assert!(read(parts.path()) == read(whole.path()), "the same state to the last byte");
}

/// Sequences of eight that count up, each from its number.
struct Counting;

impl Source for Counting {
    type Batch = TokenBatch;

    fn len(&self) -> usize {
        24
    }

    fn identity(&self) -> String {
        "counting".to_owned()
    }

    fn make(&self, wanted: &Wanted<'_>) -> Result<Option<TokenBatch>> {
        let ids = wanted.samples.iter().flat_map(|&i| (i..i + 8).map(|id| id % 13)).collect();
        let batch = TokenBatch::new(8, ids)?;
        Ok(Some(TokenBatch { indices: wanted.samples.to_vec(), position: wanted.position, ..batch }))
    }
}

/// A small GPT-2 in whose middle the tokens with the largest losses of late are kept. What it has learnt of the losses is in the
/// run's state: interrupted and gone on, it ends with the same state to the last byte.
#[test]
fn a_language_model_goes_on_where_it_was_interrupted() {
    let gpu = gpu();
    let run = |folder: &Path, resume: Option<RunState>, notes: &mut Notes| {
        let config = Gpt2Config {
            vocab_size: 13,
            n_positions: 8,
            bos_token_id: None,
            eos_token_id: Vec::new(),
            ..Gpt2Config::custom(16, 3, 2)
        };
        let task = CausalLm::new(Gpt2::new(&gpu, config, 3).unwrap(), 8).unwrap().with_importance(0.9, &[0]).unwrap();
        let train = Loader::new(Counting, LoaderOptions::training(6, 3)).unwrap();
        let validation = Loader::new(Counting, LoaderOptions::evaluation(5)).unwrap();
        let folder = Some(RunFolder::new(folder, write_weights));
        let data = FitData { train: &train, validation: &validation, steps: 32, folder };
        let options = FitOptions { save_state: true, resume, ..FitOptions::default() };
        let drop = TokenBypass::new(1..2, 5, 1).unwrap().by_importance().into();
        let rule = Rule::AdamW(AdamW::default());
        let settings = TrainSettings { drop, ..TrainSettings::new(rule, LrSchedule::constant(1e-2).unwrap()) };
        fit(&task, &data, settings, options, notes).unwrap()
    };
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut expected = Notes::default();
    let outcome = run(whole.path(), None, &mut expected);
    let mut first = Notes { break_after: Some(13), ..Notes::default() };
    assert!(run(parts.path(), None, &mut first).stopped);
    let state = RunState::read(parts.path().join(STATE_FILE)).unwrap();
    assert!(state.steps() > 12 && state.is_within_epoch());
    let mut rest = Notes::default();
    run(parts.path(), Some(state), &mut rest);
    assert_eq!([first.steps, rest.steps].concat(), expected.steps);
    let read = |folder: &Path| std::fs::read(folder.join(STATE_FILE)).unwrap();
    assert!(read(parts.path()) == read(whole.path()), "the same state to the last byte");

    assert!(expected.steps.iter().all(|step| (step.kept, step.tokens, step.counted) == (5, 8, 42)));
    let (_, best) = outcome.best.unwrap();
    assert_eq!(best.counted, 24 * 7);
    assert!(best.loss.exp() < 6.0, "of 13 numbers, perplexity {}", best.loss.exp());
}

/// A line that nothing is known of.
struct Unscored<'a>(&'a Line);

impl Task for Unscored<'_> {
    type Batch = Points;

    fn model(&self) -> &dyn Model {
        self.0
    }

    fn identity(&self) -> String {
        Task::identity(self.0)
    }

    fn loss(&self, part: &Part<'_, Points>, spans: &[Span<TokenIndices>], mode: &Mode) -> Result<Scored> {
        self.0.loss(part, spans, mode)
    }

    fn score(&self, _: &Evaluation) -> f64 {
        f64::NAN
    }

    fn blank(&self, samples: usize) -> Result<Points> {
        self.0.blank(samples)
    }
}

/// A line whose results are made into something else.
struct Changed<'a>(&'a Line, fn(Scored, &Gpu) -> Result<Scored>);

impl Task for Changed<'_> {
    type Batch = Points;

    fn model(&self) -> &dyn Model {
        self.0
    }

    fn identity(&self) -> String {
        Task::identity(self.0)
    }

    fn loss(&self, part: &Part<'_, Points>, spans: &[Span<TokenIndices>], mode: &Mode) -> Result<Scored> {
        (self.1)(self.0.loss(part, spans, mode)?, self.0.parameters.gpu())
    }

    fn blank(&self, samples: usize) -> Result<Points> {
        self.0.blank(samples)
    }
}

/// A loss or a count of another type would be read as a number that nobody meant: 1.0 right answers as a billion.
#[test]
fn results_of_another_type_are_refused() {
    fn counted(scored: Scored, count: Tensor) -> Scored {
        Scored { correct: Some(Correct { count, of: 2 }), ..scored }
    }
    let line = Line::new(&gpu()).unwrap();
    let batch = || Points { x: vec![1.0, -1.0], y: vec![2.0, -4.0], position: Position::default() };
    let before = line.values();
    type Change = fn(Scored, &Gpu) -> Result<Scored>;
    let changes: [(&str, Change); 4] = [
        ("right answers must be u32[]: got f32[]", |s, gpu| Ok(counted(s, Tensor::from_slice(gpu, &[], &[1.0f32])?))),
        ("right answers must be u32[]: got u32[2]", |s, gpu| {
            Ok(counted(s, Tensor::from_slice(gpu, &[2], &[1u32; 2])?))
        }),
        ("loss must be f32[]: got u32[]", |_, gpu| Ok(Scored::new(Tensor::from_slice(gpu, &[], &[7u32])?))),
        ("loss must be f32[]: got f32[2]", |s, gpu| {
            Ok(Scored::new(ops::mul(&s.loss, &Tensor::from_slice(gpu, &[2], &[1.0f32; 2])?)?))
        }),
    ];
    for (said, change) in changes {
        let mut trainer = Trainer::new(Changed(&line, change), settings(0.1)).unwrap();
        let errors = [trainer.record(&batch()).err(), evaluate(&Changed(&line, change), [Ok(batch())]).err()];
        for error in errors.map(Option::unwrap) {
            assert!(matches!(error, Error::Shape { .. }) && error.to_string().contains(said), "{error}");
        }
        assert_eq!((trainer.steps(), line.values()), (0, before.clone()), "nothing is trained");
    }
    // As it should be.
    let sound = Changed(&line, |s, gpu| Ok(counted(s, Tensor::from_slice(gpu, &[], &[1u32])?)));
    assert_eq!(evaluate(&sound, [Ok(batch())]).unwrap().accuracy, 0.5);
    let mut trainer = Trainer::new(sound, settings(0.1)).unwrap();
    trainer.step(&batch()).unwrap();
    // Of two parts, since the batch is cut.
    assert_eq!(trainer.finish().unwrap().unwrap().correct, 2);
}

/// A loop of one's own changes the schedule on the way: steps count on, snapshots hold none, and what cannot be is
/// refused.
#[test]
fn a_rate_that_is_set_on_the_way() {
    let rates = |trainer: &mut Trainer<Line>, steps: u64| {
        let batch = Points { x: vec![1.0, -1.0], y: vec![2.0, -4.0], position: Position::default() };
        (0..steps)
            .map(|_| {
                trainer.step(&batch).unwrap();
                trainer.finish().unwrap().unwrap().rate
            })
            .collect::<Vec<f32>>()
    };
    let mut trainer = Trainer::new(Line::new(&gpu()).unwrap(), settings(0.1)).unwrap();
    assert_eq!(rates(&mut trainer, 2), [0.1, 0.1]);
    let snapshot = trainer.snapshot().unwrap();
    let falling = LrSchedule::piecewise(&[(0, 0.5), (4, 0.25), (5, 0.125)]).unwrap();
    trainer.set_rate(falling.clone()).unwrap();
    assert_eq!((rates(&mut trainer, 4), &trainer.settings().rate), (vec![0.375, 0.3125, 0.25, 0.125], &falling));
    let end = trainer.snapshot().unwrap();
    trainer.restore(&snapshot).unwrap();
    assert_eq!(rates(&mut trainer, 4), [0.375, 0.3125, 0.25, 0.125]);
    assert!(trainer.snapshot().unwrap() == end);

    let shape = LrShape::Linear;
    let by_tokens = LrSchedule::layer_token(LayerTokenRate { max: 0.1, min: 0.0, shape, total: 100.0, warmup: 0.0 });
    // A line has no layer tokens.
    let error = trainer.set_rate(by_tokens.unwrap()).unwrap_err();
    assert!(matches!(error, Error::Argument { name: "rate", .. }), "{error}");
    assert_eq!(trainer.settings().rate, falling);
}

/// The latest of them is the best, as of equals, and patience ends the run.
#[test]
fn results_that_are_no_numbers_are_no_progress() {
    let (line, (train, validation)) = (Line::new(&gpu()).unwrap(), loaders());
    let data = FitData { train: &train, validation: &validation, steps: 400, folder: None };
    let (options, mut notes) = (FitOptions { patience: Some(3), ..FitOptions::default() }, Notes::default());
    let outcome = fit(Unscored(&line), &data, settings(0.1), options, &mut notes).unwrap();
    assert_eq!((outcome.steps, outcome.out_of_patience, outcome.best.map(|(epoch, _)| epoch)), (12, true, Some(2)));
    assert!(notes.epochs.len() == 3 && notes.epochs.iter().all(|epoch| epoch.is_best));
}

/// Before anything is trained, a run finds out that it could not write what it trains.
#[test]
fn a_folder_that_is_not_there_costs_no_step() {
    let (place, line) = (tempfile::tempdir().unwrap(), Line::new(&gpu()).unwrap());
    let ((train, validation), before) = (loaders(), line.values());
    std::fs::write(place.path().join("file"), "").unwrap();
    for (name, save_state) in [("nowhere", false), ("nowhere", true), ("file", false)] {
        let folder = Some(RunFolder::new(place.path().join(name), write_weights));
        let data = FitData { train: &train, validation: &validation, steps: 24, folder };
        let (options, mut notes) = (FitOptions { save_state, ..FitOptions::default() }, Notes::default());
        let error = fit(&line, &data, settings(0.1), options, &mut notes).unwrap_err();
        assert!(matches!(error, Error::Io { .. }) && error.to_string().contains(name), "{error}");
        assert_eq!((notes.steps.len(), line.values()), (0, before.clone()), "{name}");
    }
    // What is tried leaves nothing behind.
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1);
}

/// Estimates, freezing and evaluation ask no more of a task than it says.
#[test]
fn any_task_is_rehearsed_and_frozen() {
    let gpu = gpu();
    let settings = TrainSettings { freeze: Freeze::AllButHead, ..settings(0.1) };
    let work = Workload { make: &Line::new, settings: &settings, batch: 8, steps: 3 };
    let rehearsal = rehearse(&gpu, &work).unwrap();
    assert!(rehearsal.memory.peak > 0 && rehearsal.steps.len() == 1 && rehearsal.kernels().count() > 3);
    // All that it has is its head, which nothing freezes.
    let mut trainer = Trainer::new(Line::new(&gpu).unwrap(), settings).unwrap();
    let before = trainer.task().values();
    let batch = Points { x: vec![1.0, -1.0], y: vec![2.0, -4.0], position: Position { epoch: 7, batch: 0 } };
    trainer.step(&batch).unwrap();
    assert_eq!(trainer.finish().unwrap().unwrap().epoch, 7);
    assert_ne!(trainer.into_task().values(), before);
    let deep = TrainSettings { freeze: Freeze::Blocks(1), ..self::settings(0.1) };
    assert!(Trainer::new(Line::new(&gpu).unwrap(), deep).is_err(), "it has no blocks");
}

#[test]
fn scores() {
    let score = |loss, accuracy, counted| Evaluation { loss, accuracy, counted }.score();
    assert!(score(2.0, 0.9, 10) > score(0.1, 0.8, 10), "right answers decide where they are counted");
    assert!(score(0.1, 0.0, 0) > score(2.0, 0.0, 0), "else the loss");
}
