//! How many tokens R an LTD block keeps at each optimiser step.

use super::growth::Growth;
use crate::error::{Error, Result};

/// The largest kept length: token indices are `u32`.
const MAX_LENGTH: usize = u32::MAX as usize;

/// The kept length R as a function of the optimiser step, counted from 0. R never falls and is never 0.
///
/// Made with the validating constructors; steps and lengths beyond the schedule's end keep its last value. A kept length
/// at or above the model's full length means the plain model.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub enum Schedule {
    /// The same length at every step. See [`Schedule::constant`].
    #[non_exhaustive]
    Constant {
        /// R.
        kept: usize,
    },
    /// A straight line. See [`Schedule::linear`].
    #[non_exhaustive]
    Linear {
        /// R at step 0.
        start: usize,
        /// R from step `steps`.
        end: usize,
        /// The step at which `end` is reached.
        steps: u64,
        /// What the lengths between are multiples of.
        granularity: usize,
    },
    /// DeepSpeed's `fixed_linear`. See [`Schedule::fixed_linear`].
    #[non_exhaustive]
    FixedLinear {
        /// `min_value`.
        min_value: usize,
        /// `max_value`.
        max_value: usize,
        /// `require_steps`.
        require_steps: u64,
        /// `seq_per_step`.
        seq_per_step: usize,
    },
    /// Grows with the raw tokens seen. See [`Schedule::by_tokens`].
    #[non_exhaustive]
    ByTokens {
        /// R at step 0.
        start: usize,
        /// The largest R.
        end: usize,
        /// How much R grows at a time.
        increment: usize,
        /// Raw tokens between two increments.
        tokens_per_increment: u64,
        /// Raw tokens of one step: the global batch times the full length.
        tokens_per_step: u64,
    },
}

/// A run of steps with one kept length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The first step with this length.
    pub first_step: u64,
    /// R, at most the full length.
    pub kept: usize,
}

impl Schedule {
    /// Keeps `kept` tokens at every step.
    ///
    /// # Errors
    /// [`Error::Argument`] if `kept` is 0 or above 2³²−1.
    pub fn constant(kept: usize) -> Result<Self> {
        const OP: &str = "schedule constant";
        check_lengths(OP, ("kept", kept), ("kept", kept))?;
        Ok(Schedule::Constant { kept })
    }

    /// A straight line from `start` at step 0 to `end` at step `steps` exactly, and `end` ever after:
    ///
    /// ```text
    /// v = start + floor((end - start) * t / steps)        exact integers
    /// r = end at t >= steps, else max(start, v - v mod granularity)
    /// ```
    ///
    /// So `start` is a floor, every length between `start` and `end` is a multiple of `granularity`, and `end` is never
    /// early nor late. (DeepSpeed's [`Schedule::fixed_linear`] keeps none of the three.)
    ///
    /// # Errors
    /// [`Error::Argument`] if `start` is 0, `end` is below `start` or above 2³²−1, or `steps` or `granularity` is 0.
    pub fn linear(start: usize, end: usize, steps: u64, granularity: usize) -> Result<Self> {
        const OP: &str = "schedule linear";
        check_lengths(OP, ("start", start), ("end", end))?;
        check_not_zero(OP, "steps", steps)?;
        check_not_zero(OP, "granularity", granularity as u64)?;
        Ok(Schedule::Linear { start, end, steps, granularity })
    }

    /// DeepSpeed's `fixed_linear`, number for number:
    ///
    /// ```text
    /// v = floor(t / require_steps * (max_value - min_value) + min_value)        64-bit floats
    /// v = v - v mod seq_per_step;   r = min(v, max_value);   not updated once r = max_value
    /// ```
    ///
    /// Its quirks are kept: with a `max_value` that is no multiple of `seq_per_step`, `max_value` comes later than
    /// `require_steps`; `min_value` is rounded down too (66 in steps of 8 starts at 64); and since the length starts at
    /// `min_value` and is updated only below `max_value`, it is never rounded where both are equal.
    /// Source: `RandomLTDScheduler.update_seq` in DeepSpeed's `data_routing/scheduler.py`, as it was until 2026, when it was proposed to
    /// round `min_value` up (its pull request 8529).
    ///
    /// # Errors
    /// [`Error::Argument`] if `min_value` is 0, `max_value` is below `min_value` or above 2³²−1, `require_steps` or
    /// `seq_per_step` is 0, or `min_value` would be rounded down to 0 tokens.
    pub fn fixed_linear(min_value: usize, max_value: usize, require_steps: u64, seq_per_step: usize) -> Result<Self> {
        const OP: &str = "schedule fixed_linear";
        check_lengths(OP, ("min_value", min_value), ("max_value", max_value))?;
        check_not_zero(OP, "require_steps", require_steps)?;
        check_not_zero(OP, "seq_per_step", seq_per_step as u64)?;
        if min_value < max_value && min_value < seq_per_step {
            let expected = format!("at least seq_per_step, {seq_per_step}, or it is rounded down to no token");
            return Err(Error::argument(OP, "min_value", expected, min_value));
        }
        Ok(Schedule::FixedLinear { min_value, max_value, require_steps, seq_per_step })
    }

