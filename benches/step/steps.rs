//! Whole optimiser steps.

use anyhow::Result;
use serde::Serialize;
use wgrad::Gpu;
use wgrad::train::StepUse;

use crate::Work;
use crate::case::{Case, order};
use crate::report;
use crate::stats::median;
use crate::timed::{Step, settings};

#[derive(Serialize)]
pub struct Report {
    adapter: String,
    lines: Vec<Line>,
}

/// One case at one length.
#[derive(Serialize)]
struct Line {
    case: String,
    tokens: usize,
    kept: usize,
    /// Every timed step, in order.
    steps_ms: Vec<f64>,
    median_ms: f64,
    samples_s: f64,
    /// To the step at full length of the same turn, median over the turns.
    to_full: f64,
    /// The same ratio of floating-point operations.
    flops_to_full: f64,
    gflop_s: f64,
    host_ms: f64,
    dispatches: u64,
    peak_device_mb: f64,
}

pub fn run(gpu: &Gpu, cases: &[Case], work: &Work) -> Result<Report> {
    let header =
        ["case", "T", "R", "step, ms", "samples/s", "time to full", "FLOPs to full", "GFLOP/s", "host, ms", "peak MB"];
    let mut table = report::table(&header, 1);
    let mut lines = Vec::new();
    for case in cases {
        for line in measure(gpu, case, work)? {
            table.add_row([
                line.case.clone(),
                line.tokens.to_string(),
                line.kept.to_string(),
                format!("{:.1}", line.median_ms),
                format!("{:.1}", line.samples_s),
                format!("{:.3}", line.to_full),
                format!("{:.3}", line.flops_to_full),
                format!("{:.1}", line.gflop_s),
                format!("{:.1}", line.host_ms),
                format!("{:.0}", line.peak_device_mb),
            ]);
            lines.push(line);
        }
    }
    println!("{table}");
    Ok(Report { adapter: gpu.info().to_string(), lines })
}

/// What the turns of one length gave.
#[derive(Default)]
struct Length {
    steps: Vec<Step>,
    peak: u64,
}

fn measure(gpu: &Gpu, case: &Case, work: &Work) -> Result<Vec<Line>> {
    let turns = work.turns;
    let mut model = case.network().steps(gpu, case.batch(), settings(work.precision, false)?)?;
    let tokens = case.tokens();
    let kept: Vec<usize> = work.ratios.iter().map(|ratio| ratio.kept(tokens)).collect();
    let mut lengths: Vec<Length> = kept.iter().map(|_| Length::default()).collect();
    for turn in 0..turns {
        eprintln!("{case}: turn {} of {turns}", turn + 1);
        for i in order(kept.len(), turn) {
            let length = &mut lengths[i];
            // Memory of the last length would count as this one's.
            gpu.trim();
            gpu.reset_peak_memory();
            model.keep(Some(kept[i]))?;
            model.step()?;
            length.steps.push(model.step()?);
            length.peak = length.peak.max(gpu.memory().peak_allocated);
        }
    }
    drop(model);
    gpu.trim();
    let flops = |kept: usize| -> Result<f64> {
        let used = case.network().rehearsed(gpu, case.batch(), settings(work.precision, false)?, Some(kept))?;
        Ok(used.steps.iter().map(StepUse::flops).sum::<u64>() as f64)
    };
    let full = flops(tokens)?;
    let line = |(&kept, length): (&usize, &Length)| Ok(line(case, kept, length, lengths.last(), [flops(kept)?, full]));
    kept.iter().zip(&lengths).map(line).collect()
}

/// `full` is the full length, which has as many steps; `flops` are a step's operations at this length and at that.
fn line(case: &Case, kept: usize, length: &Length, full: Option<&Length>, flops: [f64; 2]) -> Line {
    let tokens = case.tokens();
    let steps_ms: Vec<f64> = length.steps.iter().map(|step| step.total_ms).collect();
    let median_ms = median(steps_ms.iter().copied());
    let of_turn = length.steps.iter().zip(full.map_or(&[][..], |full| &full.steps));
    Line {
        case: case.to_string(),
        tokens,
        kept,
        median_ms,
        samples_s: case.batch() as f64 / median_ms * 1e3,
        to_full: median(of_turn.map(|(step, full)| step.total_ms / full.total_ms)),
        flops_to_full: flops[0] / flops[1],
        gflop_s: flops[0] / median_ms / 1e6,
        host_ms: median(length.steps.iter().map(|step| step.host_ms)),
        dispatches: length.steps.last().map_or(0, |step| step.dispatches),
        peak_device_mb: length.peak as f64 / 1e6,
        steps_ms,
    }
}
