//! Pictures as what a loader makes batches of: decoded and augmented on several threads.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::identity::Identity;
use super::{Key, Mix, Split, Transform};
use crate::data::{ImageBatch, Source, Wanted};
use crate::error::{Error, Result};

const OP: &str = "data.images";

/// How an [`ImageSource`] makes batches.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ImageOptions {
    /// Whether an unreadable photo is an error. Else it is skipped and reported, see [`ImageSource::skipped`].
    pub strict: bool,
    /// Mixes the samples of each batch: for training.
    pub mix: Option<Mix>,
    /// Threads that decode and resize; 0 takes as many as the machine has cores. It changes the time, not the batches.
    pub threads: usize,
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

/// The pictures of a split, as a transform shows them.
#[derive(Debug)]
pub struct ImageSource {
    split: Split,
    transform: Transform,
    options: ImageOptions,
    pool: ThreadPool,
    /// The unreadable samples and why.
    skipped: Mutex<BTreeMap<u32, String>>,
    identity: OnceLock<Identity>,
}

impl ImageSource {
    /// A source with threads of its own.
    ///
    /// # Errors
    /// [`Error::Argument`] if a setting is out of range, [`Error::Device`] if the system has no threads to give.
    pub fn new(split: &Split, transform: Transform, options: ImageOptions) -> Result<Self> {
        transform.check()?;
        options.mix.map_or(Ok(()), Mix::check)?;
        let ImageOptions { threads, .. } = options;
        if threads > 1024 {
            return Err(Error::argument(OP, "threads", "at most 1024", threads));
        }
        let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(|n| format!("wgrad-data-{n}")).build();
        let pool = pool.map_err(|e| Error::Device { during: "starting the data threads", message: e.to_string() })?;
        let (skipped, identity) = (Mutex::default(), OnceLock::new());
        Ok(ImageSource { split: split.clone(), transform, options, pool, skipped, identity })
    }

    /// The photos that could not be read so far, each once, in order of their numbers. Each was also logged as a warning.
    pub fn skipped(&self) -> Vec<Skipped> {
        let skipped = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
        let report = |(&sample, reason): (&u32, &String)| {
            let (name, reason) = (self.split.name(sample), reason.clone());
            Skipped { sample, name, reason }
        };
        skipped.iter().map(report).collect()
    }

    fn own_identity(&self) -> &Identity {
        self.identity.get_or_init(|| Identity::new(&self.split, &self.transform, &self.options))
    }

    /// Puts the first readable one of `spare` into `slot`; `None` if stopped meanwhile.
    fn replace(
        &self,
        spare: &mut impl Iterator<Item = u32>,
        wanted: &Wanted<'_>,
        slot: &mut [u8],
    ) -> Result<Option<u32>> {
        for sample in spare {
            match self.sample_unless_stopped(wanted, sample, slot) {
                None => return Ok(None),
                Some(Ok(())) => return Ok(Some(sample)),
                Some(Err(error)) => self.skip(sample, error)?,
            }
        }
        let expected = "at most the number of readable pictures in the split";
        Err(Error::argument(OP, "batch_size", expected, wanted.samples.len()))
    }

    /// Makes one sample, `slot` is `u8[3, S, S]`; `None` if stopped.
    fn sample_unless_stopped(&self, wanted: &Wanted<'_>, sample: u32, slot: &mut [u8]) -> Option<Result<()>> {
        if wanted.is_stopped() {
            return None;
        }
        let key = Key { seed: wanted.seed, epoch: wanted.position.epoch, sample };
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

impl Source for ImageSource {
    type Batch = ImageBatch;

    fn len(&self) -> usize {
        self.split.len()
    }

    /// Options, transform, labels, the classes' names, and what tells each class's pictures from others. The first call looks
    /// at the files.
    fn identity(&self) -> String {
        self.own_identity().to_json()
    }

    fn difference(&self, saved: &str) -> Option<String> {
        self.own_identity().difference(saved)
    }

    fn check(&self, batch_size: usize) -> Result<()> {
        let bytes = batch_size.checked_mul(self.transform.sample_bytes());
        if bytes.is_none_or(|bytes| u32::try_from(bytes).is_err()) {
            let expected = format!("such that a batch is below 4 GiB at size {}", self.transform.size);
            return Err(Error::argument(OP, "batch_size", expected, batch_size));
        }
        Ok(())
    }

    fn make(&self, wanted: &Wanted<'_>) -> Result<Option<ImageBatch>> {
        let (size, position) = (self.transform.sample_bytes(), wanted.position);
        let mut indices = wanted.samples.to_vec();
        let mut images = vec![0; indices.len() * size];
        let outcomes: Option<Vec<Result<()>>> = self.pool.install(|| {
            let slots = images.par_chunks_exact_mut(size).zip(&indices);
            slots.map(|(slot, &sample)| self.sample_unless_stopped(wanted, sample, slot)).collect()
        });
        let Some(outcomes) = outcomes else { return Ok(None) };

        let mut spare = wanted.spare();
        let mut unreadable = Vec::new();
        for (slot, outcome) in outcomes.into_iter().enumerate() {
            let Err(error) = outcome else { continue };
            self.skip(indices[slot], error)?;
            if !wanted.is_full {
                unreadable.push(slot);
                continue;
            }
            let image = &mut images[slot * size..(slot + 1) * size];
            let Some(replacement) = self.replace(&mut spare, wanted, image)? else { return Ok(None) };
            indices[slot] = replacement;
        }
        for slot in unreadable.into_iter().rev() {
            indices.remove(slot);
            images.drain(slot * size..(slot + 1) * size);
        }
        let labels: Vec<u32> = indices.iter().map(|&sample| self.split.labels()[sample as usize]).collect();
        let side = self.transform.size as usize;
        let mix = |mix: Mix| self.pool.install(|| mix.apply(&mut images, &labels, side, wanted.seed, position));
        let mixed = self.options.mix.and_then(mix);
        Ok(Some(ImageBatch { images, labels, mixed, indices, position }))
    }
}
