//! Learning a language: what the next token is, or what stands behind a mask.
//!
//! | file | holds |
//! |---|---|
//! | `objective` | [`Causal`], [`Masked`]: what is to be said at each place |
//! | `importance` | a running average of each id's loss, by which tokens are chosen that bypass blocks |

mod importance;
mod objective;

pub use objective::{Causal, Masked, Objective};

use std::ops::Range;

use importance::Importance;

use super::in_mode;
use crate::data::TokenBatch;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::nn::{Extent, LanguageModel, Mode, Model, Span, Tokens};
use crate::ops::{self, CrossEntropy, TokenIndices};
use crate::tensor::Tensor;
use crate::train::{Correct, Evaluation, Part, Scored, Task, TokenScores};

/// The next token at each place: the scores of place t are judged against the label of place t + 1, so that those of the last
/// place and the label of the first are never used. What GPT learns.
pub type CausalLm<M> = LanguageTask<M, Causal>;

/// The token itself at each place that has a label: what BERT learns, where some tokens of the input were replaced by a mask.
///
/// Only the labelled places go through the transform and the output layer. So that their number, and with it the memory and the
/// kinds of products, is the same from batch to batch, others without a label are taken along up to [`Masked::places`] for each
/// sample; a part of a batch that has more labels takes the next sixteenth of all its places.
pub type MaskedLm<M> = LanguageTask<M, Masked>;

/// A language model with an [`Objective`]: [`CausalLm`] or [`MaskedLm`]. Its samples are sequences of one length, perhaps padded. The
/// loss is the cross-entropy over the vocabulary, its mean that over all targets of a batch, so that perplexity is its
/// exponential; in evaluation without label smoothing. The logits are never held whole.
///
/// Each token is judged where it rejoins; tokens that leave the model for good ([`crate::ltd::PatchDrop`]) have no loss, and the mean is
/// that of the others. Blocks with kept tokens see of the padding what is kept of it, hidden as before.
#[derive(Clone, Debug)]
pub struct LanguageTask<M, O> {
    /// The network.
    pub model: M,
    /// The loss in training. A label that it ignores counts as [`TokenBatch::IGNORED`].
    pub loss: CrossEntropy,
    /// What is to be said.
    pub objective: O,
    /// Whether batches are padded, and so say their lengths: those of rehearsals do then.
    pub is_padded: bool,
    /// Whether batches say the tokens' segments: those of rehearsals do then.
    pub is_segmented: bool,
    tokens: usize,
    importance: Option<Importance>,
}

impl<M: LanguageModel> CausalLm<M> {
    /// On sequences of `tokens` tokens, with the plain cross-entropy.
    ///
    /// # Errors
    /// [`Error::Argument`] unless there are at least 2, and at most the model's positions.
    pub fn new(model: M, tokens: usize) -> Result<Self> {
        Self::with_objective(model, tokens, Causal)
    }
}

impl<M: LanguageModel> MaskedLm<M> {
    /// On sequences of `tokens` tokens, with the plain cross-entropy and places for the usual 15 % of them
    /// ([`Masked::usual`]).
    ///
    /// # Errors
    /// [`Error::Argument`] unless there is at least 1, and at most the model's positions.
    pub fn new(model: M, tokens: usize) -> Result<Self> {
        Self::with_objective(model, tokens, Masked::usual(tokens))
    }
}

impl<M: LanguageModel, O: Objective> LanguageTask<M, O> {
    /// With an objective of one's own, on sequences of `tokens` tokens.
    ///
    /// # Errors
    /// [`Error::Argument`] if the objective says nothing about sequences so short, or the model has fewer positions.
    pub fn with_objective(model: M, tokens: usize, objective: O) -> Result<Self> {
        let (shortest, positions) = (objective.shortest(), model.positions());
        if !(shortest..=positions).contains(&tokens) {
            let expected = format!("{shortest} to the model's {positions} positions");
            return Err(Error::argument("language task", "tokens", expected, tokens));
        }
        let (loss, is_padded, is_segmented) = (CrossEntropy::default(), false, false);
        Ok(LanguageTask { model, loss, objective, is_padded, is_segmented, tokens, importance: None })
    }

    /// With label smoothing, weights of ids or a label that is ignored.
    pub fn with_loss(self, loss: CrossEntropy) -> Self {
        LanguageTask { loss, ..self }
    }

    /// With the importance of tokens, for [`crate::ltd::TokenBypass::by_importance`]: a running average, on the device, of the loss at
    /// each id of the vocabulary where it was the target, in which an old average counts `momentum`. Until an id has been one, it
    /// has the loss of a model that knows nothing, ln V. `always` are ids that are more important than any other, as those of
    /// masks and separators. The averages are part of a run's state. Source: Hou et al., 2022, arXiv 2203.13240.
    ///
    /// # Errors
    /// [`Error::Argument`] unless `momentum` is from 0 to below 1 and `always` are ids of the vocabulary; or if the device has no
    /// room.
    pub fn with_importance(self, momentum: f32, always: &[u32]) -> Result<Self> {
        let importance = Some(Importance::new(self.gpu(), self.model.vocab_size(), momentum, always)?);
        Ok(LanguageTask { importance, ..self })
    }

