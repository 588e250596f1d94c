//! Thousands of steps of a micro model whose kept length rises and falls: does device memory, does what is cached, does the host's
//! time a step stay where they were?
//!
//!     cargo bench --bench soak -- --steps 10000 --csv soak.csv --plot soak.png
//!
//! A cycle rises by random-LTD's schedule, a length every few steps, and falls by going back to the snapshots that it took of each
//! length on its way up. So each length's steps are the same steps, and their losses must be, to the last bit. The exit code is 1 if a
//! loss differs, or if memory or caches grow behind the second cycle. (The first one takes the snapshots.)

#[path = "../../examples/common/font.rs"]
mod font;
mod plot;
#[path = "../common/report.rs"]
mod report;
#[path = "../../examples/common/warnings.rs"]
mod warnings;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Parser;
use serde::Serialize;
use wgrad::Gpu;
use wgrad::data::{ImageBatch, Position};
use wgrad::gpu::{AdapterChoice, GpuOptions};
use wgrad::ltd::{RandomLtd, Schedule};
use wgrad::models::vit::{Vit, VitConfig};
use wgrad::optim::{AdamW, LrSchedule, Rule};
use wgrad::train::{Classify, Snapshot, TrainSettings, Trainer};

#[derive(Parser)]
#[command(about = "Thousands of steps of a micro model whose kept length rises and falls")]
struct Args {
    /// Steps in all.
    #[arg(long, default_value_t = 10_000)]
    steps: usize,
    /// Adapter, by a part of its name or its number.
    #[arg(long)]
    adapter: Option<AdapterChoice>,
    /// Writes a line for each step there.
    #[arg(long)]
    csv: Option<PathBuf>,
    /// Draws them.
    #[arg(long, value_name = "FILE.png")]
    plot: Option<PathBuf>,
    /// Writes the figures of each cycle there.
    #[arg(long)]
    json: Option<PathBuf>,
}

const DEPTH: usize = 4;
const TOKENS: usize = 65;
const SAMPLES: usize = 2;
/// The first kept length, and how much longer the next ones are; the last one is full length.
const FIRST: usize = 5;
const RISE: usize = 4;
/// Steps at each length.
const STAGE: usize = 10;
const LENGTHS: usize = (TOKENS - FIRST) / RISE + 1;
/// Up, and down again without the turning points twice.
const CYCLE: usize = STAGE * (2 * LENGTHS - 2);

/// What stands after a step.
#[derive(Clone, Serialize)]
pub struct Row {
    /// From 0.
    pub step: usize,
    /// R.
    pub kept: usize,
    /// The batch's.
    pub loss: f32,
    /// Device memory taken, in bytes.
    pub allocated: u64,
    /// Of that, in use.
    pub live: u64,
    /// Bind groups that are held.
    pub bind_groups: usize,
    /// The process's memory, in bytes, where the system tells. On a driver that computes on the CPU the device's is in it.
    pub resident: Option<u64>,
    /// The host's time for the step, without compiling and without waiting for its result.
    pub host_ms: f64,
    /// From the first command to the loss on the host.
    pub total_ms: f64,
}

fn main() -> Result<()> {
    warnings::show();
    let args: Args = report::arguments();
    ensure!(args.steps >= 3 * CYCLE, "--steps {}: three cycles at least, {}", args.steps, 3 * CYCLE);
    let gpu = Gpu::with_options(&GpuOptions { adapter: args.adapter.clone(), ..Default::default() })?;
    println!("{}\n", gpu.info());
    let rows = run(&gpu, args.steps)?;
    if let Some(path) = &args.csv {
        write_csv(path, &rows)?;
    }
    if let Some(path) = &args.plot {
        plot::draw(path, &rows, &gpu.info().to_string())?;
    }
    let cycles: Vec<Cycle> =
        rows.chunks_exact(CYCLE).enumerate().map(|(index, rows)| Cycle::new(index, rows)).collect();
    println!("{}", table(&cycles));
    report::write_json(args.json.as_deref(), &cycles)?;
    check(&rows)
}

fn trainer(gpu: &Gpu) -> Result<Trainer<Classify<Vit>>> {
    let config = VitConfig { img_size: (32, 32), patch_size: 4, num_classes: 10, ..VitConfig::custom(32, DEPTH, 2) };
    let schedule = Schedule::linear(FIRST, TOKENS, (STAGE * (LENGTHS - 1)) as u64, RISE)?;
    let settings = TrainSettings {
        drop: RandomLtd::new(DEPTH, schedule)?.into(),
        ..TrainSettings::new(Rule::AdamW(AdamW::default()), LrSchedule::constant(1e-3)?)
    };
    Ok(Trainer::new(Classify::new(Vit::new(gpu, config, 0)?), settings)?)
}

fn batch() -> ImageBatch {
    ImageBatch {
        images: (0..SAMPLES * 3 * 32 * 32).map(|i| (i.wrapping_mul(2_654_435_761) >> 16) as u8).collect(),
        labels: (0..SAMPLES as u32).collect(),
        mixed: None,
        indices: (0..SAMPLES as u32).collect(),
        position: Position::default(),
    }
}

