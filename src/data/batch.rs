//! What training asks of a batch.

/// A place in the endless sequence of batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The epoch, from 0.
    pub epoch: u64,
    /// The batch within the epoch, from 0.
    pub batch: usize,
}

/// Samples that go through a model together.
pub trait Batch {
    /// B.
    fn samples(&self) -> usize;

    /// Where in the sequence of batches it stands; by default at its beginning, for sources that have no order.
    fn position(&self) -> Position {
        Position::default()
    }
}
