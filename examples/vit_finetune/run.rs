//! One run: train, then test the best checkpoint once.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use wgrad::checkpoint::{self, MatchOptions, load_parameters};
use wgrad::data::{ImageSource, Loader, Position, Skipped};
use wgrad::gpu::Gpu;
use wgrad::models::vit::Vit;
use wgrad::ops::TuneReport;
use wgrad::train::{
    Evaluation, FitData, Outcome, RunFolder, RunState, TUNING_BUDGET, Trainer, TuningStore, fit, predict, tuned,
};

use crate::args::{Args, TuneKind};
use crate::arms::Arm;
use crate::console::say;
use crate::files;
use crate::findings::{self, ClassReport};
use crate::history::History;
use crate::progress::Progress;
use crate::recipe::DropKind;
use crate::report::{Report, RunReport};
use crate::resume;
use crate::setup::Setup;
use crate::tensorboard::Watched;

/// Steps of a model that is thrown away, and how many of them are not timed.
const TRIAL: (usize, usize) = (8, 2);

/// What every run needs.
pub struct Runner<'a> {
    pub gpu: &'a Gpu,
    pub args: &'a Args,
    pub setup: &'a Setup,
    pub folder: &'a Path,
    pub stop: &'a Arc<AtomicBool>,
}

/// Chooses kernels by measurement, where that is asked for.
pub fn tune(gpu: &Gpu, args: &Args, setup: &Setup) -> Result<Option<TuneReport>> {
    if args.tune == TuneKind::Off {
        return Ok(None);
    }
    let store = args.tuning_cache.clone().map_or_else(TuningStore::user_cache, TuningStore::Folder);
    let (settings, make) = (setup.main_settings(args, gpu)?, setup.maker());
    let report = tuned(gpu, &setup.workload(&make, &settings), &store, TUNING_BUDGET)?;
    say!(
        "tuning: {} of {} kinds of products measured, {} known, {} changed, in {:.1} s",
        report.measured,
        report.asked,
        report.known,
        report.changed,
        report.elapsed.as_secs_f64()
    );
    Ok(Some(report))
}

