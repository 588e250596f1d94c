//! What a run takes of the device's memory, before it takes any.

use anyhow::{Context, Result};
use comfy_table::{Cell, CellAlignment, Table};
use wgrad::gpu::Gpu;
use wgrad::ltd::TokenDrop;
use wgrad::train::{MemoryEstimate, TrainSettings, available_memory, check_memory, estimate, remedies};

use crate::args::Args;
use crate::setup::Setup;

/// Ends the program where the run would not fit, with the settings that would.
pub fn check(gpu: &Gpu, args: &Args, setup: &Setup) -> Result<()> {
    let (settings, make) = (setup.main_settings(args, gpu)?, setup.maker());
    match check_memory(gpu, &setup.workload(&make, &settings), budget(gpu, args)) {
        Err(error @ wgrad::Error::DoesNotFit { .. }) => Err(error).context(
            "--memory MB overrides what is there; the settings are --accumulate N, --checkpoint-blocks, --ltd-end R",
        ),
        checked => Ok(checked.map(drop)?),
    }
}

fn budget(gpu: &Gpu, args: &Args) -> Option<u64> {
    args.memory.map(|megabytes| megabytes.saturating_mul(1_000_000)).or_else(|| available_memory(gpu))
}

/// The run, the same at full length where it drops tokens, and settings that would make it fit if it does not.
pub fn table(gpu: &Gpu, args: &Args, setup: &Setup) -> Result<Table> {
    let budget = budget(gpu, args);
    let (settings, make) = (setup.main_settings(args, gpu)?, setup.maker());
    let mut columns = vec![("this run".to_owned(), estimate(gpu, &setup.workload(&make, &settings))?)];
    if settings.drop != TokenDrop::None {
        let full = TrainSettings { drop: TokenDrop::None, ..settings.clone() };
        columns.push(("at full length".to_owned(), estimate(gpu, &setup.workload(&make, &full))?));
    }
    if budget.is_some_and(|budget| columns[0].1.peak > budget) {
        columns.extend(
            remedies(gpu, &setup.workload(&make, &settings), budget).into_iter().map(|r| (r.settings(), r.estimate)),
        );
    }
    let mut table = Table::new();
    let header = columns.iter().map(|(name, _)| Cell::new(name).set_alignment(CellAlignment::Right));
    let header = std::iter::once(Cell::new("device memory in MB")).chain(header);
    table.load_style(comfy_table::presets::UTF8_BORDERS_ONLY).set_header(header);
    let rows: [Line; 5] = [
        ("parameters", |e| e.parameters),
        ("gradients", |e| e.gradients),
        ("moments", |e| e.moments),
        ("activations and all else", |e| e.activations),
        ("peak", |e| e.peak),
    ];
    let megabytes = |bytes: u64| Cell::new(format!("{:.1}", bytes as f64 / 1e6)).set_alignment(CellAlignment::Right);
    for (name, bytes) in rows {
        table.add_row(std::iter::once(Cell::new(name)).chain(columns.iter().map(|(_, e)| megabytes(bytes(e)))));
    }
    if let Some(budget) = budget {
        table.add_row(std::iter::once(Cell::new("there is")).chain(columns.iter().map(|_| megabytes(budget))));
    }
    Ok(table)
}

/// A line of the table: what it shows, and where that stands.
type Line = (&'static str, fn(&MemoryEstimate) -> u64);
