//! The factor on the loss that keeps small gradients above the least half-precision number.

use crate::error::{Error, Result};

/// How the factor on the loss changes (Micikevicius et al., 2018): it grows while all is well, and falls where a gradient
/// overflows, whose step is then left out.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct LossScale {
    /// The factor of the first step.
    pub initial: f32,
    /// What the factor is multiplied by after `interval` good steps: at least 1.
    pub growth: f32,
    /// What it is multiplied by after a step whose gradient was not finite: above 0 and at most 1. With 1 the factor is
    /// constant, and such a step is an error as it is without scaling.
    pub backoff: f32,
    /// Good steps in a row before it grows.
    pub interval: u32,
    /// It does not fall below this. A bad step that would take it there is an error: the cause is not the factor.
    pub floor: f32,
}

impl Default for LossScale {
    fn default() -> Self {
        LossScale { initial: 65536.0, growth: 2.0, backoff: 0.5, interval: 2000, floor: 1.0 }
    }
}

impl LossScale {
    /// A factor that never changes.
    pub fn constant(scale: f32) -> Self {
        LossScale { initial: scale, growth: 1.0, backoff: 1.0, interval: 1, floor: scale }
    }

    /// Whether the settings are in range.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the first that is not.
    pub fn check(&self) -> Result<()> {
        const OP: &str = "loss scale";
        let settings = [
            ("initial", self.initial, self.initial > 0.0 && self.initial.is_finite(), "positive"),
            ("growth", self.growth, self.growth >= 1.0 && self.growth.is_finite(), "at least 1"),
            ("backoff", self.backoff, self.backoff > 0.0 && self.backoff <= 1.0, "above 0 and at most 1"),
            ("floor", self.floor, self.floor > 0.0 && self.floor <= self.initial, "positive and at most initial"),
        ];
        if let Some((name, value, _, expected)) = settings.into_iter().find(|(_, _, ok, _)| !ok) {
            return Err(Error::argument(OP, name, expected, value));
        }
        if self.interval == 0 { Err(Error::argument(OP, "interval", "at least 1", 0)) } else { Ok(()) }
    }
}
