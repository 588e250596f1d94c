//! What a trainer trains.

use std::ops::Range;

use super::Evaluation;
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::nn::{Extent, Mode, Model, Span};
use crate::ops::TokenIndices;
use crate::shape::DType;
use crate::tensor::Tensor;

/// A network with an objective: all that [`super::Trainer`] and what stands on it know of either. A reference to a task is a
/// task, for programs that keep theirs.
pub trait Task {
    /// What it learns from at each step, in the host's memory or on the device.
    type Batch: Batch;

    /// The network.
    fn model(&self) -> &dyn Model;

    /// The blocks and tokens of its steps: by default the model's own. That of a task whose samples are shorter than the model
    /// could take has their tokens.
    fn extent(&self) -> Extent {
        self.model().extent()
    }

    /// Its objective as JSON: equal ones have equal ones. A run's state is tied to it.
    fn identity(&self) -> String;

    /// Whether the batch fits the network and itself. Asked before a step changes anything.
    ///
    /// # Errors
    /// [`crate::Error::Argument`] if not.
    fn check(&self, batch: &Self::Batch) -> Result<()> {
        let _ = batch;
        Ok(())
    }

    /// What the samples in `range` count in the batch's mean loss: by default all alike. The loss of a batch is that of
    /// its parts, weighted by this.
    fn weight(&self, batch: &Self::Batch, range: Range<usize>) -> f64 {
        let _ = batch;
        range.len() as f64
    }

    /// What a part counts where `spans` let tokens leave the model, and with them some of what [`Task::weight`] counts: by default nothing
    /// of it.
    ///
    /// # Errors
    /// If that cannot be told.
    fn weight_of(&self, part: &Part<'_, Self::Batch>, spans: &[Span<TokenIndices>]) -> Result<f64> {
        let _ = spans;
        Ok(self.weight(part.batch, part.samples.clone()))
    }

    /// The loss of a part of a batch. `spans` are the blocks that see only some of the tokens; in training, `mode` has a key
    /// whose first sample is the part's. In evaluation the loss has nothing that only training adds, as label smoothing.
    ///
    /// # Errors
    /// If the batch does not fit, or the device fails.
    fn loss(&self, part: &Part<'_, Self::Batch>, spans: &[Span<TokenIndices>], mode: &Mode) -> Result<Scored>;

    /// How important the tokens of a part are, for [`crate::ltd::TokenBypass::by_importance`]; `None` for tasks that do not know.
    ///
    /// # Errors
    /// If the device fails.
    fn importance(&self, part: &Part<'_, Self::Batch>) -> Result<Option<TokenScores>> {
        let _ = part;
        Ok(None)
    }

    /// What the task has learnt on the device beside its model, by name: `f32` tensors, always the same ones, whose values
    /// a snapshot takes and puts back. None by default.
    fn held(&self) -> Vec<(String, Tensor)> {
        Vec::new()
    }

    /// Brings [`Task::held`] up to a step, of whose parts this came: called once in each step of training, behind the last
    /// part's backward. By default nothing follows.
    ///
    /// # Errors
    /// If the device fails.
    fn follow(&self, scored: &[(Part<'_, Self::Batch>, Scored)]) -> Result<()> {
        let _ = scored;
        Ok(())
    }

    /// What the better of two results has more of: by default [`Evaluation::score`]. [`super::fit`] keeps the best weights by it.
    fn score(&self, evaluation: &Evaluation) -> f64 {
        evaluation.score()
    }

    /// A batch of so many samples to rehearse steps with, as large as any. Nobody looks at its values.
    ///
    /// # Errors
    /// [`crate::Error::Argument`] if there is no such batch.
    fn blank(&self, samples: usize) -> Result<Self::Batch>;
}

/// Samples of a batch that go through the network together.
#[derive(Debug)]
pub struct Part<'a, B> {
    /// The whole batch.
    pub batch: &'a B,
    /// Its samples that are meant.
    pub samples: Range<usize>,
}

impl<B> Clone for Part<'_, B> {
    fn clone(&self) -> Self {
        Part { batch: self.batch, samples: self.samples.clone() }
    }
}

impl<'a, B: Batch> Part<'a, B> {
    /// All of a batch.
    pub fn whole(batch: &'a B) -> Self {
        Part { batch, samples: 0..batch.samples() }
    }
}

/// What came of a part, on the device.
#[derive(Clone, Debug)]
pub struct Scored {
    /// The mean loss, `f32[]`.
    pub loss: Tensor,
    /// Its right answers, if the task counts them. If it does, accuracy is what [`Evaluation::score`] goes by.
    pub correct: Option<Correct>,
    /// The loss of each of the part's targets, `f32[N]`, for tasks that follow it ([`Task::follow`]).
    pub losses: Option<Tensor>,
}

/// How many answers of a part are right.
#[derive(Clone, Debug)]
pub struct Correct {
    /// `u32[]`, on the device.
    pub count: Tensor,
    /// Of how many: labels that are not ignored, or tokens that have a target.
    pub of: usize,
}

impl Scored {
    /// A mean loss, `f32[]`, alone. Add what else there is: `Scored { correct: Some(Correct { count, of }), ..Scored::new(loss) }`.
    pub fn new(loss: Tensor) -> Self {
        Scored { loss, correct: None, losses: None }
    }

