//! One run: train, then test the best checkpoint once.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, ensure};
use wgrad::checkpoint::{self, MatchOptions, load_parameters};
use wgrad::data::{Loader, Position};
use wgrad::gpu::Gpu;
use wgrad::nn::Vit;
use wgrad::ops::TuneReport;
use wgrad::train::{
    Evaluation, FitData, FitOptions, Outcome, TUNING_BUDGET, Trainer, TuningStore, evaluate, fit, tuned,
};

use crate::args::{Args, LtdKind, TuneKind};
use crate::progress::Progress;
use crate::report::{History, RunReport};
use crate::setup::Setup;

/// Which of the runs that `--compare` sets side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunKind {
    /// As the arguments say.
    Main,
    /// The same without random-LTD.
    FullLength,
}

impl RunKind {
    fn name(self, args: &Args) -> &'static str {
        match self {
            RunKind::Main if args.ltd != LtdKind::Off => "random-ltd",
            RunKind::Main | RunKind::FullLength => "full-length",
        }
    }
}

/// Compiles every kernel that the runs will use, so that neither is timed with it: two steps of a model that is thrown
/// away.
pub fn warm_up(gpu: &Gpu, args: &Args, setup: &Setup) -> Result<()> {
    for with_ltd in [true, false] {
        let (model, _) = setup.model(gpu, args.seed)?;
        let mut trainer = Trainer::new(&model, setup.settings(args, gpu, with_ltd)?)?;
        let loader = setup.train_loader(args)?;
        for batch in loader.batches_from(Position::default())?.take(2) {
            trainer.step(&batch?)?;
        }
        trainer.finish()?;
    }
    gpu.trim();
    Ok(())
}

/// Chooses kernels by measurement, where that is asked for.
pub fn tune(gpu: &Gpu, args: &Args, setup: &Setup) -> Result<Option<TuneReport>> {
    if args.tune == TuneKind::Off {
        return Ok(None);
    }
    let store = args.tuning_cache.clone().map_or_else(TuningStore::user_cache, TuningStore::Folder);
    let settings = setup.settings(args, gpu, true)?;
    let report = tuned(gpu, &setup.workload(&settings), &store, TUNING_BUDGET)?;
    println!(
        "tuning: {} of {} kinds of products measured, {} known, {} changed, in {:.1} s",
        report.measured,
        report.asked,
        report.known,
        report.changed,
        report.elapsed.as_secs_f64()
    );
    Ok(Some(report))
}

/// Trains and tests.
pub fn run(
    gpu: &Gpu,
    args: &Args,
    setup: &Setup,
    kind: RunKind,
    folder: &Path,
    history: &mut History,
    stop: &Arc<AtomicBool>,
) -> Result<RunReport> {
    let name = kind.name(args);
    // The main run's checkpoints lie at the top of the folder, those of the run it is compared with below it.
    let folder = if kind == RunKind::Main { folder.to_owned() } else { folder.join(name) };
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    gpu.trim();
    gpu.reset_peak_memory();
    let (model, loaded) = setup.model(gpu, args.seed)?;
    if let Some(loaded) = loaded {
        println!("{loaded}");
    }
    let train = setup.train_loader(args)?;
    let validation = setup.eval_loader(args, &setup.data.validation)?;
    let data = FitData {
        train: &train,
        validation: &validation,
        steps: setup.steps,
        folder: Some(folder.clone()),
        class_names: &setup.data.class_names,
    };
    let settings = setup.settings(args, gpu, kind == RunKind::Main)?;
    let mut progress = Progress::new(name, setup.steps, train.batches_per_epoch() as u64, history, stop);
    let outcome = fit(&model, &data, settings, &FitOptions::default(), &mut progress);
    progress.finish();
    let outcome = outcome.with_context(|| format!("run {name}; what was written before is in {}", folder.display()))?;
    let (test, skipped_in_test) = test(args, setup, &model, &folder)?;
    if kind == RunKind::Main {
        setup.export(args, &model, &folder)?;
    }
    let skipped = [&train, &validation].into_iter().flat_map(skipped).chain(skipped_in_test).collect();
    report(name, gpu, &outcome, test, skipped)
}

/// Reads the test split, once: with the weights that did best on the validation split.
fn test(args: &Args, setup: &Setup, model: &Vit, folder: &Path) -> Result<(Evaluation, Vec<String>)> {
    if setup.data.test.is_empty() {
        println!("no test pictures: the test columns repeat the validation split");
    }
    let split = if setup.data.test.is_empty() { &setup.data.validation } else { &setup.data.test };
    model.gpu().trim();
    let best = checkpoint::read(folder.join("best.safetensors"))?;
    load_parameters(model.parameters(), &best, &MatchOptions::default())?;
    let loader = setup.eval_loader(args, split)?;
    Ok((evaluate(model, &loader)?, skipped(&loader)))
}

fn skipped(loader: &Loader) -> Vec<String> {
    let lines: Vec<String> = loader.skipped().into_iter().map(|s| s.reason).collect();
    for line in &lines {
        println!("skipped {line}");
    }
    lines
}

fn report(name: &str, gpu: &Gpu, outcome: &Outcome, test: Evaluation, skipped: Vec<String>) -> Result<RunReport> {
    let (best_epoch, validation) = outcome.best.unwrap_or_default();
    ensure!(outcome.steps > 0, "the run ended before its first step");
    let timing = outcome.timing;
    let wall_seconds = timing.training.saturating_sub(timing.compilation).as_secs_f64();
    Ok(RunReport {
        name: name.to_owned(),
        test_accuracy: test.accuracy,
        test_loss: test.loss,
        best_epoch: best_epoch + 1,
        validation_accuracy: validation.accuracy,
        steps: outcome.steps,
        stopped: outcome.stopped,
        wall_seconds,
        host_seconds: timing.host.as_secs_f64(),
        data_wait_seconds: timing.data_wait.as_secs_f64(),
        evaluation_seconds: timing.evaluation.as_secs_f64(),
        checkpoint_seconds: timing.checkpoints.as_secs_f64(),
        compilation_seconds: timing.compilation.as_secs_f64(),
        layer_tokens: outcome.layer_tokens.consumed,
        layer_tokens_saved: outcome.layer_tokens.saved_share(),
        peak_device_bytes: gpu.memory().peak_allocated,
        images_per_second: outcome.samples as f64 / wall_seconds.max(1e-9),
        skipped,
    })
}
