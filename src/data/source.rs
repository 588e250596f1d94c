//! What a loader makes batches of.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{Batch, Position};
use crate::error::Result;
use crate::identity;

/// Numbered samples, and how some of them become a batch. A [`Loader`](super::Loader) says which, in what order and when; it
/// asks from a thread of its own.
pub trait Source: Send + Sync + 'static {
    /// What it makes.
    type Batch: Batch + Send + 'static;

    /// N, its samples: they are numbered from 0.
    fn len(&self) -> usize;

    /// Whether there is no sample.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As JSON, all that decides on its batches: equal sources have equal ones. A run's state is tied to it. What it says
    /// stays what it said first, whatever becomes of the files that it may look at.
    fn identity(&self) -> String;

    /// What is otherwise here than in the source that `saved` is the identity of, in words: by default the first setting that
    /// is. `None` if nothing is.
    fn difference(&self, saved: &str) -> Option<String> {
        identity::difference(saved, &self.identity())
    }

    /// Whether it can make batches of so many samples, which are at least 1.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if not.
    fn check(&self, batch_size: usize) -> Result<()> {
        let _ = batch_size;
        Ok(())
    }

    /// Makes a batch. It depends on nothing but what is `wanted`, so that it can be made again. One without samples is left
    /// out by the loader. `None` if [`Wanted::is_stopped`] was seen.
    ///
    /// # Errors
    /// The source's own. After an error there are no more batches.
    fn make(&self, wanted: &Wanted<'_>) -> Result<Option<Self::Batch>>;
}

/// A batch that a [`Source`] is asked for.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Wanted<'a> {
    /// The numbers of its samples, `u32[B]`.
    pub samples: &'a [u32],
    /// Where in the sequence it stands.
    pub position: Position,
    /// Seed of whatever is random in it.
    pub seed: u64,
    /// Whether it must have B samples: one that cannot be had is replaced by a [`Wanted::spare`] one. Else it is left out.
    pub is_full: bool,
    /// The samples of the epoch after and before these.
    pub(super) others: [&'a [u32]; 2],
    pub(super) stop: &'a AtomicBool,
}

impl<'a> Wanted<'a> {
    /// The next samples in the epoch's order, beyond this batch. That one may come again in a later batch is the price for
    /// batches that do not depend on what was missing before them.
    pub fn spare(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.others.into_iter().flatten().copied()
    }

    /// Whether nobody waits for the batch any more. To be asked before each sample that takes long to make.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
