//! One run: train, then test the best checkpoint once.

use std::path::Path;

use anyhow::Result;
use maud::Markup;
use serde_json::Value;
use wgrad::checkpoint::{MatchOptions, load_parameters};
use wgrad::gpu::Gpu;
use wgrad::nn::Model;
use wgrad::train::{FitData, RunFolder, RunState};

use super::args::Common;
use super::kind::{self, Kind};
use super::program::Lesson;
use super::recipe::DropKind;
use super::report::{self, RunReport};
use super::setup::Setup;
use crate::training::columns::Column;
use crate::training::comparison::Arm;
use crate::training::console::{complain, printable, say};
use crate::training::device::Machine;
use crate::training::fit::{Fitted, Followed};
use crate::training::history::History;
use crate::training::report::Course;
use crate::training::session::{Program, Session};
use crate::training::table::Line;
use crate::training::words::Words;
use crate::training::{resume, trial};

/// What every run needs.
pub struct Runner<'a, P: Lesson> {
    pub machine: &'a Machine,
    pub args: &'a Common,
    pub setup: &'a Setup<P::Kind>,
    pub session: &'a Session<'a, DropKind>,
}

impl<P: Lesson> Program for Runner<'_, P> {
    type Way = DropKind;
    type Run = RunReport;

    const WORDS: Words = report::WORDS;

    fn trial(&self, drop: DropKind) -> Result<f64> {
        let Runner { machine, args, setup, .. } = *self;
        let gpu = machine.gpu();
        let model = setup.model(&gpu, args.seed)?;
        let settings = setup.settings(args, &gpu, drop, setup.steps_of(drop)?, args.seed)?;
        trial::run(&gpu, setup.task(&model, drop)?, settings, &setup.train_loader(args.seed)?)
    }

    fn run(&mut self, arm: Arm<DropKind>, seed: u64, ended: &[RunReport], history: &mut History) -> Result<RunReport> {
        let Runner { machine, setup, session, .. } = *self;
        let comparison = &session.comparison;
        let folder = comparison.run_folder(session.folder, arm, seed)?;
        let steps = session.steps((arm, seed), ended, &folder, setup.steps_of(arm.drop())?, |drop| self.trial(drop))?;
        let state = if session.goes_on { resume::state(&folder)? } else { None };
        if state.is_none() {
            // With it, the checkpoints can be used while the run goes on.
            setup.tokenizer().save(&folder)?;
        }
        let gpu = machine.gpu();
        let model = setup.model(&gpu, seed)?;
        let before = setup.test(&model)?;
        let name = comparison.name(arm, seed);
        say!("{name:12} before the first step: test {before}");
        gpu.trim();
        gpu.reset_peak_memory();
        drop(gpu);
        let (fitted, model) = self.train(model, (arm, seed), (steps, state), &folder, history)?;
        let gpu = machine.gpu();
        let mut course = Course::new(&fitted.outcome, fitted.resumed_at, gpu.memory().peak_allocated)?;
        gpu.trim();
        let (_, best) = <P::Kind as Kind>::open(&folder.join("best.safetensors"))?;
        load_parameters(model.parameters(), &best, &MatchOptions::default())?;
        let test = setup.test(&model)?;
        say!("{name:12} after {} steps: test {test}", course.steps);
        if let Err(error) = self.export(&name, &model, &folder) {
            // What was measured is reported all the same, and the other runs are not in need of it.
            complain!("warning: {name} is not exported: {error:#}");
            course.export_error = Some(format!("{error:#}"));
        }
        let sample = <P::Kind as Kind>::sample(&model, setup.tokenizer(), seed)?;
        if let Some(sample) = &sample {
            say!("{name:12} a sample:\n{}\n", shown(sample));
        }
        let (best_epoch, validation) = fitted.outcome.best.unwrap_or_default();
        let tokens = (setup.recipe.training.batch_size * setup.texts.length()) as f64;
        Ok(RunReport {
            which: comparison.which(arm, seed),
            test,
            before,
            best_epoch: best_epoch + 1,
            validation_perplexity: validation.loss.exp(),
            tokens_per_second: course.speed(tokens),
            course,
            sample,
            folder: folder.strip_prefix(session.folder)?.to_owned(),
        })
    }

    fn lines() -> Vec<Line<RunReport>> {
        report::lines(<P::Kind as Kind>::IS_CAUSAL)
    }

    fn columns() -> Vec<Column> {
        report::run_columns()
    }

    fn title(_: &Value) -> String {
        P::TITLE.to_owned()
    }

    fn blocks(folder: &Path, run: &Value) -> Vec<Markup> {
        report::blocks(folder, run)
    }
}

impl<P: Lesson> Runner<'_, P> {
    /// Writes what other libraries load into the run's folder.
    fn export(&self, name: &str, model: &<P::Kind as Kind>::Model, folder: &Path) -> Result<()> {
        let Runner { args, setup, .. } = *self;
        kind::export::<P::Kind>(&folder.join("export"), model, setup.tokenizer(), args.export_precision.into())?;
        if setup.has_adapters() {
            let folder = folder.join("adapter");
            <P::Kind as Kind>::save_adapter(&folder, model)?;
            say!("{name:12} adapters, as PEFT has them, in {}", folder.display());
        }
        Ok(())
    }

    /// All steps that are left, from the state that the run had, if it goes on. Returns the model too: it may be on another device.
    fn train(
        &self,
        model: <P::Kind as Kind>::Model,
        (arm, seed): (Arm<DropKind>, u64),
        (steps, state): (u64, Option<RunState>),
        folder: &Path,
        history: &mut History,
    ) -> Result<(Fitted, <P::Kind as Kind>::Model)> {
        let Runner { machine, args, setup, session } = *self;
        let train = setup.train_loader(seed)?;
        let validation = setup.eval_loader(setup.texts.validation()?)?;
        let data = FitData {
            train: &train,
            validation: &validation,
            steps,
            folder: Some(RunFolder::new(folder, setup.writer())),
        };
        let settings = setup.settings(args, &machine.gpu(), arm.drop(), steps, seed)?;
        let (run, words, tensorboard) = ((arm, seed), &report::WORDS, args.output.tensorboard);
        let followed = Followed { session, run, words, tensorboard, machine, history };
        let options = setup.recipe.training.fit_options(args.output.save_every, state);
        let mut first = Some(model);
        let make = |gpu: &Gpu| {
            let model = first.take().map_or_else(|| setup.model(gpu, seed), Ok)?;
            setup.task(model, arm.drop())
        };
        let (fitted, task) = followed.fit(make, &data, settings, options)?;
        Ok((fitted, task.model))
    }
}

/// A text's lines, set off from what the program says itself.
fn shown(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| format!("    {}", printable(line))).collect();
    lines.join("\n")
}
