//! The updates, and their settings.

use crate::error::{Error, Result};

/// AdamW's settings, named as PyTorch's. With g the gradient, clipped, and t the update's number from 1:
///
/// ```text
/// w = w (1 - rate weight_decay)
/// m = beta1 m + (1 - beta1) g;   v = beta2 v + (1 - beta2) g²
/// w = w - rate (m / (1 - beta1^t)) / (√(v / (1 - beta2^t)) + eps)
/// ```
///
/// Source: Loshchilov and Hutter, 2019, arXiv 1711.05101, as PyTorch's `AdamW`. The rate is given at each step. By default as there, but for `weight_decay`, which is 0.05, as
/// ViTs are finetuned with (PyTorch: 0.01).
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct AdamW {
    /// Decay of the first and second moment.
    pub betas: (f32, f32),
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled decay, of the parameters that [`super::Optimizer::new`] is told.
    pub weight_decay: f32,
}

impl Default for AdamW {
    fn default() -> Self {
        AdamW { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.05 }
    }
}

/// SGD's settings, named as PyTorch's. With g the gradient, clipped:
///
/// ```text
/// g = g + weight_decay w;   b = momentum b + (1 - dampening) g
/// w = w - rate b,   with nesterov w - rate (g + momentum b)
/// ```
///
/// Source: PyTorch's `SGD`. As there, a parameter's first gradient is its running direction, undampened. By default `momentum`
/// is 0.9 and `weight_decay` 5e-4 (PyTorch: both 0).
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Sgd {
    /// Decay of the running direction; 0 is plain SGD.
    pub momentum: f32,
    /// Share of the gradient that is left out of the running direction; without momentum it has no meaning.
    pub dampening: f32,
    /// Looks one step ahead.
    pub nesterov: bool,
    /// Added to the gradient, of the parameters that [`super::Optimizer::new`] is told.
    pub weight_decay: f32,
}

impl Default for Sgd {
    fn default() -> Self {
        Sgd { momentum: 0.9, dampening: 0.0, nesterov: false, weight_decay: 5e-4 }
    }
}

/// Which update.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub enum Rule {
    /// Adam with decoupled weight decay.
    AdamW(AdamW),
    /// Stochastic gradient descent.
    Sgd(Sgd),
}

impl Rule {
    pub(super) fn weight_decay(&self) -> f32 {
        match self {
            Rule::AdamW(r) => r.weight_decay,
            Rule::Sgd(r) => r.weight_decay,
        }
    }

    /// Which of them, for saved states.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Rule::AdamW(_) => "adamw",
            Rule::Sgd(_) => "sgd",
        }
    }

    /// Whether the settings are in range.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the first that is not.
    pub fn check(&self) -> Result<()> {
        let fraction = |name, v: f32| {
            let ok = (0.0..1.0).contains(&v);
            if ok { Ok(()) } else { Err(Error::argument("optimiser", name, "in 0..1", v)) }
        };
        let weight_decay = self.weight_decay();
        if !(weight_decay >= 0.0 && weight_decay.is_finite()) {
            return Err(Error::argument("optimiser", "weight_decay", "finite and not negative", weight_decay));
        }
        match self {
            Rule::AdamW(r) => {
                fraction("betas.0", r.betas.0)?;
                fraction("betas.1", r.betas.1)?;
                let ok = r.eps > 0.0 && r.eps.is_finite();
                if ok { Ok(()) } else { Err(Error::argument("optimiser", "eps", "positive", r.eps)) }
            }
            Rule::Sgd(r) => {
                fraction("momentum", r.momentum)?;
                fraction("dampening", r.dampening)?;
                let ok = !r.nesterov || (r.momentum > 0.0 && r.dampening == 0.0);
                let expected = "false without momentum or with dampening";
                if ok { Ok(()) } else { Err(Error::argument("optimiser", "nesterov", expected, true)) }
            }
        }
    }
}
