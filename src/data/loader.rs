//! From samples to batches: in a keyed order, decoded and augmented on several threads, ahead of the consumer.
//!
//! What a batch holds depends on the seed, the epoch and its number in the epoch alone. So a run that starts in the middle
//! of an epoch sees what an uninterrupted one would have seen.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::random::{Purpose, keyed, shuffle};
use super::{Batch, Fingerprint, Key, Mix, Mixed, Position, Split, Transform};
use crate::error::{Error, Result};
use crate::hash::absorb;

/// How a [`Loader`] makes batches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoaderOptions {
    /// Samples in a batch, B.
    pub batch_size: usize,
    /// Seed of the order and of the augmentation.
    pub seed: u64,
    /// Whether every epoch has an order of its own; else samples come in the split's order.
    pub shuffle: bool,
    /// Whether every batch has B samples, as training wants it: what is left over at the end of an epoch is dropped, and
    /// an unreadable photo is replaced by the next readable one of the epoch's order that is not in the batch. Else the
    /// last batch is smaller and unreadable photos are left out, so that no sample comes twice, as evaluation wants it.
    pub full_batches: bool,
    /// Whether an unreadable photo is an error. Else it is skipped and reported, see [`Loader::skipped`].
    pub strict: bool,
    /// How many batches are made ahead, besides the one in the making.
    pub prefetch: usize,
    /// Mixes the samples of each batch: for training.
    pub mix: Option<Mix>,
    /// Threads that decode and resize; 0 takes as many as the machine has cores.
    pub threads: usize,
}

impl LoaderOptions {
    /// For training: shuffled, full batches, not mixed.
    pub fn training(batch_size: usize, seed: u64) -> Self {
        LoaderOptions {
            batch_size,
            seed,
            shuffle: true,
            full_batches: true,
            strict: false,
            prefetch: 2,
            mix: None,
            threads: 0,
        }
    }

    /// For evaluation: every sample once, in order.
    pub fn evaluation(batch_size: usize) -> Self {
        LoaderOptions { shuffle: false, full_batches: false, ..Self::training(batch_size, 0) }
    }
}

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
    /// Whether there are as many second labels and shares as labels, if there are any.
    pub(crate) fn check(&self) -> Result<()> {
        let samples = self.labels.len();
        match &self.mixed {
            Some(mixed) if mixed.labels.len() != samples || mixed.shares.len() != samples => {
                let got = format!("{} and {}", mixed.labels.len(), mixed.shares.len());
                Err(Error::argument("batch", "mixed", format!("{samples} labels and shares"), got))
            }
            _ => Ok(()),
        }
    }
}

/// A sample that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its number in the split.
    pub sample: u32,
    /// Its file.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// Makes batches of a split.
#[derive(Debug)]
pub struct Loader {
    work: Arc<Work>,
}

