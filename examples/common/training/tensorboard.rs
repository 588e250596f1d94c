//! What a run tells TensorBoard, beside the console.

use std::ops::ControlFlow;
use std::path::Path;

use anyhow::Result;
use wgrad::Error;
use wgrad::train::{EpochMetrics, Observer, StepMetrics};

use super::events::Events;
use super::words::{Measured, Score};

/// Writes the events of one run, and passes everything on to another observer.
pub struct Watched<'a> {
    inner: &'a mut dyn Observer,
    score: &'a Score,
    events: Option<Events>,
}

impl<'a> Watched<'a> {
    /// With events in `folder/tensorboard/run` if they are wanted.
    pub fn new(wanted: bool, folder: &Path, run: &str, score: &'a Score, inner: &'a mut dyn Observer) -> Result<Self> {
        let events = wanted.then(|| Events::create(&folder.join("tensorboard").join(run))).transpose()?;
        Ok(Watched { inner, score, events })
    }

    /// # Errors
    /// If the file could not be written.
    pub fn finish(self) -> Result<()> {
        self.events.map_or(Ok(()), Events::finish)
    }

    fn write<'n>(&mut self, step: u64, part: &str, numbers: impl Iterator<Item = (&'n str, f64)>) {
        if let Some(events) = &mut self.events {
            events.scalars(step, numbers.map(|(name, value)| (format!("{part}/{name}"), value)));
        }
    }

    /// By its name, where there is one.
    fn score(&self, measured: Measured) -> Option<(&'static str, f64)> {
        (self.score.of)(measured).map(|score| (self.score.name, score))
    }
}

impl Observer for Watched<'_> {
    fn step(&mut self, m: &StepMetrics) -> ControlFlow<()> {
        let mut numbers = vec![("learning_rate", m.rate.into()), ("kept_tokens", m.kept as f64)];
        // What half precision left out has none.
        if !m.excused {
            numbers.extend([("loss", m.loss.into()), ("gradient_norm", m.grad_norm.into())]);
        }
        // From 1, as everywhere in a run's folder.
        self.write(m.step + 1, "train", self.score(m.into()).into_iter().chain(numbers));
        self.inner.step(m)
    }

    fn epoch(&mut self, m: &EpochMetrics) -> ControlFlow<()> {
        let score = self.score(m.validation.into());
        self.write(m.steps, "validation", [("loss", m.validation.loss)].into_iter().chain(score));
        self.inner.epoch(m)
    }

    fn lost(&mut self, error: &Error, steps: u64) {
        self.inner.lost(error, steps);
    }
}
