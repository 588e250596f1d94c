//! What training programs share, driven by one that is of no kind that there is: its model answers nothing that could be right,
//! it counts tokens, and its page shows text.

#[path = "../examples/common/training/mod.rs"]
#[expect(dead_code, reason = "the options, and what needs a device, are the programs' to test")]
pub mod training;

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Result;
use maud::{Markup, html};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wgrad::checkpoint::{Checkpoint, TOKENIZER_FILES};
use wgrad::ltd::LayerTokens;
use wgrad::models::FolderOptions;
use wgrad::models::gpt2::{self, Gpt2, Gpt2Config};
use wgrad::models::vit::{AdapterNames, ExportOptions, Vit, VitConfig, export_hf, export_timm, save_adapter};
use wgrad::nn::LoraConfig;
use wgrad::train::{EpochMetrics, Evaluation, Outcome, StepMetrics, Timing};

use crate::common::gpu;
use training::columns::{Column, columns, decimals, whole};
use training::comparison::{Arm, Comparison, FULL_LENGTH, Way};
use training::history::History;
use training::report::{Course, Report, Run, Which};
use training::session::{Program, Session};
use training::table::Line;
use training::words::{Score, Words};
use training::{folder, resume, start};

const STEPS: u64 = 6;
const SAMPLE: &str = "Of Mans First <Disobedience>";

#[derive(Clone, Copy, PartialEq)]
enum Drop {
    None,
    Half,
}

impl Way for Drop {
    const NONE: Self = Drop::None;

    fn name(self) -> &'static str {
        if self == Drop::None { FULL_LENGTH } else { "half" }
    }
}

#[derive(Serialize, Deserialize)]
struct Results {
    #[serde(flatten)]
    which: Which,
    test_perplexity: f64,
    #[serde(flatten)]
    course: Course,
    sample: String,
}

impl Run for Results {
    fn which(&self) -> &Which {
        &self.which
    }

    fn course(&self) -> &Course {
        &self.course
    }

    fn course_mut(&mut self) -> &mut Course {
        &mut self.course
    }

    fn score(&self) -> f64 {
        self.test_perplexity
    }

    fn speed(&self) -> f64 {
        self.course.speed(8.0 * 32.0)
    }
}

/// Trains nothing, but tells of it.
struct Pretender<'a> {
    session: &'a Session<'a, Drop>,
    /// Runs that are left before it is interrupted.
    left: usize,
    /// Why its runs are not exported.
    export_error: Option<&'static str>,
}

impl Program for Pretender<'_> {
    type Way = Drop;
    type Run = Results;

    const WORDS: Words = Words {
        score: Score {
            name: "perplexity",
            title: "Perplexity",
            of: |measured| measured.loss.map(f64::exp),
            times: 1.0,
            unit: "",
        },
        units: "tokens",
        count: |step| (step.samples * step.tokens) as u64,
    };

    fn trial(&self, way: Drop) -> Result<f64> {
        Ok(if way == Drop::None { 2.0 } else { 1.0 })
    }

    fn run(&mut self, arm: Arm<Drop>, seed: u64, ended: &[Results], history: &mut History) -> Result<Results> {
        let comparison = &self.session.comparison;
        let own = comparison.run_folder(self.session.folder, arm, seed)?;
        let steps = match arm {
            Arm::EqualTime => comparison.equal_steps(seed, ended, &own, self.session.goes_on, |way| self.trial(way))?,
            Arm::Drop(_) => STEPS,
        };
        let name = comparison.name(arm, seed);
        history.begin(&name, None, steps);
        (0..steps).for_each(|step| history.step(&name.as_str().into(), &step_metrics(step)));
        history.epoch(&name, &epoch_metrics(steps));
        anyhow::ensure!(self.left > 0, "interrupted");
        self.left -= 1;
        // Of a run that was trained before, nothing but its export is left to do.
        let trained = own.join("trained");
        let resumed_at = if trained.exists() { steps } else { 0 };
        fs::write(trained, "")?;
        let seconds = (steps - resumed_at) * if arm.drop() == Drop::None { 2 } else { 1 };
        let mut course = Course::new(&outcome(steps, seconds), resumed_at, 1_000_000)?;
        course.export_error = self.export_error.map(str::to_owned);
        let sample = SAMPLE.to_owned();
        Ok(Results { which: comparison.which(arm, seed), test_perplexity: 12.5 + seed as f64, course, sample })
    }

    fn lines() -> Vec<Line<Results>> {
        vec![("letters in the sample", |runs| runs[0].sample.len().to_string())]
    }

    fn columns() -> Vec<Column> {
        columns(&[("test perplexity", "test_perplexity", decimals)], ("tokens/s", "speed", whole), &[])
    }

    fn title(_: &Value) -> String {
        "Pretending".to_owned()
    }

    fn blocks(_: &Path, run: &Value) -> Vec<Markup> {
        vec![html! { pre { (run["sample"].as_str().unwrap_or_default()) } }]
    }
}

