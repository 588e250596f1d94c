//! What random-LTD costs and saves when a small ViT is finetuned, beside its rivals: the study in docs/study.md.
//!
//!     cargo run --release --example ltd_study -- --data-dir cifar-10-batches-bin --output study
//!
//! Finetunes the embedded checkpoint on a subset of CIFAR-10, once for each arm and seed; the runs of a seed share order,
//! augmentation and the new head's first weights. A run's results are a line of `study/runs.csv` as soon as it ends, and a study
//! that was cut off goes on from there. Last lines: the table that `study/table.md` holds; `study/study.png` is its picture.

mod arms;
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
mod table;
mod timing;
#[path = "../common/warnings.rs"]
mod warnings;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Parser;
use wgrad::data::cifar10;
use wgrad::gpu::{AdapterChoice, Gpu, GpuOptions};
use wgrad::models::vit::{Pretrained, VitConfig};

use arms::Arm;
use runs::Study;
use study::results::Results;

#[derive(Parser)]
struct Args {
    /// Folder with CIFAR-10 in its official binary layout.
    #[arg(long)]
    data_dir: PathBuf,
    /// Folder of the results.
    #[arg(long, default_value = "study")]
    output: PathBuf,
    /// Training pictures, the same in every run.
    #[arg(long, default_value_t = 5000)]
    pictures: usize,
    /// Passes over them.
    #[arg(long, default_value_t = 8)]
    epochs: u64,
    #[arg(long, default_value_t = 32)]
    batch_size: usize,
    #[arg(long, default_value_t = 1e-3)]
    lr: f32,
    /// Seeds 0 to this number less one.
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// Arms by name, as a,b,c [default: all].
    #[arg(long, value_delimiter = ',')]
    arms: Option<Vec<String>>,
    /// Adapter, by a part of its name or its number.
    #[arg(long)]
    adapter: Option<AdapterChoice>,
}

fn main() -> Result<()> {
    warnings::show();
    let args = Args::parse();
    let gpu = Gpu::with_options(&GpuOptions { adapter: args.adapter.clone(), ..Default::default() })?;
    println!("{}", gpu.info());
    let data = cifar10(&args.data_dir)?;
    let Pretrained { checkpoint: weights, config, .. } = Pretrained::embedded()?;
    let config = VitConfig { num_classes: data.class_names.len(), ..config };
    let available = data.train.len();
    ensure!(
        (args.batch_size..=available).contains(&args.pictures),
        "--pictures {}: from a batch, {}, to {available}",
        args.pictures,
        args.batch_size
    );
    let steps = args.epochs * (args.pictures / args.batch_size) as u64;
    ensure!(steps >= 10 && args.seeds > 0, "--epochs and --seeds: nothing to compare");
    let arms = chosen(&args, &config)?;
    std::fs::create_dir_all(&args.output)?;
    let study = Study::new(&gpu, data, weights, config, steps, args.pictures, args.batch_size, args.lr)?;
    let mut results = Results::open(&args.output.join("runs.csv"), &study.settings())?;
    // A seed at a time: whatever slows the machine for an hour then slows all arms.
    let runs = (0..args.seeds).flat_map(|seed| arms.iter().map(move |arm| (arm, seed)));
    let missing: Vec<_> = runs.filter(|(arm, seed)| !results.has(&arm.name, *seed)).collect();
    let times = timing::step_times(&study, &arms)?;
    for (arm, seed) in missing {
        let run = study.run(arm, seed, &times)?;
        println!("{run}");
        results.add(run)?;
    }
    let shares = timing::shares(&study, &arms, results.runs(), &times)?;
    let table = table::table(&arms, results.runs(), &shares);
    std::fs::write(args.output.join("table.md"), &table)?;
    plot::draw(&args.output.join("study.png"), &arms, results.runs(), &shares)?;
    println!("\n{table}\nwritten to {}", args.output.display());
    Ok(())
}

/// The arms that were asked for; full length, which the others are compared with, is always one.
fn chosen(args: &Args, config: &VitConfig) -> Result<Vec<Arm>> {
    let all = arms::all(config.tokens());
    let Some(names) = &args.arms else { return Ok(all) };
    for name in names {
        let known: Vec<&str> = all.iter().map(|arm| arm.name.as_str()).collect();
        ensure!(known.contains(&name.as_str()), "--arms {name}: there are {}", known.join(", "));
    }
    Ok(all.into_iter().filter(|arm| arm.name == arms::FULL || names.contains(&arm.name)).collect())
}
