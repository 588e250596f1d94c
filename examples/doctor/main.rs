//! Whether this machine trains, how fast, and what it computes wrong: for who asks before a long run, and for reports of trouble.
//!
//!     cargo run --release --example doctor [-- --adapter NAME --json FILE]
//!
//! Prints Markdown that can be pasted as it is, without names of users or files: the adapters; the limits and features of one,
//! and which kernels they make the engine choose; a self-test of every operation against its references on the CPU, and of its
//! gradients against differences; the rates of copies, multiply-adds and products, and whole training steps, beside the same
//! machine's CPU driver where it has one; what training a ViT would take; and a verdict. Exit code 0: fit for training, 1: not.
//! On a CPU driver that takes a quarter of an hour, most of it for its compiler; with `--quick` a minute.

#[path = "../../benches/common/bounds.rs"]
mod bounds;
#[path = "../../benches/kernels/check.rs"]
mod check;
mod choices;
#[path = "../common/console.rs"]
mod console;
#[path = "../../benches/common/cost.rs"]
mod cost;
#[path = "../../benches/kernels/costs.rs"]
mod costs;
mod facts;
mod forecast;
mod halves;
#[path = "../../benches/kernels/language.rs"]
mod language;
#[path = "../../benches/kernels/ops.rs"]
mod ops;
#[path = "../../benches/kernels/products.rs"]
mod products;
mod report;
#[path = "../../benches/kernels/row.rs"]
mod row;
#[path = "../common/same_adapter.rs"]
mod same_adapter;
mod self_test;
mod speed;
#[path = "../../benches/common/stats.rs"]
mod stats;
#[path = "../../benches/common/steps.rs"]
mod steps;
#[path = "../../benches/kernels/update.rs"]
mod update;
mod variants;
#[path = "../common/warnings.rs"]
mod warnings;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use wgrad::gpu::{AdapterChoice, AdapterInfo, Gpu, GpuOptions, Power};

use console::{complain, printable, say};
use report::{Beside, Report};
use same_adapter::same_adapter;
use speed::Speed;

#[derive(Parser)]
#[command(about = "Whether this machine trains, how fast, and what it computes wrong")]
struct Args {
    /// Adapter, by a part of its name or its number [default: the fastest]. A CPU driver that is asked for is timed beside another
    /// one, if there is one.
    #[arg(long)]
    adapter: Option<AdapterChoice>,
    /// Facts and a self-test of the kernels that are chosen here: the others are left out, and nothing is timed.
    #[arg(long)]
    quick: bool,
    /// Writes all that was found there as well.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    warnings::show();
    let args = Args::parse();
    match examine(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            complain!("error: {}", printable(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

/// Whether the machine is fit.
fn examine(args: &Args) -> Result<bool> {
    let gpu = Gpu::with_options(&GpuOptions { adapter: args.adapter.clone(), ..Default::default() })?;
    complain!("examining {}", gpu.info());
    let adapters = Gpu::adapters(Power::High);
    let own = same_adapter(args.adapter.as_ref(), &gpu);
    let mut tested = self_test::run(&own, &gpu, !args.quick);
    let (mut speed, mut beside, mut forecasts) = (None, None, Vec::new());
    if !args.quick {
        // What has been found is told whatever goes wrong here.
        match Speed::measure(&gpu).and_then(|measured| Ok((forecast::all(&gpu, &measured)?, measured))) {
            Ok((all, measured)) => (forecasts, speed) = (all, Some(measured)),
            Err(error) => tested.note_all(gpu.family(), vec![("timing".to_owned(), Err(error))]),
        }
        beside = cpu_driver(&gpu, args.adapter.is_some()).and_then(measured_beside).unwrap_or_else(|error| {
            complain!("the CPU driver beside it is left out: {}", printable(&format!("{error:#}")));
            None
        });
    }
    let report = Report { facts: facts::of(&adapters, &own, &gpu), tested, speed, beside, forecasts };
    // First: a file that cannot be written must not cost what was measured.
    say!("{report}");
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(report.is_fit())
}

fn measured_beside(cpu: Option<Gpu>) -> Result<Option<Beside>> {
    let Some(cpu) = cpu else { return Ok(None) };
    complain!("beside it, {}", cpu.info());
    Ok(Some(Beside { adapter: cpu.info().to_string(), speed: Speed::measure(&cpu)? }))
}

/// The machine's CPU driver, if it has one and `gpu` is another. Two CPU drivers are compared if one of them is `asked_for`.
fn cpu_driver(gpu: &Gpu, asked_for: bool) -> Result<Option<Gpu>> {
    let own = gpu.info();
    if own.is_cpu() && !asked_for {
        return Ok(None);
    }
    let is_other = |info: &AdapterInfo| info.is_cpu() && (&info.name, &info.driver) != (&own.name, &own.driver);
    let place = Gpu::adapters(Power::High).iter().position(is_other);
    let open =
        |place| Gpu::with_options(&GpuOptions { adapter: Some(AdapterChoice::Index(place)), ..Default::default() });
    Ok(place.map(open).transpose()?)
}
