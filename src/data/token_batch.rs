//! Sequences of tokens with what is to be learnt from them.

use super::{Batch, Position};
use crate::error::{Error, Result};

const OP: &str = "token batch";

/// Sequences that go through the model together. B samples of T tokens each; shorter ones are padded.
///
/// Its fields may be set one by one, so what takes one asks [`TokenBatch::check`].
#[derive(Clone, Debug, PartialEq)]
pub struct TokenBatch {
    /// T.
    pub tokens: usize,
    /// The tokens, `u32[B, T]`; at padding any id of the vocabulary.
    pub ids: Vec<u32>,
    /// The segment of each token, `u32[B, T]`, for models that tell segments apart.
    pub types: Option<Vec<u32>>,
    /// The real tokens of each sample, from 1 to T, `u32[B]`: padding follows them. `None` if all are real.
    pub lengths: Option<Vec<u32>>,
    /// What is to be learnt at each place, `u32[B, T]`: an id, or [`TokenBatch::IGNORED`], as at all padding. They stand at the
    /// places of `ids`, not one further: a task that predicts the next token looks one further itself. `None` for the
    /// real tokens themselves.
    pub labels: Option<Vec<u32>>,
    /// The samples' numbers in the split, `u32[B]`.
    pub indices: Vec<u32>,
    /// Where in the sequence of batches this one stands.
    pub position: Position,
}

impl Batch for TokenBatch {
    fn samples(&self) -> usize {
        self.indices.len()
    }

    fn position(&self) -> Position {
        self.position
    }
}

impl TokenBatch {
    /// The label of a place where nothing is learnt.
    pub const IGNORED: u32 = u32::MAX;

    /// Samples of `tokens` tokens, one after the other, without padding, which are to be learnt themselves; numbered from 0.
    ///
    /// # Errors
    /// [`Error::Argument`] unless `ids` are at least one sample of at least one token, and all samples are whole.
    pub fn new(tokens: usize, ids: Vec<u32>) -> Result<Self> {
        let samples = ids.len().checked_div(tokens).unwrap_or(0);
        let Ok(count) = u32::try_from(samples) else {
            return Err(Error::argument(OP, "ids", "fewer than 2^32 samples", samples));
        };
        let indices = (0..count).collect();
        let batch = TokenBatch {
            tokens,
            ids,
            types: None,
            lengths: None,
            labels: None,
            indices,
            position: Position::default(),
        };
        batch.check_counts()?;
        Ok(batch)
    }

    /// The batch with the segment of each token, `u32[B, T]`.
    ///
    /// # Errors
    /// [`Error::Argument`] if they are not as many as the tokens.
    pub fn with_types(self, types: Vec<u32>) -> Result<Self> {
        let batch = TokenBatch { types: Some(types), ..self };
        batch.check_counts().map(|()| batch)
    }

    /// The batch with the number of real tokens of each sample, `u32[B]`.
    ///
    /// # Errors
    /// [`Error::Argument`] unless there is one for each sample, from 1 to T, and nothing is learnt behind it.
    pub fn with_lengths(self, lengths: Vec<u32>) -> Result<Self> {
        let batch = TokenBatch { lengths: Some(lengths), ..self };
        batch.check_counts()?;
        batch.check_padding().map(|()| batch)
    }

    /// The batch with labels, `u32[B, T]`.
    ///
    /// # Errors
    /// [`Error::Argument`] if they are not as many as the tokens, or one at padding is not [`TokenBatch::IGNORED`].
    pub fn with_labels(self, labels: Vec<u32>) -> Result<Self> {
        let batch = TokenBatch { labels: Some(labels), ..self };
        batch.check_counts()?;
        batch.check_padding().map(|()| batch)
    }

