//! What a run leaves behind: metrics.csv while it goes on, report.json and a table at its end.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::{Cell, CellAlignment, Table};
use serde::Serialize;
use wgrad::ops::TuneReport;
use wgrad::train::{EpochMetrics, StepMetrics};

use crate::args::Args;

/// report.json.
#[derive(Serialize)]
pub struct Report<'a> {
    pub adapter: String,
    /// What was measured to choose kernels, if that was asked for.
    pub tuning: Option<TuneReport>,
    pub settings: &'a Args,
    pub runs: Vec<RunReport>,
}

/// One run's results. Shares are in 0..=1, times in seconds.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    pub name: String,
    pub test_accuracy: f64,
    pub test_loss: f64,
    /// The checkpoint that was tested: the one with the best validation accuracy.
    pub best_epoch: u64,
    pub validation_accuracy: f64,
    pub steps: u64,
    /// Whether it was ended before its last step.
    pub stopped: bool,
    /// Training steps and waiting for data; nothing of what is timed below.
    pub wall_seconds: f64,
    pub data_wait_seconds: f64,
    /// The host's own work on the steps.
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
}

impl RunReport {
    /// Of the wall time, in percent.
    fn share(&self, seconds: f64) -> f64 {
        100.0 * seconds / self.wall_seconds.max(1e-9)
    }

    fn host_ms(&self) -> f64 {
        1e3 * self.host_seconds / self.steps.max(1) as f64
    }
}

impl<'a> Report<'a> {
    pub fn new(adapter: String, tuning: Option<TuneReport>, settings: &'a Args) -> Self {
        Report { adapter, tuning, settings, runs: Vec::new() }
    }

    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join("report.json");
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// The runs side by side.
    pub fn table(&self) -> Table {
        let mut table = Table::new();
        let mut header = vec![String::new()];
        header.extend(self.runs.iter().map(|r| r.name.clone()));
        table.load_style(comfy_table::presets::UTF8_BORDERS_ONLY).set_header(header);
        let rows: [Line; 11] = [
            ("test accuracy", |r| format!("{:.2} %", 100.0 * r.test_accuracy)),
            ("wall time, training", |r| format!("{:.1} s", r.wall_seconds)),
            ("  of it waiting for data", |r| {
                format!("{:.1} s ({:.1} %)", r.data_wait_seconds, r.share(r.data_wait_seconds))
            }),
            ("  host's work, a step", |r| format!("{:.1} ms ({:.1} %)", r.host_ms(), r.share(r.host_seconds))),
            ("evaluation", |r| format!("{:.1} s", r.evaluation_seconds)),
            ("compilation", |r| format!("{:.1} s", r.compilation_seconds)),
            ("images/s", |r| format!("{:.0}", r.images_per_second)),
            ("layer tokens", |r| thousands(r.layer_tokens)),
            ("  saved", |r| format!("{:.1} %", 100.0 * r.layer_tokens_saved)),
            ("peak device memory", |r| format!("{:.1} MB", r.peak_device_bytes as f64 / 1e6)),
            ("pictures skipped", |r| r.skipped.len().to_string()),
        ];
        for (name, value) in rows {
            let cells = self.runs.iter().map(|r| Cell::new(value(r)).set_alignment(CellAlignment::Right));
            table.add_row(std::iter::once(Cell::new(name)).chain(cells));
        }
        table
    }
}

/// A line of the table: what it shows, and how to print it.
type Line = (&'static str, fn(&RunReport) -> String);

/// 305784192 as 305,784,192.
fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}

/// A row of metrics.csv. The validation columns are filled at the last step of each epoch.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub run: &'static str,
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

/// Every step of every run, in memory for the curves and on disk for the reader.
pub struct History {
    writer: csv::Writer<File>,
    pub rows: Vec<Row>,
    /// Rows that are on disk: a step's row waits for its epoch's evaluation.
    written: usize,
}

impl History {
    pub fn create(folder: &Path) -> Result<Self> {
        let path = folder.join("metrics.csv");
        let writer = csv::Writer::from_path(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(History { writer, rows: Vec::new(), written: 0 })
    }

    pub fn step(&mut self, run: &'static str, m: &StepMetrics, per_epoch: u64) {
        self.rows.push(Row {
            run,
            step: m.step,
            epoch: m.step / per_epoch,
            loss: m.loss,
            accuracy: f64::from(m.correct) / m.samples as f64,
            kept: m.kept,
            tokens: m.tokens,
            rate: m.rate,
            grad_norm: m.grad_norm,
            validation_loss: None,
            validation_accuracy: None,
        });
    }

    pub fn epoch(&mut self, run: &'static str, m: &EpochMetrics) {
        if let Some(row) = self.rows.iter_mut().rev().find(|r| r.run == run) {
            row.validation_loss = Some(m.validation.loss);
            row.validation_accuracy = Some(m.validation.accuracy);
        }
        // A full disk is reported by the flush at the end of the run, which is not far.
        let _ = self.flush();
    }

    /// Brings every row to the file.
    pub fn flush(&mut self) -> Result<()> {
        for row in &self.rows[self.written..] {
            self.writer.serialize(row)?;
            self.written += 1;
        }
        Ok(self.writer.flush()?)
    }
}
