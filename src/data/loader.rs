//! From samples to batches: in a keyed order, made ahead of the consumer on another thread. What a sample is, the [`Source`]
//! alone knows.
//!
//! What a batch holds depends on the seed, the epoch and its number in the epoch alone. So a run that starts in the middle
//! of an epoch sees what an uninterrupted one would have seen.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::random::{Purpose, keyed, shuffle};
use super::{Batch, Position, Source, Wanted};
use crate::error::{Error, Result};
use crate::identity::{self, json};

const OP: &str = "data.loader";

/// In what order a [`Loader`] makes batches, and how far ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LoaderOptions {
    /// Samples in a batch, B.
    pub batch_size: usize,
    /// Seed of the order, and of what is random in the samples.
    pub seed: u64,
    /// Whether every epoch has an order of its own; else samples come in the source's order.
    pub shuffle: bool,
    /// Whether every batch has B samples, as training wants it: what is left over at the end of an epoch is dropped, and a
    /// sample that cannot be had is replaced by the next one of the epoch's order that can and is not in the batch. Else the
    /// last batch is smaller and such samples are left out, so that none comes twice, as evaluation wants it.
    pub full_batches: bool,
    /// How many batches are made ahead, besides the one in the making. It changes the time, not the batches.
    #[serde(skip)]
    pub prefetch: usize,
}

impl LoaderOptions {
    /// For training: shuffled, full batches.
    pub fn training(batch_size: usize, seed: u64) -> Self {
        LoaderOptions { batch_size, seed, shuffle: true, full_batches: true, prefetch: 2 }
    }

    /// For evaluation: every sample once, in order.
    pub fn evaluation(batch_size: usize) -> Self {
        LoaderOptions { shuffle: false, full_batches: false, ..Self::training(batch_size, 0) }
    }
}

/// Makes batches of a source.
#[derive(Debug)]
pub struct Loader<S> {
    work: Arc<Work<S>>,
}

/// What decides on a loader's batches, in JSON: texts, so that what is compared is what was written.
#[derive(Serialize, Deserialize)]
struct Identity {
    options: String,
    source: String,
}

impl<S: Source> Loader<S> {
    /// A loader.
    ///
    /// # Errors
    /// [`Error::Argument`] if a setting is out of range, the source is empty, or it has less than one full batch where
    /// only full ones are wanted; what [`Source::check`] says.
    pub fn new(source: S, options: LoaderOptions) -> Result<Self> {
        let LoaderOptions { batch_size, prefetch, .. } = options;
        if batch_size == 0 {
            return Err(Error::argument(OP, "batch_size", "at least 1", 0));
        }
        source.check(batch_size)?;
        if prefetch > 64 {
            return Err(Error::argument(OP, "prefetch", "at most 64", prefetch));
        }
        let (samples, least) = (source.len(), if options.full_batches { batch_size } else { 1 });
        if samples < least {
            return Err(Error::argument(OP, "samples", format!("at least {least}"), samples));
        }
        let samples = u32::try_from(samples).map_err(|_| Error::argument(OP, "samples", "below 2^32", samples))?;
        Ok(Loader { work: Arc::new(Work { source, options, samples }) })
    }

    /// What the batches are made of.
    pub fn source(&self) -> &S {
        &self.work.source
    }

    /// Batches in an epoch.
    pub fn batches_per_epoch(&self) -> usize {
        self.work.batches_per_epoch()
    }

    /// Where the batch of optimiser step `step` stands, if the run began at the first batch.
    pub fn position(&self, step: u64) -> Position {
        let count = self.batches_per_epoch() as u64;
        Position { epoch: step / count, batch: (step % count) as usize }
    }

    /// The place after `position`.
    pub fn after(&self, position: Position) -> Position {
        let Position { epoch, batch } = position;
        match batch.checked_add(1).filter(|&next| next < self.batches_per_epoch()) {
            Some(batch) => Position { epoch, batch },
            None => Position { epoch: epoch.saturating_add(1), batch: 0 },
        }
    }

    /// As JSON, all that decides on its batches: [`Source::identity`], and the options but for [`LoaderOptions::prefetch`].
    /// Equal loaders have equal ones.
    pub fn identity(&self) -> String {
        let Work { source, options, .. } = &*self.work;
        json(&Identity { options: json(options), source: source.identity() })
    }

    /// What is otherwise here than in the loader that `saved` is the identity of, in words; `None` if nothing is. What a
    /// source says comes first ([`Source::difference`]).
    pub fn difference(&self, saved: &str) -> Option<String> {
        let now = self.identity();
        let parse = |text: &str| serde_json::from_str::<Identity>(text).ok();
        let Some((saved, now)) = parse(saved).zip(parse(&now)) else { return identity::difference(saved, &now) };
        let source = self.work.source.difference(&saved.source);
        source.or_else(|| identity::difference(&saved.options, &now.options))
    }

    /// All batches of one epoch.
    ///
    /// # Errors
    /// [`Error::Device`] if the system has no thread to give.
    pub fn epoch(&self, epoch: u64) -> Result<Batches<S::Batch>> {
        self.start(Position { epoch, batch: 0 }, epoch.saturating_add(1))
    }

    /// Batches without end, epoch after epoch, the first one at `position`.
    ///
    /// # Errors
    /// [`Error::Argument`] if the epoch has no such batch; [`Error::Device`] if the system has no thread to give.
    pub fn batches_from(&self, position: Position) -> Result<Batches<S::Batch>> {
        if position.batch >= self.batches_per_epoch() {
            let expected = format!("below {}, the batches of an epoch", self.batches_per_epoch());
            return Err(Error::argument(OP, "position.batch", expected, position.batch));
        }
        self.start(position, u64::MAX)
    }

