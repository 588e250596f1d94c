//! What a run leaves behind at its end: report.json and a table.

use std::path::{Path, PathBuf};

use anyhow::Result;
use comfy_table::{Cell, CellAlignment, Table};
use serde::{Deserialize, Serialize};
use wgrad::ops::TuneReport;

use crate::args::Args;
use crate::arms::Arm;
use crate::files;
use crate::findings::ClassReport;
use crate::recipe::{DropKind, Recipe};

/// A [`Report`] in its folder.
pub const REPORT: &str = "report.json";

/// report.json.
#[derive(Serialize)]
pub struct Report<'a> {
    pub adapter: String,
    /// What was measured to choose kernels, if that was asked for.
    pub tuning: Option<TuneReport>,
    pub args: &'a Args,
    pub recipe: &'a Recipe,
    pub runs: Vec<RunReport>,
}

/// One run's results. Shares are in 0..=1, times in seconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunReport {
    pub name: String,
    /// Runs of an arm differ in their seed alone.
    pub arm: String,
    pub seed: u64,
    pub test_accuracy: f64,
    pub test_loss: f64,
    /// The checkpoint that was tested: the one with the best validation accuracy.
    pub best_epoch: u64,
    pub validation_accuracy: f64,
    pub steps: u64,
    /// Whether it was ended before its last step.
    pub stopped: bool,
    /// The step after which it went on, if it had been interrupted: what is timed is of the steps since then.
    pub resumed_at: u64,
    /// Whether it ended early for want of progress.
    pub out_of_patience: bool,
    /// Training steps and waiting for data; nothing of what is timed below.
    pub wall_seconds: f64,
    pub data_wait_seconds: f64,
    /// Recording and submitting the steps. Drivers that compute on the CPU compute in it.
    pub host_seconds: f64,
    pub evaluation_seconds: f64,
    pub checkpoint_seconds: f64,
    pub compilation_seconds: f64,
    pub layer_tokens: u64,
    pub layer_tokens_saved: f64,
    pub peak_device_bytes: u64,
    /// Of the steps that were timed; 0 where none was.
    pub images_per_second: f64,
    /// Pictures that could not be read.
    pub skipped: Vec<String>,
    /// Where its checkpoints and pictures lie, relative to this report.
    pub folder: PathBuf,
    pub per_class: Vec<ClassReport>,
}

impl RunReport {
    /// Of the steps that were timed; `None` where it went on after its last one.
    pub fn seconds_a_step(&self) -> Option<f64> {
        (self.steps > self.resumed_at).then(|| self.wall_seconds / (self.steps - self.resumed_at) as f64)
    }
}

impl<'a> Report<'a> {
    pub fn new(adapter: String, tuning: Option<TuneReport>, args: &'a Args, recipe: &'a Recipe) -> Self {
        Report { adapter, tuning, args, recipe, runs: Vec::new() }
    }

    pub fn write(&self, folder: &Path) -> Result<()> {
        files::replace(&folder.join(REPORT), serde_json::to_string_pretty(self)?.as_bytes())
    }
}

/// The arms side by side, each in the mean of its runs.
pub fn table(all: &[RunReport]) -> Table {
    let mut arms: Vec<(&str, Vec<&RunReport>)> = Vec::new();
    for run in all {
        match arms.iter_mut().find(|(name, _)| *name == run.arm) {
            Some((_, runs)) => runs.push(run),
            None => arms.push((&run.arm, vec![run])),
        }
    }
    let mut table = Table::new();
    let header = arms.iter().map(|(name, _)| Cell::new(name).set_alignment(CellAlignment::Right));
    let header = std::iter::once(Cell::new("")).chain(header);
    table.load_style(comfy_table::presets::UTF8_BORDERS_ONLY).set_header(header);
    let mut row = |name: &str, value: &dyn Fn(&[&RunReport]) -> String| {
        let cells = arms.iter().map(|(_, runs)| Cell::new(value(runs)).set_alignment(CellAlignment::Right));
        table.add_row(std::iter::once(Cell::new(name)).chain(cells));
    };
    row("test accuracy", &|runs| spread(runs, |r| 100.0 * r.test_accuracy, 2, " %"));
    if arms.iter().any(|(_, runs)| runs.len() > 1) {
        row("  less full length's, paired", &|runs| difference(runs, all));
        row("runs", &|runs| runs.len().to_string());
    }
    for (name, value) in LINES {
        row(name, &value);
    }
    table
}

