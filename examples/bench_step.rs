//! Times whole optimiser steps of a ViT on random pictures that stay on the device.
//!
//!     cargo run --release --example bench_step -- WIDTH DEPTH HEADS PATCH IMAGE BATCH STEPS [--ltd R] \
//!         [--checkpoint-blocks] [--profile]
//!
//! Last line: JSON with `median_ms` and `img_s` (of the second half of the steps), `first_step_ms` (since the start of the
//! program), `peak_device_mb`, `rss_mb` (growth of the process's peak since the device was opened), `dispatches` a step and
//! `host_ms`, the host's time to record a step.

use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use serde::Serialize;
use wgrad::Tensor;
use wgrad::gpu::{AdapterChoice, Gpu, GpuOptions};
use wgrad::ltd::{RandomLtd, Schedule};
use wgrad::nn::{Mode, Vit, VitConfig};
use wgrad::ops::{self, CrossEntropy, RandomKey, TokenIndices};
use wgrad::optim::{AdamW, Optimizer, Rule, decays};

#[derive(Parser)]
struct Args {
    width: usize,
    depth: usize,
    heads: usize,
    patch: usize,
    image: usize,
    batch: usize,
    steps: usize,
    /// Tokens kept in all blocks but the first and last.
    #[arg(long)]
    ltd: Option<usize>,
    /// Keep each block's input alone, and compute the rest again in backward.
    #[arg(long)]
    checkpoint_blocks: bool,
    /// Print the time of each kernel over two more steps.
    #[arg(long)]
    profile: bool,
    /// Adapter, by a part of its name or its number.
    #[arg(long)]
    adapter: Option<AdapterChoice>,
}

#[derive(Serialize)]
struct Line {
    adapter: String,
    median_ms: f64,
    img_s: f64,
    first_step_ms: f64,
    peak_device_mb: f64,
    rss_mb: Option<f64>,
    dispatches: u64,
    host_ms: f64,
}

fn main() -> Result<()> {
    let started = Instant::now();
    let args = Args::parse();
    let gpu = Gpu::with_options(&GpuOptions { adapter: args.adapter.clone(), ..Default::default() })?;
    let rss_before = peak_rss_mb();
    let config = VitConfig {
        img_size: (args.image, args.image),
        patch_size: args.patch,
        num_classes: 10,
        ..VitConfig::custom(args.width, args.depth, args.heads)
    };
    let mut bench = Bench::new(&gpu, config, &args)?;
    let mut steps = Vec::new();
    let mut first_step_ms = 0.0;
    for step in 0..args.steps.max(1) {
        steps.push(bench.step()?);
        if step == 0 {
            first_step_ms = started.elapsed().as_secs_f64() * 1e3;
        }
    }
    if args.profile {
        profile(&gpu, &mut bench)?;
    }
    let half = &steps[steps.len() / 2..];
    let median_ms = median(half.iter().map(|s| s.total_ms));
    let line = Line {
        adapter: gpu.info().to_string(),
        median_ms,
        img_s: args.batch as f64 / median_ms * 1e3,
        first_step_ms,
        peak_device_mb: gpu.memory().peak_allocated as f64 / 1e6,
        rss_mb: peak_rss_mb().zip(rss_before).map(|(after, before)| after - before),
        dispatches: steps[steps.len() - 1].dispatches,
        host_ms: median(half.iter().map(|s| s.host_ms)),
    };
    println!("{}", serde_json::to_string(&line)?);
    Ok(())
}

struct Step {
    total_ms: f64,
    host_ms: f64,
    dispatches: u64,
}

/// A model with its optimiser and one batch on the device.
struct Bench {
    model: Vit,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
    ltd: Option<RandomLtd>,
    checkpoint_blocks: bool,
    step: u64,
}

impl Bench {
    fn new(gpu: &Gpu, config: VitConfig, args: &Args) -> Result<Self> {
        let model = Vit::new(gpu, config, 0)?;
        let optimizer = Optimizer::new(model.parameters(), Rule::AdamW(AdamW::default()), None, decays)?;
        let pixels = args.batch * 3 * args.image * args.image;
        // Any spread of values does: time does not depend on them.
        let bytes: Vec<u8> = (0..pixels).map(|i| (i.wrapping_mul(2_654_435_761) >> 16) as u8).collect();
        let images = Tensor::from_slice(gpu, &[args.batch, 3, args.image, args.image], &bytes)?;
        let labels: Vec<u32> = (0..args.batch as u32).map(|i| i % 10).collect();
        let labels = Tensor::from_slice(gpu, &[args.batch], &labels)?;
        let ltd = args.ltd.map(|kept| RandomLtd::new(args.depth, Schedule::constant(kept)?)).transpose()?;
        Ok(Bench { model, optimizer, images, labels, ltd, checkpoint_blocks: args.checkpoint_blocks, step: 0 })
    }

    /// One step, from the first command to the loss on the host.
    fn step(&mut self) -> Result<Step> {
        let (started, gpu) = (Instant::now(), self.model.gpu().clone());
        let before = gpu.stats().dispatches;
        let kept = self.draw()?;
        let key = RandomKey { seed: 0, step: self.step, layer: 0, first_sample: 0 };
        let mode = if self.checkpoint_blocks { Mode::Checkpointed(key) } else { Mode::Training(key) };
        let logits = self.model.forward(&self.images, &kept, &mode)?;
        let loss = ops::cross_entropy(&logits, &self.labels, &CrossEntropy::default())?;
        drop(logits);
        loss.backward()?;
        self.optimizer.step(self.model.parameters(), 1e-4)?;
        let host_ms = started.elapsed().as_secs_f64() * 1e3;
        loss.item()?;
        self.step += 1;
        let total_ms = started.elapsed().as_secs_f64() * 1e3;
        Ok(Step { total_ms, host_ms, dispatches: gpu.stats().dispatches - before })
    }

    fn draw(&self) -> Result<Vec<Option<TokenIndices>>> {
        let Some(ltd) = &self.ltd else { return Ok(Vec::new()) };
        let (tokens, batch) = (self.model.config().tokens(), self.labels.numel());
        let plan = ltd.plan(self.step, tokens);
        let upload = |rows: Vec<u32>| TokenIndices::new(self.model.gpu(), batch, plan.kept(), tokens, &rows);
        let drawn = plan.draw(0, batch)?;
        Ok(drawn.into_iter().map(|rows| rows.map(upload).transpose()).collect::<wgrad::Result<_>>()?)
    }
}

fn profile(gpu: &Gpu, bench: &mut Bench) -> Result<()> {
    gpu.start_profile();
    bench.step()?;
    bench.step()?;
    let rows = gpu.take_profile();
    let total: f64 = rows.iter().map(|r| r.total.as_secs_f64()).sum();
    for row in &rows {
        let (ms, share) = (row.total.as_secs_f64() * 1e3 / 2.0, 100.0 * row.total.as_secs_f64() / total);
        println!("{:32} {:5} x  {ms:9.3} ms  {share:5.1} %", row.kernel, row.count / 2);
    }
    println!("{:32} {:13.3} ms a step", "all kernels", total * 1e3 / 2.0);
    Ok(())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Largest resident size so far, in MB; only where the system tells (Linux).
fn peak_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? * 1024.0 / 1e6)
}
