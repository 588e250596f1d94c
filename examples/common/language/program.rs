//! A whole program, from its arguments to its report.

use std::path::PathBuf;

use anyhow::Result;
use clap::{CommandFactory, FromArgMatches};

use super::args::Own;
use super::kind::Kind;
use super::recipe::Recipe;
use super::run::Runner;
use super::setup::{Beginning, Setup};
use crate::training::console::say;
use crate::training::device::Machine;
use crate::training::given::{Given, Rule};
use crate::training::report::Report;
use crate::training::resume::Arguments;
use crate::training::session::Session;
use crate::training::{adapters, deepspeed, folder, interrupt, memory, resume, start, tuning};

/// A program that trains a language model.
pub trait Lesson {
    type Args: Own + CommandFactory + FromArgMatches;
    type Kind: Kind;

    /// On the page.
    const TITLE: &'static str;

    /// The arguments with what follows from them where it is not said.
    fn settled(args: Self::Args) -> Self::Args {
        args
    }

    /// How it trains where nothing else is said.
    fn recipe() -> Recipe;

    /// When its own options count.
    fn rules(args: &Self::Args) -> Vec<Rule>;

    /// The model's sizes and weights, and the texts, that the arguments name. `known` is where a run that goes on found
    /// its weights, if they are still there.
    fn begin(args: &Self::Args, known: Option<PathBuf>) -> Result<Beginning<Self::Kind>>;
}

/// The program.
pub fn main<P: Lesson>() -> Result<()> {
    let (args, given) = Given::parse::<P::Args>();
    crate::warnings::show();
    let mut args = resume::arguments(P::settled(args), &given)?;
    args.common_mut().heed_recipe()?;
    let common = args.common();
    if common.device.list_adapters {
        adapters::list();
        return Ok(());
    }
    if resume::has_ended::<Runner<'_, P>>(&args, |main| common.comparison(main))? {
        return Ok(());
    }
    let machine = Machine::open(&common.device)?;
    let gpu = machine.gpu();
    say!("adapter: {}", gpu.info());
    let known = common.output.resume.as_deref().map(start::place).transpose()?.flatten();
    let mut setup = Setup::<P::Kind>::new(common, P::recipe(), P::begin(&args, known)?)?;
    setup.check(common, &given, &P::rules(&args))?;
    say!("{setup}");
    if common.device.estimate {
        let settings = setup.settings(common, &gpu, setup.recipe.drop, setup.steps, common.seed)?;
        let make = |gpu: &wgrad::Gpu| setup.blank_task(gpu, setup.recipe.drop);
        say!("{}", memory::needs(&gpu, &setup.workload(&make, &settings), common.device.budget(&gpu))?);
        return Ok(());
    }
    setup.settle(args.common_mut());
    setup.fit_memory(args.common_mut(), &gpu, &given)?;
    // One that is lost is given up as a whole: nobody else holds it.
    drop(gpu);
    run::<P>(&args, &machine, &setup)
}

/// The runs that the arguments ask for.
fn run<P: Lesson>(args: &P::Args, machine: &Machine, setup: &Setup<P::Kind>) -> Result<()> {
    let (gpu, common) = (machine.gpu(), args.common());
    let comparison = common.comparison(setup.recipe.drop);
    let arms = comparison.ways().into_iter().map(|way| {
        let settings = setup.settings(common, &gpu, way, setup.steps_of(way)?, common.seed)?;
        Ok((settings, move |gpu: &wgrad::Gpu| setup.blank_task(gpu, way)))
    });
    let arms = arms.collect::<Result<Vec<_>>>()?;
    let works: Vec<_> = arms.iter().map(|(settings, make)| setup.workload(make, settings)).collect();
    let folder = folder::create(common.output.output.as_deref())?;
    let goes_on = common.output.resume.is_some();
    if !goes_on {
        folder::refuse_another(&folder)?;
    }
    resume::check_exports::<Runner<'_, P>>(&folder, &comparison, goes_on, |_, _| setup.exports().to_vec())?;
    let _lock = folder::lock(&folder)?;
    setup.keep_weights(&folder, goes_on)?;
    if !goes_on {
        deepspeed::keep(common.ltd_config.as_deref(), &folder)?;
        folder::save(&folder, &args.kept()?, &setup.recipe)?;
    }
    let tuning = tuning::tune(&gpu, &common.device, &works)?;
    tuning::compile(&gpu, &works)?;
    let command = resume::command(args, &folder);
    let stop = interrupt::stop(folder.clone(), command.clone())?;
    let session = Session { folder: &folder, comparison, goes_on, command, stop: &stop };
    let mut report = Report { adapter: gpu.info().to_string(), tuning, args, recipe: &setup.recipe, runs: Vec::new() };
    drop(gpu);
    let mut runner = Runner::<P> { machine, args: common, setup, session: &session };
    session.run(&mut runner, &mut report).map_err(|error| memory::explain(error, &machine.gpu(), &works))?;
    session.conclude::<Runner<'_, P>, _, _>(&report, None)
}