impl Loader {
    /// A loader with threads of its own.
    ///
    /// # Errors
    /// [`Error::Argument`] if a setting is out of range, the split is empty, or it has less than one full batch where
    /// only full ones are wanted.
    pub fn new(split: &Split, transform: Transform, options: LoaderOptions) -> Result<Self> {
        const OP: &str = "data.loader";
        transform.check()?;
        let LoaderOptions { batch_size, prefetch, threads, .. } = options;
        let bytes = batch_size.checked_mul(transform.sample_bytes());
        if batch_size == 0 || bytes.is_none_or(|bytes| u32::try_from(bytes).is_err()) {
            let expected = format!("at least 1 and a batch below 4 GiB at size {}", transform.size);
            return Err(Error::argument(OP, "batch_size", expected, batch_size));
        }
        if prefetch > 64 {
            return Err(Error::argument(OP, "prefetch", "at most 64", prefetch));
        }
        if threads > 1024 {
            return Err(Error::argument(OP, "threads", "at most 1024", threads));
        }
        options.mix.map_or(Ok(()), Mix::check)?;
        let least = if options.full_batches { batch_size } else { 1 };
        if split.len() < least {
            return Err(Error::argument(OP, "split", format!("at least {least} samples"), split.len()));
        }
        let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(|n| format!("wgrad-data-{n}")).build();
        let pool = pool.map_err(|e| Error::Device { during: "starting the data threads", message: e.to_string() })?;
        let (skipped, fingerprints) = (Mutex::default(), OnceLock::new());
        let work = Work { split: split.clone(), transform, options, pool, skipped, fingerprints };
        Ok(Loader { work: Arc::new(work) })
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

    /// In words, all that decides on its batches: settings, transform, and the split's labels. Equal loaders have equal
    /// ones; of the pictures it tells nothing.
    pub fn identity(&self) -> String {
        let Work { split, transform, options, .. } = &*self.work;
        // Threads and batches made ahead change the time, not the batches.
        let options = LoaderOptions { prefetch: 0, threads: 0, ..*options };
        let labels = split.labels().iter().fold(0, |hash, &label| absorb(hash, label.into()));
        format!("{} samples, labels {labels:016x}, {options:?}, {transform:?}", split.len())
    }

    /// By label, what tells the pictures of each class from others without reading them all. It is found once, and
    /// stays what it was whatever becomes of the files.
    pub(crate) fn fingerprints(&self) -> &BTreeMap<u32, Fingerprint> {
        self.work.fingerprints.get_or_init(|| self.work.split.fingerprints())
    }

    /// All batches of one epoch.
    ///
    /// # Errors
    /// [`Error::Device`] if the system has no thread to give.
    pub fn epoch(&self, epoch: u64) -> Result<Batches> {
        self.start(Position { epoch, batch: 0 }, epoch.saturating_add(1))
    }

    /// Batches without end, epoch after epoch, the first one at `position`.
    ///
    /// # Errors
    /// [`Error::Argument`] if the epoch has no such batch; [`Error::Device`] if the system has no thread to give.
    pub fn batches_from(&self, position: Position) -> Result<Batches> {
        if position.batch >= self.batches_per_epoch() {
            let expected = format!("below {}, the batches of an epoch", self.batches_per_epoch());
            return Err(Error::argument("data.loader", "position.batch", expected, position.batch));
        }
        self.start(position, u64::MAX)
    }

    /// The photos that could not be read so far, each once, in order of their numbers. Each was also logged as a warning.
    pub fn skipped(&self) -> Vec<Skipped> {
        let skipped = self.work.skipped.lock().unwrap_or_else(PoisonError::into_inner);
        let report = |(&sample, reason): (&u32, &String)| {
            let (name, reason) = (self.work.split.name(sample), reason.clone());
            Skipped { sample, name, reason }
        };
        skipped.iter().map(report).collect()
    }

    fn start(&self, from: Position, end_epoch: u64) -> Result<Batches> {
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
pub struct Batches {
    receiver: Option<Receiver<Result<ImageBatch>>>,
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    waited: Duration,
}

impl Batches {
    /// How long the consumer has waited for batches in all: near 0 if the data keep up with the model.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Ends the thread: it looks at the flag before every sample, and a thread that waits to hand over a batch fails to
    /// once the receiver is gone. Returns whether it panicked.
    fn finish(&mut self) -> bool {
        self.stop.store(true, Ordering::Relaxed);
        self.receiver = None;
        self.thread.take().is_some_and(|thread| thread.join().is_err())
    }
}

impl Iterator for Batches {
    type Item = Result<ImageBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let begin = Instant::now();
        let received = self.receiver.as_ref()?.recv();
        self.waited += begin.elapsed();
        match received {
            Ok(Ok(batch)) => Some(Ok(batch)),
            Ok(Err(error)) => {
                self.finish();
                Some(Err(error))
            }
            // The thread is done: at the end of the epoch, or by a panic, which must not look like the end.
            Err(_) => self.finish().then(|| {
                Err(Error::Device { during: "making a batch", message: "the loader's thread panicked".to_owned() })
            }),
        }
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        self.finish();
    }
}

/// The thread behind [`Batches`].
struct Producer {
    work: Arc<Work>,
    stop: Arc<AtomicBool>,
    sender: SyncSender<Result<ImageBatch>>,
}

impl Producer {
    fn run(self, from: Position, end_epoch: u64) {
        let mut first = from.batch;
        for epoch in from.epoch..end_epoch {
            let order = self.work.order(epoch);
            let mut empty = first == 0;
            for batch in first..self.work.batches_per_epoch() {
                let made = self.work.batch(&order, Position { epoch, batch }, &self.stop);
                match made.transpose() {
                    // Stopped.
                    None => return,
                    // Every photo of this batch was unreadable, and left out.
                    Some(Ok(batch)) if batch.indices.is_empty() => continue,
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
                let error = Error::argument("data.loader", "split", "a readable picture in an epoch", "none");
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
struct Work {
    split: Split,
    transform: Transform,
    options: LoaderOptions,
    pool: ThreadPool,
    /// The unreadable samples and why.
    skipped: Mutex<BTreeMap<u32, String>>,
    fingerprints: OnceLock<BTreeMap<u32, Fingerprint>>,
}

impl Work {
    fn batches_per_epoch(&self) -> usize {
        let (samples, size) = (self.split.len(), self.options.batch_size);
        if self.options.full_batches { samples / size } else { samples.div_ceil(size) }
    }

    /// The epoch's samples in their order, `u32[N]`.
    fn order(&self, epoch: u64) -> Vec<u32> {
        // `Split` has fewer than 2³² samples.
        let mut order: Vec<u32> = (0..self.split.len() as u32).collect();
        if self.options.shuffle {
            shuffle(&mut keyed(Purpose::Order, self.options.seed, [epoch, 0]), &mut order);
        }
        order
    }

    /// The batch at `position`; `None` if `stop` was raised meanwhile.
    fn batch(&self, order: &[u32], position: Position, stop: &AtomicBool) -> Result<Option<ImageBatch>> {
        let size = self.transform.sample_bytes();
        let start = position.batch * self.options.batch_size;
        let end = order.len().min(start + self.options.batch_size);
        let mut indices = order[start..end].to_vec();
        let mut images = vec![0; indices.len() * size];
        let outcomes: Option<Vec<Result<()>>> = self.pool.install(|| {
            let slots = images.par_chunks_exact_mut(size).zip(&indices);
            slots.map(|(slot, &sample)| self.sample_unless(stop, sample, position.epoch, slot)).collect()
        });
        let Some(outcomes) = outcomes else { return Ok(None) };

        // The next samples in the epoch's order, beyond this batch. That one may come again in a later batch is the
        // price for batches that do not depend on what was unreadable before them.
        let mut spare = order[end..].iter().chain(&order[..start]).copied();
        let mut unreadable = Vec::new();
        for (slot, outcome) in outcomes.into_iter().enumerate() {
            let Err(error) = outcome else { continue };
            self.skip(indices[slot], error)?;
            if !self.options.full_batches {
                unreadable.push(slot);
                continue;
            }
            let image = &mut images[slot * size..(slot + 1) * size];
            let Some(replacement) = self.replace(&mut spare, position.epoch, image, stop)? else { return Ok(None) };
            indices[slot] = replacement;
        }
        for slot in unreadable.into_iter().rev() {
            indices.remove(slot);
            images.drain(slot * size..(slot + 1) * size);
        }
        let labels: Vec<u32> = indices.iter().map(|&sample| self.split.labels()[sample as usize]).collect();
        let (side, seed) = (self.transform.size as usize, self.options.seed);
        let mixed = self
            .options
            .mix
            .and_then(|mix| self.pool.install(|| mix.apply(&mut images, &labels, side, seed, position)));
        Ok(Some(ImageBatch { images, labels, mixed, indices, position }))
    }

    /// Puts the first readable one of `spare` into `slot`; `None` if `stop` was raised meanwhile.
    fn replace(
        &self,
        spare: &mut impl Iterator<Item = u32>,
        epoch: u64,
        slot: &mut [u8],
        stop: &AtomicBool,
    ) -> Result<Option<u32>> {
        for sample in spare {
            match self.sample_unless(stop, sample, epoch, slot) {
                None => return Ok(None),
                Some(Ok(())) => return Ok(Some(sample)),
                Some(Err(error)) => self.skip(sample, error)?,
            }
        }
        let expected = "at most the number of readable pictures in the split";
        Err(Error::argument("data.loader", "batch_size", expected, self.options.batch_size))
    }

    /// Makes one sample, `slot` is `u8[3, S, S]`; `None` if `stop` is raised.
    fn sample_unless(&self, stop: &AtomicBool, sample: u32, epoch: u64, slot: &mut [u8]) -> Option<Result<()>> {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        let key = Key { seed: self.options.seed, epoch, sample };
        Some(self.split.image(sample).and_then(|image| self.transform.apply(&image, key, slot)))
    }

    /// Notes an unreadable photo, or passes its error on if that is wanted. Other errors are always passed on.
    fn skip(&self, sample: u32, error: Error) -> Result<()> {
        if self.options.strict || !matches!(error, Error::File { .. } | Error::Io { .. }) {
            return Err(error);
        }
        let mut skipped = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
        skipped.entry(sample).or_insert_with(|| {
            log::warn!("skipped: {error}");
            error.to_string()
        });
        Ok(())
    }
}
