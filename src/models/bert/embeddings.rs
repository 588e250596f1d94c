//! What BERT's first block sees.

use super::config::{BertConfig, OP};
use crate::autograd::Parameter;
use crate::error::{Error, Result};
use crate::nn::{Init, LayerNorm, Tokens};
use crate::ops;
use crate::shape::DType;
use crate::tensor::Tensor;

/// Token, segment and position, summed and normed.
pub(super) struct Embeddings {
    /// `f32[V, C]`
    pub(super) words: Parameter,
    /// `f32[positions, C]`
    positions: Parameter,
    /// `f32[segments, C]`
    types: Parameter,
    norm: LayerNorm,
}

impl Embeddings {
    pub(super) fn new(mut init: Init<'_>, config: &BertConfig) -> Result<Self> {
        let (width, std) = (config.hidden_size, config.initializer_range);
        let mut table = |name: &str, rows: usize| init.at(name).trunc_normal("weight", &[rows, width], std);
        Ok(Embeddings {
            words: table("word_embeddings", config.vocab_size)?,
            positions: table("position_embeddings", config.max_position_embeddings)?,
            types: table("token_type_embeddings", config.type_vocab_size)?,
            norm: LayerNorm::new(init.at("LayerNorm"), width, config.layer_norm_eps)?,
        })
    }

    /// `u32[B, T]` to `f32[B, T, C]`.
    pub(super) fn forward(&self, tokens: &Tokens<'_>) -> Result<Tensor> {
        let &[_, count] = tokens.ids.dims() else {
            return Err(Error::Shape { op: OP, what: "needs ids u32[B, T]", got: tokens.ids.info() });
        };
        let positions = self.positions.tensor();
        if count > positions.dims()[0] {
            let expected = format!("at most {}, the model's positions", positions.dims()[0]);
            return Err(Error::argument(OP, "tokens of a sample", expected, count));
        }
        let positions = ops::slice(&positions, 0, 0..count)?;
        let words = ops::embedding(&self.words.tensor(), tokens.ids)?;
        let x = match tokens.types {
            Some(types) if types.shape() != tokens.ids.shape() => {
                let what = "there must be a segment for each token";
                return Err(Error::Mismatch { op: OP, what, lhs: tokens.ids.info(), rhs: types.info() });
            }
            Some(types) => ops::add(&ops::add(&words, &ops::embedding(&self.types.tensor(), types)?)?, &positions)?,
            // The first segment's row at every place.
            None => ops::add(&words, &ops::add(&positions, &ops::slice(&self.types.tensor(), 0, 0..1)?)?)?,
        };
        self.norm.forward(&x, DType::F32)
    }
}
