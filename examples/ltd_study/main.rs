//! What random-LTD costs and saves when a ViT is finetuned, beside its rivals: the study in docs/study.md.
//!
//!     cargo run --release --example ltd_study -- --data-dir DIR --weights FOLDER --img-size 112 --output study
//!
//! Every arm's learning rate is chosen first, by runs of half the steps with a seed that does not count (`study/tuning.csv`). Then
//! each arm runs with each seed; the runs of a seed share order, augmentation and the new head's first weights. A run's results
//! are a line of `study/runs.csv` as soon as it ends, and a study that was cut off goes on from there. `--time` times the steps
//! of every arm in turns, for which the machine should be quiet, and tells their memory (`study/costs.json`). Last lines: the tables that
//! `study/table.md` holds; `study/study.png` is their picture.

mod arms;
mod costs;
#[path = "../common/font.rs"]
mod font;
#[path = "../common/ltd_drop.rs"]
mod ltd_drop;
#[path = "../common/patch_drop.rs"]
mod patch_drop;
mod plot;
mod runs;
#[path = "../common/study/mod.rs"]
mod study;
mod sub_batch;
mod table;
mod thinned;
#[path = "../common/warnings.rs"]
mod warnings;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use wgrad::data::{Split, cifar10, cifar100};
use wgrad::gpu::{AdapterChoice, Gpu, GpuOptions};

use arms::Arm;
use costs::Costs;
use runs::{Splits, Study, Trial};
use study::results::Results;

/// Pictures for the choice of learning rates, and of the test pictures those that are shown with fewer tokens.
const OTHERS: usize = 128;
/// The seed of the runs that choose the learning rates.
const TUNING_SEED: u64 = 1000;

#[derive(Clone, Copy, ValueEnum)]
enum Data {
    Cifar10,
    Cifar100,
}

#[derive(Parser)]
struct Args {
    #[arg(long, value_enum, default_value = "cifar10")]
    data: Data,
    /// Folder of the data set in its official binary layout.
    #[arg(long)]
    data_dir: PathBuf,
    /// Checkpoint, a file or a folder [default: the embedded one].
    #[arg(long)]
    weights: Option<PathBuf>,
    /// Side of the pictures, in pixels.
    #[arg(long, default_value_t = 112)]
    img_size: usize,
    /// Folder of the results.
    #[arg(long, default_value = "study")]
    output: PathBuf,
    /// Training pictures, the same in every run.
    #[arg(long, default_value_t = 1024)]
    pictures: usize,
    /// Test pictures.
    #[arg(long, default_value_t = 512)]
    test_pictures: usize,
    /// Passes over the training pictures.
    #[arg(long, default_value_t = 1)]
    epochs: u64,
    #[arg(long, default_value_t = 16)]
    batch_size: usize,
    /// Seeds 0 to this number less one.
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    /// Arms by name, as a,b,c [default: all].
    #[arg(long, value_delimiter = ',')]
    arms: Option<Vec<String>>,
    /// Times the steps of every arm, and trains nothing.
    #[arg(long)]
    time: bool,
    /// Adapter, by a part of its name or its number.
    #[arg(long)]
    adapter: Option<AdapterChoice>,
}

fn main() -> Result<()> {
    warnings::show();
    let args = Args::parse();
    let gpu = Gpu::with_options(&GpuOptions { adapter: args.adapter.clone(), ..Default::default() })?;
    println!("{}", gpu.info());
    let study = study(&args, &gpu)?;
    let arms = chosen(&args, study.pretrained(study.side)?.config.tokens())?;
    std::fs::create_dir_all(&args.output)?;
    let costs = args.output.join("costs.json");
    if args.time {
        // Of another study's folder nothing is replaced, and of this one's what is not timed now stays.
        Results::<runs::Run>::open(&args.output.join("runs.csv"), &study.settings())?;
        let mut known = saved(&costs)?;
        known.extend(costs::measure(&study, &arms)?);
        std::fs::write(&costs, serde_json::to_string_pretty(&known)?)?;
    } else {
        train(&study, &arms, args.seeds, &args.output)?;
    }
    report(&study, &arms, &args.output, &costs)
}

