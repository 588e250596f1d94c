//! What a lesson has brought so far.

use wgrad::train::StepMetrics;

use crate::asking::Mark;
use crate::curve::{Curve, Smooth};

/// Curves over the steps, counted from 1.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// The loss of each step's batch, and smoothed.
    pub loss: Curve,
    pub smooth_loss: Curve,
    /// The right answers in each step's batch, in percent, smoothed.
    pub accuracy: Curve,
    /// Of the examinations, in percent.
    pub examined: Curve,
    /// R.
    pub kept: Curve,
    smooth: [Smooth; 2],
}

impl Progress {
    pub fn add(&mut self, step: &StepMetrics) {
        let x = (step.step + 1) as f64;
        let loss = f64::from(step.loss);
        let accuracy = 100.0 * f64::from(step.correct) / step.counted.max(1) as f64;
        let [smooth_loss, smooth_accuracy] = &mut self.smooth;
        self.loss.push(x, loss);
        self.smooth_loss.push(x, smooth_loss.push(loss));
        self.accuracy.push(x, smooth_accuracy.push(accuracy));
        self.kept.push(x, step.kept as f64);
    }

    pub fn add_mark(&mut self, mark: &Mark) {
        self.examined.push(mark.steps as f64, 100.0 * mark.accuracy);
    }
}
