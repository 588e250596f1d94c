//! What an optimiser holds besides the weights, out of it and back in.

use super::{Optimizer, StepReport, state};
use crate::autograd::{Parameter, Parameters};
use crate::error::{Error, Result};
use crate::shape::DType;
use crate::tensor::Tensor;

const OP: &str = "optimiser state";
/// Far beyond any run, and far from where a count would begin anew.
const MOST_UPDATES: u64 = 1 << 31;

/// What an optimiser holds besides its tensors ([`Optimizer::held`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct OptimizerState {
    /// Steps recorded.
    pub steps: u64,
    /// The words that the device keeps: counts of updates, the last norm and what follows from it.
    pub words: Vec<u32>,
    /// Updates applied to each parameter, in the parameters' order.
    pub updates: Vec<u32>,
    /// The bits of the factor on the loss of the next step, an f32.
    pub loss_scale: u32,
    /// The kind of update, `adamw` or `sgd`; empty in what was saved before it was noted, which any may go on from.
    #[serde(default)]
    pub rule: String,
}

impl Optimizer {
    /// The moments, and the running average if there is one, of each parameter that is or was trained: `f32` in the parameter's
    /// shape, named `moment1.PATH`, `moment2.PATH` and `average.PATH`. The memory is the optimiser's own, until it makes room for
    /// what is thawed.
    ///
    /// # Errors
    /// [`Error::Parameter`] if `parameters` are not the optimiser's.
    pub fn held(&self, parameters: &Parameters) -> Result<Vec<(String, Tensor)>> {
        self.table.check(parameters)?;
        let named = |(i, parameter): (usize, &Parameter)| {
            let (gpu, shape) = (parameters.gpu().clone(), parameter.value().shape());
            let path = parameter.path().to_owned();
            let views = self.memory.views(i, parameter).into_iter();
            views.map(move |(kind, view)| (format!("{kind}.{path}"), Tensor::from_view(&gpu, DType::F32, shape, view)))
        };
        Ok(parameters.iter().enumerate().flat_map(named).collect())
    }

    /// Whether `name` is that of a tensor that [`Optimizer::held`] has, or would have of a parameter that is frozen now.
    pub fn may_hold(&self, parameters: &Parameters, name: &str) -> bool {
        name.split_once('.').is_some_and(|(kind, path)| self.memory.has(kind) && parameters.get(path).is_some())
    }

    /// The rest of what it holds, read back from the device.
    ///
    /// # Errors
    /// As [`Tensor::read`].
    pub async fn saved(&self) -> Result<OptimizerState> {
        let (words, scale) = (self.state.read::<u32>().await?, self.scale.read::<f32>().await?);
        let updates = self.table.updates().read::<u32>().await?;
        let loss_scale = scale.first().map_or(0, |scale| scale.to_bits());
        Ok(OptimizerState { steps: self.steps, words, updates, loss_scale, rule: self.rule.kind().to_owned() })
    }

    /// Goes on from what was saved: the values of each tensor of [`Optimizer::held`], by name, and the rest. What had been updated
    /// is asked for too where it is frozen now. No value is changed if something does not fit.
    ///
    /// # Errors
    /// Those of `values`; [`Error::Parameter`] if `parameters` are not the optimiser's, or a tensor has another number of
    /// values; [`Error::Argument`] if the rest is that of another kind of optimiser.
    pub fn restore<'a>(
        &mut self,
        parameters: &Parameters,
        saved: &OptimizerState,
        values: impl Fn(&str) -> Result<&'a [f32]>,
    ) -> Result<()> {
        self.table.check(parameters)?;
        if !(saved.rule.is_empty() || saved.rule == self.rule.kind()) {
            return Err(Error::argument(OP, "rule", self.rule.kind(), &saved.rule));
        }
        self.check_counts(saved)?;
        let scale = f32::from_bits(saved.loss_scale);
        let is_scale = if self.scaling.is_some() { scale > 0.0 && scale.is_finite() } else { scale == 1.0 };
        if !is_scale {
            let expected = if self.scaling.is_some() { "positive" } else { "1 without scaling" };
            return Err(Error::argument(OP, "loss scale", expected, scale));
        }
        let _turn = parameters.turn();
        self.follow(parameters, |i| saved.updates.get(i).is_some_and(|&updates| updates > 0))?;
        let mut uploads = Vec::new();
        for (name, tensor) in self.held(parameters)? {
            let values = values(&name)?;
            if values.len() != tensor.numel() {
                let what = format!("{} values do not fit {}", values.len(), tensor.info());
                return Err(Error::Parameter { name, what });
            }
            uploads.push((tensor, values));
        }
        let gpu = parameters.gpu();
        for (tensor, values) in uploads {
            gpu.upload(bytemuck::cast_slice(values), tensor.buffer())?;
        }
        gpu.upload(bytemuck::cast_slice(&saved.words), self.state.buffer())?;
        gpu.upload(bytemuck::cast_slice(&saved.updates), self.table.updates().buffer())?;
        gpu.upload(bytemuck::bytes_of(&scale), self.scale.buffer())?;
        self.steps = saved.steps;
        Ok(())
    }

    /// Whether the device can go on counting from what was saved.
    fn check_counts(&self, saved: &OptimizerState) -> Result<()> {
        let (words, parameters) = (saved.words.len(), self.table.parameters().len());
        if words != state::WORDS {
            return Err(Error::argument(OP, "words", state::WORDS.to_string(), words));
        }
        if saved.updates.len() != parameters {
            return Err(Error::argument(OP, "updates", format!("{parameters} counts"), saved.updates.len()));
        }
        let applied = StepReport::decode(bytemuck::cast_slice(&saved.words))?.applied;
        if applied > MOST_UPDATES {
            return Err(Error::argument(OP, "updates", format!("at most {MOST_UPDATES}"), applied));
        }
        match saved.updates.iter().find(|&&updates| u64::from(updates) > applied) {
            Some(more) => Err(Error::argument(OP, "updates", format!("at most the {applied} of all"), more)),
            None => Ok(()),
        }
    }
}
