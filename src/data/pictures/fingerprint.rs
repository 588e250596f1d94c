//! What tells a split's pictures from others without reading them all.

use std::collections::BTreeMap;
use std::fs;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Split;
use super::duplicates::{MOST, TAIL, digest};
use crate::hash::{absorb, hash_bytes};

/// Samples of each class whose content is looked at.
const READ: usize = 8;
/// In the place of a hash.
const UNREADABLE: u64 = 0;

/// What tells the samples of a class from others: but for those of the very same sizes, other samples have another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fingerprint {
    /// A hash of the sizes of the samples' files, in order, and of the content of the first ones.
    all: u64,
    /// A hash of each of those.
    first: Vec<u64>,
}

impl Fingerprint {
    /// Whether the two classes have a sample in common, as far as that is known.
    pub(crate) fn overlaps(&self, other: &Fingerprint) -> bool {
        self.first.iter().any(|sample| other.first.contains(sample))
    }
}

impl Split {
    /// The fingerprint of each class, by label. It takes a look at each file; of more than [`MOST`] only at the first ones of each
    /// class.
    pub(super) fn fingerprints(&self) -> BTreeMap<u32, Fingerprint> {
        let mut by_class: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (sample, &label) in (0..).zip(self.labels()) {
            by_class.entry(label).or_default().push(sample);
        }
        let looked_at = if self.len() > MOST { READ } else { usize::MAX };
        let fingerprint = |samples: Vec<u32>| {
            let samples = &samples[..samples.len().min(looked_at)];
            let mut words: Vec<u64> =
                samples.par_iter().enumerate().map(|(i, &sample)| self.word_of(sample, i < READ)).collect();
            let all = words.iter().copied().fold(0, absorb);
            words.truncate(READ);
            words.retain(|&word| word != UNREADABLE);
            Fingerprint { all, first: words }
        };
        by_class.into_par_iter().map(|(label, samples)| (label, fingerprint(samples))).collect()
    }

    /// A hash of a sample's content, or only of its file's size.
    fn word_of(&self, sample: u32, is_read: bool) -> u64 {
        match self.file(sample) {
            Some(file) if is_read => digest(file, TAIL).unwrap_or(UNREADABLE),
            Some(file) => fs::metadata(file).map_or(UNREADABLE, |about| about.len()),
            None if is_read => self.image(sample).map_or(UNREADABLE, |image| hash_bytes(0, image.pixels())),
            None => UNREADABLE,
        }
    }
}
