//! Learning rates over the steps of a run.

use super::piecewise::PiecewiseRate;
use super::{AfterWarmup, DeepSpeedRate, LayerTokenRate};
use crate::error::{Error, Result};

/// How the rate falls after warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub enum LrShape {
    /// min + (base − min)·(1 + cos πq)/2
    #[default]
    Cosine,
    /// min + (base − min)·(1 − q)
    Linear,
    /// base
    Constant,
}

impl LrShape {
    /// What is left of the rate at q, from 0 to 1.
    pub(super) fn left(self, q: f64) -> f64 {
        match self {
            LrShape::Cosine => (1.0 + (std::f64::consts::PI * q).cos()) / 2.0,
            LrShape::Linear => 1.0 - q,
            LrShape::Constant => 1.0,
        }
    }
}

/// How far a run is when a step begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct At {
    /// The optimiser step, from 0.
    pub step: u64,
    /// Layer tokens that the steps before it have consumed, as `ltd::LayerTokens` counts them.
    pub layer_tokens: u64,
}

/// The learning rate as a function of the optimiser step: warm-up and a shape, as follows; or one of the caller's own
/// ([`LrSchedule::piecewise`]); or one of DeepSpeed's; or one of the layer tokens consumed ([`LayerTokenRate`]). With s
/// the step (from 0), W the steps of warm-up and N those of the run:
///
/// ```text
/// s < W:   base (s + 1) / (W + 1)
/// s >= W:  a LrShape, with q = (s - W) / (N - W)
/// ```
///
/// The warm-up is a straight line from 0 on which no step is wasted: 0 would be the rate of a step before the first, and step
/// W has `base`. Likewise `min` is that of a step behind the last, N, and of all that would follow; the last step is short
/// of it. That is PyTorch's `LinearLR(start_factor=1 / (W + 1), total_iters=W)`
/// and then `CosineAnnealingLR(T_max=N - W, eta_min=min)`, in `SequentialLR` with milestone W; timm's
/// `CosineLRScheduler(t_initial=N - W, warmup_t=W, warmup_lr_init=base / (W + 1), warmup_prefix=True)` by updates; and
/// transformers' `get_cosine_schedule_with_warmup`, whose `min` is 0, but for the warm-up, which there is base s / W and
/// leaves the first step without effect. ([`LrShape::Linear`]: `LinearLR` from 1 to min / base, and
/// `get_linear_schedule_with_warmup`.)
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct LrSchedule(Kind);

#[derive(Clone, Debug, PartialEq, serde::Serialize)]
enum Kind {
    Shaped(ShapedRate),
    Piecewise(PiecewiseRate),
    DeepSpeed(DeepSpeedRate),
    LayerToken(LayerTokenRate),
}

/// What [`LrSchedule::new`] is made of.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct ShapedRate {
    /// The rate after the warm-up, 0 or more.
    pub base: f32,
    /// The rate behind the last step, from 0 to `base`.
    pub min: f32,
    /// Steps of the warm-up, which rise linearly to `base`.
    pub warmup: u64,
    /// Steps in all, more than those of the warm-up.
    pub total: u64,
    /// How the rate falls after the warm-up.
    pub shape: LrShape,
}

impl LrSchedule {
    /// A warm-up, then one of the shapes.
    ///
    /// # Errors
    /// If the rates are not finite with 0 ≤ min ≤ base, or there is no step, or none after warm-up.
    pub fn new(settings: ShapedRate) -> Result<Self> {
        const OP: &str = "learning rate";
        let ShapedRate { base, min, warmup, total, .. } = settings;
        if !(base.is_finite() && base >= 0.0) {
            return Err(Error::argument(OP, "base", "finite and not negative", base));
        }
        if !(0.0..=base).contains(&min) {
            return Err(Error::argument(OP, "min", format!("in 0..={base}"), min));
        }
        if warmup >= total {
            return Err(Error::argument(OP, "warmup", format!("below the {total} steps of the run"), warmup));
        }
        Ok(LrSchedule(Kind::Shaped(settings)))
    }

    /// A warm-up of `warmup` of the `total` steps, then a cosine to 0.
    ///
    /// # Errors
    /// As [`LrSchedule::new`].
    pub fn cosine(base: f32, warmup: u64, total: u64) -> Result<Self> {
        Self::new(ShapedRate { base, min: 0.0, warmup, total, shape: LrShape::Cosine })
    }

