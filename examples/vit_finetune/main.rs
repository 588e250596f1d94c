//! Finetunes a pretrained Vision Transformer with random-LTD, on any GPU.
//!
//!     cargo run --release --example vit_finetune
//!     cargo run --release --example vit_finetune -- --compare
//!     cargo run --release --example vit_finetune -- --data-dir my_photos --epochs 10
//!
//! With no arguments: the embedded checkpoint on the embedded digits. Last lines: a table of test accuracy, wall time,
//! layer tokens and memory, and the folder that holds checkpoints, curves and a report.

mod args;
mod arms;
mod canvas;
mod check;
mod confusion;
#[path = "../common/console.rs"]
mod console;
mod curves;
mod files;
mod findings;
mod given;
mod history;
mod html;
mod memory;
mod mistakes;
mod progress;
mod recipe;
mod report;
mod resume;
mod run;
mod settings;
mod setup;
#[path = "../common/size.rs"]
mod size;
mod splits;
mod tensorboard;
mod values;
#[path = "../common/warnings.rs"]
mod warnings;
mod weights;

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use wgrad::gpu::{Gpu, GpuOptions, Power};

use arms::Arm;
use console::{complain, say};
use given::Given;
use history::History;
use report::Report;
use run::Runner;
use setup::Setup;
use splits::Splits;

fn main() -> Result<()> {
    let (args, given) = Given::parse();
    warnings::show();
    let args = resume::arguments(args, &given)?;
    if args.list_adapters {
        for (i, adapter) in Gpu::adapters(Power::High).iter().enumerate() {
            say!("{i}: {adapter}");
        }
        return Ok(());
    }
    if resume::has_ended(&args)? {
        return resume::show_ended(&args);
    }
    let (adapter, matrix_units) = (args.adapter.clone(), args.matrix_units);
    let gpu = Gpu::with_options(&GpuOptions { adapter, matrix_units, ..Default::default() })?;
    say!("adapter: {}", gpu.info());
    let setup = Setup::new(&args, &given)?;
    say!("{setup}");
    if args.estimate {
        say!("{}", memory::table(&gpu, &args, &setup)?);
        return Ok(());
    }
    memory::check(&gpu, &args, &setup)?;
    setup.check(&args)?;
    let folder = setup.create_folder(&args)?;
    let _lock = resume::lock(&folder)?;
    if args.resume.is_none() {
        setup.save(&args, &folder)?;
    }
    let mut splits = Splits::open(&args, &setup, &folder)?;
    let tuning = run::tune(&gpu, &args, &setup)?;
    let stop = stop_on_interrupt(resume::command(&args, &folder))?;

    let runner = Runner { gpu: &gpu, args: &args, setup: &setup, folder: &folder, stop: &stop };
    let mut report = Report::new(gpu.info().to_string(), tuning, &args, &setup.recipe);
    run_all(&runner, &mut report, &mut splits)?;
    say!("\n{}", report::table(&report.runs));
    say!("written to {}", folder.display());
    if !arms::missing(&args, setup.recipe.drop, &report.runs).is_empty() {
        say!("to go on: {}", resume::command(&args, &folder));
    }
    if args.json {
        writeln!(std::io::stdout(), "{}", serde_json::to_string(&report)?).context("printing the report")?;
    }
    Ok(())
}

/// Every run that the arguments ask for and that has not ended before an interruption.
fn run_all(runner: &Runner<'_>, report: &mut Report<'_>, splits: &mut Splits<'_>) -> Result<()> {
    let Runner { args, setup, folder, stop, .. } = *runner;
    let mut history = if args.resume.is_some() { History::resume(folder) } else { History::create(folder)? };
    if args.resume.is_some() {
        report.runs = resume::finished(folder)?;
    }
    let arms = Arm::all(args, setup.recipe.drop);
    let missing = arms::missing(args, setup.recipe.drop, &report.runs);
    if arms.len() > 1 && !missing.is_empty() {
        for arm in &arms {
            runner.trial(arm.drop())?;
        }
    }
    for (arm, seed) in missing {
        let result = runner.run(arm, seed, report, &mut history);
        // What has been measured so far is written also where a run fails, but nothing where it is refused.
        if result.is_ok() || history.has_news() {
            history.rewrite()?;
            curves::draw(&folder.join("curves.png"), &history)?;
        }
        let (run, unreadable) = result.map_err(|error| {
            let way_on = resume::way_on(args, folder, &error, history.has_news());
            error.context(format!("run {}{way_on}", runner.name(arm, seed)))
        })?;
        splits.write(&unreadable)?;
        report.runs.push(run);
        html::write(folder, report, &report::table(&report.runs))?;
        // Last, for it says that the run has ended.
        report.write(folder)?;
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    Ok(())
}

/// The first Ctrl-C asks the run to end after its step; the second ends the program, with the command that goes on.
fn stop_on_interrupt(command: String) -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            complain!("\nto go on from what was saved last: {command}");
            std::process::exit(130);
        }
        complain!("\nending after this step; again to end at once");
    })
    .context("watching for Ctrl-C")?;
    Ok(stop)
}

/// Whether progress can be drawn in place.
fn is_terminal() -> bool {
    std::io::stderr().is_terminal()
}