    /// T.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    fn gpu(&self) -> &Gpu {
        self.model.parameters().gpu()
    }

    /// The labels of the samples in `range`, sample by sample, with [`TokenBatch::IGNORED`] for all that do not count.
    fn labels(&self, batch: &TokenBatch, range: Range<usize>) -> Vec<u32> {
        let mut labels = Vec::with_capacity(range.len() * self.tokens);
        range.for_each(|sample| labels.extend(self.objective.labels(batch, sample)));
        if let Some(ignored) = self.loss.ignore_index {
            labels.iter_mut().filter(|label| **label == ignored).for_each(|label| *label = TokenBatch::IGNORED);
        }
        labels
    }

    /// The rows that the output layer sees of those that the model gives for a part: their places among them, unless they are all,
    /// and their labels. The model gives one for each token, or for those that have not left.
    fn rows(&self, part: &Part<'_, TokenBatch>, left: Option<&TokenIndices>) -> Result<(Option<Vec<u32>>, Vec<u32>)> {
        let labels = self.labels(part.batch, part.samples.clone());
        let (labels, width) = match left {
            Some(left) => (labels_of_kept(&labels, left)?, left.kept()),
            None => (labels, self.tokens),
        };
        Ok(match self.objective.places(&labels, width) {
            Some(places) => {
                let chosen = places.iter().filter_map(|&place| labels.get(place as usize).copied()).collect();
                (Some(places), chosen)
            }
            None => (None, labels),
        })
    }

    fn weight_of_labels(&self, labels: Vec<u32>) -> f64 {
        let (classes, loss) = (self.model.vocab_size(), &self.loss);
        labels.into_iter().map(|label| loss.row_weight(classes, label, None)).sum()
    }

    /// The loss in one of the two modes, which ignores what has no label.
    fn loss_in(&self, mode: &Mode) -> CrossEntropy {
        let loss = in_mode(&self.loss, mode).into_owned();
        CrossEntropy { ignore_index: Some(TokenBatch::IGNORED), ..loss }
    }
}

impl<M: LanguageModel, O: Objective> Task for LanguageTask<M, O> {
    type Batch = TokenBatch;

    fn model(&self) -> &dyn Model {
        &self.model
    }

    /// The model's blocks on sequences of the task's length, any of whose tokens may leave.
    fn extent(&self) -> Extent {
        Extent { depth: self.model.extent().depth, tokens: self.tokens, prefix: 0 }
    }

    fn identity(&self) -> String {
        let importance = self.importance.as_ref().map(Importance::identity);
        serde_json::json!({
            "objective": self.objective,
            "tokens": self.tokens,
            "loss": self.loss,
            "importance": importance,
        })
        .to_string()
    }

    fn check(&self, batch: &TokenBatch) -> Result<()> {
        if batch.tokens != self.tokens {
            return Err(Error::argument("batch", "tokens", format!("{} in a sample", self.tokens), batch.tokens));
        }
        batch.check(self.model.vocab_size())
    }

    /// As many as have a target, or the sum of their weights.
    fn weight(&self, batch: &TokenBatch, range: Range<usize>) -> f64 {
        self.weight_of_labels(self.labels(batch, range))
    }

    /// The same of the tokens that have not left.
    fn weight_of(&self, part: &Part<'_, TokenBatch>, spans: &[Span<TokenIndices>]) -> Result<f64> {
        let mut labels = self.labels(part.batch, part.samples.clone());
        if let Some(left) = left(spans) {
            labels = labels_of_kept(&labels, left)?;
        }
        Ok(self.weight_of_labels(labels))
    }

    fn loss(&self, part: &Part<'_, TokenBatch>, spans: &[Span<TokenIndices>], mode: &Mode) -> Result<Scored> {
        self.check(part.batch)?;
        let uploaded = Uploaded::new(self.gpu(), part)?;
        let hidden = self.model.hidden(&uploaded.tokens(), spans, mode)?;
        let left = left(spans);
        let (places, labels) = self.rows(part, left)?;
        let of = labels.iter().filter(|&&label| label != TokenBatch::IGNORED).count();
        let width = hidden.shape().last();
        let all = hidden.numel() / width;
        let rows = match places {
            None => ops::reshape(&hidden, &[all, width])?,
            Some(places) => {
                let chosen = TokenIndices::new(self.gpu(), [1, places.len()], all, &places)?;
                let rows = ops::token_gather(&ops::reshape(&hidden, &[1, all, width])?, &chosen)?;
                ops::reshape(&rows, &[places.len(), width])?
            }
        };
        // Where rows were taken out, the rest is of no more use: no node holds it.
        drop(hidden);
        let labels = Tensor::from_slice(self.gpu(), &[labels.len()], &labels)?;
        let (weight, bias) = self.model.decoder();
        let read = self.model.transform(&rows, mode)?;
        let scores = ops::linear_cross_entropy(&read, &weight, bias.as_ref(), &labels, &self.loss_in(mode))?;
        // Importance is for tokens that rejoin; where some have left, nothing is known of them.
        let losses = self.importance.as_ref().filter(|_| left.is_none()).map(|_| scores.losses.detach());
        Ok(Scored { loss: scores.loss, correct: Some(Correct { count: scores.correct, of }), losses })
    }

