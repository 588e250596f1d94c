//! Finetunes a pretrained Vision Transformer on some of its tokens (PatchDropout, random-LTD) or all, on any GPU.
//!
//!     cargo run --release --example vit_finetune
//!     cargo run --release --example vit_finetune -- --compare none,random-ltd
//!     cargo run --release --example vit_finetune -- --data-dir my_photos --epochs 10
//!
//! With no arguments: the embedded checkpoint on the embedded digits. Last lines: a table of test accuracy, wall time,
//! layer tokens and memory, and the folder that holds checkpoints, curves and a report.

mod args;
mod augment;
mod check;
mod confusion;
mod effects;
mod findings;
mod lettering;
#[path = "../common/local.rs"]
mod local;
mod mistakes;
mod probed;
mod recipe;
mod report;
mod run;
mod savings;
mod settings;
mod setup;
#[path = "../common/size.rs"]
mod size;
mod splits;
#[path = "../common/training/mod.rs"]
mod training;
#[path = "../common/warnings.rs"]
mod warnings;
#[path = "../common/ways.rs"]
mod ways;
mod weights;

use anyhow::Result;

use args::Args;
use run::Runner;
use settings::Maker;
use setup::Setup;
use splits::Splits;
use training::console::say;
use training::device::Machine;
use training::given::Given;
use training::report::Report;
use training::session::Session;
use training::{adapters, folder, interrupt, memory, resume, tuning};
use wgrad::train::Task;

fn main() -> Result<()> {
    let (args, given) = Given::parse::<Args>();
    warnings::show();
    let mut args = resume::arguments(args, &given)?;
    if let Some(folder) = &args.output.resume {
        args.overrides.drop = Some(resume::main_way(folder)?);
    }
    if args.device.list_adapters {
        adapters::list();
        return Ok(());
    }
    if resume::has_ended::<Runner<'_>>(&args, |main| args.comparison(main))? {
        return Ok(());
    }
    let machine = Machine::open(&args.device)?;
    let gpu = machine.gpu();
    say!("adapter: {}", gpu.info());
    let mut setup = Setup::new(&args, &given)?;
    if args.output.resume.is_none() {
        setup.settle(&mut args);
    }
    say!("{setup}");
    if !args.device.estimate {
        setup.fit_memory(&mut args, &gpu, &given)?;
    }
    // One that is lost is given up as a whole: nobody else holds it.
    drop(gpu);
    if args.probe {
        run(&args, &machine, &setup, &setup.probe_maker())
    } else {
        run(&args, &machine, &setup, &setup.maker())
    }
}

/// The runs that the arguments ask for, of what `make` makes.
fn run<T: Task>(args: &Args, machine: &Machine, setup: &Setup, make: &Maker<'_, T>) -> Result<()> {
    let gpu = machine.gpu();
    let settings = setup.settings_of_arms(args, &gpu)?;
    let works: Vec<_> = settings.iter().map(|settings| setup.workload(make, settings)).collect();
    if args.device.estimate {
        say!("{}", memory::needs(&gpu, &works[0], args.device.budget(&gpu))?);
        return Ok(());
    }
    setup.check(args)?;
    let folder = setup.create_folder(args)?;
    let _lock = folder::lock(&folder)?;
    setup.keep(args, &folder)?;
    let splits = Splits::open(args, setup, &folder)?;
    let tuning = tuning::tune(&gpu, &args.device, &works)?;
    tuning::compile(&gpu, &works)?;
    let command = resume::command(args, &folder);
    let stop = interrupt::stop(folder.clone(), command.clone())?;
    let session = Session {
        folder: &folder,
        comparison: args.comparison(setup.recipe.drop),
        goes_on: args.output.resume.is_some(),
        command,
        stop: &stop,
    };
    let mut report = Report { adapter: gpu.info().to_string(), tuning, args, recipe: &setup.recipe, runs: Vec::new() };
    drop(gpu);
    let mut runner = Runner { machine, args, setup, session: &session, splits };
    session.run(&mut runner, &mut report).map_err(|error| memory::explain(error, &machine.gpu(), &works))?;
    session.conclude::<Runner<'_>, _, _>(&report, setup.about_saving(args)?)
}
