//! One run: train, then test the best checkpoint once.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use maud::Markup;
use serde_json::Value;
use wgrad::checkpoint::{self, MatchOptions, load_parameters};
use wgrad::data::{ImageSource, Loader, LoaderOptions, Skipped, Source};
use wgrad::gpu::Gpu;
use wgrad::models::vit::Vit;
use wgrad::train::{Evaluation, FitData, RunFolder, Task, predict};

use crate::args::Args;
use crate::findings::{self, ClassReport};
use crate::recipe::DropKind;
use crate::report::{self, RunReport, TestedOn};
use crate::setup::Setup;
use crate::splits::Splits;
use crate::training::columns::Column;
use crate::training::comparison::Arm;
use crate::training::console::{complain, say};
use crate::training::device::Machine;
use crate::training::fit::{Fitted, Followed};
use crate::training::history::History;
use crate::training::report::Course;
use crate::training::session::{Program, Session};
use crate::training::table::Line;
use crate::training::words::Words;
use crate::training::{resume, trial};

/// What every run needs.
pub struct Runner<'a> {
    pub machine: &'a Machine,
    pub args: &'a Args,
    pub setup: &'a Setup,
    pub session: &'a Session<'a, DropKind>,
    pub splits: Splits<'a>,
}

impl Program for Runner<'_> {
    type Way = DropKind;
    type Run = RunReport;

    const WORDS: Words = report::WORDS;

    fn trial(&self, drop: DropKind) -> Result<f64> {
        let Runner { machine, args, setup, .. } = *self;
        let gpu = machine.gpu();
        let (model, _) = setup.model(&gpu, args.seed)?;
        let settings = setup.settings(args, &gpu, drop, setup.steps, args.seed)?;
        trial::run(&gpu, setup.task(&model), settings, &setup.train_loader(args, args.seed)?)
    }

    fn run(&mut self, arm: Arm<DropKind>, seed: u64, ended: &[RunReport], history: &mut History) -> Result<RunReport> {
        let Runner { machine, args, setup, session, .. } = *self;
        let folder = session.comparison.run_folder(session.folder, arm, seed)?;
        let steps = session.steps((arm, seed), ended, &folder, setup.steps, |drop| self.trial(drop))?;
        let gpu = machine.gpu();
        gpu.trim();
        gpu.reset_peak_memory();
        drop(gpu);
        let mut is_told = !ended.is_empty();
        let make = |gpu: &Gpu| {
            let (model, loaded) = setup.model(gpu, seed)?;
            if let Some(loaded) = loaded.filter(|_| !std::mem::replace(&mut is_told, true)) {
                say!("{loaded}");
            }
            Ok(model)
        };
        let (mut trained, model) = self.train(make, &mut Leg { arm, seed, steps, folder: &folder, history })?;
        let tested = test(args, setup, &model, &folder)?;
        if !setup.data.test.is_empty() {
            trained.skipped.extend_from_slice(&tested.skipped);
        }
        let mut report = self.report(arm, seed, &folder, &trained, tested)?;
        self.splits.write(&trained.skipped)?;
        if session.comparison.is_first(arm, seed)
            && let Err(error) = setup.export(args, &model, &folder)
        {
            // What was measured is reported all the same, and the other runs are not in need of it.
            complain!("warning: not exported: {error:#}");
            report.course.export_error = Some(format!("{error:#}"));
        }
        Ok(report)
    }

    fn lines() -> Vec<Line<RunReport>> {
        report::LINES.to_vec()
    }

    fn columns() -> Vec<Column> {
        report::run_columns()
    }

    fn title(report: &Value) -> String {
        report::title(report)
    }

    fn blocks(folder: &Path, run: &Value) -> Vec<Markup> {
        report::blocks(folder, run)
    }
}

