//! Pictures that go through a model together.

use super::{Batch, Position};
use crate::error::{Error, Result};

/// Samples that go through the model together.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageBatch {
    /// `u8[B, 3, S, S]`, channel first.
    pub images: Vec<u8>,
    /// The classes, `u32[B]`.
    pub labels: Vec<u32>,
    /// The classes of the samples' partners, if the samples are mixed.
    pub mixed: Option<Mixed>,
    /// The samples' numbers in the split, `u32[B]`.
    pub indices: Vec<u32>,
    /// Where in the sequence this batch stands.
    pub position: Position,
}

impl Batch for ImageBatch {
    fn samples(&self) -> usize {
        self.labels.len()
    }

    fn position(&self) -> Position {
        self.position
    }
}

impl ImageBatch {
    /// Whether there are as many numbers of samples as labels, and of second labels and shares, if there are any.
    ///
    /// # Errors
    /// [`Error::Argument`] if not.
    pub fn check(&self) -> Result<()> {
        let samples = self.labels.len();
        if self.indices.len() != samples {
            return Err(Error::argument("batch", "indices", samples.to_string(), self.indices.len()));
        }
        match &self.mixed {
            Some(mixed) if mixed.labels.len() != samples || mixed.shares.len() != samples => {
                let got = format!("{} and {}", mixed.labels.len(), mixed.shares.len());
                Err(Error::argument("batch", "mixed", format!("{samples} labels and shares"), got))
            }
            _ => Ok(()),
        }
    }
}

/// The second labels of a batch whose samples are mixed.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixed {
    /// The partners' classes, `u32[B]`.
    pub labels: Vec<u32>,
    /// What a sample has of its own class, `f32[B]`, 0 to 1; the rest is its partner's.
    pub shares: Vec<f32>,
}
