//! Low-rank adapters beside linear layers.

use super::lora_config::{A, B, LoraConfig, OP};
use super::{Init, Mode};
use crate::autograd::Parameter;
use crate::error::{Error, Result};
use crate::ops;
use crate::tensor::Tensor;

/// An adapter's matrices, for some rows of a layer's weight.
#[derive(Clone)]
pub(super) struct Adapter {
    a: Parameter,
    b: Parameter,
    scale: f32,
    dropout: f32,
    /// The first row that it is for.
    first: usize,
    /// Its number among random layers.
    layer: u32,
}

impl Adapter {
    /// Random layers of adapters have numbers from here on, beyond those of any model's own.
    const FIRST_LAYER: u32 = 1 << 31;

    /// Those of the layer at `init`: one of all rows of `weight`, or of any of its equal `parts`.
    pub(super) fn of_layer(weight: &Parameter, mut init: Init<'_>, parts: &[&str]) -> Result<Vec<Self>> {
        let Some(config) = init.lora() else { return Ok(Vec::new()) };
        let value = weight.value();
        let &[outputs, inputs] = value.dims() else {
            return Err(Error::Shape { op: OP, what: "needs a weight [out, in]", got: value.info() });
        };
        let mut adapters = Vec::new();
        if config.targets(init.prefix()) {
            adapters.push(Self::new(&mut init, config, [inputs, outputs], 0)?);
        }
        let rows = outputs / parts.len().max(1);
        for (i, part) in parts.iter().enumerate() {
            let mut init = init.at(part);
            if config.targets(init.prefix()) {
                adapters.push(Self::new(&mut init, config, [inputs, rows], i * rows)?);
            }
        }
        if adapters.len() > 1 && adapters.iter().any(|adapter| adapter.b.value().dims()[0] == outputs) {
            let expected = format!("{} or parts of it, not both", init.prefix());
            return Err(Error::argument(OP, "targets", expected, config.targets.join(", ")));
        }
        Ok(adapters)
    }

    fn new(init: &mut Init<'_>, config: &LoraConfig, [inputs, outputs]: [usize; 2], first: usize) -> Result<Self> {
        let layer = Self::FIRST_LAYER + init.count() as u32;
        // PEFT's kaiming_uniform_ with a = √5.
        let a = init.uniform(A, &[config.rank, inputs], 1.0 / (inputs as f32).sqrt())?;
        let b = init.constant(B, &[outputs, config.rank], 0.0)?;
        Ok(Adapter { a, b, scale: config.scale(), dropout: config.dropout, first, layer })
    }

    /// y + α/r · (x·Aᵀ)·Bᵀ, B first made into what `scaled` makes of it; in the memory of `y` if this is its last handle.
    pub(super) fn add(
        &self,
        y: Tensor,
        x: &Tensor,
        mode: &Mode,
        scaled: impl FnOnce(Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let x = mode.dropout(x.clone(), self.dropout, self.layer)?;
        let low = ops::linear(&x, &self.a.tensor(), None)?;
        ops::add_linear(y, &low, &scaled(self.b.tensor())?, self.scale, self.first)
    }
}
