//! A probe before it is run: with the pictures that its features are of.

use std::cell::Cell;
use std::ops::Range;

use wgrad::data::FeatureBatch;
use wgrad::models::vit::Vit;
use wgrad::nn::{Extent, Mode, Model, Span};
use wgrad::ops::TokenIndices;
use wgrad::train::{Classify, LinearProbe, Part, Scored, Task, extract};

/// What a probe asks of the device, for rehearsals: the frozen model sees pictures too, as many at once as a part of a step has samples.
/// It does so in the first step here, and before it in a run.
pub struct Probed {
    probe: LinearProbe<Vit>,
    /// Pictures of each split that there are features of.
    pictures: [usize; 2],
    /// How many it has seen at once, at most.
    seen: Cell<usize>,
}

impl Probed {
    pub fn new(probe: LinearProbe<Vit>, pictures: [usize; 2]) -> Self {
        Probed { probe, pictures, seen: Cell::new(0) }
    }

    /// The features of all pictures, so many at once.
    fn extract(&self, batch: usize) -> wgrad::Result<()> {
        let model = &self.probe.model;
        for samples in self.pictures {
            extract(model, few_batches(samples, batch).map(|samples| Classify::new(model).blank(samples)))?;
        }
        model.parameters().gpu().trim();
        Ok(())
    }
}

impl Task for Probed {
    type Batch = FeatureBatch;

    fn model(&self) -> &dyn Model {
        self.probe.model()
    }

    fn extent(&self) -> Extent {
        self.probe.extent()
    }

    fn identity(&self) -> String {
        self.probe.identity()
    }

    fn check(&self, batch: &FeatureBatch) -> wgrad::Result<()> {
        self.probe.check(batch)
    }

    fn weight(&self, batch: &FeatureBatch, range: Range<usize>) -> f64 {
        self.probe.weight(batch, range)
    }

    fn loss(&self, part: &Part<'_, FeatureBatch>, spans: &[Span<TokenIndices>], mode: &Mode) -> wgrad::Result<Scored> {
        if part.samples.len() > self.seen.get() {
            self.seen.set(part.samples.len());
            self.extract(part.samples.len())?;
        }
        self.probe.loss(part, spans, mode)
    }

    fn blank(&self, samples: usize) -> wgrad::Result<FeatureBatch> {
        self.probe.blank(samples)
    }
}

/// The sizes of the batches that `samples` come in, as far as memory depends on them: some whole ones, since several are begun before
/// the first is read, and the rest, whose tensors are of other sizes.
fn few_batches(samples: usize, batch: usize) -> impl Iterator<Item = usize> {
    let rest = Some(samples % batch).filter(|&rest| rest > 0);
    std::iter::repeat_n(batch, (samples / batch).min(3)).chain(rest)
}
