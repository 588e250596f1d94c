//! The choice of kernels by measurement.

use anyhow::Result;
use wgrad::gpu::Gpu;
use wgrad::ops::TuneReport;
use wgrad::train::{TUNING_BUDGET, Task, TuningStore, Workload, tuned};

use super::console::say;
use super::device::{Device, TuneKind};

/// Chooses kernels for a run, where that is asked for.
pub fn tune<T: Task>(gpu: &Gpu, device: &Device, work: &Workload<'_, T>) -> Result<Option<TuneReport>> {
    if device.tune == TuneKind::Off {
        return Ok(None);
    }
    let store = device.tuning_cache.clone().map_or_else(TuningStore::user_cache, TuningStore::Folder);
    let report = tuned(gpu, work, &store, TUNING_BUDGET)?;
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
