//! Where a step's time goes: what each operation must do, what each kernel takes, and how far that is from the bounds of the
//! device, measured in the same run.
//!
//! Three tables. The first has each operation's floating-point operations and bytes from shapes alone (`cost.rs`), with the
//! least time in which the device could do them. In the second, operations and kernels meet in groups, since a kernel may
//! serve several operations. The third has each kernel, timed one by one; the step itself is timed without that, and has
//! the host's work, uploads and submissions besides.

use anyhow::Result;
use comfy_table::Table;
use serde::Serialize;
use wgrad::Gpu;
use wgrad::gpu::ProfileRow;
use wgrad::nn::Precision;

use crate::bounds::Bounds;
use crate::case::{Case, Ratio};
use crate::cost::Cost;
use crate::entries::{Entry, Group, entries};
use crate::report;
use crate::stats::median;
use crate::timed::{Step, Steps, settings};

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
    entries: Vec<Entry>,
    groups: Vec<GroupTime>,
    kernels: Vec<KernelTime>,
}

/// What kernels and operations of a group come to in a step.
#[derive(Serialize)]
struct GroupTime {
    group: Group,
    cost: Cost,
    least_ms: f64,
    ms: f64,
}

/// A kernel in a step.
#[derive(Serialize)]
struct KernelTime {
    kernel: &'static str,
    count: u64,
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
    let (tokens, mut model) =
        (case.config().tokens(), Steps::new(gpu, case.config(), case.batch(), settings(Precision::F32, false)?)?);
    let kept = ratio.kept(tokens);
    model.keep(Some(kept))?;
    model.step()?;
    let steps: Vec<Step> = (0..STEPS).map(|_| model.step()).collect::<Result<_>>()?;
    gpu.start_profile();
    for _ in 0..STEPS {
        model.step()?;
    }
    let kernels: Vec<KernelTime> = gpu.take_profile().iter().map(KernelTime::of_a_step).collect();
    drop(model);
    gpu.trim();
    let entries = entries(&case.config(), case.batch(), kept);
    Ok(Budget {
        case: case.to_string(),
        tokens,
        kept,
        step_ms: median(steps.iter().map(|step| step.total_ms)),
        host_ms: median(steps.iter().map(|step| step.host_ms)),
        kernels_ms: kernels.iter().map(|kernel| kernel.ms).sum(),
        groups: groups(bounds, &entries, &kernels),
        entries,
        kernels,
    })
}

impl KernelTime {
    fn of_a_step(row: &ProfileRow) -> Self {
        let ms = row.total.as_secs_f64() * 1e3 / STEPS as f64;
        KernelTime { kernel: row.kernel, count: row.count / STEPS as u64, ms }
    }
}

/// Groups that have work or time. Where attention has no kernel for its products, the matrix products' do them.
fn groups(bounds: &Bounds, entries: &[Entry], kernels: &[KernelTime]) -> Vec<GroupTime> {
    let fused = kernels.iter().any(|kernel| kernel.kernel.starts_with("attention"));
    let group_of = |entry: &Entry| match entry.group {
        Group::Attention if !fused => Group::Products,
        group => group,
    };
    let time = |group: Group| {
        let own: Vec<&Entry> = entries.iter().filter(|&entry| group_of(entry) == group).collect();
        let kernels = kernels.iter().filter(|kernel| Group::of(kernel.kernel) == group);
        GroupTime {
            group,
            cost: own.iter().map(|entry| entry.cost()).sum(),
            least_ms: own.iter().map(|entry| least_ms(bounds, entry)).sum(),
            ms: kernels.map(|kernel| kernel.ms).sum(),
        }
    };
    Group::ALL.into_iter().map(time).filter(|time| time.ms > 0.0 || time.cost.bytes > 0.0).collect()
}

fn least_ms(bounds: &Bounds, entry: &Entry) -> f64 {
    (bounds.least_seconds(entry.forward) + bounds.least_seconds(entry.backward)) * 1e3
}

impl Budget {
    fn print(&self, bounds: &Bounds) {
        let Budget { case, tokens, kept, step_ms, host_ms, kernels_ms, .. } = self;
        let least: f64 = self.groups.iter().map(|group| group.least_ms).sum();
        println!("{case}, {kept} of {tokens} tokens: {step_ms:.1} ms a step, recorded after {host_ms:.1} ms;");
        println!("kernels one by one {kernels_ms:.1} ms; least by the bounds {least:.1} ms\n");
        println!("{}\n\n{}\n\n{}\n", self.by_entry(bounds), self.by_group(), self.by_kernel());
    }

    fn by_entry(&self, bounds: &Bounds) -> Table {
        let header = ["operation", "count", "forward GFLOP", "MB", "backward GFLOP", "MB", "least ms", "limit"];
        let mut table = report::table(&header, 1);
        for entry in &self.entries {
            let numbers = [entry.forward, entry.backward].map(|cost| [gflop(cost), mb(cost)]).concat();
            let row = [vec![entry.name.to_owned(), entry.count.to_string()], numbers].concat();
            let least = [format!("{:.2}", least_ms(bounds, entry)), bounds.limit(entry.cost()).to_owned()];
            table.add_row(row.into_iter().chain(least));
        }
        table
    }

    fn by_group(&self) -> Table {
        let header = ["group", "GFLOP", "MB", "least ms", "kernels' ms", "share", "GFLOP/s", "GB/s"];
        let mut table = report::table(&header, 1);
        for GroupTime { group, cost, least_ms, ms } in &self.groups {
            // Kernels whose work is counted in another group, and work that another group's kernels do.
            let counted = |text: String| if cost.bytes > 0.0 { text } else { "–".to_owned() };
            let timed = |text: String| if *ms > 0.0 { counted(text) } else { "–".to_owned() };
            table.add_row([
                group.name().to_owned(),
                counted(gflop(*cost)),
                counted(mb(*cost)),
                counted(format!("{least_ms:.2}")),
                format!("{ms:.2}"),
                self.share(*ms),
                timed(format!("{:.1}", cost.flops / ms / 1e6)),
                timed(format!("{:.1}", cost.bytes / ms / 1e6)),
            ]);
        }
        table
    }

    fn by_kernel(&self) -> Table {
        let mut table = report::table(&["kernel", "count", "ms", "share"], 1);
        for KernelTime { kernel, count, ms } in &self.kernels {
            table.add_row([(*kernel).to_owned(), count.to_string(), format!("{ms:.2}"), self.share(*ms)]);
        }
        table
    }

    /// Of the time of all kernels.
    fn share(&self, ms: f64) -> String {
        format!("{:.1} %", 100.0 * ms / self.kernels_ms)
    }
}

fn gflop(cost: Cost) -> String {
    format!("{:.3}", cost.flops / 1e9)
}

fn mb(cost: Cost) -> String {
    format!("{:.1}", cost.bytes / 1e6)
}
