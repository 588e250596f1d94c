//! Times whole optimiser steps of ViTs, GPT-2 and BERT at full length and with random-LTD.
//!
//!     cargo bench --bench step -- [--case ti-32-b8]... [--ltd-ratios 0.16,0.25,0.5,0.75,1] [--steps 5] [--json FILE]
//!     cargo bench --bench step -- --ltd-blocks --case ti-224-b1 --plot FILE.png
//!     cargo bench --bench step -- --budget --case ti-32-b8
//!     cargo bench --bench step -- --host --steps 50
//!
//! Lengths take turns, a step each after a step to warm up, so that what else the machine does hits all alike; ratios are
//! taken within a turn, and medians over the turns. A step goes from the first command to the loss on the host; `host` is
//! the time until its last command was recorded, which includes waiting where a driver computes while work is submitted.
//! `--ltd-blocks` times the LTD blocks alone (`ltd_blocks.rs`), `--budget` says where a step's time goes (`budget.rs`),
//! `--host` what recording and submitting it takes (`host.rs`).
//!
//! Without `--case`: the ViTs but ViT-B.

#[path = "../common/bounds.rs"]
mod bounds;
mod budget;
mod case;
#[path = "../common/cost.rs"]
mod cost;
#[path = "../../examples/common/font.rs"]
mod font;
mod group;
mod host;
mod ltd_blocks;
mod plot;
#[path = "../common/report.rs"]
mod report;
#[path = "../common/stats.rs"]
mod stats;
mod steps;
#[path = "../common/steps.rs"]
mod timed;
#[path = "../../examples/common/warnings.rs"]
mod warnings;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use wgrad::Gpu;
use wgrad::gpu::{AdapterChoice, GpuOptions};
use wgrad::nn::Precision;

use case::{Case, Ratio};

#[derive(Parser)]
#[command(about = "Times whole optimiser steps at full length and with random-LTD")]
struct Args {
    /// A case by its name or its sizes; may be given several times.
    #[arg(long = "case", default_values_t = Case::usual(), long_help = Case::help())]
    cases: Vec<Case>,
    /// R/T, the share of tokens that LTD blocks keep; 1 is full length. With `--budget` full length alone by default.
    #[arg(long, value_delimiter = ',')]
    ltd_ratios: Option<Vec<Ratio>>,
    /// Timed steps at each length.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    steps: u32,
    /// Element type of activations: f32 or f16.
    #[arg(long, default_value = "f32", conflicts_with = "budget")]
    precision: Precision,
    /// Adapter, by a part of its name or its number.
    #[arg(long)]
    adapter: Option<AdapterChoice>,
    /// Times the blocks that drop tokens by themselves, against their share of operations.
    #[arg(long)]
    ltd_blocks: bool,
    /// Draws what `--ltd-blocks` found.
    #[arg(long, requires = "ltd_blocks", value_name = "FILE.png")]
    plot: Option<PathBuf>,
    /// Lists each operation's work, each kernel's time, and what the device could do at best.
    #[arg(long, conflicts_with = "ltd_blocks")]
    budget: bool,
    /// Times the host's work on a device that computes nothing.
    #[arg(long, conflicts_with_all = ["ltd_blocks", "budget", "adapter"])]
    host: bool,
    /// Writes the figures there as well.
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Args {
    /// The ratios asked for, with full length at their end, which the others are compared with.
    fn ratios(&self) -> Vec<Ratio> {
        let mut ratios = self.ltd_ratios.clone().unwrap_or_else(Ratio::usual);
        ratios.retain(|ratio| *ratio != Ratio::FULL);
        ratios.push(Ratio::FULL);
        ratios
    }
}

/// What is done with each case.
pub struct Work {
    /// Full length at the end.
    pub ratios: Vec<Ratio>,
    /// Of the activations.
    pub precision: Precision,
    /// How often each length has its turn.
    pub turns: usize,
}

fn main() -> Result<()> {
    warnings::show();
    let args: Args = report::arguments();
    let json = args.json.as_deref();
    let work = Work { ratios: args.ratios(), precision: args.precision, turns: args.steps as usize };
    if args.host {
        return report::write_json(json, &host::run(&args.cases, &work)?);
    }
    let gpu = Gpu::with_options(&GpuOptions { adapter: args.adapter.clone(), ..Default::default() })?;
    println!("{}\n", gpu.info());
    if args.budget {
        let ratios = args.ltd_ratios.clone().unwrap_or_else(|| vec![Ratio::FULL]);
        return report::write_json(json, &budget::run(&gpu, &args.cases, &ratios)?);
    }
    if args.ltd_blocks {
        let found = ltd_blocks::run(&gpu, &args.cases, &work)?;
        if let Some(path) = &args.plot {
            plot::draw(path, &found)?;
        }
        return report::write_json(json, &found);
    }
    report::write_json(json, &steps::run(&gpu, &args.cases, &work)?)
}