    fn start(&self, from: Position, end_epoch: u64) -> Result<Batches<S::Batch>> {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, receiver) = sync_channel(self.work.options.prefetch);
        let producer = Producer { work: Arc::clone(&self.work), stop: Arc::clone(&stop), sender };
        let thread = thread::Builder::new()
            .name("wgrad-batches".to_owned())
            .spawn(move || producer.run(from, end_epoch))
            .map_err(|e| Error::Device { during: "starting the loader", message: e.to_string() })?;
        Ok(Batches { receiver: Some(receiver), thread: Some(thread), stop, waited: Duration::ZERO })
    }
}

/// Batches in order, made ahead on other threads; those end when this is dropped. After an error there are no more.
#[derive(Debug)]
pub struct Batches<B> {
    receiver: Option<Receiver<Result<B>>>,
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    waited: Duration,
}

impl<B> Batches<B> {
    /// How long the consumer has waited for batches in all: near 0 if the data keep up with the model.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// The next batch if it is made already, for programs that must not wait. `None` where it is not, and at the end.
    pub fn try_next(&mut self) -> Option<Result<B>> {
        match self.receiver.as_ref()?.try_recv() {
            Err(TryRecvError::Empty) => None,
            Ok(made) => self.received(Some(made)),
            Err(TryRecvError::Disconnected) => self.received(None),
        }
    }

    /// What the thread has sent; `None` if it is done.
    fn received(&mut self, made: Option<Result<B>>) -> Option<Result<B>> {
        match made {
            Some(Ok(batch)) => Some(Ok(batch)),
            Some(Err(error)) => {
                self.finish();
                Some(Err(error))
            }
            // At the end of the epoch, or by a panic, which must not look like the end.
            None => self.finish().then(|| {
                Err(Error::Device { during: "making a batch", message: "the loader's thread panicked".to_owned() })
            }),
        }
    }

    /// Ends the thread: the source looks at the flag before every sample, and a thread that waits to hand over a batch fails to
    /// once the receiver is gone. Returns whether it panicked.
    fn finish(&mut self) -> bool {
        self.stop.store(true, Ordering::Relaxed);
        self.receiver = None;
        self.thread.take().is_some_and(|thread| thread.join().is_err())
    }
}

impl<B> Iterator for Batches<B> {
    type Item = Result<B>;

    fn next(&mut self) -> Option<Self::Item> {
        let begin = Instant::now();
        let received = self.receiver.as_ref()?.recv();
        self.waited += begin.elapsed();
        self.received(received.ok())
    }
}

impl<B> Drop for Batches<B> {
    fn drop(&mut self) {
        self.finish();
    }
}

/// The thread behind [`Batches`].
struct Producer<S: Source> {
    work: Arc<Work<S>>,
    stop: Arc<AtomicBool>,
    sender: SyncSender<Result<S::Batch>>,
}

impl<S: Source> Producer<S> {
    fn run(self, from: Position, end_epoch: u64) {
        let mut first = from.batch;
        for epoch in from.epoch..end_epoch {
            let order = self.work.order(epoch);
            let mut empty = first == 0;
            for batch in first..self.work.batches_per_epoch() {
                let made = self.work.make(&order, Position { epoch, batch }, &self.stop);
                match made.transpose() {
                    // Stopped.
                    None => return,
                    // No sample of this batch could be had.
                    Some(Ok(batch)) if batch.samples() == 0 => continue,
                    Some(made) => {
                        empty = false;
                        let last = made.is_err();
                        if self.sender.send(made).is_err() || last {
                            return;
                        }
                    }
                }
            }
            if empty {
                let error = Error::argument(OP, "samples", "at least one readable in an epoch", "none");
                // If nobody listens any more, nobody misses it.
                let _ = self.sender.send(Err(error));
                return;
            }
            first = 0;
        }
    }
}

/// What making a batch needs.
#[derive(Debug)]
struct Work<S> {
    source: S,
    options: LoaderOptions,
    /// N.
    samples: u32,
}

impl<S: Source> Work<S> {
    fn batches_per_epoch(&self) -> usize {
        let (samples, size) = (self.samples as usize, self.options.batch_size);
        if self.options.full_batches { samples / size } else { samples.div_ceil(size) }
    }

    /// The epoch's samples in their order, `u32[N]`.
    fn order(&self, epoch: u64) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.samples).collect();
        if self.options.shuffle {
            shuffle(&mut keyed(Purpose::Order, self.options.seed, [epoch, 0]), &mut order);
        }
        order
    }

    /// The batch at `position` of an epoch in this order; `None` if `stop` was raised meanwhile.
    fn make(&self, order: &[u32], position: Position, stop: &AtomicBool) -> Result<Option<S::Batch>> {
        let LoaderOptions { batch_size, seed, full_batches, .. } = self.options;
        let (before, rest) = order.split_at(position.batch * batch_size);
        let (samples, after) = rest.split_at(rest.len().min(batch_size));
        let made = self.source.make(&Wanted {
            samples,
            position,
            seed,
            is_full: full_batches,
            others: [after, before],
            stop,
        })?;
        // A run goes by it.
        match &made {
            Some(batch) if batch.position() != position => {
                Err(Error::argument(OP, "batch.position", format!("{position:?}"), format!("{:?}", batch.position())))
            }
            // It must not look like the end.
            None if !stop.load(Ordering::Relaxed) => {
                Err(Error::argument(OP, "batch", "made, since nobody stopped it", "none"))
            }
            _ => Ok(made),
        }
    }
}
