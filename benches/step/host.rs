//! What the host alone takes to record and submit a step: on wgpu's backend that computes nothing, so that no driver is in it.

use anyhow::Result;
use serde::Serialize;
use wgrad::{Gpu, wgpu};

use crate::Work;
use crate::case::Case;
use crate::report;
use crate::stats::median;
use crate::timed::settings;

#[derive(Serialize)]
pub struct Line {
    case: String,
    kept: usize,
    dispatches: u64,
    /// Every timed step, in order.
    steps_ms: Vec<f64>,
    median_ms: f64,
}

pub fn run(cases: &[Case], work: &Work) -> Result<Vec<Line>> {
    let gpu = idle_device()?;
    let mut table = report::table(&["case", "R", "dispatches", "host, ms", "µs a dispatch"], 1);
    let mut lines = Vec::new();
    for case in cases {
        for ratio in &work.ratios {
            let line = measure(&gpu, case, ratio.kept(case.tokens()), work)?;
            table.add_row([
                line.case.clone(),
                line.kept.to_string(),
                line.dispatches.to_string(),
                format!("{:.2}", line.median_ms),
                format!("{:.2}", line.median_ms * 1e3 / line.dispatches as f64),
            ]);
            lines.push(line);
        }
    }
    println!("{table}");
    Ok(lines)
}

fn idle_device() -> Result<Gpu> {
    let mut options = wgpu::InstanceDescriptor::new_without_display_handle();
    options.backends = wgpu::Backends::NOOP;
    options.backend_options.noop.enable = true;
    let instance = wgpu::Instance::new(options);
    let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default()))?;
    let required_limits = adapter.limits();
    let device = wgpu::DeviceDescriptor { required_limits, ..Default::default() };
    let (device, queue) = pollster::block_on(adapter.request_device(&device))?;
    Ok(Gpu::from_wgpu(device, queue, Some(&adapter))?)
}

fn measure(gpu: &Gpu, case: &Case, kept: usize, work: &Work) -> Result<Line> {
    let mut model = case.network().steps(gpu, case.batch(), settings(work.precision, false)?)?;
    model.keep(Some(kept))?;
    let mut step = || -> Result<(f64, u64)> {
        // Nothing was computed, and there is no loss to be had.
        let (pending, host_ms, dispatches) = model.record()?;
        gpu.wait()?;
        drop(pending);
        Ok((host_ms, dispatches))
    };
    step()?;
    let steps = (0..work.turns).map(|_| step()).collect::<Result<Vec<_>>>()?;
    Ok(Line {
        case: case.to_string(),
        kept,
        dispatches: steps.last().map_or(0, |step| step.1),
        median_ms: median(steps.iter().map(|step| step.0)),
        steps_ms: steps.iter().map(|step| step.0).collect(),
    })
}
