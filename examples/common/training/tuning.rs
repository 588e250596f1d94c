//! The choice of kernels by measurement, and their compilation.

use anyhow::Result;
use wgrad::gpu::Gpu;
use wgrad::ops::TuneReport;
use wgrad::train::{self, TUNING_BUDGET, Task, TuningStore, Workload, rehearse};

use super::console::say;
use super::device::{Device, TuneKind};

/// Chooses kernels for runs, where that is asked for: for each of them, or those of which it is done would be ahead of the others.
pub fn tune<T: Task>(gpu: &Gpu, device: &Device, works: &[Workload<'_, T>]) -> Result<Option<TuneReport>> {
    if device.tune == TuneKind::Off {
        return Ok(None);
    }
    let store = device.tuning_cache.clone().map_or_else(TuningStore::user_cache, TuningStore::Folder);
    let mut report = TuneReport::default();
    for work in works {
        let own = train::tune(gpu, work, &store, TUNING_BUDGET.saturating_sub(report.elapsed))?;
        report.asked += own.asked;
        report.known += own.known;
        report.measured += own.measured;
        report.changed += own.changed;
        report.elapsed += own.elapsed;
    }
    say!(
        "tuning: {} of {} kinds of products measured, {} known, {} changed, in {:.1} s",
        report.measured,
        report.asked,
        report.known,
        report.changed,
        report.elapsed.as_secs_f64()
    );
    Ok(Some(report))
}

/// Compiles the kernels of runs, on all cores: their first steps would do so one by one.
pub fn compile<T: Task>(gpu: &Gpu, works: &[Workload<'_, T>]) -> Result<()> {
    for work in works {
        gpu.warm_up(rehearse(gpu, work)?.kernels())?;
    }
    Ok(())
}
