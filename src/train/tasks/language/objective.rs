//! What a language model is to say at each place.

use serde::Serialize;

use crate::data::TokenBatch;

/// The labels of a sequence, and which places are looked at.
pub trait Objective: Clone + Serialize {
    /// The fewest tokens of a sequence about which it asks something.
    fn shortest(&self) -> usize;

    /// What the scores at each place of a sample are judged against: T labels, or [`TokenBatch::IGNORED`].
    fn labels(&self, batch: &TokenBatch, sample: usize) -> impl Iterator<Item = u32>;

    /// Of the labels of samples of `tokens` tokens, `u32[B·T]`, the places whose scores are computed, ascending; they
    /// hold all that have a label. `None` for all.
    fn places(&self, labels: &[u32], tokens: usize) -> Option<Vec<u32>>;

    /// Labels of a sample of `tokens` tokens as a usual batch has them; `None` for all.
    fn blank(&self, tokens: usize) -> Option<Vec<u32>>;
}

/// The next token at each place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename = "causal")]
pub struct Causal;

impl Objective for Causal {
    fn shortest(&self) -> usize {
        2
    }

    fn labels(&self, batch: &TokenBatch, sample: usize) -> impl Iterator<Item = u32> {
        batch.labels_of(sample).skip(1).chain([TokenBatch::IGNORED])
    }

    fn places(&self, _labels: &[u32], _tokens: usize) -> Option<Vec<u32>> {
        None
    }

    fn blank(&self, _tokens: usize) -> Option<Vec<u32>> {
        None
    }
}

/// The token itself at the places that have a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Masked {
    /// Places of each sample whose scores are computed, whether they have a label or not; where a part of a batch has more labels,
    /// as many sixteenths of all its places as hold them.
    pub places: usize,
}

/// Of all places, what the number of those that are computed is a multiple of, where it must be more than usual.
const SHARE: usize = 16;
/// The share of labels that BERT learns.
const USUAL: f64 = 0.15;

impl Masked {
    /// Three sixteenths of `tokens`, which hold the 15 % that BERT learns.
    pub fn usual(tokens: usize) -> Self {
        Self::of_share(tokens, USUAL)
    }

    /// As many sixteenths of `tokens` as hold a `share` of them, with some room for chance.
    pub fn of_share(tokens: usize, share: f64) -> Self {
        let parts = ((share * SHARE as f64) as usize).saturating_add(1).min(SHARE);
        Masked { places: (tokens / SHARE * parts + (tokens % SHARE * parts).div_ceil(SHARE)).max(1) }
    }
}

impl Objective for Masked {
    fn shortest(&self) -> usize {
        1
    }

    fn labels(&self, batch: &TokenBatch, sample: usize) -> impl Iterator<Item = u32> {
        batch.labels_of(sample)
    }

    fn places(&self, labels: &[u32], tokens: usize) -> Option<Vec<u32>> {
        let is_label = |label: u32| label != TokenBatch::IGNORED;
        let labelled = labels.iter().filter(|&&label| is_label(label)).count();
        let (usual, part) = (self.places.saturating_mul(labels.len() / tokens.max(1)), labels.len().div_ceil(SHARE));
        let needed = if labelled > usual { labelled.next_multiple_of(part.max(1)) } else { usual.max(1) };
        if needed >= labels.len() {
            return None;
        }
        let mut others = needed - labelled;
        let mut is_taken = |label: u32| {
            let is_other = !is_label(label) && others > 0;
            others -= usize::from(is_other);
            is_label(label) || is_other
        };
        (0u32..).zip(labels).filter(|&(_, &label)| is_taken(label)).map(|(place, _)| place).collect::<Vec<_>>().into()
    }

    fn blank(&self, tokens: usize) -> Option<Vec<u32>> {
        let label = |place| if place < self.places { 0 } else { TokenBatch::IGNORED };
        Some((0..tokens).map(label).collect())
    }
}
