//! What a run takes of the device's memory, before it takes any.

use anyhow::{Context, Result};
use comfy_table::Table;
use wgrad::gpu::Gpu;
use wgrad::ltd::TokenDrop;
use wgrad::train::{MemoryEstimate, Task, TrainSettings, Workload, check_memory, estimate, remedies};

use super::table;

/// Ends the program where the run would not fit, with the settings that would.
pub fn check<T: Task>(gpu: &Gpu, work: &Workload<'_, T>, budget: Option<u64>) -> Result<()> {
    match check_memory(gpu, work, budget) {
        Err(error @ wgrad::Error::DoesNotFit { .. }) => Err(error).context(
            "--memory MB overrides what is there; the settings are --accumulate N, --recompute-blocks, --ltd-end R",
        ),
        checked => Ok(checked.map(drop)?),
    }
}

/// The run, the same at full length where it drops tokens, and settings that would make it fit if it does not.
pub fn needs<T: Task>(gpu: &Gpu, work: &Workload<'_, T>, budget: Option<u64>) -> Result<Table> {
    let mut columns = vec![("this run".to_owned(), estimate(gpu, work)?)];
    if work.settings.drop != TokenDrop::None {
        let full = TrainSettings { drop: TokenDrop::None, ..work.settings.clone() };
        columns.push(("at full length".to_owned(), estimate(gpu, &Workload { settings: &full, ..*work })?));
    }
    if budget.is_some_and(|budget| columns[0].1.peak > budget) {
        columns.extend(remedies(gpu, work, budget).into_iter().map(|r| (r.settings(), r.estimate)));
    }
    let mut table = table::with_columns("device memory in MB", columns.iter().map(|(name, _)| name.as_str()));
    let rows: [Line; 5] = [
        ("parameters", |e| e.parameters),
        ("gradients", |e| e.gradients),
        ("moments", |e| e.moments),
        ("activations and all else", |e| e.activations),
        ("peak", |e| e.peak),
    ];
    let megabytes = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
    for (name, bytes) in rows {
        table::add_row(&mut table, name, columns.iter().map(|(_, e)| megabytes(bytes(e))));
    }
    if let Some(budget) = budget {
        table::add_row(&mut table, "there is", columns.iter().map(|_| megabytes(budget)));
    }
    Ok(table)
}

/// A line of the table: what it shows, and where that stands.
type Line = (&'static str, fn(&MemoryEstimate) -> u64);
