//! A learning rate that follows the layer tokens consumed instead of the steps.

use super::LrShape;
use crate::error::{Error, Result};

/// The LayerToken learning rate of random-LTD pretraining. A step that drops tokens learns from fewer of them, so the rate
/// should have gone less far. With N the layer tokens consumed before the step, N_total and W those of the whole run and of its
/// warm-up, and D = N_total − W:
///
/// ```text
/// N <= W:  max N / W
/// N > D:   min
/// else:    min + (max - min) c(q),   q = (N - W) / (D - W)
///          c(q) = 1 - q, or (1 + cos πq) / 2
/// ```
///
/// The first step has the rate 0, unless there is no warm-up. N_total takes the growth of the kept length as a straight line, and a
/// run consumes somewhat fewer; the floor begins W before N_total, so it is reached all the same where W is more than what the staircase
/// leaves out. Else the last rate is a little above it.
/// Source: Yao et al., 2022, arXiv 2211.11586.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct LayerTokenRate {
    /// The rate after the warm-up, 0 or more.
    pub max: f32,
    /// The rate at the end, from 0 to `max`.
    pub min: f32,
    /// How the rate falls after the warm-up: [`LrShape::Linear`] or [`LrShape::Cosine`].
    pub shape: LrShape,
    /// N_total, as `ltd::LayerTokenPlan` has it.
    pub total: f64,
    /// W, 0 or more and less than half of N_total.
    pub warmup: f64,
}

impl LayerTokenRate {
    pub(super) fn check(&self) -> Result<()> {
        const OP: &str = "LayerToken learning rate";
        let &LayerTokenRate { max, min, shape, total, warmup } = self;
        if !(max.is_finite() && max >= 0.0) {
            return Err(Error::argument(OP, "max", "finite and not negative", max));
        }
        if !(0.0..=max).contains(&min) {
            return Err(Error::argument(OP, "min", format!("in 0..={max}"), min));
        }
        if shape == LrShape::Constant {
            return Err(Error::argument(OP, "shape", "linear or cosine", "constant"));
        }
        if !(total > 0.0 && total.is_finite()) {
            return Err(Error::argument(OP, "total", "positive and finite", total));
        }
        if !(0.0..total / 2.0).contains(&warmup) {
            return Err(Error::argument(OP, "warmup", format!("from 0 to below half of all {total}"), warmup));
        }
        Ok(())
    }

    /// The rate of a step before which so many layer tokens were consumed.
    pub(super) fn rate(&self, layer_tokens: u64) -> f32 {
        let (max, min, consumed) = (f64::from(self.max), f64::from(self.min), layer_tokens as f64);
        let floor_from = self.total - self.warmup;
        let rate = if consumed > floor_from {
            min
        } else if consumed <= self.warmup && self.warmup > 0.0 {
            max * consumed / self.warmup
        } else {
            let gone = (consumed - self.warmup) / (floor_from - self.warmup);
            min + (max - min) * self.shape.left(gone)
        };
        rate as f32
    }
}