fn study<'a>(args: &Args, gpu: &'a Gpu) -> Result<Study<'a>> {
    let data = match args.data {
        Data::Cifar10 => cifar10(&args.data_dir)?,
        Data::Cifar100 => cifar100(&args.data_dir)?,
    };
    let splits = Splits {
        train: part(&data.train, args.pictures, "--pictures")?,
        validation: part(&data.validation, OTHERS, "validation")?,
        test: part(&data.test, args.test_pictures, "--test-pictures")?,
        thinned: part(&data.test, OTHERS, "test")?,
    };
    let steps = args.epochs * (args.pictures / args.batch_size.max(1)) as u64;
    ensure!(steps >= 10 && args.seeds > 0, "--epochs, --pictures and --seeds: nothing to compare");
    let &Args { ref weights, img_size: side, batch_size, .. } = args;
    Ok(Study { gpu, data, splits, weights: weights.clone(), side, steps, batch_size })
}

/// About so many samples, as many of each class.
fn part(split: &Split, samples: usize, what: &str) -> Result<Split> {
    ensure!((1..=split.len()).contains(&samples), "{what}: {samples} of {} pictures", split.len());
    if samples == split.len() {
        return Ok(split.clone());
    }
    let [part, ..] = split.divide(1.0 - samples as f64 / split.len() as f64, 0.0, 0)?;
    Ok(part)
}

/// The arms that were asked for; full length, which the others are compared with, is always one.
fn chosen(args: &Args, tokens: usize) -> Result<Vec<Arm>> {
    let all = arms::all(tokens);
    let Some(names) = &args.arms else { return Ok(all) };
    for name in names {
        let known: Vec<&str> = all.iter().map(|arm| arm.name).collect();
        ensure!(known.contains(&name.as_str()), "--arms {name}: there are {}", known.join(", "));
    }
    let is_asked = |arm: &Arm| arm.name == arms::FULL || names.iter().any(|name| name == arm.name);
    Ok(all.into_iter().filter(is_asked).collect())
}

/// What is missing: first the rates, then the runs, a seed at a time, so that all arms have as many.
fn train(study: &Study<'_>, arms: &[Arm], seeds: u64, output: &Path) -> Result<()> {
    let mut trials: Results<Trial> = Results::open(&output.join("tuning.csv"), &study.settings())?;
    for arm in arms {
        for rate in arm.rates() {
            if !trials.has(&format!("{}@{rate}", arm.name), TUNING_SEED) {
                let trial = study.trial(arm, rate, TUNING_SEED)?;
                let told = trial.to_string();
                trials.add(trial)?;
                let _ = writeln!(std::io::stdout(), "{told}");
            }
        }
    }
    let mut results = Results::open(&output.join("runs.csv"), &study.settings())?;
    for (seed, arm) in (0..seeds).flat_map(|seed| arms.iter().map(move |arm| (seed, arm))) {
        if !results.has(arm.name, seed) {
            let run = study.run(arm, best_rate(arm, trials.runs())?, seed)?;
            // Kept first: a reader of what is printed may be gone.
            let told = run.to_string();
            results.add(run)?;
            let _ = writeln!(std::io::stdout(), "{told}");
        }
    }
    Ok(())
}

/// That of the trial with the lowest loss.
fn best_rate(arm: &Arm, trials: &[Trial]) -> Result<f32> {
    let own = trials.iter().filter(|trial| trial.arm.split('@').next() == Some(arm.name));
    let best = own.min_by(|a, b| a.validation_loss.total_cmp(&b.validation_loss));
    Ok(best.with_context(|| format!("no rate was tried for {}", arm.name))?.rate)
}

/// The costs in a file, if it is there.
fn saved(costs: &Path) -> Result<Costs> {
    if !costs.exists() {
        return Ok(Costs::new());
    }
    let reading = || format!("reading {}", costs.display());
    serde_json::from_slice(&std::fs::read(costs).with_context(reading)?).with_context(reading)
}

fn report(study: &Study<'_>, arms: &[Arm], output: &Path, costs: &Path) -> Result<()> {
    let costs = saved(costs)?;
    let results = Results::open(&output.join("runs.csv"), &study.settings())?;
    let runs = results.runs();
    let [accuracies, fewer] = [table::table(arms, runs, &costs), table::thinned(arms, runs)];
    let text = if costs.is_empty() {
        format!("{accuracies}\n{fewer}")
    } else {
        format!("{accuracies}\n{}\n{fewer}", table::no_worse(arms, runs, &costs))
    };
    std::fs::write(output.join("table.md"), &text)?;
    if !costs.is_empty() {
        plot::draw(&output.join("study.png"), arms, runs, &costs)?;
    }
    println!("\n{text}\nwritten to {}", output.display());
    Ok(())
}
