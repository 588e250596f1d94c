//! Kernels chosen by measurement before step 0.

use std::time::Duration;

use super::{Task, Workload, rehearse};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::ops::{self, TuneReport};

/// A budget that is short beside any run and long enough for most models' products.
pub const TUNING_BUDGET: Duration = Duration::from_secs(2);

/// Settles the plans of the matrix products of a run ([`ops::tune`]) within `budget`: those of a training step at each kept
/// length that the schedule visits (of more than 32, at 32 spread evenly), as a dry run of the steps asks for them.
///
/// # Errors
/// As [`rehearse`], and [`crate::Error::Device`] if the device fails.
pub fn tune<T: Task>(gpu: &Gpu, work: &Workload<'_, T>, budget: Duration) -> Result<TuneReport> {
    ops::tune(gpu, &rehearse(gpu, work)?.products, budget)
}
