//! What a run takes of the device's memory, before it takes any.

use anyhow::{Context, Result};
use comfy_table::Table;
use wgrad::gpu::Gpu;
use wgrad::ltd::TokenDrop;
use wgrad::train::{
    Cut, MemoryEstimate, Remedy, Task, TrainSettings, Workload, check_memory, cut_to_fit, estimate, remedies,
};

use super::console::say;
use super::table;

/// The micro-batches with which the run fits: as many as it has, or where their number `is_open`, as few as it takes; that is said.
/// Ends the program where it would not fit, with the settings that would.
pub fn micro_batches<T: Task>(gpu: &Gpu, work: &Workload<'_, T>, budget: Option<u64>, is_open: bool) -> Result<usize> {
    let asked = work.settings.accumulate;
    let checked = if is_open { cut_to_fit(gpu, work, budget) } else { check_memory(gpu, work, budget).map(|_| None) };
    match checked {
        Ok(None) => Ok(asked),
        Ok(Some(Cut { reason, remedy })) => {
            let count = remedy.accumulate;
            say!("a step's batch of {} is cut in {count}, as with --accumulate {count}: {reason}", work.batch);
            Ok(count)
        }
        Err(error @ wgrad::Error::DoesNotFit { .. }) => {
            Err(error).with_context(|| format!("--memory MB overrides what is there; {SETTINGS}"))
        }
        Err(error) => Err(error.into()),
    }
}

/// Adds to the error of one of the runs `works` that was out of memory the settings with which the largest of them would have fitted into
/// what it had.
pub fn explain<T: Task>(error: anyhow::Error, gpu: &Gpu, works: &[Workload<'_, T>]) -> anyhow::Error {
    let Some(&wgrad::Error::OutOfMemory { held, .. }) = error.downcast_ref() else { return error };
    let size = |work: &&Workload<'_, T>| estimate(gpu, work).map_or(0, |estimate| estimate.with_evaluation());
    let Some(work) = works.iter().max_by_key(size) else { return error };
    let ways: Vec<String> = remedies(gpu, work, Some(held)).iter().map(Remedy::to_string).collect();
    if ways.is_empty() {
        return error;
    }
    error.context(format!("out of memory; {} would fit ({SETTINGS})", ways.join(", or ")))
}

/// How the remedies are called here.
const SETTINGS: &str = "the settings are --accumulate N, --recompute-blocks and, of kept tokens, --ltd-end R, which a run begins with; \
                        --resume keeps those that there were, and a --ltd-config has its own gradient_accumulation_steps and max_value";

/// The run, the same at full length where it drops tokens, and settings that would make it fit if it does not.
pub fn needs<T: Task>(gpu: &Gpu, work: &Workload<'_, T>, budget: Option<u64>) -> Result<Table> {
    let mut columns = vec![("this run".to_owned(), estimate(gpu, work)?)];
    if work.settings.drop != TokenDrop::None {
        let full = TrainSettings { drop: TokenDrop::None, ..work.settings.clone() };
        columns.push(("at full length".to_owned(), estimate(gpu, &Workload { settings: &full, ..*work })?));
    }
    if budget.is_some_and(|budget| columns[0].1.with_evaluation() > budget) {
        columns.extend(remedies(gpu, work, budget).into_iter().map(|r| (r.settings(), r.estimate)));
    }
    let mut table = table::with_columns("device memory in MB", columns.iter().map(|(name, _)| name.as_str()));
    let rows: [Line; 6] = [
        ("parameters", |e| e.parameters),
        ("gradients", |e| e.gradients),
        ("moments", |e| e.moments),
        ("activations and all else", |e| e.activations),
        ("peak of the steps", |e| e.peak),
        ("peak of evaluation", |e| e.evaluation),
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
