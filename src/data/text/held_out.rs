//! Which part of texts is measured and not trained on.

use std::ops::Range;

use serde::Serialize;

use super::Tokens;
use super::reader::BLOCK;
use crate::error::{Error, Result};
use crate::hash::{absorb, hash_bytes};

const OP: &str = "data.held_out";

/// How [`Tokens::hold_out`] divides.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub enum HeldOut {
    /// Whole documents: round(`share` · documents), drawn by the seed and each document's content. So a document's part hardly
    /// depends on which others there are, and documents of equal content stay together.
    Documents {
        /// The share, between 0 and 1.
        share: f64,
        /// Seed of the draw.
        seed: u64,
    },
    /// The end of all texts taken as one: the last round(`share` · tokens) tokens. For texts of few documents.
    End {
        /// The share, between 0 and 1.
        share: f64,
    },
}

/// A division, and which part of it tokens are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Rule {
    rule: HeldOut,
    is_held_out: bool,
}

impl Tokens {
    /// Divides them into what is trained on and what is held out. Neither is ever nothing.
    ///
    /// # Errors
    /// [`Error::Argument`] if the share is not between 0 and 1, or what could be parted is one document, or one content.
    pub fn hold_out(&self, rule: HeldOut) -> Result<[Tokens; 2]> {
        let (HeldOut::Documents { share, .. } | HeldOut::End { share }) = rule;
        if !(share > 0.0 && share < 1.0) {
            return Err(Error::argument(OP, "share", "between 0 and 1", share));
        }
        let [trained, held] = match rule {
            HeldOut::Documents { share, seed } => self.by_documents(share, seed)?,
            HeldOut::End { share } => self.by_end(share)?,
        };
        let chosen = |tokens: Tokens, is_held_out| tokens.chosen_by(Rule { rule, is_held_out });
        Ok([chosen(trained, false), chosen(held, true)])
    }

    fn by_end(&self, share: f64) -> Result<[Tokens; 2]> {
        if self.len() < 2 {
            return Err(Error::argument(OP, "tokens", "at least 2", self.len()));
        }
        let held = ((self.len() as f64 * share).round() as u64).clamp(1, self.len() - 1);
        let cut = self.len() - held;
        Ok([0..cut, cut..self.len()].map(|places| self.with_parts(self.runs(places))))
    }

    fn by_documents(&self, share: f64, seed: u64) -> Result<[Tokens; 2]> {
        let documents = || self.documents_in_file().map(|(_, tokens)| tokens);
        let keys: Vec<u64> = documents().map(|document| self.key(document, seed)).collect();
        let threshold = threshold(keys.clone(), share)?;
        Ok([false, true].map(|is_held_out| {
            let of_part = documents().zip(&keys).filter(|(_, key)| (**key < threshold) == is_held_out);
            self.with_parts(of_part.map(|(document, _)| document))
        }))
    }

    /// The key of a document: a hash of the seed and its tokens.
    fn key(&self, document: Range<u64>, seed: u64) -> u64 {
        self.bytes_in_file(document).chunks(BLOCK as usize).fold(absorb(0, seed), hash_bytes)
    }
}

/// The key below which documents are held out: as near as equal keys allow to their share, and so that each part has one.
fn threshold(mut keys: Vec<u64>, share: f64) -> Result<u64> {
    keys.sort_unstable();
    let wanted = (keys.len() as f64 * share).round() as usize;
    let is_between = |&at: &usize| keys[at - 1] != keys[at];
    let below = (1..=wanted.min(keys.len().saturating_sub(1))).rev().find(is_between);
    let above = (wanted.max(1)..keys.len()).find(is_between);
    let cut = match (below, above) {
        (Some(below), Some(above)) if wanted - below > above - wanted => above,
        (Some(below), _) => below,
        (None, above) => above.ok_or_else(|| {
            let got = format!("{} of one content", keys.len());
            Error::argument(OP, "documents", "at least two that differ (HeldOut::End parts within one)", got)
        })?,
    };
    Ok(keys[cut])
}
