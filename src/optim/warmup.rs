//! DeepSpeed's learning-rate schedules, for runs that repeat one of its configurations.

use crate::error::{Error, Result};

/// What a rate does after its warm-up.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub enum AfterWarmup {
    /// Stays (`WarmupLR`).
    Constant,
    /// Falls in a straight line back to the rate at the start at step `total` (`WarmupDecayLR`).
    Linear {
        /// `total_num_steps`.
        total: u64,
    },
    /// Falls along half a cosine to `floor` at step `total` (`WarmupCosineLR`).
    Cosine {
        /// `total_num_steps`.
        total: u64,
        /// The least rate: `cos_min_ratio` times the optimiser's rate.
        floor: f32,
    },
}

/// DeepSpeed's `WarmupLR`, `WarmupDecayLR` and `WarmupCosineLR`. With s the step before (from 0) and W the warm-up's steps,
/// at least 2:
///
/// ```text
/// s < W:     min + (max - min) g,   g = ln(s + 1) / ln(W), or s / W where the warm-up is linear
/// Constant:  max
/// Linear:    min + (max - min) (total - s) / (total - W)
/// Cosine:    floor + (max - floor) (1 + cos(pi q)) / 2,   q = (s - W + 1) / (total - W)
/// ```
///
/// As there, a step has the rate that was set after the one before. The first one of all has `min`, or 0 with a cosine.
/// Source: `deepspeed/runtime/lr_schedules.py`.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct DeepSpeedRate {
    /// The rate at the start.
    pub min: f32,
    /// The rate after the warm-up.
    pub max: f32,
    /// Steps of the warm-up; 1 counts as 2.
    pub steps: u64,
    /// Whether the rate rises in a straight line; else with the logarithm of the step.
    pub is_linear: bool,
    /// What comes then.
    pub after: AfterWarmup,
}

impl DeepSpeedRate {
    pub(super) fn check(&self) -> Result<()> {
        const OP: &str = "learning rate";
        let floor = if let AfterWarmup::Cosine { floor, .. } = self.after { floor } else { 0.0 };
        for (name, rate) in [("min", self.min), ("max", self.max), ("floor", floor)] {
            if !(rate >= 0.0 && rate.is_finite()) {
                return Err(Error::argument(OP, name, "finite and not negative", rate));
            }
        }
        if self.steps == 0 { Err(Error::argument(OP, "warm-up steps", "at least 1", 0)) } else { Ok(()) }
    }

    /// The rate of optimiser step `step`, from 0.
    pub(super) fn rate(&self, step: u64) -> f32 {
        let (min, max) = (f64::from(self.min), f64::from(self.max));
        let warmup = self.steps.max(2);
        let Some(last) = step.checked_sub(1) else {
            return if matches!(self.after, AfterWarmup::Cosine { .. }) { 0.0 } else { self.min };
        };
        if last < warmup {
            let risen = if self.is_linear {
                last as f64 / warmup as f64
            } else {
                (last as f64 + 1.0).ln() / (warmup as f64).ln()
            };
            return (min + (max - min) * risen) as f32;
        }
        let rate = match self.after {
            AfterWarmup::Constant => max,
            AfterWarmup::Linear { total } => {
                let left = total.saturating_sub(last) as f64 / total.saturating_sub(warmup).max(1) as f64;
                min + (max - min) * left
            }
            AfterWarmup::Cosine { total, floor } => {
                let gone = (last - warmup + 1) as f64 / total.saturating_sub(warmup).max(1) as f64;
                let floor = f64::from(floor);
                floor + (max - floor) * (1.0 + (std::f64::consts::PI * gone.min(1.0)).cos()) / 2.0
            }
        };
        rate as f32
    }
}
