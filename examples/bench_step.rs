//! Times whole optimiser steps of a ViT on random pictures, or of a language model on random tokens.
//!
//!     cargo run --release --example bench_step -- WIDTH DEPTH HEADS PATCH IMAGE BATCH STEPS [--ltd R] \
//!         [--recompute-blocks] [--profile] [--tune [--matrix-units]]
//!     cargo run --release --example bench_step -- --model gpt2 WIDTH DEPTH HEADS VOCABULARY TOKENS BATCH STEPS ...
//!
//! Last line: JSON with `median_ms` and `samples_s` (of the second half of the steps), `first_step_ms` (since the start of the
//! program), `peak_device_mb`, `rss_mb` (growth of the process's peak since the device was opened), `dispatches` a step and
//! `host_ms`, the host's time to record a step; with `--tune`, what it did as `tuning`.

#[path = "../benches/common/stats.rs"]
mod stats;
#[path = "../benches/common/steps.rs"]
mod timed;
#[path = "common/warnings.rs"]
mod warnings;

use std::time::Instant;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use serde::Serialize;
use wgrad::gpu::{AdapterChoice, Gpu, GpuOptions};
use wgrad::nn::Precision;
use wgrad::ops::{self, TuneReport};
use wgrad::train::TUNING_BUDGET;

use stats::median;
use timed::{Network, Stepping, settings};

#[derive(Parser)]
struct Args {
    width: usize,
    depth: usize,
    heads: usize,
    /// Side of a patch; of a language model the vocabulary.
    patch: usize,
    /// Side of a picture; of a language model the tokens of a sample.
    image: usize,
    batch: usize,
    steps: usize,
    /// What is trained.
    #[arg(long, value_enum, default_value = "vit")]
    model: Kind,
    /// Tokens kept in all blocks but the first and last.
    #[arg(long)]
    ltd: Option<usize>,
    /// Element type of activations: f32 or f16.
    #[arg(long, default_value = "f32")]
    precision: Precision,
    /// Keep each block's input alone, and compute the rest again in backward.
    #[arg(long, alias = "checkpoint-blocks")]
    recompute_blocks: bool,
    /// Measure which kernels are fastest before the first step.
    #[arg(long)]
    tune: bool,
    /// Let tuning look at matrix units too (an experiment of wgpu's).
    #[arg(long, requires = "tune")]
    matrix_units: bool,
    /// Print the time of each kernel over two more steps.
    #[arg(long)]
    profile: bool,
    /// Adapter, by a part of its name or its number.
    #[arg(long)]
    adapter: Option<AdapterChoice>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Vit,
    Gpt2,
    Bert,
}

impl Args {
    fn network(&self) -> Result<Network> {
        let &Args { model, width, depth, heads, patch, image, .. } = self;
        let sizes = [width, depth, heads];
        let network = match model {
            Kind::Vit => Network::vit(sizes, patch, image),
            Kind::Gpt2 => Network::gpt2(sizes, patch, image),
            Kind::Bert => Network::bert(sizes, patch, image),
        };
        network.check()?;
        Ok(network)
    }
}

#[derive(Serialize)]
struct Line {
    adapter: String,
    median_ms: f64,
    samples_s: f64,
    first_step_ms: f64,
    peak_device_mb: f64,
    rss_mb: Option<f64>,
    dispatches: u64,
    host_ms: f64,
    tuning: Option<TuneReport>,
}

fn main() -> Result<()> {
    let started = Instant::now();
    warnings::show();
    let args = Args::parse();
    let (adapter, matrix_units) = (args.adapter.clone(), args.matrix_units);
    let gpu = Gpu::with_options(&GpuOptions { adapter, matrix_units, ..Default::default() })?;
    let rss_before = peak_rss_mb();
    let network = args.network()?;
    let tuning = args.tune.then(|| tune(&gpu, &network, &args)).transpose()?;
    let mut model = network.steps(&gpu, args.batch, settings(args.precision, args.recompute_blocks)?)?;
    model.keep(args.ltd)?;
    let mut steps = Vec::new();
    let mut first_step_ms = 0.0;
    for step in 0..args.steps.max(1) {
        steps.push(model.step()?);
        if step == 0 {
            first_step_ms = started.elapsed().as_secs_f64() * 1e3;
        }
    }
    if args.profile {
        profile(&gpu, model.as_mut())?;
    }
    let half = &steps[steps.len() / 2..];
    let median_ms = median(half.iter().map(|s| s.total_ms));
    let line = Line {
        adapter: gpu.info().to_string(),
        median_ms,
        samples_s: args.batch as f64 / median_ms * 1e3,
        first_step_ms,
        peak_device_mb: gpu.memory().peak_allocated as f64 / 1e6,
        rss_mb: peak_rss_mb().zip(rss_before).map(|(after, before)| after - before),
        dispatches: steps[steps.len() - 1].dispatches,
        host_ms: median(half.iter().map(|s| s.host_ms)),
        tuning,
    };
    println!("{}", serde_json::to_string(&line)?);
    Ok(())
}

/// Settles the kernels of this very step.
fn tune(gpu: &Gpu, network: &Network, args: &Args) -> Result<TuneReport> {
    let settings = settings(args.precision, args.recompute_blocks)?;
    let products = network.rehearsed(gpu, args.batch, settings, args.ltd)?.products;
    Ok(ops::tune(gpu, &products, TUNING_BUDGET)?)
}

fn profile(gpu: &Gpu, model: &mut dyn Stepping) -> Result<()> {
    gpu.start_profile();
    model.step()?;
    model.step()?;
    let rows = gpu.take_profile();
    let total: f64 = rows.iter().map(|r| r.total.as_secs_f64()).sum();
    for row in &rows {
        let (ms, share) = (row.total.as_secs_f64() * 1e3 / 2.0, 100.0 * row.total.as_secs_f64() / total);
        println!("{:32} {:5} x  {ms:9.3} ms  {share:5.1} %", row.kernel, row.count / 2);
    }
    println!("{:32} {:13.3} ms a step", "all kernels", total * 1e3 / 2.0);
    Ok(())
}

/// Largest resident size so far, in MB; only where the system tells (Linux).
fn peak_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? * 1024.0 / 1e6)
}