    /// Whether everything is there for each sample, ids and labels are below `vocabulary`, lengths from 1 to T, and nothing is learnt
    /// at padding.
    ///
    /// # Errors
    /// [`Error::Argument`] that names the field, the sample and the place of the first that is not so.
    pub fn check(&self, vocabulary: usize) -> Result<()> {
        self.check_counts()?;
        self.check_padding()?;
        let unknown = |&id: &u32| id as usize >= vocabulary;
        if let Some(place) = self.ids.iter().position(unknown) {
            return self.refused("ids", format!("below {vocabulary}, the vocabulary's size"), &self.ids, place);
        }
        let Some(labels) = &self.labels else { return Ok(()) };
        match labels.iter().position(|label| *label != Self::IGNORED && unknown(label)) {
            Some(place) => {
                let expected = format!("IGNORED or below {vocabulary}, the vocabulary's size");
                self.refused("labels", expected, labels, place)
            }
            None => Ok(()),
        }
    }

    /// The real tokens of a sample.
    pub fn length(&self, sample: usize) -> usize {
        let length = self.lengths.as_ref().and_then(|lengths| lengths.get(sample));
        length.map_or(self.tokens, |&length| (length as usize).min(self.tokens))
    }

    /// What is to be learnt at each place of a sample, `T` labels; none of a sample that is not there.
    pub fn labels_of(&self, sample: usize) -> impl Iterator<Item = u32> + '_ {
        let length = self.length(sample);
        let first = sample.saturating_mul(self.tokens);
        let all = self.labels.as_ref().unwrap_or(&self.ids);
        let own = all.get(first..first.saturating_add(self.tokens)).unwrap_or_default();
        own.iter().enumerate().map(move |(place, &label)| if place < length { label } else { Self::IGNORED })
    }

    fn check_counts(&self) -> Result<()> {
        let (tokens, samples) = (self.tokens, self.indices.len());
        if tokens == 0 {
            return Err(Error::argument(OP, "tokens", "at least 1", 0));
        }
        if samples == 0 || u32::try_from(self.ids.len()).is_err() {
            let expected = format!("at least one sample of {tokens} tokens, and below 2^32 tokens in all");
            return Err(Error::argument(OP, "ids", expected, format_args!("{} tokens", self.ids.len())));
        }
        let places = [("ids", Some(&self.ids)), ("types", self.types.as_ref()), ("labels", self.labels.as_ref())];
        for (name, values) in places {
            let count = values.map_or(self.ids.len(), Vec::len);
            if samples.checked_mul(tokens) != Some(count) {
                let expected = format!("{samples} samples of {tokens} tokens");
                return Err(Error::argument(OP, name, expected, format_args!("{count} tokens")));
            }
        }
        let Some(lengths) = &self.lengths else { return Ok(()) };
        if lengths.len() != samples {
            return Err(Error::argument(OP, "lengths", format!("{samples}, one a sample"), lengths.len()));
        }
        match lengths.iter().position(|&length| !(1..=tokens).contains(&(length as usize))) {
            Some(sample) => {
                let got = format!("{} in sample {sample}", lengths[sample]);
                Err(Error::argument(OP, "lengths", format!("1 to {tokens}"), got))
            }
            None => Ok(()),
        }
    }

    /// Whether nothing is learnt behind a sample's length. The counts are right.
    fn check_padding(&self) -> Result<()> {
        let (Some(labels), Some(lengths)) = (&self.labels, &self.lengths) else { return Ok(()) };
        for (sample, (row, &length)) in labels.chunks(self.tokens).zip(lengths).enumerate() {
            let padding = row.iter().skip(length as usize);
            if let Some(place) = padding.clone().position(|&label| label != Self::IGNORED) {
                let place = sample * self.tokens + length as usize + place;
                return self.refused("labels", "IGNORED behind the sample's length".to_owned(), labels, place);
            }
        }
        Ok(())
    }

    fn refused(&self, name: &'static str, expected: String, values: &[u32], place: usize) -> Result<()> {
        let (sample, token) = (place / self.tokens, place % self.tokens);
        Err(Error::argument(OP, name, expected, format_args!("{} in sample {sample} at {token}", values[place])))
    }
}