fn step_metrics(step: u64) -> StepMetrics {
    StepMetrics {
        step,
        epoch: 0,
        loss: 3.0 - 0.1 * step as f32,
        loss_weight: 8.0,
        correct: 0,
        samples: 8,
        counted: 0,
        excused: step == 1,
        kept: 16,
        tokens: 32,
        rate: 1e-3,
        grad_norm: 1.0,
    }
}

fn epoch_metrics(steps: u64) -> EpochMetrics {
    let validation = Evaluation { loss: 2.5, accuracy: 0.0, counted: 0 };
    EpochMetrics { epoch: 0, steps, train_loss: 2.7, train_accuracy: 0.0, validation, is_best: true }
}

fn outcome(steps: u64, seconds: u64) -> Outcome {
    Outcome {
        steps,
        samples: 8 * steps,
        stopped: false,
        out_of_patience: false,
        losses: 0,
        best: Some((0, epoch_metrics(steps).validation)),
        layer_tokens: LayerTokens::default(),
        timing: Timing { training: Duration::from_secs(seconds), ..Timing::default() },
    }
}

/// Two seeds of three arms, of which `left` end before an error.
fn session(folder: &Path, goes_on: bool, left: usize) -> Result<Vec<Results>> {
    session_with(folder, goes_on, left, None)
}

/// The same, whose runs may be not exported.
fn session_with(folder: &Path, goes_on: bool, left: usize, export_error: Option<&'static str>) -> Result<Vec<Results>> {
    let (stop, nothing) = (AtomicBool::new(false), json!({}));
    let rivals = [Arm::Drop(Drop::None), Arm::EqualTime, Arm::Drop(Drop::Half)];
    let comparison = Comparison::new(Drop::Half, rivals, 0, 2);
    let session = Session { folder, comparison, goes_on, command: "pretend --resume".to_owned(), stop: &stop };
    let adapter = "none".to_owned();
    let mut report = Report { adapter, tuning: None, args: &nothing, recipe: &nothing, runs: Vec::new() };
    session.run(&mut Pretender { session: &session, left, export_error }, &mut report)?;
    Ok(report.runs)
}

#[test]
fn a_program_of_another_kind_is_told_in_its_own_words() {
    let folder = tempfile::tempdir().unwrap();
    let runs = session(folder.path(), false, 6).unwrap();
    let names: Vec<&str> = runs.iter().map(|run| run.which.name.as_str()).collect();
    let of_seed = |seed| ["half", "full-length", "equal-time"].map(|arm| format!("{arm}-seed{seed}"));
    assert_eq!(names, [of_seed(0), of_seed(1)].concat());
    let steps: Vec<u64> = runs.iter().map(|run| run.course.steps).collect();
    assert_eq!(steps, [STEPS, STEPS, STEPS / 2].repeat(2), "a step at full length takes twice the time");

    let metrics = fs::read_to_string(folder.path().join("metrics.csv")).unwrap();
    let first = metrics.lines().nth(1).unwrap();
    assert_eq!(first, "half-seed0,1,1,3.0,,16,32,0.001,1.0,,", "no answer could be right");
    let last = metrics.lines().nth(STEPS as usize).unwrap();
    assert!(last.ends_with(",2.5,"), "{last}");

    let page = fs::read_to_string(folder.path().join("report.html")).unwrap();
    for part in [
        "<h1>Pretending</h1>",
        "Loss, perplexity and kept tokens over the steps",
        "<td>test perplexity</td><td>13.00 ± 0.71</td>",
        "<td>tokens/s</td><td>256 ± 0</td><td>128 ± 0</td><td>128 ± 0</td>",
        "<td>letters in the sample</td><td>28</td>",
        "<h2>Test: half-seed0</h2><pre>Of Mans First &lt;Disobedience&gt;</pre>",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let words = ["accuracy", "image", "picture"].map(|word| page.replace("data:image/png", "").contains(word));
    assert_eq!(words, [false; 3]);
    assert!(folder.path().join("curves.png").is_file());
}

#[test]
fn a_comparison_goes_on_where_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let error = session(folder.path(), false, 2).err().unwrap();
    let told = "run equal-time-seed0; to go on from what was saved last: pretend --resume: interrupted";
    assert_eq!(format!("{error:#}"), told);
    assert_eq!(resume::finished::<Results>(folder.path()).unwrap().len(), 2);
    assert_eq!(session(folder.path(), true, 4).unwrap().len(), 6);
    let metrics = fs::read_to_string(folder.path().join("metrics.csv")).unwrap();
    assert_eq!(metrics.lines().count() as u64, 1 + 2 * (2 * STEPS + STEPS / 2), "{metrics}");
    // Nothing is left to do.
    assert_eq!(session(folder.path(), true, 0).unwrap().len(), 6);
}

