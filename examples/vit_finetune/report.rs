//! What a run leaves behind: metrics.csv while it goes on, report.json and a table at its end.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use comfy_table::{Cell, CellAlignment, Table};
use serde::{Deserialize, Serialize};
use wgrad::ops::TuneReport;
use wgrad::train::{EpochMetrics, StepMetrics};

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
    pub images_per_second: f64,
    /// Pictures that could not be read.
    pub skipped: Vec<String>,
    /// Where its checkpoints and pictures lie, relative to this report.
    pub folder: PathBuf,
    pub per_class: Vec<ClassReport>,
}

impl RunReport {
    /// Of the steps that were timed.
    pub fn seconds_a_step(&self) -> f64 {
        self.wall_seconds / self.steps.saturating_sub(self.resumed_at).max(1) as f64
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

/// A row of metrics.csv. The validation columns are filled at the last step of each epoch. Steps and epochs are counted from 1, as
/// on the console: the row of step 7 is of the moment when 7 steps were done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub run: Arc<str>,
    pub step: u64,
    pub epoch: u64,
    pub loss: f32,
    pub accuracy: f64,
    pub kept: usize,
    pub tokens: usize,
    pub rate: f32,
    pub grad_norm: f32,
    pub validation_loss: Option<f64>,
    pub validation_accuracy: Option<f64>,
}

/// Every step of every run, in memory for the curves and on disk for the reader: a step's row is in the file before the step's
/// state can be, so that a run that goes on finds every row.
pub struct History {
    path: PathBuf,
    pub rows: Vec<Row>,
    /// Where the last row begins in the file: its epoch's evaluation is still to be added.
    last: u64,
    /// The file's length.
    end: u64,
}

impl History {
    pub fn create(folder: &Path) -> Result<Self> {
        Self::with(folder, Vec::new())
    }

    /// With what an interrupted program had written. Its last line may be cut short; that step comes again.
    pub fn resume(folder: &Path) -> Result<Self> {
        let rows = match csv::Reader::from_path(folder.join("metrics.csv")) {
            Ok(reader) => reader.into_deserialize().map_while(Result::ok).collect(),
            Err(_) => Vec::new(),
        };
        Self::with(folder, rows)
    }

    fn with(folder: &Path, rows: Vec<Row>) -> Result<Self> {
        let mut history = History { path: folder.join("metrics.csv"), rows, last: 0, end: 0 };
        history.rewrite()?;
        Ok(history)
    }

    /// Forgets what will come again of a run of `steps` steps that goes on when `done` are done: later steps, and what was measured
    /// when it was stopped within an epoch.
    pub fn cut(&mut self, run: &str, done: u64, steps: u64, per_epoch: u64) -> Result<()> {
        self.rows.retain(|row| &*row.run != run || row.step <= done);
        if done < steps && !done.is_multiple_of(per_epoch) {
            let last = self.rows.iter_mut().rfind(|row| &*row.run == run);
            if let Some(row) = last {
                (row.validation_loss, row.validation_accuracy) = (None, None);
            }
        }
        self.rewrite()
    }

    pub fn step(&mut self, run: &Arc<str>, m: &StepMetrics, per_epoch: u64) {
        let row = Row {
            run: run.clone(),
            step: m.step + 1,
            epoch: m.step / per_epoch + 1,
            loss: m.loss,
            accuracy: f64::from(m.correct) / m.samples as f64,
            kept: m.kept,
            tokens: m.tokens,
            rate: m.rate,
            grad_norm: m.grad_norm,
            validation_loss: None,
            validation_accuracy: None,
        };
        self.rows.push(row);
        self.last = self.end;
        // A full disk is reported by the rewriting at the end of the run.
        let _ = self.write_last();
    }

    pub fn epoch(&mut self, run: &str, m: &EpochMetrics) {
        let Some(row) = self.rows.last_mut().filter(|row| &*row.run == run) else { return };
        row.validation_loss = Some(m.validation.loss);
        row.validation_accuracy = Some(m.validation.accuracy);
        let _ = self.write_last();
    }

    /// Writes the last row to its place, over what is there of it: at no moment is it missing.
    fn write_last(&mut self) -> Result<()> {
        let Some(row) = self.rows.last() else { return Ok(()) };
        let mut writer = csv::WriterBuilder::new().has_headers(self.last == 0).from_writer(Vec::new());
        writer.serialize(row)?;
        let bytes = writer.into_inner()?;
        let mut file = File::options().write(true).open(&self.path)?;
        file.seek(SeekFrom::Start(self.last))?;
        file.write_all(&bytes)?;
        self.end = self.last + bytes.len() as u64;
        Ok(file.set_len(self.end)?)
    }

    /// Brings every row to the file, whatever is in it.
    pub fn rewrite(&mut self) -> Result<()> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let mut last = 0;
        for row in &self.rows {
            writer.flush()?;
            last = writer.get_ref().len() as u64;
            writer.serialize(row)?;
        }
        let bytes = writer.into_inner()?;
        files::replace(&self.path, &bytes)?;
        (self.last, self.end) = (last, bytes.len() as u64);
        Ok(())
    }
}
