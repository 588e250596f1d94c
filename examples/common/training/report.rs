//! report.json: what all runs of a program leave behind at their end.

use std::path::Path;

use anyhow::{Result, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use wgrad::ops::TuneReport;
use wgrad::train::Outcome;

use super::files;

/// A [`Report`] in its folder.
pub const REPORT: &str = "report.json";

/// report.json, of a program's arguments `A`, recipe `C` and runs `U`.
#[derive(Serialize)]
pub struct Report<'a, A, C, U> {
    pub adapter: String,
    /// What was measured to choose kernels, if that was asked for.
    pub tuning: Option<TuneReport>,
    pub args: &'a A,
    pub recipe: &'a C,
    pub runs: Vec<U>,
}

impl<A: Serialize, C: Serialize, U: Serialize> Report<'_, A, C, U> {
    pub fn write(&self, folder: &Path) -> Result<()> {
        files::replace(&folder.join(REPORT), serde_json::to_string_pretty(self)?.as_bytes())
    }
}

/// One run's results, as a program keeps them.
pub trait Run: Serialize + DeserializeOwned {
    fn which(&self) -> &Which;

    fn course(&self) -> &Course;

    fn course_mut(&mut self) -> &mut Course;

    /// The test's, as [`super::words::Score::of`] gives it.
    fn score(&self) -> f64;

    /// Whether that is of what no choice was made by: where nothing is left for a test, it is of the validation split.
    fn is_tested(&self) -> bool {
        true
    }

    /// What the program counts in a second.
    fn speed(&self) -> f64;
}

/// How a run is called.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Which {
    pub name: String,
    /// Runs of an arm differ in their seed alone.
    pub arm: String,
    pub seed: u64,
}

/// What a run did, and what it took. Times are in seconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Course {
    pub steps: u64,
    /// Whether it was ended before its last step.
    pub stopped: bool,
    /// The step after which it went on, if it had been interrupted: what is timed is of the steps since then.
    pub resumed_at: u64,
    /// Whether it ended early for want of progress.
    pub out_of_patience: bool,
    /// How often the device was lost, and the run went on on another one.
    #[serde(default)]
    pub device_losses: u64,
    /// Training steps and waiting for data; nothing of what is timed below.
    pub wall_seconds: f64,
    pub data_wait_seconds: f64,
    /// Recording and submitting the steps. Drivers that compute on the CPU compute in it.
    pub host_seconds: f64,
    pub evaluation_seconds: f64,
    pub checkpoint_seconds: f64,
    pub compilation_seconds: f64,
    pub layer_tokens: u64,
    /// Share of those at full length.
    pub layer_tokens_saved: f64,
    pub peak_device_bytes: u64,
    /// Why what it has learnt was not written for others, where that failed: it is what a run that goes on has left to
    /// do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export_error: Option<String>,
}

impl Course {
    /// Of a run that went on after the step `resumed_at`, or began with 0.
    pub fn new(outcome: &Outcome, resumed_at: u64, peak_device_bytes: u64) -> Result<Self> {
        ensure!(outcome.steps > 0, "the run ended before its first step");
        let timing = outcome.timing;
        Ok(Course {
            steps: outcome.steps,
            stopped: outcome.stopped,
            resumed_at,
            out_of_patience: outcome.out_of_patience,
            device_losses: outcome.losses,
            wall_seconds: timing.training.saturating_sub(timing.compilation).as_secs_f64(),
            data_wait_seconds: timing.data_wait.as_secs_f64(),
            host_seconds: timing.host.as_secs_f64(),
            evaluation_seconds: timing.evaluation.as_secs_f64(),
            checkpoint_seconds: timing.checkpoints.as_secs_f64(),
            compilation_seconds: timing.compilation.as_secs_f64(),
            layer_tokens: outcome.layer_tokens.consumed,
            layer_tokens_saved: outcome.layer_tokens.saved_share(),
            peak_device_bytes,
            export_error: None,
        })
    }

    /// Whether a step was timed: none was where it went on after its last one.
    pub fn is_timed(&self) -> bool {
        self.steps > self.resumed_at
    }

    /// Whether nothing of it is left to do.
    pub fn has_ended(&self) -> bool {
        !self.stopped && self.export_error.is_none()
    }

    /// Of the steps that were timed; `None` where none was.
    pub fn seconds_a_step(&self) -> Option<f64> {
        self.is_timed().then(|| self.wall_seconds / (self.steps - self.resumed_at) as f64)
    }

    /// So many a second, where a step has `count`; 0 where no step was timed.
    pub fn speed(&self, count: f64) -> f64 {
        self.seconds_a_step().map_or(0.0, |seconds| count / seconds.max(1e-9))
    }
}
