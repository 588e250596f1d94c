//! What an optimiser holds besides the weights, out of it and back in.

use super::{Optimizer, state};
use crate::autograd::Parameters;
use crate::error::{Error, Result};
use crate::gpu::BufferView;
use crate::shape::DType;
use crate::tensor::Tensor;

/// What an optimiser holds besides its tensors ([`Optimizer::held`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "train", derive(serde::Serialize, serde::Deserialize))]
pub struct OptimizerState {
    /// Steps recorded.
    pub steps: u64,
    /// The words that the device keeps: counts of updates, the last norm and what follows from it.
    pub words: Vec<u32>,
    /// The bits of the factor on the loss of the next step, an f32.
    pub loss_scale: u32,
}

impl Optimizer {
    /// The moments, and the running average if there is one, of each of `parameters`, which are those that the optimiser was
    /// made for: `f32` in the parameter's shape, named `moment1.PATH`, `moment2.PATH` and `average.PATH`. The memory is the
    /// optimiser's own.
    pub fn held(&self, parameters: &Parameters) -> Vec<(String, Tensor)> {
        let mut held = Vec::new();
        for parameter in parameters {
            let place = parameter.place();
            let tensor = |segment: &BufferView| {
                let view = segment.part(place.offset, place.size.next_multiple_of(16));
                Tensor::from_view(parameters.gpu(), DType::F32, parameter.value().shape(), view)
            };
            for (i, moment) in (1..).zip(&self.segments[place.segment].moments) {
                held.push((format!("moment{i}.{}", parameter.path()), tensor(moment)));
            }
            if let Some(average) = &self.ema {
                held.push((format!("average.{}", parameter.path()), tensor(&average.segments[place.segment])));
            }
        }
        held
    }

    /// The rest of what it holds, read back from the device.
    ///
    /// # Errors
    /// As [`Tensor::read`].
    pub async fn saved(&self) -> Result<OptimizerState> {
        let (words, scale) = (self.state.read::<u32>().await?, self.scale.read::<f32>().await?);
        let loss_scale = scale.first().map_or(0, |scale| scale.to_bits());
        Ok(OptimizerState { steps: self.steps, words, loss_scale })
    }

    /// Goes on from what was saved: the values of each tensor of [`Optimizer::held`], by name, and the rest. Nothing is
    /// changed if something does not fit.
    ///
    /// # Errors
    /// Those of `values`; if a tensor has another number of values, or the rest is that of another kind of optimiser.
    pub fn restore<'a>(
        &mut self,
        parameters: &Parameters,
        saved: &OptimizerState,
        values: impl Fn(&str) -> Result<&'a [f32]>,
    ) -> Result<()> {
        const OP: &str = "optimiser state";
        if saved.words.len() != state::WORDS {
            return Err(Error::argument(OP, "words", state::WORDS.to_string(), saved.words.len()));
        }
        let scale = f32::from_bits(saved.loss_scale);
        let is_scale = if self.scaling.is_some() { scale > 0.0 && scale.is_finite() } else { scale == 1.0 };
        if !is_scale {
            let expected = if self.scaling.is_some() { "positive" } else { "1 without scaling" };
            return Err(Error::argument(OP, "loss scale", expected, scale));
        }
        let mut uploads = Vec::new();
        for (name, tensor) in self.held(parameters) {
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
        gpu.upload(bytemuck::bytes_of(&scale), self.scale.buffer())?;
        self.steps = saved.steps;
        Ok(())
    }
}