    /// Whether loss and count are of the element types as which their bytes are read, and one number each.
    ///
    /// # Errors
    /// [`Error::Shape`] if not.
    pub(super) fn check(&self) -> Result<()> {
        let is_one = |tensor: &Tensor, dtype| tensor.dtype() == dtype && tensor.numel() == 1;
        let fault = |what, tensor: &Tensor| Err(Error::Shape { op: "Task::loss", what, got: tensor.info() });
        if !is_one(&self.loss, DType::F32) {
            return fault("the loss must be f32[]", &self.loss);
        }
        match &self.correct {
            Some(Correct { count, .. }) if !is_one(count, DType::U32) => {
                fault("the count of right answers must be u32[]", count)
            }
            _ => Ok(()),
        }
    }
}

/// How important the tokens of a part are, on the device.
#[derive(Clone, Debug)]
pub struct TokenScores {
    /// `f32[B, T]`: the larger, the more important.
    pub scores: Tensor,
    /// `u32[B]`: the real tokens of each sample, before which padding is never kept; `None` if all are real.
    pub lengths: Option<Tensor>,
}

impl<T: Task + ?Sized> Task for &T {
    type Batch = T::Batch;

    fn model(&self) -> &dyn Model {
        (**self).model()
    }

    fn extent(&self) -> Extent {
        (**self).extent()
    }

    fn identity(&self) -> String {
        (**self).identity()
    }

    fn check(&self, batch: &Self::Batch) -> Result<()> {
        (**self).check(batch)
    }

    fn weight(&self, batch: &Self::Batch, range: Range<usize>) -> f64 {
        (**self).weight(batch, range)
    }

    fn weight_of(&self, part: &Part<'_, Self::Batch>, spans: &[Span<TokenIndices>]) -> Result<f64> {
        (**self).weight_of(part, spans)
    }

    fn loss(&self, part: &Part<'_, Self::Batch>, spans: &[Span<TokenIndices>], mode: &Mode) -> Result<Scored> {
        (**self).loss(part, spans, mode)
    }

    fn importance(&self, part: &Part<'_, Self::Batch>) -> Result<Option<TokenScores>> {
        (**self).importance(part)
    }

    fn held(&self) -> Vec<(String, Tensor)> {
        (**self).held()
    }

    fn follow(&self, scored: &[(Part<'_, Self::Batch>, Scored)]) -> Result<()> {
        (**self).follow(scored)
    }

    fn score(&self, evaluation: &Evaluation) -> f64 {
        (**self).score(evaluation)
    }

    fn blank(&self, samples: usize) -> Result<Self::Batch> {
        (**self).blank(samples)
    }
}