fn run(gpu: &Gpu, steps: usize) -> Result<Vec<Row>> {
    let (mut trainer, batch) = (trainer(gpu)?, batch());
    // Where the trainer stood before each length's first step.
    let mut stages: Vec<Snapshot> = Vec::with_capacity(LENGTHS);
    let mut rows = Vec::with_capacity(steps);
    for step in 0..steps {
        if step % STAGE == 0 {
            // 0, 1, .., LENGTHS − 1, .., 1, and again.
            let turn = step / STAGE % (2 * LENGTHS - 2);
            let stage = turn.min(2 * LENGTHS - 2 - turn);
            match stages.get(stage) {
                Some(snapshot) => trainer.restore(snapshot)?,
                None => stages.push(trainer.snapshot()?),
            }
        }
        let (started, host) = (Instant::now(), trainer.host_time());
        let pending = trainer.record(&batch)?;
        let host_ms = (trainer.host_time() - host).as_secs_f64() * 1e3;
        let metrics = pending.wait()?;
        let (memory, held) = (gpu.memory(), gpu.stats().held_bind_groups);
        rows.push(Row {
            step,
            kept: metrics.kept,
            loss: metrics.loss,
            allocated: memory.allocated,
            live: memory.live,
            bind_groups: held,
            resident: resident(),
            host_ms,
            total_ms: started.elapsed().as_secs_f64() * 1e3,
        });
    }
    Ok(rows)
}

/// Bytes of memory that the process has; only where the system tells (Linux).
fn resident() -> Option<u64> {
    let sizes = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(sizes.split_whitespace().nth(1)?.parse::<u64>().ok()? * 4096)
}

fn write_csv(path: &Path, rows: &[Row]) -> Result<()> {
    let mut writer = csv::Writer::from_path(path)?;
    rows.iter().try_for_each(|row| writer.serialize(row))?;
    Ok(writer.flush()?)
}

/// The largest of a cycle's rows.
fn most(rows: &[Row], of: impl Fn(&Row) -> u64) -> u64 {
    rows.iter().map(of).max().unwrap_or(0)
}

/// The least of some rows.
pub fn least(rows: &[Row], of: impl Fn(&Row) -> f64) -> f64 {
    rows.iter().map(of).fold(f64::INFINITY, f64::min)
}

/// What a cycle comes to: the largest of its steps' memory, the least of their times, which another program disturbs least.
#[derive(Serialize)]
struct Cycle {
    /// From 1.
    number: usize,
    allocated: u64,
    live: u64,
    bind_groups: u64,
    resident: u64,
    host_ms: f64,
    total_ms: f64,
}

impl Cycle {
    fn new(index: usize, rows: &[Row]) -> Self {
        Cycle {
            number: index + 1,
            allocated: most(rows, |row| row.allocated),
            live: most(rows, |row| row.live),
            bind_groups: most(rows, |row| row.bind_groups as u64),
            resident: most(rows, |row| row.resident.unwrap_or(0)),
            host_ms: least(rows, |row| row.host_ms),
            total_ms: least(rows, |row| row.total_ms),
        }
    }
}

/// Some cycles, the last one among them.
fn table(cycles: &[Cycle]) -> comfy_table::Table {
    let header =
        ["cycle", "allocated, MB", "in use, MB", "bind groups", "resident, MB", "host, ms a step", "all, ms a step"];
    let mut table = report::table(&header, 1);
    let last = cycles.len() - 1;
    let shown = [0, 1, 2, last / 4, last / 2, 3 * last / 4, last];
    let megabytes = |bytes: u64| format!("{:.2}", bytes as f64 / 1e6);
    for (_, cycle) in cycles.iter().enumerate().filter(|(index, _)| shown.contains(index)) {
        table.add_row([
            cycle.number.to_string(),
            megabytes(cycle.allocated),
            megabytes(cycle.live),
            cycle.bind_groups.to_string(),
            megabytes(cycle.resident),
            format!("{:.3}", cycle.host_ms),
            format!("{:.3}", cycle.total_ms),
        ]);
    }
    table
}

/// What may not grow, and what must repeat. Times are for the reader: another program may disturb them.
fn check(rows: &[Row]) -> Result<()> {
    // The first cycle is the one that takes snapshots.
    let (second, later) = rows[CYCLE..].split_at(CYCLE);
    for (what, of) in [
        ("device memory taken", (|row| row.allocated) as fn(&Row) -> u64),
        ("device memory in use", |row| row.live),
        ("bind groups held", |row| row.bind_groups as u64),
    ] {
        let (before, after) = (most(second, of), most(later, of));
        ensure!(after <= before, "{what}: {before} in the second cycle, {after} later");
    }
    // The way down is not the first of a length's steps, but the same.
    for (number, stage_rows) in rows.chunks(STAGE).enumerate() {
        let turn = number % (2 * LENGTHS - 2);
        let stage = turn.min(2 * LENGTHS - 2 - turn);
        for (row, same) in stage_rows.iter().zip(&rows[stage * STAGE..]) {
            ensure!(
                row.loss.to_bits() == same.loss.to_bits() && row.kept == same.kept,
                "step {} has loss {}, R {}, but the same step before, {}, had {}, {}",
                row.step,
                row.loss,
                row.kept,
                same.step,
                same.loss,
                same.kept
            );
        }
    }
    Ok(())
}
