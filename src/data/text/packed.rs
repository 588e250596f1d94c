//! Batches for causal language models.

use serde::Serialize;

use super::Tokens;
use crate::data::{Source, TokenBatch, Wanted};
use crate::error::{Error, Result};
use crate::identity::json;

const OP: &str = "data.packed_text";

/// Texts as one sequence, documents with separators between them, cut into windows of T tokens one behind the other. In an epoch
/// each token comes once; what remains at the end, fewer than T tokens, does not come. Labels are the ids themselves, so that each
/// token but the first of each window is predicted once.
#[derive(Debug)]
pub struct PackedText {
    tokens: Tokens,
    length: usize,
}

impl PackedText {
    /// Windows of `length` tokens, T.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is not one such window, T is below 2, or there are 2³² windows.
    pub fn new(tokens: Tokens, length: usize) -> Result<Self> {
        let most = usize::try_from(tokens.len()).unwrap_or(usize::MAX);
        if length < 2 || length > most {
            return Err(Error::argument(OP, "length", format!("from 2 to {most}, the tokens that there are"), length));
        }
        check_count(OP, tokens.len() / length as u64)?;
        Ok(PackedText { tokens, length })
    }

    /// What it is made of.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }
}

/// Whether samples can be numbered.
pub(super) fn check_count(op: &'static str, samples: u64) -> Result<()> {
    if u32::try_from(samples).is_err() {
        return Err(Error::argument(op, "samples", "below 2^32; longer ones are fewer", samples));
    }
    Ok(())
}

/// Whether a batch's tokens can be numbered.
pub(super) fn check_batch(op: &'static str, batch_size: usize, length: usize) -> Result<()> {
    if batch_size.checked_mul(length).is_none_or(|tokens| u32::try_from(tokens).is_err()) {
        let expected = format!("such that a batch has fewer than 2^32 tokens at length {length}");
        return Err(Error::argument(op, "batch_size", expected, batch_size));
    }
    Ok(())
}

#[derive(Serialize)]
struct Identity {
    kind: &'static str,
    length: usize,
    tokens: String,
}

impl Source for PackedText {
    type Batch = TokenBatch;

    fn len(&self) -> usize {
        (self.tokens.len() / self.length as u64) as usize
    }

    /// T, and what decides on the tokens.
    fn identity(&self) -> String {
        json(&Identity { kind: "packed", length: self.length, tokens: self.tokens.identity() })
    }

    fn check(&self, batch_size: usize) -> Result<()> {
        check_batch(OP, batch_size, self.length)
    }

    fn make(&self, wanted: &Wanted<'_>) -> Result<Option<TokenBatch>> {
        let mut ids = Vec::with_capacity(wanted.samples.len() * self.length);
        for &sample in wanted.samples {
            if wanted.is_stopped() {
                return Ok(None);
            }
            let first = u64::from(sample) * self.length as u64;
            ids.extend(self.tokens.read(first..first + self.length as u64)?);
        }
        Ok(Some(TokenBatch {
            tokens: self.length,
            ids,
            types: None,
            lengths: None,
            labels: None,
            indices: wanted.samples.to_vec(),
            position: wanted.position,
        }))
    }
}