/// What exports a run that was trained before takes no step: what was measured then stays, and counts for those after
/// it.
#[test]
fn a_run_that_lacked_its_export_keeps_what_was_measured() {
    let folder = tempfile::tempdir().unwrap();
    session_with(folder.path(), false, 2, Some("no room")).err().unwrap();
    // As if the third had not begun.
    fs::remove_dir_all(folder.path().join("equal-time-seed0")).unwrap();
    // Whatever ends the program while others are still to be exported.
    session(folder.path(), true, 1).err().unwrap();
    assert_eq!(resume::finished::<Results>(folder.path()).unwrap().len(), 1);
    let runs = session(folder.path(), true, 5).unwrap();
    let told = runs.iter().take(3).map(|run| &run.course);
    let told: Vec<_> = told.map(|run| (run.steps, run.wall_seconds, run.resumed_at, &run.export_error)).collect();
    let equal = STEPS / 2;
    assert_eq!(told, [(STEPS, 6.0, 0, &None), (STEPS, 12.0, 0, &None), (equal, 6.0, 0, &None)]);
}

/// What a folder keeps of the weights that its run began with is told, or what is wrong with it.
#[test]
fn weights_of_a_run_that_goes_on() {
    let run = tempfile::tempdir().unwrap();
    let (place, weights) = (run.path().join("model.safetensors"), Checkpoint::default());
    assert_eq!(start::place(run.path()).unwrap(), None, "of an earlier release");
    start::keep(run.path(), Some(&place), &weights).unwrap();
    assert_eq!(start::place(run.path()).unwrap(), None, "it is not there");
    fs::write(&place, "").unwrap();
    assert_eq!(start::place(run.path()).unwrap(), Some(place));
    start::check(run.path(), &weights).unwrap();
    fs::write(run.path().join("start.json"), r#"{"place": "\u001b[2J", "crc32c": 1}"#).unwrap();
    let message = start::check(run.path(), &weights).unwrap_err().to_string();
    assert!(message.contains("are others") && !message.contains(char::is_control), "{message:?}");
    fs::write(run.path().join("start.json"), "{").unwrap();
    let message = start::place(run.path()).unwrap_err().to_string();
    assert!(message.contains("start.json"), "{message}");
}

/// What any export leaves in its folder, and what the library keeps there, is in the way of no run that goes on; other
/// files are.
#[test]
fn exports_know_their_own_folders() {
    let (gpu, runs) = (gpu(), tempfile::tempdir().unwrap());
    let lora = |layer: &str| Some(LoraConfig::new(2, 4.0, &[layer]));
    let sizes = VitConfig { img_size: (16, 16), patch_size: 4, num_classes: 5, ..VitConfig::custom(32, 2, 2) };
    let vit = Vit::new(&gpu, VitConfig { lora: lora("qkv"), ..sizes }, 0).unwrap();
    let sizes = Gpt2Config { vocab_size: 11, n_positions: 8, ..Gpt2Config::custom(16, 2, 2) };
    let gpt = Gpt2::new(&gpu, Gpt2Config { lora: lora("c_attn"), ..sizes }, 0).unwrap();
    let tokenizer = TOKENIZER_FILES.map(|name| (name, &b"{}"[..]));
    let whole = FolderOptions { tokenizer: &tokenizer, ..FolderOptions::default() };
    type Export<'a> = &'a dyn Fn(&Path) -> wgrad::Result<()>;
    let exports: [Export<'_>; 5] = [
        &|folder| gpt2::save(folder, &gpt, &whole),
        &|folder| gpt2::save_adapter(folder, &gpt, None),
        &|folder| export_hf(folder, &vit, &ExportOptions::default()),
        &|folder| export_timm(folder, &vit, &ExportOptions::default()),
        &|folder| save_adapter(folder, &vit, AdapterNames::Timm, None),
    ];
    for (i, export) in exports.iter().enumerate() {
        let run = runs.path().join(i.to_string());
        fs::create_dir(&run).unwrap();
        let place = run.join("export");
        let check = |goes_on| folder::refuse_exports(&run, &["export"], goes_on);
        check(false).unwrap();
        export(&place).unwrap();
        check(true).unwrap();
        assert!(check(false).is_err(), "a new run takes the place of nothing");
        fs::write(place.join(".DS_Store"), "").unwrap();
        check(true).unwrap();
        export(&place).unwrap();
        assert!(place.join(".DS_Store").is_file());
        fs::create_dir(place.join(".git")).unwrap();
        let message = check(true).unwrap_err().to_string();
        assert!(message.contains("holds other files than an export's") && export(&place).is_err(), "{message}");
    }
}

#[test]
fn one_program_writes_into_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let lock = folder::lock(folder.path()).unwrap();
    assert!(folder::lock(folder.path()).unwrap_err().to_string().contains("another program is writing into"));
    drop(lock);
    folder::lock(folder.path()).unwrap();
}
