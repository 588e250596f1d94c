//! Where a step's time goes: what each kernel has to do and takes, and how far that is from the bounds of the device, measured in
//! the same run.
//!
//! Two tables, of kernels and of what they are for. Operations and bytes are those that a rehearsal of the step counts (`rehearse`):
//! of products and attention every multiply-add, and the bytes of all that a kernel binds, once. So `least ms` is what these
//! very kernels could take at best, each by itself; others might fuse some. Kernels are timed one by one; the step itself is timed
//! without that, and has the host's work, uploads and submissions besides.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use comfy_table::Table;
use serde::Serialize;
use wgrad::Gpu;
use wgrad::gpu::{KernelUse, ProfileRow};
use wgrad::nn::Precision;

use crate::bounds::Bounds;
use crate::case::{Case, Ratio};
use crate::cost::Cost;
use crate::group::Group;
use crate::report;
use crate::stats::median;
use crate::timed::{Step, settings};

/// Steps that are profiled, and that are timed without the profiler.
const STEPS: usize = 5;

#[derive(Serialize)]
pub struct Report {
    adapter: String,
    bounds: Bounds,
    budgets: Vec<Budget>,
}

/// One case at one length.
#[derive(Serialize)]
struct Budget {
    case: String,
    tokens: usize,
    kept: usize,
    step_ms: f64,
    host_ms: f64,
    kernels_ms: f64,
    groups: Vec<GroupTime>,
    kernels: Vec<KernelTime>,
}

/// What the kernels of a group come to in a step.
#[derive(Serialize)]
struct GroupTime {
    group: Group,
    cost: Cost,
    least_ms: f64,
    ms: f64,
}

/// A kernel in a step.
#[derive(Clone, Serialize)]
struct KernelTime {
    kernel: &'static str,
    count: u64,
    cost: Cost,
    least_ms: f64,
    ms: f64,
}

pub fn run(gpu: &Gpu, cases: &[Case], ratios: &[Ratio]) -> Result<Report> {
    let bounds = Bounds::measure(gpu)?;
    println!("{bounds}\n");
    let mut budgets = Vec::new();
    for case in cases {
        for ratio in ratios {
            let budget = measure(gpu, &bounds, case, *ratio)?;
            budget.print(&bounds);
            budgets.push(budget);
        }
    }
    Ok(Report { adapter: gpu.info().to_string(), bounds, budgets })
}

fn measure(gpu: &Gpu, bounds: &Bounds, case: &Case, ratio: Ratio) -> Result<Budget> {
    let tokens = case.tokens();
    let kept = ratio.kept(tokens);
    let used = case.network().rehearsed(gpu, case.batch(), settings(Precision::F32, false)?, Some(kept))?;
    let mut model = case.network().steps(gpu, case.batch(), settings(Precision::F32, false)?)?;
    model.keep(Some(kept))?;
    model.step()?;
    let steps: Vec<Step> = (0..STEPS).map(|_| model.step()).collect::<Result<_>>()?;
    gpu.start_profile();
    for _ in 0..STEPS {
        model.step()?;
    }
    let costs: BTreeMap<&str, Cost> =
        used.steps.iter().flat_map(|step| &step.kernels).map(|used| (used.kernel, cost_of(used))).collect();
    let kernel = |row: &ProfileRow| {
        let cost = *costs.get(row.kernel).with_context(|| format!("{} was not rehearsed", row.kernel))?;
        Ok(KernelTime::of_a_step(bounds, row, cost))
    };
    let kernels: Vec<KernelTime> = gpu.take_profile().iter().map(kernel).collect::<Result<_>>()?;
    drop(model);
    gpu.trim();
    Ok(Budget {
        case: case.to_string(),
        tokens,
        kept,
        step_ms: median(steps.iter().map(|step| step.total_ms)),
        host_ms: median(steps.iter().map(|step| step.host_ms)),
        kernels_ms: kernels.iter().map(|kernel| kernel.ms).sum(),
        groups: groups(&kernels),
        kernels,
    })
}

impl KernelTime {
    fn of_a_step(bounds: &Bounds, row: &ProfileRow, cost: Cost) -> Self {
        let ms = row.total.as_secs_f64() * 1e3 / STEPS as f64;
        let least_ms = bounds.least_seconds(cost) * 1e3;
        KernelTime { kernel: row.kernel, count: row.count / STEPS as u64, cost, least_ms, ms }
    }
}

fn cost_of(used: &KernelUse) -> Cost {
    Cost { flops: used.flops as f64, bytes: used.bytes as f64 }
}

/// Groups that have kernels.
fn groups(kernels: &[KernelTime]) -> Vec<GroupTime> {
    let sum = |group: Group| {
        let own = || kernels.iter().filter(|kernel| Group::of(kernel.kernel) == group);
        let (least_ms, ms) = (own().map(|kernel| kernel.least_ms).sum(), own().map(|kernel| kernel.ms).sum());
        GroupTime { group, cost: own().map(|kernel| kernel.cost).sum(), least_ms, ms }
    };
    Group::ALL.into_iter().map(sum).filter(|sum| sum.ms > 0.0).collect()
}

impl Budget {
    fn print(&self, bounds: &Bounds) {
        let Budget { case, tokens, kept, step_ms, host_ms, kernels_ms, .. } = self;
        let least: f64 = self.groups.iter().map(|group| group.least_ms).sum();
        println!("{case}, {kept} of {tokens} tokens: {step_ms:.1} ms a step, recorded after {host_ms:.1} ms;");
        println!("kernels one by one {kernels_ms:.1} ms; least by the bounds {least:.1} ms\n");
        println!("{}\n\n{}\n", self.by_group(), self.by_kernel(bounds));
    }

    fn by_group(&self) -> Table {
        let mut table = report::table(&["group", "GFLOP", "MB", "least ms", "ms", "share", "GFLOP/s", "GB/s"], 1);
        for GroupTime { group, cost, least_ms, ms } in &self.groups {
            table.add_row([vec![group.name().to_owned()], self.figures(*cost, *least_ms, *ms)].concat());
        }
        table
    }

    fn by_kernel(&self, bounds: &Bounds) -> Table {
        let header = ["kernel", "count", "GFLOP", "MB", "least ms", "ms", "share", "GFLOP/s", "GB/s", "limit"];
        let mut table = report::table(&header, 1);
        for KernelTime { kernel, count, cost, least_ms, ms } in &self.kernels {
            let name = vec![(*kernel).to_owned(), count.to_string()];
            table.add_row([name, self.figures(*cost, *least_ms, *ms), vec![bounds.limit(*cost).to_owned()]].concat());
        }
        table
    }

    fn figures(&self, cost: Cost, least_ms: f64, ms: f64) -> Vec<String> {
        vec![
            format!("{:.3}", cost.flops / 1e9),
            format!("{:.1}", cost.bytes / 1e6),
            format!("{least_ms:.2}"),
            format!("{ms:.2}"),
            format!("{:.1} %", 100.0 * ms / self.kernels_ms),
            format!("{:.1}", cost.flops / ms / 1e6),
            format!("{:.1}", cost.bytes / ms / 1e6),
        ]
    }
}
