//! Labelled samples: in memory, or photos on disk.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::image::{Image, check_side};
use crate::data::random::{Purpose, keyed, shuffle};
use crate::error::{Error, Result};

/// Labelled samples of one purpose: training, validation or test. Cloning one, or taking a part of one, copies no
/// pixels.
#[derive(Clone, Debug)]
pub struct Split {
    store: Arc<Store>,
    /// u32[N]: where each sample lies in the store.
    rows: Arc<[u32]>,
    /// u32[N]: the class of each sample.
    labels: Arc<[u32]>,
    /// What the classes are called, if that is known.
    class_names: Arc<[String]>,
    /// Whether it was drawn from samples that might as well have become training samples.
    is_drawn: bool,
}

/// Where samples come from; splits of one data set share it.
#[derive(Debug)]
enum Store {
    /// `u8[rows, height, width, 3]`.
    Pixels { width: u32, height: u32, pixels: Vec<u8> },
    /// One photo a row.
    Files(Vec<PathBuf>),
}

impl Split {
    /// Samples in memory, all of one size: `pixels` is `u8[N, height, width, 3]`, `labels` is `u32[N]`.
    ///
    /// # Errors
    /// [`Error::Argument`] if a side is 0 or too large, or the lengths do not fit together.
    pub fn from_pixels(width: u32, height: u32, pixels: Vec<u8>, labels: Vec<u32>) -> Result<Self> {
        check_side("data.split", "width", width)?;
        check_side("data.split", "height", height)?;
        let expected = labels.len() as u128 * u128::from(width) * u128::from(height) * 3;
        if pixels.len() as u128 != expected {
            let expected = format!("{expected} bytes for {} RGB samples of {width} x {height}", labels.len());
            return Err(Error::argument("data.split", "pixels", expected, pixels.len()));
        }
        Self::new(Store::Pixels { width, height, pixels }, labels)
    }

    /// Photos on disk, decoded when they are needed, with a label for each.
    ///
    /// # Errors
    /// [`Error::Argument`] if there are not as many labels as files.
    pub fn from_files(files: Vec<PathBuf>, labels: Vec<u32>) -> Result<Self> {
        if files.len() != labels.len() {
            let expected = format!("one for each of {} files", files.len());
            return Err(Error::argument("data.split", "labels", expected, labels.len()));
        }
        Self::new(Store::Files(files), labels)
    }

    fn new(store: Store, labels: Vec<u32>) -> Result<Self> {
        let count = u32::try_from(labels.len())
            .map_err(|_| Error::argument("data.split", "samples", "fewer than 2^32", labels.len()))?;
        let (store, rows) = (Arc::new(store), (0..count).collect());
        Ok(Split { store, rows, labels: labels.into(), class_names: Arc::default(), is_drawn: false })
    }

    /// The same samples, of classes that are called so: a label is a place in this list. Parts of them inherit it.
    pub fn with_class_names(self, class_names: &[String]) -> Self {
        Split { class_names: class_names.into(), ..self }
    }

    /// What the classes are called. A label without a name here has none.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// How many samples there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The class of each sample, `u32[N]`.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// How many samples each class has, for `classes` classes. Labels from `classes` on do not count.
    pub fn class_counts(&self, classes: usize) -> Vec<usize> {
        let mut counts = vec![0; classes];
        for &label in self.labels.iter() {
            if let Some(count) = counts.get_mut(label as usize) {
                *count += 1;
            }
        }
        counts
    }

    /// Weights that make up for classes of different sizes, `f32[classes]`: N / (K·n), where n of the N samples are of that
    /// class and K classes have samples; 0 for those that have none. (scikit-learn's "balanced".) Over all samples their
    /// mean is 1. Labels from `classes` on do not count.
    pub fn class_weights(&self, classes: usize) -> Vec<f32> {
        let counts = self.class_counts(classes);
        let samples: usize = counts.iter().sum();
        let present = counts.iter().filter(|&&count| count > 0).count();
        let weight = |count: usize| samples as f64 / (present as f64 * count as f64);
        counts.into_iter().map(|count| if count == 0 { 0.0 } else { weight(count) as f32 }).collect()
    }

    /// Whether [`Split::divide`], or [`super::image_folder`] for want of a folder of its own, has drawn these samples from those
    /// to train on.
    pub fn is_drawn(&self) -> bool {
        self.is_drawn
    }

    /// A sample's file, if it has one.
    pub fn file(&self, sample: u32) -> Option<&Path> {
        match (&*self.store, self.rows.get(sample as usize)) {
            (Store::Files(files), Some(&row)) => Some(&files[row as usize]),
            _ => None,
        }
    }

    /// What a sample is called in messages: its file, or its number.
    pub fn name(&self, sample: u32) -> String {
        self.file(sample).map_or_else(|| format!("sample {sample}"), |file| file.display().to_string())
    }