impl Runner<'_> {
    /// Trains a model that is thrown away for a few steps, so that every kernel is compiled before a run is timed. Returns the
    /// seconds of a step.
    pub fn trial(&self, drop: DropKind) -> Result<f64> {
        let Runner { gpu, args, setup, .. } = *self;
        let (steps, untimed) = TRIAL;
        let (model, _) = setup.model(gpu, args.seed)?;
        let mut trainer = Trainer::new(setup.task(&model), setup.settings(args, gpu, drop, setup.steps, args.seed)?)?;
        let loader = setup.train_loader(args, args.seed)?;
        let mut started = Instant::now();
        for (i, batch) in loader.batches_from(Position::default())?.take(steps).enumerate() {
            if i == untimed {
                trainer.finish()?;
                started = Instant::now();
            }
            trainer.step(&batch?)?;
        }
        trainer.finish()?;
        gpu.trim();
        Ok(started.elapsed().as_secs_f64() / (steps - untimed) as f64)
    }

    /// Trains and tests. The pictures that could not be read come with the report.
    pub fn run(
        &self,
        arm: Arm,
        seed: u64,
        report: &Report<'_>,
        history: &mut History,
    ) -> Result<(RunReport, Vec<Skipped>)> {
        let Runner { gpu, args, setup, .. } = *self;
        let folder = self.run_folder(arm, seed)?;
        let steps = self.steps(arm, seed, report, &folder)?;
        gpu.trim();
        gpu.reset_peak_memory();
        let (model, loaded) = setup.model(gpu, seed)?;
        if let Some(loaded) = loaded.filter(|_| report.runs.is_empty()) {
            say!("{loaded}");
        }
        let mut trained = self.train(&model, arm, seed, steps, &folder, history)?;
        let tested = test(args, setup, &model, &folder)?;
        if self.is_first(arm, seed) {
            setup.export(args, &model, &folder)?;
        }
        trained.skipped.extend_from_slice(&tested.skipped);
        let report = self.report(arm, seed, &folder, &trained, tested)?;
        Ok((report, trained.skipped))
    }

    /// All steps that are left, with a bar and a row of the history for each.
    fn train(
        &self,
        model: &Vit,
        arm: Arm,
        seed: u64,
        steps: u64,
        folder: &Path,
        history: &mut History,
    ) -> Result<Trained> {
        let Runner { gpu, args, setup, .. } = *self;
        let name = self.name(arm, seed);
        let train = setup.train_loader(args, seed)?;
        let validation = setup.eval_loader(args, &setup.data.validation)?;
        let data = FitData {
            train: &train,
            validation: &validation,
            steps,
            folder: Some(RunFolder::new(folder, setup.writer())),
        };
        let settings = setup.settings(args, gpu, arm.drop(), steps, seed)?;
        let state = if args.resume.is_some() { resume::state(folder)? } else { None };
        let resumed_at = state.as_ref().map_or(0, RunState::steps);
        if resumed_at > 0 {
            say!("{name} goes on after step {resumed_at} of {steps}");
        }
        history.begin(&name, state.as_ref(), steps);
        let mut progress = Progress::new(name.as_str().into(), steps, resumed_at, history, self.stop);
        let mut watched = Watched::new(args.tensorboard, self.folder, &name, &mut progress)?;
        let outcome = fit(setup.task(model), &data, settings, setup.fit_options(args, state), &mut watched);
        watched.finish()?;
        progress.finish();
        let outcome = outcome?;
        if let Some(reason) = end_of_patience(&outcome, steps, setup.recipe.patience) {
            say!("{name:12} {reason}");
        }
        Ok(Trained { outcome, resumed_at, skipped: [&train, &validation].into_iter().flat_map(skipped).collect() })
    }

    fn report(&self, arm: Arm, seed: u64, folder: &Path, trained: &Trained, tested: Tested) -> Result<RunReport> {
        let Trained { outcome, resumed_at, ref skipped } = *trained;
        let Tested { test, per_class, .. } = tested;
        ensure!(outcome.steps > 0, "the run ended before its first step");
        let (best_epoch, validation) = outcome.best.unwrap_or_default();
        let timing = outcome.timing;
        let report = RunReport {
            name: self.name(arm, seed),
            arm: arm.name().to_owned(),
            seed,
            test_accuracy: test.accuracy,
            test_loss: test.loss,
            best_epoch: best_epoch + 1,
            validation_accuracy: validation.accuracy,
            steps: outcome.steps,
            stopped: outcome.stopped,
            resumed_at,
            out_of_patience: outcome.out_of_patience,
            wall_seconds: timing.training.saturating_sub(timing.compilation).as_secs_f64(),
            host_seconds: timing.host.as_secs_f64(),
            data_wait_seconds: timing.data_wait.as_secs_f64(),
            evaluation_seconds: timing.evaluation.as_secs_f64(),
            checkpoint_seconds: timing.checkpoints.as_secs_f64(),
            compilation_seconds: timing.compilation.as_secs_f64(),
            layer_tokens: outcome.layer_tokens.consumed,
            layer_tokens_saved: outcome.layer_tokens.saved_share(),
            peak_device_bytes: self.gpu.memory().peak_allocated,
            images_per_second: 0.0,
            skipped: skipped.iter().map(|skipped| skipped.reason.clone()).collect(),
            folder: folder.strip_prefix(self.folder)?.to_owned(),
            per_class,
        };
        let batch = self.setup.recipe.batch_size as f64;
        let images_per_second = report.seconds_a_step().map_or(0.0, |seconds| batch / seconds.max(1e-9));
        Ok(RunReport { images_per_second, ..report })
    }

    /// The arm's, with the seed where there are several.
    pub fn name(&self, arm: Arm, seed: u64) -> String {
        let mut name = arm.name().to_owned();
        if self.args.seeds > 1 {
            // A String takes whatever is written to it.
            let _ = write!(name, "-seed{seed}");
        }
        name
    }

    fn is_first(&self, arm: Arm, seed: u64) -> bool {
        arm == Arm::Drop(self.setup.recipe.drop) && seed == self.args.seed
    }

    /// The first run's checkpoints lie at the top of the folder, those of the others below it.
    fn run_folder(&self, arm: Arm, seed: u64) -> Result<PathBuf> {
        let top = self.folder.to_owned();
        let folder = if self.is_first(arm, seed) { top } else { top.join(self.name(arm, seed)) };
        std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        Ok(folder)
    }

    /// The steps of a run. Those of [`Arm::EqualTime`] follow from the first arm's time and that of a step at full length: of
    /// the runs with this seed, if there are such and they were timed, else of a trial.
    fn steps(&self, arm: Arm, seed: u64, report: &Report<'_>, folder: &Path) -> Result<u64> {
        if arm != Arm::EqualTime {
            return Ok(self.setup.steps);
        }
        // A run that goes on keeps its number, which another measurement would change.
        let path = folder.join("steps.json");
        if self.args.resume.is_some() && path.exists() {
            return files::read_json(&path);
        }
        let run_of = |arm: Arm| report.runs.iter().find(|run| run.arm == arm.name() && run.seed == seed);
        let main = run_of(Arm::Drop(self.setup.recipe.drop)).context("the first arm has not been run")?;
        // A run that went on after its last step has timed none.
        let measured = |run: Option<&RunReport>, drop: DropKind| {
            run.and_then(RunReport::seconds_a_step).map_or_else(|| self.trial(drop), Ok)
        };
        let full = measured(run_of(Arm::Drop(DropKind::None)), DropKind::None)?;
        let seconds = measured(Some(main), self.setup.recipe.drop)? * main.steps as f64;
        let steps = ((seconds / full).round() as u64).max(2);
        files::replace(&path, steps.to_string().as_bytes())?;
        Ok(steps)
    }
}

