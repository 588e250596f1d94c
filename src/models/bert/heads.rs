//! What reads BERT's result.

use super::config::{BertConfig, OP};
use crate::autograd::Parameter;
use crate::error::{Error, Result};
use crate::nn::{Init, LayerNorm, Linear, Mode};
use crate::ops::{self, Gelu};
use crate::tensor::Tensor;

/// The masked tokens' head, but for its last layer's weight, which is the tokens' own matrix.
pub(super) struct Predictions {
    dense: Linear,
    norm: LayerNorm,
    gelu: Gelu,
    /// `f32[V]`
    pub(super) bias: Parameter,
}

impl Predictions {
    pub(super) fn new(mut init: Init<'_>, config: &BertConfig) -> Result<Self> {
        let (width, std) = (config.hidden_size, config.initializer_range);
        let mut transform = init.at("transform");
        Ok(Predictions {
            dense: Linear::with_std(transform.at("dense"), width, width, true, std)?,
            norm: LayerNorm::new(transform.at("LayerNorm"), width, config.layer_norm_eps)?,
            gelu: config.hidden_act,
            bias: init.constant("bias", &[config.vocab_size], 0.0)?,
        })
    }

    /// `f32[.., C]` to the same shape.
    pub(super) fn transform(&self, rows: &Tensor, mode: &Mode) -> Result<Tensor> {
        let x = ops::gelu(&self.dense.forward(rows)?, self.gelu)?;
        self.norm.forward(&x, mode.activations())
    }
}

/// The first token's layer, and a classifier that reads it.
pub(super) struct Classification {
    pooler: Linear,
    classifier: Option<Linear>,
    dropout: f32,
}

impl Classification {
    /// As far as the model has them. `init` is the model's.
    pub(super) fn new(init: &mut Init<'_>, config: &BertConfig) -> Result<Option<Self>> {
        if !config.pooler {
            return Ok(None);
        }
        let (width, std) = (config.hidden_size, config.initializer_range);
        let pooler = Linear::with_std(init.at("pooler").at("dense"), width, width, true, std)?;
        let classifier = match config.num_labels {
            0 => None,
            labels => Some(Linear::with_std(init.at("classifier"), width, labels, true, std)?),
        };
        let dropout = config.classifier_dropout.unwrap_or(config.hidden_dropout_prob);
        Ok(Some(Classification { pooler, classifier, dropout }))
    }

    /// tanh(dense(first token)): `f32[B, T, C]` to `f32[B, C]`.
    pub(super) fn pool(&self, hidden: &Tensor) -> Result<Tensor> {
        let &[batch, _, width] = hidden.dims() else {
            return Err(Error::Shape { op: OP, what: "needs f32[B, T, C]", got: hidden.info() });
        };
        let first = ops::slice(hidden, 1, 0..1)?;
        ops::tanh(&self.pooler.forward(&ops::reshape(&first, &[batch, width])?)?)
    }

    /// `f32[B, T, C]` to logits `f32[B, classes]`; `layer` is the number of its dropout.
    pub(super) fn forward(&self, hidden: &Tensor, mode: &Mode, layer: u32) -> Result<Tensor> {
        let Some(classifier) = &self.classifier else {
            return Err(Error::argument(OP, "num_labels", "above 0 for a classifier", 0));
        };
        classifier.forward(&mode.dropout(self.pool(hidden)?, self.dropout, layer)?)
    }
}