impl Runner<'_> {
    /// All steps that are left of the model that `make` makes. Returns it too: it may be on another device by then.
    fn train(&self, mut make: impl FnMut(&Gpu) -> wgrad::Result<Vit>, leg: &mut Leg<'_>) -> Result<(Trained, Vit)> {
        let Runner { args, setup, .. } = *self;
        let validation = setup.eval_loader(args, &setup.data.validation)?;
        if args.probe {
            return self.probe(make, validation, leg);
        }
        let train = setup.train_loader(args, leg.seed)?;
        let (fitted, task) = self.fit(|gpu| Ok(setup.task(make(gpu)?)), &train, &validation, leg)?;
        let skipped = [&train, &validation].into_iter().flat_map(skipped).collect();
        Ok((Trained { fitted, skipped, features: None }, task.model))
    }

    /// The same of the head alone, on features of the pictures.
    fn probe(
        &self,
        mut make: impl FnMut(&Gpu) -> wgrad::Result<Vit>,
        validation: Loader<ImageSource>,
        leg: &mut Leg<'_>,
    ) -> Result<(Trained, Vit)> {
        let Runner { machine, args, setup, session, .. } = *self;
        let (gpu, batch, started) = (machine.gpu(), setup.recipe.training.batch_size, Instant::now());
        if session.goes_on
            && let Some(state) = resume::state(leg.folder)?
        {
            // By the kernels that made them before: their bits are tied to the run's.
            gpu.set_tuning(state.tuning());
        }
        let first = setup.probe(make(&gpu)?);
        let train = first.source(setup.eval_loader(args, &setup.data.train)?)?;
        let validation = first.source(validation)?;
        gpu.trim();
        drop(gpu);
        let features = started.elapsed().as_secs_f64();
        say!("features of {} training and {} validation pictures: {features:.1} s", train.len(), validation.len());
        let train = Loader::new(train, LoaderOptions::training(batch, leg.seed))?;
        let validation = Loader::new(validation, LoaderOptions::evaluation(batch))?;
        // The features are the host's: on another device only the model is made again.
        let mut first = Some(first);
        let again = |gpu: &Gpu| first.take().map_or_else(|| Ok(setup.probe(make(gpu)?)), Ok);
        let (fitted, task) = self.fit(again, &train, &validation, leg)?;
        let skipped = [&train, &validation].into_iter().flat_map(|loader| skipped(loader.source().pictures()));
        Ok((Trained { fitted, skipped: skipped.collect(), features: Some(features) }, task.model))
    }

    fn fit<T: Task, S: Source<Batch = T::Batch>>(
        &self,
        make: impl FnMut(&Gpu) -> wgrad::Result<T>,
        train: &Loader<S>,
        validation: &Loader<S>,
        leg: &mut Leg<'_>,
    ) -> Result<(Fitted, T)> {
        let Runner { machine, args, setup, session, .. } = *self;
        let &mut Leg { arm, seed, steps, folder, ref mut history } = leg;
        let data = FitData { train, validation, steps, folder: Some(RunFolder::new(folder, setup.writer())) };
        let settings = setup.settings(args, &machine.gpu(), arm.drop(), steps, seed)?;
        let state = if session.goes_on { resume::state(folder)? } else { None };
        let (run, words, tensorboard) = ((arm, seed), &report::WORDS, args.output.tensorboard);
        let followed = Followed { session, run, words, tensorboard, machine, history };
        followed.fit(make, &data, settings, setup.recipe.training.fit_options(args.output.save_every, state))
    }

    fn report(
        &self,
        arm: Arm<DropKind>,
        seed: u64,
        folder: &Path,
        trained: &Trained,
        tested: Tested,
    ) -> Result<RunReport> {
        let Trained { fitted: Fitted { outcome, resumed_at }, skipped, features } = trained;
        let Tested { test, per_class, .. } = tested;
        let course = Course::new(outcome, *resumed_at, self.machine.gpu().memory().peak_allocated)?;
        let (best_epoch, validation) = outcome.best.unwrap_or_default();
        Ok(RunReport {
            which: self.session.comparison.which(arm, seed),
            tested_on: if self.setup.data.test.is_empty() { TestedOn::Validation } else { TestedOn::Test },
            test_accuracy: test.accuracy,
            test_loss: test.loss,
            best_epoch: best_epoch + 1,
            validation_accuracy: validation.accuracy,
            images_per_second: course.speed(self.setup.recipe.training.batch_size as f64),
            course,
            features_seconds: *features,
            skipped: skipped.iter().map(|skipped| skipped.reason.clone()).collect(),
            folder: folder.strip_prefix(self.session.folder)?.to_owned(),
            per_class,
        })
    }
}

/// Which run trains, how long and where.
struct Leg<'a> {
    arm: Arm<DropKind>,
    seed: u64,
    steps: u64,
    folder: &'a Path,
    history: &'a mut History,
}

/// What training has brought, besides its files.
struct Trained {
    fitted: Fitted,
    /// Pictures that could not be read.
    skipped: Vec<Skipped>,
    /// The seconds that a probe's features took.
    features: Option<f64>,
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
        say!("no test pictures: the result is of the validation pictures, by which the epoch was chosen");
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
