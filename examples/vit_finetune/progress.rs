//! What is shown while a run goes on: a bar on a terminal, plain lines elsewhere.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use wgrad::train::{EpochMetrics, Observer, StepMetrics};

use crate::console::say;
use crate::history::History;

/// Plain lines come at most this often.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// Follows one run, and keeps its history.
pub struct Progress<'a> {
    run: Arc<str>,
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
    samples: u64,
}

impl<'a> Progress<'a> {
    pub fn new(
        run: Arc<str>,
        total: u64,
        resumed_at: u64,
        history: &'a mut History,
        stop: &'a Arc<AtomicBool>,
    ) -> Self {
        let bar = crate::is_terminal().then(|| {
            let style = ProgressStyle::with_template("{prefix:12} {bar:24} {pos}/{len} {msg} [{eta} left]");
            let bar = ProgressBar::new(total).with_prefix(run.to_string()).with_position(resumed_at);
            let bar = style.map_or(bar.clone(), |style| bar.with_style(style));
            // Those steps say nothing about this program's speed.
            bar.reset_eta();
            bar
        });
        let now = Instant::now();
        Progress {
            run,
            total,
            resumed_at,
            history,
            stop,
            bar,
            started: now,
            printed: now,
            loss: f64::NAN,
            accuracy: f64::NAN,
            samples: 0,
        }
    }

    /// Closes the bar.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn smooth(&mut self, m: &StepMetrics) {
        self.samples += m.samples as u64;
        // Such a step is part of no mean.
        if m.excused {
            return;
        }
        let blend = |old: f64, new: f64| if old.is_nan() { new } else { 0.9 * old + 0.1 * new };
        self.loss = blend(self.loss, m.loss.into());
        self.accuracy = blend(self.accuracy, f64::from(m.correct) / m.samples as f64);
    }

    fn message(&self, m: &StepMetrics) -> String {
        let rate = self.samples as f64 / self.started.elapsed().as_secs_f64().max(1e-9);
        format!(
            "epoch {} loss {:.3} accuracy {:.1} % R {}/{} {rate:.0} images/s",
            m.epoch + 1,
            self.loss,
            100.0 * self.accuracy,
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
        let line = format!(
            "{:12} epoch {}: training loss {:.4}, accuracy {:.2} %; validation loss {:.4}, accuracy {:.2} %{}",
            self.run,
            metrics.epoch + 1,
            metrics.train_loss,
            100.0 * metrics.train_accuracy,
            metrics.validation.loss,
            100.0 * metrics.validation.accuracy,
            if metrics.is_best { " (best)" } else { "" }
        );
        match &self.bar {
            Some(bar) => bar.suspend(|| say!("{line}")),
            None => say!("{line}"),
        }
        self.flow()
    }
}