    /// The same rate at every step.
    ///
    /// # Errors
    /// If it is negative or not finite.
    pub fn constant(rate: f32) -> Result<Self> {
        Self::new(ShapedRate { base: rate, min: 0.0, warmup: 0, total: 1, shape: LrShape::Constant })
    }

    /// Straight lines between `knots`, which are steps (from 0) with their rates; the first rate before the first of
    /// them, the last one behind the last, as `numpy.interp` has it. A rate that jumps has two knots, a step apart. So
    /// most schedules can be made; of a curve, such as a cosine, with a knot for each step that is to lie on it:
    ///
    /// ```
    /// use wgrad::optim::{At, LrSchedule};
    ///
    /// let (max, steps) = (1e-3, 10_000);
    /// // Warm-up, stable, decay: up in 500 steps, down in the last 2,000. No step has 0: that would be the rate of one
    /// // behind the last.
    /// let stable = LrSchedule::piecewise(&[(0, max / 501.0), (500, max), (8_000, max), (steps, 0.0)])?;
    /// // A tenth of the rate from steps 3,000 and 6,000 on (PyTorch's `MultiStepLR`).
    /// let decays = [(2_999, max), (3_000, 0.1 * max), (5_999, 0.1 * max), (6_000, 0.01 * max)];
    /// let decays = LrSchedule::piecewise(&decays)?;
    /// // PyTorch's `OneCycleLR(max, total_steps=steps, anneal_strategy="linear")`.
    /// let cycle = LrSchedule::piecewise(&[(0, max / 25.0), (2_999, max), (steps - 1, max / 25e4)])?;
    ///
    /// let rate = |schedule: &LrSchedule, step| schedule.rate(At { step, ..At::default() });
    /// assert_eq!([0, 500, 8_000, 9_000].map(|step| rate(&stable, step)), [max / 501.0, max, max, 0.5 * max]);
    /// assert_eq!([0, 2_999, 3_000].map(|step| rate(&decays, step)), [max, max, 0.1 * max]);
    /// assert_eq!(rate(&cycle, 2_999), max);
    /// # Ok::<(), wgrad::Error>(())
    /// ```
    ///
    /// # Errors
    /// If there is no knot, the steps do not increase, or a rate is negative or not finite.
    pub fn piecewise(knots: &[(u64, f32)]) -> Result<Self> {
        Ok(LrSchedule(Kind::Piecewise(PiecewiseRate::new(knots)?)))
    }

    /// One of DeepSpeed's schedules.
    ///
    /// # Errors
    /// If a rate is negative or not finite, or there is no step of warm-up.
    pub fn deepspeed(settings: DeepSpeedRate) -> Result<Self> {
        settings.check()?;
        Ok(LrSchedule(Kind::DeepSpeed(settings)))
    }

    /// The LayerToken rate.
    ///
    /// # Errors
    /// If the rates are not finite with 0 ≤ min ≤ max, the shape is constant, or the layer tokens are not finite with
    /// 0 ≤ W < N_total / 2.
    pub fn layer_token(settings: LayerTokenRate) -> Result<Self> {
        settings.check()?;
        Ok(LrSchedule(Kind::LayerToken(settings)))
    }

    /// Whether it follows layer tokens, and stands still where none are counted.
    pub fn follows_layer_tokens(&self) -> bool {
        matches!(self.0, Kind::LayerToken(_))
    }

    /// Whether it is made for a number of steps, towards whose last it falls.
    pub fn has_end(&self) -> bool {
        match &self.0 {
            Kind::Shaped(settings) => settings.shape != LrShape::Constant,
            Kind::Piecewise(settings) => settings.falls(),
            Kind::DeepSpeed(settings) => settings.after != AfterWarmup::Constant,
            Kind::LayerToken(_) => false,
        }
    }

    /// The rate of a step.
    pub fn rate(&self, at: At) -> f32 {
        match &self.0 {
            Kind::Shaped(shaped) => shaped.rate(at.step),
            Kind::Piecewise(settings) => settings.rate(at.step),
            Kind::DeepSpeed(settings) => settings.rate(at.step),
            Kind::LayerToken(settings) => settings.rate(at.layer_tokens),
        }
    }
}

impl ShapedRate {
    fn rate(&self, step: u64) -> f32 {
        if step < self.warmup {
            return self.base * (step + 1) as f32 / (self.warmup + 1) as f32;
        }
        let q = (step - self.warmup).min(self.total - self.warmup) as f64 / (self.total - self.warmup) as f64;
        if self.shape == LrShape::Constant {
            return self.base;
        }
        self.min + (self.base - self.min) * self.shape.left(q) as f32
    }
}