    fn importance(&self, part: &Part<'_, TokenBatch>) -> Result<Option<TokenScores>> {
        let Some(importance) = &self.importance else { return Ok(None) };
        let Uploaded { ids, lengths, .. } = Uploaded::new(self.gpu(), part)?;
        Ok(Some(TokenScores { scores: importance.of(&ids)?, lengths }))
    }

    fn held(&self) -> Vec<(String, Tensor)> {
        self.importance.iter().map(|importance| ("importance".to_owned(), importance.table())).collect()
    }

    /// The averages follow the losses of the whole batch at once.
    fn follow(&self, scored: &[(Part<'_, TokenBatch>, Scored)]) -> Result<()> {
        let Some(importance) = &self.importance else { return Ok(()) };
        let losses: Option<Vec<&Tensor>> = scored.iter().map(|(_, scored)| scored.losses.as_ref()).collect();
        let Some(losses) = losses else { return Ok(()) };
        let rows: Vec<_> = scored.iter().map(|(part, _)| self.rows(part, None)).collect::<Result<_>>()?;
        let labels: Vec<u32> = rows.into_iter().flat_map(|(_, labels)| labels).collect();
        importance.follow(&labels, &losses)
    }

    /// The loss decides, not the share of tokens that are guessed: perplexity is what language models are compared by.
    fn score(&self, evaluation: &Evaluation) -> f64 {
        -evaluation.loss
    }

    /// Full sequences of the first id, with as many labels as the objective has places for.
    fn blank(&self, samples: usize) -> Result<TokenBatch> {
        let count = samples.checked_mul(self.tokens).filter(|&count| samples > 0 && u32::try_from(count).is_ok());
        let Some(count) = count else {
            return Err(Error::argument("estimate", "batch", "at least 1 sample and below 2^32 tokens", samples));
        };
        let batch = TokenBatch::new(self.tokens, vec![0; count])?;
        // T is at most the model's positions, and B·T fits.
        let lengths = self.is_padded.then(|| vec![self.tokens as u32; samples]);
        let types = self.is_segmented.then(|| vec![0; count]);
        let labels = self.objective.blank(self.tokens).map(|labels| labels.repeat(samples));
        Ok(TokenBatch { types, lengths, labels, ..batch })
    }
}

/// The tokens that are left of all, where others leave the model.
fn left(spans: &[Span<TokenIndices>]) -> Option<&TokenIndices> {
    spans.last().filter(|span| !span.rejoins).map(|span| &span.positions)
}

/// Of the labels of samples, `u32[B·T]`, those of the tokens that have not left.
fn labels_of_kept(labels: &[u32], left: &TokenIndices) -> Result<Vec<u32>> {
    let Some(positions) = left.on_host() else {
        let expected = "such whose positions the host knows, where tokens leave the model";
        return Err(Error::argument("language task", "spans", expected, "positions on the device alone"));
    };
    let samples = labels.chunks(left.tokens()).zip(positions.chunks(left.kept()));
    Ok(samples.flat_map(|(labels, kept)| kept.iter().map(|&place| labels[place as usize])).collect())
}

/// The samples of a part on the device.
struct Uploaded {
    ids: Tensor,
    types: Option<Tensor>,
    lengths: Option<Tensor>,
}

impl Uploaded {
    fn new(gpu: &Gpu, part: &Part<'_, TokenBatch>) -> Result<Self> {
        let (batch, range) = (part.batch, &part.samples);
        let places = range.start * batch.tokens..range.end * batch.tokens;
        let sequences = |values: &[u32]| Tensor::from_slice(gpu, &[range.len(), batch.tokens], &values[places.clone()]);
        Ok(Uploaded {
            ids: sequences(&batch.ids)?,
            types: batch.types.as_deref().map(sequences).transpose()?,
            lengths: batch
                .lengths
                .as_deref()
                .map(|lengths| Tensor::from_slice(gpu, &[range.len()], &lengths[range.clone()]))
                .transpose()?,
        })
    }

    fn tokens(&self) -> Tokens<'_> {
        Tokens { ids: &self.ids, types: self.types.as_ref(), lengths: self.lengths.as_ref() }
    }
}