/// Why a run ended before its last step, if that was for want of progress.
fn end_of_patience(outcome: &Outcome, steps: u64, patience: u64) -> Option<String> {
    let (epoch, best) = outcome.best.filter(|_| outcome.out_of_patience)?;
    Some(format!(
        "ended after step {} of {steps}: no epoch of the last {patience} (--patience) had a better validation accuracy than \
         {:.2} %, last reached in epoch {}",
        outcome.steps,
        100.0 * best.accuracy,
        epoch + 1
    ))
}

/// What training has brought, besides its files.
struct Trained {
    outcome: Outcome,
    /// The step after which it went on, if it had been interrupted.
    resumed_at: u64,
    /// Pictures that could not be read.
    skipped: Vec<Skipped>,
}

/// The test's result, in all and by class.
struct Tested {
    test: Evaluation,
    per_class: Vec<ClassReport>,
    /// Pictures that could not be read.
    skipped: Vec<Skipped>,
}

/// Reads the test split, once: with the weights that did best on the validation split.
fn test(args: &Args, setup: &Setup, model: &Vit, folder: &Path) -> Result<Tested> {
    if setup.data.test.is_empty() {
        say!("no test pictures: the test columns repeat the validation split");
    }
    let split = if setup.data.test.is_empty() { &setup.data.validation } else { &setup.data.test };
    model.gpu().trim();
    let best = checkpoint::read(folder.join("best.safetensors"))?;
    load_parameters(model.parameters(), &best, &MatchOptions::default())?;
    let loader = setup.eval_loader(args, split)?;
    let predictions = predict(&setup.task(model), loader.epoch(0)?)?;
    let names = &setup.data.class_names;
    let per_class = findings::write(folder, split, &setup.eval_transform()?, &predictions, names)?;
    Ok(Tested { test: predictions.evaluation(), per_class, skipped: skipped(&loader) })
}

fn skipped(loader: &Loader<ImageSource>) -> Vec<Skipped> {
    let skipped = loader.source().skipped();
    for Skipped { reason, .. } in &skipped {
        say!("skipped {reason}");
    }
    skipped
}
