//! A learning rate in straight lines between given points, for schedules of a program's own.

use crate::error::{Error, Result};

/// What [`super::LrSchedule::piecewise`] is made of.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub(super) struct PiecewiseRate {
    /// Steps, increasing, and their rates. Never empty.
    knots: Vec<(u64, f32)>,
}

impl PiecewiseRate {
    pub(super) fn new(knots: &[(u64, f32)]) -> Result<Self> {
        const OP: &str = "piecewise learning rate";
        if knots.is_empty() {
            return Err(Error::argument(OP, "knots", "at least one", 0));
        }
        if let Some((_, rate)) = knots.iter().find(|(_, rate)| !(*rate >= 0.0 && rate.is_finite())) {
            return Err(Error::argument(OP, "rate", "finite and not negative", rate));
        }
        if let Some(pair) = knots.windows(2).find(|pair| pair[1].0 <= pair[0].0) {
            return Err(Error::argument(OP, "step", format!("above {}, the one before it", pair[0].0), pair[1].0));
        }
        Ok(PiecewiseRate { knots: knots.to_vec() })
    }

    /// Whether it ends below its height.
    pub(super) fn falls(&self) -> bool {
        let last = self.knots.last().map_or(0.0, |(_, rate)| *rate);
        self.knots.iter().any(|(_, rate)| *rate > last)
    }

    pub(super) fn rate(&self, step: u64) -> f32 {
        let after = self.knots.partition_point(|(knot, _)| *knot <= step);
        let before = after.checked_sub(1).and_then(|i| self.knots.get(i));
        match (before, self.knots.get(after)) {
            (Some(&(from, low)), Some(&(to, high))) => {
                let gone = (step - from) as f64 / (to - from) as f64;
                (f64::from(low) + (f64::from(high) - f64::from(low)) * gone) as f32
            }
            (Some(&(_, rate)), None) | (None, Some(&(_, rate))) => rate,
            (None, None) => 0.0,
        }
    }
}