    /// Where each sample lies in the store that the splits of a data set share, `u32[N]`.
    pub(super) fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// A sample's picture: borrowed if it is in memory, decoded if it is a file.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no such sample; what [`Image::open`] returns if it is a file.
    pub fn image(&self, sample: u32) -> Result<Image<'_>> {
        let row = *self.rows.get(sample as usize).ok_or_else(|| self.no_such(sample))? as usize;
        match &*self.store {
            Store::Files(files) => Image::open(&files[row]),
            Store::Pixels { width, height, pixels } => {
                let size = *width as usize * *height as usize * 3;
                Image::new(*width, *height, Cow::Borrowed(&pixels[row * size..(row + 1) * size]))
            }
        }
    }

    /// The samples with these numbers, in this order. They are numbered anew from 0.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no such sample.
    pub fn subset(&self, samples: &[u32]) -> Result<Split> {
        let pick = |&sample: &u32| {
            let at = sample as usize;
            let label = *self.labels.get(at).ok_or_else(|| self.no_such(sample))?;
            Ok((self.rows[at], label))
        };
        let (rows, labels): (Vec<_>, Vec<_>) =
            samples.iter().map(pick).collect::<Result<Vec<_>>>()?.into_iter().unzip();
        Ok(Split { rows: rows.into(), labels: labels.into(), ..self.clone() })
    }

    /// Divides the samples into training, validation and test, class by class: of a class of n samples, validation gets
    /// round(n · `validation`) and test round(n · `test`), drawn at random by `seed`; training gets the rest, which is
    /// never nothing. Within each split, samples keep their order.
    ///
    /// # Errors
    /// [`Error::Argument`] if a share is negative or the two leave nothing for training.
    pub fn divide(&self, validation: f64, test: f64, seed: u64) -> Result<[Split; 3]> {
        let shuffled = |label: u32, samples: &mut [u32]| {
            shuffle(&mut keyed(Purpose::Divide, seed, [u64::from(label), 0]), samples);
        };
        self.divide_ordered([validation, test], shuffled, |_, _| false)
    }

    /// As [`Split::divide`], by keys, `u64[N]`, in the place of a seed: validation gets the samples of a class with the
    /// largest keys, test those below them. So a sample's split hardly depends on which others there are. Samples of a class
    /// with equal keys stay together, even if that makes a part larger or smaller.
    pub(super) fn divide_by_keys(&self, validation: f64, test: f64, keys: &[u64]) -> Result<[Split; 3]> {
        let key = |sample: u32| keys.get(sample as usize).copied().unwrap_or_default();
        let sorted = |_: u32, samples: &mut [u32]| samples.sort_by_key(|&sample| key(sample));
        self.divide_ordered([validation, test], sorted, |a, b| key(a) == key(b))
    }

    /// Each class is put into an order by `arrange`, and the parts are cut off its end; two samples that `belong` together
    /// are not parted.
    fn divide_ordered(
        &self,
        shares: [f64; 2],
        arrange: impl Fn(u32, &mut [u32]),
        belong: impl Fn(u32, u32) -> bool,
    ) -> Result<[Split; 3]> {
        let [validation, test] = shares;
        if !(validation >= 0.0 && test >= 0.0 && validation + test < 1.0) {
            let got = format!("{validation} and {test}");
            return Err(Error::argument("data.split", "shares", "at least 0, with a sum below 1", got));
        }
        let mut by_class: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (sample, &label) in self.labels.iter().enumerate() {
            by_class.entry(label).or_default().push(sample as u32);
        }
        let mut parts = [Vec::new(), Vec::new(), Vec::new()];
        for (label, mut samples) in by_class {
            arrange(label, &mut samples);
            let count = samples.len() as f64;
            for (part, share) in [(1, validation), (2, test)] {
                let wanted = (count * share).round() as usize;
                // One stays: a class that is not trained on could never be recognised.
                let kept = samples.len().saturating_sub(wanted).max(1);
                let kept = whole_cut(&samples, kept, &belong);
                parts[part].extend(samples.drain(kept..));
            }
            parts[0].extend(samples);
        }
        parts.iter_mut().for_each(|part| part.sort_unstable());
        let drawn = |samples: &[u32]| Ok(Split { is_drawn: true, ..self.subset(samples)? });
        Ok([self.subset(&parts[0])?, drawn(&parts[1])?, drawn(&parts[2])?])
    }

    fn no_such(&self, sample: u32) -> Error {
        Error::argument("data.split", "sample", format!("below {}", self.len()), sample)
    }
}

/// The place nearest to `cut`, from 1 on, where no two neighbours that `belong` together are parted.
fn whole_cut(samples: &[u32], cut: usize, belong: impl Fn(u32, u32) -> bool) -> usize {
    let is_whole = |&at: &usize| at >= samples.len() || !belong(samples[at - 1], samples[at]);
    let down = (1..=cut.min(samples.len())).rev().find(is_whole);
    let up = (cut..=samples.len()).find(is_whole);
    match (down, up) {
        (Some(down), Some(up)) if cut - down > up - cut => up,
        (Some(down), _) => down,
        (None, up) => up.unwrap_or(cut),
    }
}
