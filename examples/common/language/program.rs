//! A whole program, from its arguments to its report.

use std::io::Write;

use anyhow::{Context, Result};
use clap::{CommandFactory, FromArgMatches};

use super::args::Common;
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
use crate::training::{adapters, folder, interrupt, memory, resume, tuning};

/// A program that trains a language model.
pub trait Lesson {
    type Args: Arguments + CommandFactory + FromArgMatches;
    type Kind: Kind;

    /// On the page.
    const TITLE: &'static str;

    /// Of its arguments, those that all such programs have.
    fn common(args: &Self::Args) -> &Common;

    /// The same, to be settled.
    fn common_mut(args: &mut Self::Args) -> &mut Common;

    /// The arguments with what follows from them where it is not said.
    fn settled(args: Self::Args) -> Self::Args {
        args
    }

    /// How it trains where nothing else is said.
    fn recipe() -> Recipe;

    /// When its own options count.
    fn rules(args: &Self::Args) -> Vec<Rule>;

    /// The model's sizes and weights, and the texts, that the arguments name.
    fn begin(args: &Self::Args) -> Result<Beginning<Self::Kind>>;
}

/// The program.
pub fn main<P: Lesson>() -> Result<()> {
    let (args, given) = Given::parse::<P::Args>();
    crate::warnings::show();
    let mut args = resume::arguments(P::settled(args), &given)?;
    let common = P::common(&args);
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
    let mut setup = Setup::<P::Kind>::new(common, P::recipe(), P::begin(&args)?)?;
    setup.check(common, &given, &P::rules(&args))?;
    say!("{setup}");
    if common.device.estimate {
        let settings = setup.settings(common, &gpu, setup.recipe.drop, setup.steps, common.seed)?;
        let make = |gpu: &wgrad::Gpu| setup.blank_task(gpu, setup.recipe.drop);
        say!("{}", memory::needs(&gpu, &setup.workload(&make, &settings), common.device.budget(&gpu))?);
        return Ok(());
    }
    setup.fit_memory(P::common_mut(&mut args), &gpu, &given)?;
    let common = P::common(&args);
    let (setup, comparison) = (&setup, common.comparison(setup.recipe.drop));
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
        comparison.places(&folder).try_for_each(|run| folder::refuse_exports(&run, setup.exports()))?;
    }
    let _lock = folder::lock(&folder)?;
    if !goes_on {
        folder::save(&folder, &args.kept()?, &setup.recipe)?;
    }
    let tuning = tuning::tune(&gpu, &common.device, &works)?;
    tuning::compile(&gpu, &works)?;
    let command = resume::command(&args, &folder);
    let stop = interrupt::stop(command.clone())?;
    let session = Session { folder: &folder, comparison, goes_on, command, stop: &stop };
    let mut report =
        Report { adapter: gpu.info().to_string(), tuning, args: &args, recipe: &setup.recipe, runs: Vec::new() };
    // One that is lost is given up as a whole.
    drop(gpu);
    let mut runner = Runner::<P> { machine: &machine, args: common, setup, session: &session };
    session.run(&mut runner, &mut report).map_err(|error| memory::explain(error, &machine.gpu(), &works))?;
    session.conclude::<Runner<'_, P>>(&report.runs);
    if common.output.json {
        writeln!(std::io::stdout(), "{}", serde_json::to_string(&report)?).context("printing the report")?;
    }
    Ok(())
}
