//! What is shown while a run goes on: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use wgrad::Error;
use wgrad::train::{EpochMetrics, Observer, StepMetrics};

use super::console::say;
use super::history::History;
use super::words::{Measured, Words};

/// Plain lines come at most this often.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// Follows one run, and keeps its history.
pub struct Progress<'a> {
    run: Arc<str>,
    words: &'a Words,
    total: u64,
    /// Steps that an earlier program has done.
    resumed_at: u64,
    history: &'a mut History,
    stop: &'a AtomicBool,
    bar: Option<ProgressBar>,
    started: Instant,
    printed: Instant,
    /// Running means that a reader can follow.
    loss: f64,
    accuracy: f64,
    /// What the speed counts.
    units: u64,
}

impl<'a> Progress<'a> {
    pub fn new(
        run: &str,
        words: &'a Words,
        total: u64,
        resumed_at: u64,
        history: &'a mut History,
        stop: &'a AtomicBool,
    ) -> Self {
        // Progress is drawn in place where it can be.
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{prefix:12} {bar:24} {pos}/{len} {msg} [{eta} left]");
            let bar = ProgressBar::new(total).with_prefix(run.to_owned()).with_position(resumed_at);
            let bar = style.map_or(bar.clone(), |style| bar.with_style(style));
            // Those steps say nothing about this program's speed.
            bar.reset_eta();
            bar
        });
        let now = Instant::now();
        Progress {
            run: run.into(),
            words,
            total,
            resumed_at,
            history,
            stop,
            bar,
            started: now,
            printed: now,
            loss: f64::NAN,
            accuracy: f64::NAN,
            units: 0,
        }
    }

    /// Closes the bar.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn smooth(&mut self, m: &StepMetrics) {
        self.units += (self.words.count)(m);
        // Such a step is part of no mean.
        if m.excused {
            return;
        }
        let blend = |old: f64, new: f64| if old.is_nan() { new } else { 0.9 * old + 0.1 * new };
        self.loss = blend(self.loss, m.loss.into());
        if let Some(accuracy) = Measured::from(m).accuracy {
            self.accuracy = blend(self.accuracy, accuracy);
        }
    }

    fn message(&self, m: &StepMetrics) -> String {
        let Words { score, units, .. } = self.words;
        let means = Measured { loss: Some(self.loss), accuracy: Some(self.accuracy) };
        let rate = self.units as f64 / self.started.elapsed().as_secs_f64().max(1e-9);
        format!(
            "epoch {} loss {:.3} {} {} R {}/{} {rate:.0} {units}/s",
            m.epoch + 1,
            self.loss,
            score.name,
            score.show(means, 1),
            m.kept,
            m.tokens
        )
    }

    fn print_plain(&mut self, m: &StepMetrics) {
        let done = m.step + 1 - self.resumed_at;
        let is_last = m.step + 1 == self.total;
        if done > 1 && !is_last && self.printed.elapsed() < PLAIN_INTERVAL {
            return;
        }
        self.printed = Instant::now();
        let left = self.started.elapsed().as_secs_f64() / done as f64 * (self.total - m.step - 1) as f64;
        say!("{:12} {}/{} {} [{left:.0} s left]", self.run, m.step + 1, self.total, self.message(m));
    }

    /// A line beside the bar.
    fn print(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say!("{line}")),
            None => say!("{line}"),
        }
    }

    fn flow(&self) -> ControlFlow<()> {
        if self.stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl Observer for Progress<'_> {
    fn step(&mut self, metrics: &StepMetrics) -> ControlFlow<()> {
        self.smooth(metrics);
        self.history.step(&self.run, metrics);
        match &self.bar {
            Some(bar) => {
                bar.set_position(metrics.step + 1);
                bar.set_message(self.message(metrics));
            }
            None => self.print_plain(metrics),
        }
        self.flow()
    }

    fn epoch(&mut self, metrics: &EpochMetrics) -> ControlFlow<()> {
        self.history.epoch(&self.run, metrics);
        let EpochMetrics { train_loss, train_accuracy, validation, .. } = *metrics;
        let score = &self.words.score;
        let training = Measured { loss: Some(train_loss), accuracy: Some(train_accuracy) };
        let line = format!(
            "{:12} epoch {}: training loss {train_loss:.4}, {name} {}; validation loss {:.4}, {name} {}{}",
            self.run,
            metrics.epoch + 1,
            score.show(training, 2),
            validation.loss,
            score.show(validation.into(), 2),
            if metrics.is_best { " (best)" } else { "" },
            name = score.name
        );
        self.print(&line);
        self.flow()
    }

    fn lost(&mut self, error: &Error, steps: u64) {
        self.print(&format!("{:12} {error}; on a new device the run goes on after step {steps}", self.run));
    }
}
