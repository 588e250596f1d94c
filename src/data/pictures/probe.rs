//! Whether a split's pictures can be read, before a run depends on it.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::{Skipped, Split};

/// What [`Split::probe`] has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probe {
    /// Samples that were read.
    pub readable: usize,
    /// Samples that could not be read, in their order.
    pub unreadable: Vec<Skipped>,
    /// Classes that have samples, none of which can be read.
    pub lost: Vec<u32>,
}

impl Split {
    /// Reads samples, on all cores, until one of each class and `least` in all have been read, or none is left to try: what a
    /// run needs to know before it begins, at the price of about a batch. Pictures are decoded and dropped; only
    /// so many are tried, so others may be unreadable too.
    pub fn probe(&self, least: usize) -> Probe {
        let mut by_class: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (sample, &label) in (0..).zip(self.labels()) {
            by_class.entry(label).or_default().push(sample);
        }
        let mut probe = Probe::default();
        let tried: Vec<_> =
            by_class.into_par_iter().map(|(label, samples)| (label, self.first_readable(samples))).collect();
        let mut rest = Vec::new();
        for (label, FirstReadable { found, unreadable, untried }) in tried {
            probe.readable += usize::from(found);
            probe.lost.extend((!found).then_some(label));
            probe.unreadable.extend(unreadable);
            rest.extend(untried);
        }
        rest.sort_unstable();
        let mut rest = rest.as_slice();
        while probe.readable < least && !rest.is_empty() {
            let (next, later) = rest.split_at(rest.len().min(least - probe.readable));
            rest = later;
            let unreadable: Vec<Skipped> = next.par_iter().filter_map(|&sample| self.fault(sample)).collect();
            probe.readable += next.len() - unreadable.len();
            probe.unreadable.extend(unreadable);
        }
        probe.unreadable.sort_by_key(|skipped| skipped.sample);
        probe
    }

    fn first_readable(&self, mut samples: Vec<u32>) -> FirstReadable {
        let mut unreadable = Vec::new();
        let found = samples.iter().position(|&sample| match self.fault(sample) {
            Some(skipped) => {
                unreadable.push(skipped);
                false
            }
            None => true,
        });
        let untried = found.map_or_else(Vec::new, |at| samples.split_off(at + 1));
        FirstReadable { found: found.is_some(), unreadable, untried }
    }

    /// What keeps a sample from being read.
    fn fault(&self, sample: u32) -> Option<Skipped> {
        let error = self.image(sample).err()?;
        Some(Skipped { sample, name: self.name(sample), reason: error.to_string() })
    }
}

/// A class's samples up to the first that can be read.
struct FirstReadable {
    found: bool,
    unreadable: Vec<Skipped>,
    untried: Vec<u32>,
}
