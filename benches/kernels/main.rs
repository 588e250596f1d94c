//! Times each operation of a ViT, and what language models have besides, by itself, forward and backward, through the public API.
//!
//!     cargo bench --bench kernels -- [--model ti|s|b] [--tokens 197] [--batch 8] [--filter qkv] [--json FILE]
//!
//! Before an operation is timed its results are compared with its CPU reference, at a sample of places where the whole would
//! take long; one that is wrong is not timed, and the program fails at its end. A row gives the median of several samples,
//! and the share of the best that this device could do: the larger of the times that the operation's arithmetic takes at
//! the rate of a loop of multiply-adds and its bytes at the rate of copying large arrays, both measured in the same run
//! (`benches/common/bounds.rs`, `cost.rs`), divided by the time measured. What stays in a cache can exceed 100 %.
//!
//! Times are the host's, from the first call until the device is idle, over many calls at once; on a fast device small
//! operations show the cost of recording them.

#[path = "../common/bounds.rs"]
mod bounds;
mod check;
#[path = "../common/cost.rs"]
mod cost;
mod costs;
mod language;
mod ops;
mod products;
#[path = "../common/report.rs"]
mod report;
mod row;
#[path = "../common/stats.rs"]
mod stats;
mod update;
#[path = "../../examples/common/warnings.rs"]
mod warnings;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use serde::Serialize;
use wgrad::Gpu;
use wgrad::gpu::{AdapterChoice, GpuOptions, KernelFamily};

use bounds::Bounds;
use row::{Row, Shape};

#[derive(Parser)]
#[command(about = "Times each operation of a ViT by itself, after checking its results")]
struct Args {
    /// Only rows whose name contains this.
    #[arg(long, default_value = "")]
    filter: String,
    /// Only this model; without it, all.
    #[arg(long)]
    model: Option<Model>,
    /// Tokens of a picture: 197 are 224×224 in patches of 16, 65 are 32×32 in patches of 4.
    #[arg(long, value_delimiter = ',', default_value = "197,65")]
    tokens: Vec<usize>,
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// Side of the square products, a multiple of 4.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(4..=16384))]
    square: u32,
    /// Adapter, by a part of its name or its number.
    #[arg(long)]
    adapter: Option<AdapterChoice>,
    /// Kernels for CPU drivers or for GPUs, in place of what suits the adapter.
    #[arg(long)]
    family: Option<Family>,
    /// Writes the figures there as well.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Model {
    Ti,
    S,
    B,
}

impl Model {
    /// Name, C and H.
    fn sizes(self) -> (&'static str, usize, usize) {
        match self {
            Model::Ti => ("ti", 192, 3),
            Model::S => ("s", 384, 6),
            Model::B => ("b", 768, 12),
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Family {
    Lane,
    Workgroup,
}

impl From<Family> for KernelFamily {
    fn from(family: Family) -> Self {
        match family {
            Family::Lane => KernelFamily::Lane,
            Family::Workgroup => KernelFamily::Workgroup,
        }
    }
}

#[derive(Serialize)]
struct Report {
    adapter: String,
    family: String,
    batch: u32,
    bounds: Bounds,
    rows: Vec<Figures>,
}

/// What was found of a row.
#[derive(Serialize)]
struct Figures {
    name: String,
    shape: String,
    /// `None` where the results were wrong.
    ms: Option<f64>,
    gflop: f64,
    mb: f64,
    gflop_s: Option<f64>,
    gb_s: Option<f64>,
    limit: &'static str,
    /// Of the limit, in 0..=1 unless a cache helps.
    share: Option<f64>,
    error: Option<String>,
}

fn main() -> Result<()> {
    warnings::show();
    let args: Args = report::arguments();
    let mut rows = rows(&args);
    rows.retain(|row| row.name.contains(&args.filter));
    ensure!(!rows.is_empty(), "no row has {:?} in its name", args.filter);
    let options =
        GpuOptions { adapter: args.adapter.clone(), family: args.family.map(KernelFamily::from), ..Default::default() };
    let gpu = Gpu::with_options(&options)?;
    let bounds = Bounds::measure(&gpu)?;
    println!("{}, {:?} kernels\n{bounds}\n", gpu.info(), gpu.family());
    let figures = rows.iter().map(|row| measure(&gpu, &bounds, row)).collect::<Result<Vec<_>>>()?;
    print(&figures);
    let wrong = figures.iter().filter(|f| f.error.is_some()).count();
    let (adapter, family) = (gpu.info().to_string(), format!("{:?}", gpu.family()));
    let report = Report { adapter, family, batch: args.batch, bounds, rows: figures };
    report::write_json(args.json.as_deref(), &report)?;
    ensure!(wrong == 0, "{wrong} operations gave wrong results and were not timed");
    Ok(())
}

fn rows(args: &Args) -> Vec<Row> {
    let mut rows = products::square(args.square as usize);
    for &model in Model::value_variants().iter().filter(|&&m| args.model.is_none_or(|only| only == m)) {
        let (name, width, heads) = model.sizes();
        for &tokens in &args.tokens {
            let shape = Shape { name: format!("{name}/{tokens}"), batch: args.batch as usize, tokens, width, heads };
            rows.extend(products::linear(&shape));
            rows.extend(ops::rows(&shape));
        }
        rows.extend(update::rows(name, width));
    }
    if args.model.is_none() {
        rows.extend(language::rows());
    }
    rows
}

fn measure(gpu: &Gpu, bounds: &Bounds, row: &Row) -> Result<Figures> {
    eprintln!("{}", row.name);
    let op = (row.build)(gpu)?;
    let error = (op.check)().err().map(|e| format!("{e:#}"));
    let seconds = if error.is_none() { Some(op.seconds(gpu, row.cost)?) } else { None };
    drop(op);
    gpu.trim();
    let rate = |units: f64| seconds.map(|s| units / s / 1e9);
    Ok(Figures {
        name: row.name.clone(),
        shape: row.shape.clone(),
        ms: seconds.map(|s| s * 1e3),
        gflop: row.cost.flops / 1e9,
        mb: row.cost.bytes / 1e6,
        gflop_s: rate(row.cost.flops),
        gb_s: rate(row.cost.bytes),
        limit: bounds.limit(row.cost),
        share: seconds.map(|s| bounds.least_seconds(row.cost) / s),
        error,
    })
}

fn print(figures: &[Figures]) {
    let header = ["operation", "sizes", "limit", "ms", "GFLOP/s", "GB/s", "share of limit"];
    let mut table = report::table(&header, 3);
    for f in figures {
        let number = |value: Option<f64>, digits: usize| value.map_or("wrong".to_owned(), |v| format!("{v:.digits$}"));
        let share = f.share.map_or("wrong".to_owned(), |s| format!("{:.0} %", 100.0 * s));
        let names = [f.name.clone(), f.shape.clone(), f.limit.to_owned()];
        let numbers = [number(f.ms, 3), number(f.gflop_s, 1), number(f.gb_s, 1), share];
        table.add_row(names.into_iter().chain(numbers));
    }
    println!("{table}");
    for f in figures {
        if let Some(error) = &f.error {
            println!("{}: {error}", f.name);
        }
    }
}
