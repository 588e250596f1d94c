//! How a run is trained.

use serde::Serialize;

use super::Freeze;
use super::freeze::expect_layers;
use crate::error::{Error, Result};
use crate::ltd::TokenDrop;
use crate::nn::{Extent, Model, Precision};
use crate::optim::{Ema, LossScale, LrSchedule, Optimizer, Rule, layer_scale};

/// How a task is trained.
#[derive(Clone, Debug, Serialize)]
pub struct TrainSettings {
    /// The update and its settings.
    pub rule: Rule,
    /// Clips the gradient's global norm.
    pub max_norm: Option<f32>,
    /// The rate at each step.
    pub rate: LrSchedule,
    /// Which tokens are dropped.
    pub drop: TokenDrop,
    /// What is not trained.
    pub freeze: Freeze,
    /// Layer-wise decay of the learning rate ([`layer_scale`]), above 0; 1 is none.
    pub layer_decay: f32,
    /// A running average of the weights, which then is what [`super::fit`] measures and saves.
    pub ema: Option<Ema>,
    /// Seeds dropout and stochastic depth. (Dropped tokens and the data have their own.)
    pub seed: u64,
    /// Micro-batches that a step's batch is cut into, at least 1: their gradients add up to the whole batch's, in the memory
    /// of one. Tokens kept and dropout masks are those of the undivided batch. A batch of fewer samples is cut into single
    /// ones.
    pub accumulate: usize,
    /// The element type of activations; in half precision the loss is scaled, and a step whose gradient overflows is left out.
    pub precision: Precision,
    /// How the loss is scaled in half precision.
    pub loss_scale: LossScale,
    /// Keeps the input of each block alone and computes the rest again in backward: the same gradients bit for bit, for more
    /// time and much less memory ([`crate::nn::Mode::recomputing`]).
    pub recompute_blocks: bool,
}

impl TrainSettings {
    /// The plainest training: all parameters at one rate, full length, full precision, no clipping, smoothing or averaging,
    /// whole batches, seed 0. Change what differs: `TrainSettings { seed: 7, ..TrainSettings::new(rule, rate) }`.
    pub fn new(rule: Rule, rate: LrSchedule) -> Self {
        TrainSettings {
            rule,
            max_norm: None,
            rate,
            drop: TokenDrop::None,
            freeze: Freeze::Nothing,
            layer_decay: 1.0,
            ema: None,
            seed: 0,
            accumulate: 1,
            precision: Precision::F32,
            loss_scale: LossScale::default(),
            recompute_blocks: false,
        }
    }

    /// Whether they fit a task of `extent`.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the first that does not.
    pub(super) fn check(&self, extent: Extent) -> Result<()> {
        if self.accumulate == 0 {
            return Err(Error::argument("Trainer", "accumulate", "at least 1", 0));
        }
        if !(self.layer_decay > 0.0 && self.layer_decay <= 1.0) {
            return Err(Error::argument("Trainer", "layer_decay", "above 0 and at most 1", self.layer_decay));
        }
        if self.rate.follows_layer_tokens() && extent.depth * extent.tokens == 0 {
            let expected = "one that follows the steps, for a task without layer tokens";
            return Err(Error::argument("Trainer", "rate", expected, "the LayerToken rate"));
        }
        self.drop.check(extent)
    }

    /// What follows from them for the update of a model's parameters.
    pub(super) fn optimizer(&self, model: &dyn Model) -> Result<Optimizer> {
        let (parameters, depth) = (model.parameters(), model.extent().depth);
        let mut optimizer =
            Optimizer::new(parameters, self.rule, self.max_norm, |path, rank| model.decays(path, rank))?;
        if self.layer_decay < 1.0 {
            expect_layers(model, "Trainer", "layer_decay")?;
            let scale = |path: &str| layer_scale(model.layer(path), depth, self.layer_decay);
            optimizer = optimizer.with_rate_scales(parameters, scale)?;
        }
        if let Some(ema) = self.ema {
            optimizer = optimizer.with_ema(parameters, ema)?;
        }
        match self.precision {
            Precision::F32 => Ok(optimizer),
            Precision::F16 => optimizer.with_loss_scale(self.loss_scale),
        }
    }
}