/// Points of accuracy less those of full length with the same seed, among all runs.
fn difference(runs: &[&RunReport], all: &[RunReport]) -> String {
    let full = Arm::Drop(DropKind::None).name();
    let pair = |run: &RunReport| {
        let rival = all.iter().find(|other| other.arm == full && other.seed == run.seed)?;
        Some(100.0 * (run.test_accuracy - rival.test_accuracy))
    };
    let differences: Vec<f64> = runs.iter().filter(|run| run.arm != full).filter_map(|run| pair(run)).collect();
    if differences.is_empty() { String::new() } else { mean_and_deviation(&differences, 2, "") }
}

/// A line of the table: what it shows, and how to print it for an arm's runs.
type Line = (&'static str, fn(&[&RunReport]) -> String);

const LINES: [Line; 12] = [
    ("steps", |runs| spread(runs, |r| r.steps as f64, 0, "")),
    ("wall time, training", |runs| spread(runs, |r| r.wall_seconds, 1, " s")),
    ("  of it waiting for data", |runs| share_of_wall(runs, |r| r.data_wait_seconds)),
    ("  of it recording, submitting", |runs| share_of_wall(runs, |r| r.host_seconds)),
    ("evaluation", |runs| spread(runs, |r| r.evaluation_seconds, 1, " s")),
    ("saving", |runs| spread(runs, |r| r.checkpoint_seconds, 1, " s")),
    ("compilation", |runs| spread(runs, |r| r.compilation_seconds, 1, " s")),
    ("images/s", |runs| spread(runs, |r| r.images_per_second, 0, "")),
    ("layer tokens", |runs| thousands(mean(runs, |r| r.layer_tokens as f64) as u64)),
    ("  saved", |runs| format!("{:.1} %", 100.0 * mean(runs, |r| r.layer_tokens_saved))),
    ("peak device memory", |runs| spread(runs, |r| r.peak_device_bytes as f64 / 1e6, 1, " MB")),
    ("pictures skipped", |runs| format!("{:.0}", mean(runs, |r| r.skipped.len() as f64))),
];

fn mean(runs: &[&RunReport], value: impl Fn(&RunReport) -> f64) -> f64 {
    runs.iter().map(|run| value(run)).sum::<f64>() / runs.len().max(1) as f64
}

/// The mean over the runs, and their standard deviation where there are several.
fn spread(runs: &[&RunReport], value: impl Fn(&RunReport) -> f64, digits: usize, unit: &str) -> String {
    mean_and_deviation(&runs.iter().map(|run| value(run)).collect::<Vec<_>>(), digits, unit)
}

fn mean_and_deviation(values: &[f64], digits: usize, unit: &str) -> String {
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    if values.len() < 2 {
        return format!("{mean:.digits$}{unit}");
    }
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let deviation = (squares / (values.len() - 1) as f64).sqrt();
    format!("{mean:.digits$} ± {deviation:.digits$}{unit}")
}

/// Seconds, and their share of the training time.
fn share_of_wall(runs: &[&RunReport], seconds: fn(&RunReport) -> f64) -> String {
    let (part, whole) = (mean(runs, seconds), mean(runs, |r| r.wall_seconds));
    format!("{part:.1} s ({:.1} %)", 100.0 * part / whole.max(1e-9))
}

/// 305784192 as 305,784,192.
fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}