    /// Grows by `increment` each time `tokens_per_increment` raw tokens (before any dropping) have been seen, as in
    /// pretraining by a budget of tokens ("MSLG" in arXiv 2211.11586, where `increment` is 16):
    ///
    /// ```text
    /// r = min(start + increment * floor(t * tokens_per_step / tokens_per_increment), end)
    /// ```
    ///
    /// # Errors
    /// [`Error::Argument`] if `start` is 0, `end` is below `start` or above 2³²−1, or one of the others is 0.
    pub fn by_tokens(
        start: usize,
        end: usize,
        increment: usize,
        tokens_per_increment: u64,
        tokens_per_step: u64,
    ) -> Result<Self> {
        const OP: &str = "schedule by_tokens";
        check_lengths(OP, ("start", start), ("end", end))?;
        check_not_zero(OP, "increment", increment as u64)?;
        check_not_zero(OP, "tokens_per_increment", tokens_per_increment)?;
        check_not_zero(OP, "tokens_per_step", tokens_per_step)?;
        Ok(Schedule::ByTokens { start, end, increment, tokens_per_increment, tokens_per_step })
    }

    /// R at optimiser step `step`, not yet limited to the model's full length.
    pub fn kept_length(&self, step: u64) -> usize {
        match *self {
            Schedule::Constant { kept } => kept,
            Schedule::Linear { start, end, steps, granularity } => linear(start, end, steps, granularity, step),
            Schedule::FixedLinear { min_value, max_value, require_steps, seq_per_step } => {
                fixed_linear(min_value, max_value, require_steps, seq_per_step, step)
            }
            Schedule::ByTokens { start, end, increment, tokens_per_increment, tokens_per_step } => {
                let increments = u128::from(step) * u128::from(tokens_per_step) / u128::from(tokens_per_increment);
                let grown = (start as u128).saturating_add(increments.saturating_mul(increment as u128));
                grown.min(end as u128) as usize
            }
        }
    }

    /// The length as a straight line, at `tokens_per_step` raw tokens a step where the schedule goes by steps.
    pub(super) fn growth(&self, tokens_per_step: f64) -> Growth {
        let line = |start: usize, end: usize, tokens| Growth { start: start as f64, end: end as f64, tokens };
        match *self {
            Schedule::Constant { kept } => Growth::none(kept as f64),
            Schedule::Linear { start, end, steps, .. } => line(start, end, steps as f64 * tokens_per_step),
            Schedule::FixedLinear { min_value, max_value, require_steps, .. } => {
                line(min_value, max_value, require_steps as f64 * tokens_per_step)
            }
            Schedule::ByTokens { start, end, increment, tokens_per_increment, .. } => {
                let increments = (end - start) as f64 / increment as f64;
                line(start, end, increments * tokens_per_increment as f64)
            }
        }
    }

    /// The distinct lengths that steps `0..steps` visit at full length `tokens`, ascending, with the first step of each.
    /// The list ends at the full length, after which nothing changes.
    pub fn stages(&self, steps: u64, tokens: usize) -> Vec<Stage> {
        let mut stages: Vec<Stage> = Vec::new();
        let mut step = 0;
        while step < steps {
            let kept = self.kept_length(step).min(tokens);
            stages.push(Stage { first_step: step, kept });
            if kept == tokens {
                break;
            }
            step = self.first_step_above(kept, step, steps);
        }
        stages
    }

    /// The first step in `from..to` that keeps more than `kept` tokens, or `to`. Lengths never fall, so halving finds it.
    fn first_step_above(&self, kept: usize, from: u64, to: u64) -> u64 {
        let (mut low, mut high) = (from, to);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.kept_length(middle) > kept {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
    }
}

fn linear(start: usize, end: usize, steps: u64, granularity: usize, step: u64) -> usize {
    if step >= steps {
        return end;
    }
    let risen = (end - start) as u128 * u128::from(step) / u128::from(steps);
    let value = start + risen as usize;
    start.max(value - value % granularity)
}

fn fixed_linear(min: usize, max: usize, require_steps: u64, seq_per_step: usize, step: u64) -> usize {
    if min == max {
        return max;
    }
    // In this order, in f64: the original's rounding decides at which step a length begins.
    let value = (step as f64 / require_steps as f64 * (max - min) as f64 + min as f64).floor() as usize;
    (value - value % seq_per_step).min(max)
}

fn check_lengths(op: &'static str, first: (&'static str, usize), last: (&'static str, usize)) -> Result<()> {
    if first.1 == 0 {
        return Err(Error::argument(op, first.0, "at least 1", first.1));
    }
    if last.1 < first.1 || last.1 > MAX_LENGTH {
        let expected = format!("{} ({}) to {MAX_LENGTH}", first.0, first.1);
        return Err(Error::argument(op, last.0, expected, last.1));
    }
    Ok(())
}

fn check_not_zero(op: &'static str, name: &'static str, value: u64) -> Result<()> {
    if value == 0 { Err(Error::argument(op, name, "at least 1", value)) } else { Ok(()) }
}
