//! metrics.csv: every step of every run, written while they go on.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use wgrad::train::{EpochMetrics, RunState, StepMetrics};

use super::console::{complain, printable};
use super::files;
use super::words::Measured;

/// A row of metrics.csv. The validation columns are filled at the last step of each epoch. Steps and epochs are counted from 1, as
/// on the console: the row of step 7 is of the moment when 7 steps were done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub run: Arc<str>,
    pub step: u64,
    pub epoch: u64,
    /// Empty where half precision left the step out.
    pub loss: Option<f32>,
    /// Share of right answers; empty where they are not counted.
    pub accuracy: Option<f64>,
    pub kept: usize,
    pub tokens: usize,
    pub rate: f32,
    /// As the loss.
    pub grad_norm: Option<f32>,
    pub validation_loss: Option<f64>,
    pub validation_accuracy: Option<f64>,
}

impl Row {
    /// In the step.
    pub fn training(&self) -> Measured {
        Measured { loss: self.loss.map(f64::from), accuracy: self.accuracy }
    }

    /// On the validation split.
    pub fn validation(&self) -> Measured {
        Measured { loss: self.validation_loss, accuracy: self.validation_accuracy }
    }
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
    /// Whether this program has seen a step.
    has_news: bool,
    /// What a run's first news is to bring about.
    pending: Option<Cut>,
}

/// See [`History::begin`].
struct Cut {
    run: String,
    /// Steps that do not come again.
    done: u64,
    /// Whether the last of them was measured within its epoch.
    is_cut: bool,
}

impl History {
    pub fn create(folder: &Path) -> Result<Self> {
        let mut history = Self::with(folder, Vec::new());
        history.rewrite()?;
        Ok(history)
    }

    /// With what an interrupted program had written. Its last line may be cut short; that step comes again. The file stays as it
    /// is until there is news.
    pub fn resume(folder: &Path) -> Self {
        let mut history = Self::with(folder, Vec::new());
        let Ok(reader) = csv::Reader::from_path(&history.path) else { return history };
        let mut lines = reader.into_deserialize();
        while let Some(line) = lines.next() {
            match line {
                Ok(row) => history.rows.push(row),
                Err(error) if lines.next().is_some() => {
                    let (path, error) = (history.path.display(), printable(&error.to_string()));
                    complain!("warning: {path}: the new file ends before what cannot be read: {error}");
                    break;
                }
                Err(_) => break,
            }
        }
        history
    }

    fn with(folder: &Path, rows: Vec<Row>) -> Self {
        History { path: folder.join("metrics.csv"), rows, last: 0, end: 0, has_news: false, pending: None }
    }

    /// A run of `steps` steps begins, or goes on from where it `stood`. With its first news, and no sooner, what comes again is
    /// forgotten: later steps, and what was measured when it was stopped within an epoch.
    pub fn begin(&mut self, run: &str, stood: Option<&RunState>, steps: u64) {
        let done = stood.map_or(0, RunState::steps);
        let is_cut = done < steps && stood.is_some_and(RunState::is_within_epoch);
        self.pending = Some(Cut { run: run.to_owned(), done, is_cut });
    }

    /// Whether there is anything that an earlier program has not written.
    pub fn has_news(&self) -> bool {
        self.has_news
    }

    /// Does what a run's first news is to bring about.
    fn cut(&mut self) -> Result<()> {
        self.has_news = true;
        let Some(Cut { run, done, is_cut }) = self.pending.take() else { return Ok(()) };
        self.rows.retain(|row| *row.run != *run || row.step <= done);
        let last = self.rows.iter_mut().rfind(|row| *row.run == *run);
        if let Some(row) = last.filter(|_| is_cut) {
            (row.validation_loss, row.validation_accuracy) = (None, None);
        }
        self.rewrite()
    }

    pub fn step(&mut self, run: &Arc<str>, m: &StepMetrics) {
        // A full disk is reported by the rewriting at the end of the run.
        let _ = self.cut();
        let row = Row {
            run: run.clone(),
            step: m.step + 1,
            epoch: m.epoch + 1,
            loss: (!m.excused).then_some(m.loss),
            accuracy: Measured::from(m).accuracy,
            kept: m.kept,
            tokens: m.tokens,
            rate: m.rate,
            grad_norm: (!m.excused).then_some(m.grad_norm),
            validation_loss: None,
            validation_accuracy: None,
        };
        self.rows.push(row);
        self.last = self.end;
        let _ = self.write_last();
    }

    pub fn epoch(&mut self, run: &str, m: &EpochMetrics) {
        let _ = self.cut();
        let Some(row) = self.rows.last_mut().filter(|row| &*row.run == run) else { return };
        let Measured { loss, accuracy } = m.validation.into();
        (row.validation_loss, row.validation_accuracy) = (loss, accuracy);
        let _ = self.write_last();
    }

    /// Writes the last row to its place, over what is there of it: at no moment is it missing.
    fn write_last(&mut self) -> Result<()> {
        // Nor are the rows before it there, at first or where the disk was full.
        if self.end == 0 {
            return self.rewrite();
        }
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
