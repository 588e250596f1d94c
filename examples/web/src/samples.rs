//! The embedded digits as batches.

use wgrad::Result;
use wgrad::data::{Digits, ImageBatch, Position};

/// Digits in a batch.
pub const BATCH: usize = 32;

/// One digit in so many is held out.
const HELD_OUT: usize = 5;
/// Digits of one writer follow each other in the file. So the next one to learn from is so many further on: a prime, which comes by all
/// of them before it comes by one again.
const STRIDE: usize = 389;

/// The digits in two parts, as rows of the file.
pub struct Samples {
    digits: Digits,
    learnt: Vec<usize>,
    held_out: Vec<usize>,
}

impl Samples {
    /// The embedded ones.
    ///
    /// # Errors
    /// As [`Digits::embedded`].
    pub fn embedded() -> Result<Self> {
        let digits = Digits::embedded()?;
        let (held_out, learnt) = (0..digits.labels.len()).partition(|row| row % HELD_OUT == 0);
        Ok(Samples { digits, learnt, held_out })
    }

    /// Batch number `number` of those without end to learn from, always the same.
    pub fn batch(&self, number: u64) -> ImageBatch {
        let (per_epoch, first) = (self.learnt.len() as u64, number * BATCH as u64);
        let place = |sample: u64| (sample % per_epoch) as usize * STRIDE % self.learnt.len();
        let rows: Vec<usize> = (first..).take(BATCH).map(|sample| self.learnt[place(sample)]).collect();
        let position = Position { epoch: first / per_epoch, batch: number as usize };
        self.of(&rows, position)
    }

    /// The digits that are not learnt from, in batches.
    pub fn held_out(&self) -> impl Iterator<Item = Result<ImageBatch>> {
        self.held_out.chunks(BATCH).map(|rows| Ok(self.of(rows, Position::default())))
    }

    /// A digit's pixels, `u8[8, 8]`.
    pub fn grey(&self, row: u32) -> &[u8] {
        let pixels = Digits::SIDE * Digits::SIDE;
        &self.digits.grey[row as usize * pixels..][..pixels]
    }

    fn of(&self, rows: &[usize], position: Position) -> ImageBatch {
        ImageBatch {
            images: rows.iter().flat_map(|&row| picture(self.grey(row as u32))).collect(),
            labels: rows.iter().map(|&row| self.digits.labels[row]).collect(),
            mixed: None,
            indices: rows.iter().map(|&row| row as u32).collect(),
            position,
        }
    }
}

/// A batch of one picture `u8[8, 8]` of which nobody says what digit it is.
pub fn unlabelled(grey: &[u8]) -> ImageBatch {
    ImageBatch { images: picture(grey), labels: vec![0], mixed: None, indices: vec![0], position: Position::default() }
}

/// `u8[3, 8, 8]` of `u8[8, 8]`: all channels alike.
fn picture(grey: &[u8]) -> Vec<u8> {
    grey.repeat(3)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn an_epoch_has_each_digit_once_and_none_that_is_held_out() -> Result<()> {
        let samples = Samples::embedded()?;
        let held_out: BTreeSet<u32> =
            samples.held_out().flat_map(|batch| batch.map(|batch| batch.indices)).flatten().collect();
        let all: Vec<u32> = (0..).flat_map(|number| samples.batch(number).indices).take(samples.learnt.len()).collect();
        let learnt: BTreeSet<u32> = all.iter().copied().collect();
        assert_eq!(learnt.len(), all.len());
        assert_eq!((learnt.len(), held_out.len()), (1437, 360));
        assert!(learnt.is_disjoint(&held_out));
        Ok(())
    }
}
