//! What training and generation ask of a language model.

use super::{Mode, Model, Span};
use crate::error::Result;
use crate::ops::{self, TokenIndices};
use crate::shape::DType;
use crate::tensor::Tensor;

/// A batch of token sequences on the device, as a language model takes it.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    /// `u32[B, T]`: rows of the vocabulary.
    pub ids: &'a Tensor,
    /// `u32[B, T]`: which segment a token is of, for models that tell segments apart; 0 where it is not given.
    pub types: Option<&'a Tensor>,
    /// `u32[B]`: how many tokens of each sample are real. What follows is padding, which no token looks at. All are real where
    /// it is not given.
    pub lengths: Option<&'a Tensor>,
}

impl<'a> Tokens<'a> {
    /// Whole sequences of one segment.
    pub fn new(ids: &'a Tensor) -> Self {
        Tokens { ids, types: None, lengths: None }
    }
}

/// A model that gives each id of a vocabulary a score at each position, in three parts, so that a loss need never hold the
/// scores of all positions at once: logits = [`LanguageModel::transform`]\([`LanguageModel::hidden`]\)·Wᵀ + b with W and b from
/// [`LanguageModel::decoder`].
pub trait LanguageModel: Model {
    /// V.
    fn vocab_size(&self) -> usize;

    /// The longest sequence that the model has positions for.
    fn positions(&self) -> usize;

    /// What the model makes of each token: `f32[B, T, C]`. `spans` are the blocks that see only some of the tokens.
    ///
    /// # Errors
    /// If the batch or the spans are not such as the model takes, or the device fails. An id that is not in the vocabulary makes
    /// the first read of what depends on it an [`OutOfRange`](crate::Error::OutOfRange).
    fn hidden(&self, tokens: &Tokens<'_>, spans: &[Span<TokenIndices>], mode: &Mode) -> Result<Tensor>;

    /// What the decoder reads of rows of [`LanguageModel::hidden`]: `f32[.., C]` to the same shape, of [`Mode::activations`].
    ///
    /// # Errors
    /// If the rows are not of the model's width, or the device fails.
    fn transform(&self, rows: &Tensor, mode: &Mode) -> Result<Tensor>;

    /// The last layer: W `f32[V, C]` and b `f32[V]`, as leaves of the graph.
    fn decoder(&self) -> (Tensor, Option<Tensor>);

    /// The scores of rows of [`LanguageModel::hidden`]: `f32[.., C]` to `f32[.., V]`, held whole.
    ///
    /// # Errors
    /// As [`LanguageModel::transform`].
    fn logits(&self, rows: &Tensor, mode: &Mode) -> Result<Tensor> {
        let (weight, bias) = self.decoder();
        ops::cast(&ops::linear(&self.transform(rows, mode)?, &weight, bias.as_ref())?, DType::F32)
    }
}

impl<M: LanguageModel + ?Sized> LanguageModel for &M {
    fn vocab_size(&self) -> usize {
        (**self).vocab_size()
    }

    fn positions(&self) -> usize {
        (**self).positions()
    }

    fn hidden(&self, tokens: &Tokens<'_>, spans: &[Span<TokenIndices>], mode: &Mode) -> Result<Tensor> {
        (**self).hidden(tokens, spans, mode)
    }

    fn transform(&self, rows: &Tensor, mode: &Mode) -> Result<Tensor> {
        (**self).transform(rows, mode)
    }

    fn decoder(&self) -> (Tensor, Option<Tensor>) {
        (**self).decoder()
    }

    fn logits(&self, rows: &Tensor, mode: &Mode) -> Result<Tensor> {
        (**self).logits(rows, mode)
    }
}
