//! From a picture of any size to one training sample of `u8[3, S, S]`: cropping and resizing, mirroring, augmenting.

use serde::Serialize;

use super::augment::{AutoAugment, ColorJitter, RandomErasing};
use super::crop::Crop;
use super::image::Image;
use crate::data::random::{Purpose, below, keyed};
use crate::error::{Error, Result};
use crate::preprocess::Interpolation;

/// What a sample's augmentation depends on, and nothing else: not the thread, not the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The run's seed.
    pub seed: u64,
    /// The epoch, from 0.
    pub epoch: u64,
    /// The sample's number in its split.
    pub sample: u32,
}

/// How pictures become samples: cropped and resized, then mirrored, then augmented, in the order of the fields. Begin with
/// [`Transform::new`] and name what differs: `Transform { flip: true, ..Transform::new(224, Crop::Whole) }`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Transform {
    /// Side S of the sample in pixels: the model's input size.
    pub size: u32,
    /// Which part of the picture.
    pub crop: Crop,
    /// How that is resized.
    #[serde(skip_serializing_if = "Interpolation::is_default")]
    pub interpolation: Interpolation,
    /// Whether every second sample is mirrored, left to right.
    pub flip: bool,
    /// Random edits of shape and colour.
    pub auto_augment: AutoAugment,
    /// Random changes of the colours.
    pub color_jitter: Option<ColorJitter>,
    /// A random rectangle that is painted over.
    pub erasing: Option<RandomErasing>,
}

impl Transform {
    /// Largest [`Transform::size`].
    pub const MAX_SIZE: u32 = 4096;
    /// Largest padding of [`Crop::Pad`].
    pub const MAX_PAD: u32 = 1024;
    /// Smallest fraction of [`Crop::Center`], [`Crop::Squash`] and [`Crop::Random`].
    pub const MIN_FRACTION: f64 = 0.05;

    /// A crop, and nothing else.
    pub const fn new(size: u32, crop: Crop) -> Self {
        Transform {
            size,
            crop,
            interpolation: Interpolation::Bicubic,
            flip: false,
            auto_augment: AutoAugment::None,
            color_jitter: None,
            erasing: None,
        }
    }

    /// Bytes of a sample: 3 · S · S.
    pub fn sample_bytes(&self) -> usize {
        3 * self.size as usize * self.size as usize
    }

    /// Whether all settings are in range.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the setting.
    pub fn check(&self) -> Result<()> {
        let op = "data.transform";
        if !(1..=Self::MAX_SIZE).contains(&self.size) {
            return Err(Error::argument(op, "size", format!("in 1..={}", Self::MAX_SIZE), self.size));
        }
        self.crop.check(op)?;
        self.auto_augment.check(op)?;
        self.color_jitter.map_or(Ok(()), |jitter| jitter.check(op))?;
        self.erasing.map_or(Ok(()), |erasing| erasing.check(op))
    }

    /// Makes a sample of `image`: `sample` is `u8[3, S, S]`, channel first. Whatever is random is drawn by `key` from one
    /// stream: first the crop, then one draw for the mirror, then the augmentations that are set.
    ///
    /// # Errors
    /// [`Error::Argument`] if a setting is out of range or `sample` has the wrong length.
    pub fn apply(&self, image: &Image<'_>, key: Key, sample: &mut [u8]) -> Result<()> {
        self.check()?;
        if sample.len() != self.sample_bytes() {
            let expected = format!("{} bytes, 3 x {} x {}", self.sample_bytes(), self.size, self.size);
            return Err(Error::argument("data.transform", "sample", expected, sample.len()));
        }
        let mut rng = keyed(Purpose::Augment, key.seed, [key.epoch, u64::from(key.sample)]);
        let mut made = self.crop.cut(image, self.size, self.interpolation, &mut rng)?;
        if below(&mut rng, 2) == 1 && self.flip {
            mirror(&mut made);
        }
        self.auto_augment.apply(&mut made, &mut rng);
        if let Some(jitter) = self.color_jitter {
            jitter.apply(&mut made, &mut rng);
        }
        if let Some(erasing) = self.erasing {
            erasing.apply(&mut made, &mut rng);
        }
        channels_first(&made, sample);
        Ok(())
    }
}

/// Left to right.
fn mirror(image: &mut Image<'_>) {
    let row = image.width() as usize * 3;
    for row in image.pixels_mut().chunks_exact_mut(row) {
        // All bytes, then those of each pixel back.
        row.reverse();
        row.chunks_exact_mut(3).for_each(<[u8]>::reverse);
    }
}

/// `u8[S, S, 3]` to `u8[3, S, S]`.
fn channels_first(image: &Image<'_>, sample: &mut [u8]) {
    let plane = image.width() as usize * image.height() as usize;
    for (channel, plane) in sample.chunks_exact_mut(plane).enumerate() {
        for (value, &source) in plane.iter_mut().zip(image.pixels().iter().skip(channel).step_by(3)) {
            *value = source;
        }
    }
}
