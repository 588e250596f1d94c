//! What tells a split's pictures from others without reading them all.

use std::collections::BTreeMap;
use std::fs;

use rayon::prelude::*;

use super::Split;
use super::duplicates::{TAIL, digest, hash_bytes};
use crate::mix::absorb;

/// Samples of each class whose content is looked at.
const READ: usize = 8;

impl Split {
    /// A hash of the samples of each class, by label: of the sizes of their files, in order, and of the content of the first few.
    /// Where a class has others, the hash is another one but for pictures of the very same sizes. It takes a look at each file.
    pub(super) fn fingerprints(&self) -> BTreeMap<u32, u64> {
        let mut by_class: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (sample, &label) in (0..).zip(self.labels()) {
            by_class.entry(label).or_default().push(sample);
        }
        let hash = |samples: Vec<u32>| {
            let words: Vec<u64> =
                samples.par_iter().enumerate().map(|(i, &sample)| self.word_of(sample, i < READ)).collect();
            words.into_iter().fold(0, absorb)
        };
        by_class.into_par_iter().map(|(label, samples)| (label, hash(samples))).collect()
    }

    /// A hash of a sample's content, or only of its file's size; 0 for what cannot be read.
    fn word_of(&self, sample: u32, is_read: bool) -> u64 {
        match self.file(sample) {
            Some(file) if is_read => digest(file, TAIL).unwrap_or_default(),
            Some(file) => fs::metadata(file).map_or(0, |about| about.len()),
            None if is_read => self.image(sample).map_or(0, |image| hash_bytes(0, image.pixels())),
            None => 0,
        }
    }
}
