//! From a picture of any size to one training sample of `u8[3, S, S]`: resizing, cropping, mirroring.

use rand_pcg::Pcg32;

use super::image::Image;
use super::random::{Purpose, below, keyed};
use super::resize::Window;
use crate::error::{Error, Result};

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

/// What lies around a picture that is padded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// Black.
    Zero,
    /// The picture mirrored at its outermost pixels, which are not repeated.
    Reflect,
}

/// Which part of a picture becomes the sample.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Crop {
    /// All of it, its aspect ratio not kept: small pictures of one size, in evaluation.
    Whole,
    /// Padded by `pixels` on each side, a window of the original size at random, then as [`Crop::Whole`]: small
    /// pictures in training.
    Pad {
        /// How far the window can move each way, in the picture's own pixels.
        pixels: u32,
        /// What lies around the picture.
        padding: Padding,
    },
    /// The short side resized to floor(S / `fraction`), the window of S × S in the middle: photos in evaluation.
    Centre {
        /// timm's `crop_pct`: 0.875 takes 224 of 256.
        fraction: f64,
    },
    /// As [`Crop::Centre`], the window at random: photos in training.
    Random {
        /// As in [`Crop::Centre`].
        fraction: f64,
    },
}

/// How pictures become samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transform {
    /// Side S of the sample in pixels: the model's input size.
    pub size: u32,
    /// Which part of the picture.
    pub crop: Crop,
    /// Whether every second sample is mirrored, left to right.
    pub flip: bool,
}

impl Transform {
    /// Largest [`Transform::size`].
    pub const MAX_SIZE: u32 = 4096;
    /// Largest padding of [`Crop::Pad`].
    pub const MAX_PAD: u32 = 1024;
    /// Smallest fraction of [`Crop::Centre`] and [`Crop::Random`].
    pub const MIN_FRACTION: f64 = 0.05;

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
        match self.crop {
            Crop::Pad { pixels, .. } if pixels > Self::MAX_PAD => {
                Err(Error::argument(op, "pixels", format!("at most {}", Self::MAX_PAD), pixels))
            }
            Crop::Centre { fraction } | Crop::Random { fraction }
                if !(Self::MIN_FRACTION..=1.0).contains(&fraction) =>
            {
                Err(Error::argument(op, "fraction", format!("in {}..=1", Self::MIN_FRACTION), fraction))
            }
            _ => Ok(()),
        }
    }

    /// Makes a sample of `image`: `sample` is `u8[3, S, S]`, channel first. Whatever is random is drawn by `key`, in the
    /// order x, y, mirror; all three are drawn always.
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
        let cropped = self.cropped(image, &mut rng)?;
        let mirrored = below(&mut rng, 2) == 1 && self.flip;
        channels_first(&cropped, mirrored, sample);
        Ok(())
    }

    /// The chosen part of the picture at size S × S. Draws twice, whatever the kind.
    fn cropped<'a>(&self, image: &'a Image<'a>, rng: &mut Pcg32) -> Result<Image<'a>> {
        match self.crop {
            Crop::Whole => {
                choose(rng, 0, 0);
                self.fitted(image)
            }
            Crop::Pad { pixels, padding } => {
                let (right, down) = choose(rng, 2 * pixels, 2 * pixels);
                let shift = |by: u32| i64::from(by) - i64::from(pixels);
                Ok(self.fitted(&shifted(image, shift(right), shift(down), padding)?)?.into_owned())
            }
            Crop::Centre { fraction } => {
                let room = Room::new(image, self.size, fraction);
                choose(rng, 0, 0);
                // torchvision's CenterCrop rounds half to even, and so does this.
                let middle = |spare: u32| (f64::from(spare) / 2.0).round_ties_even() as u32;
                room.cut(image, self.size, middle(room.right), middle(room.down))
            }
            Crop::Random { fraction } => {
                let room = Room::new(image, self.size, fraction);
                let (right, down) = choose(rng, room.right, room.down);
                room.cut(image, self.size, right, down)
            }
        }
    }

    /// The whole picture at size S × S, borrowed if it already has that size.
    fn fitted<'a>(&self, image: &'a Image<'a>) -> Result<Image<'a>> {
        if (image.width(), image.height()) == (self.size, self.size) {
            return Ok(image.borrowed());
        }
        image.resize(self.size, self.size)
    }
}

/// A place in 0..=`right` and 0..=`down`.
fn choose(rng: &mut Pcg32, right: u32, down: u32) -> (u32, u32) {
    (below(rng, right.saturating_add(1)), below(rng, down.saturating_add(1)))
}

/// How far a window of S × S can move in the resized picture. That picture is never made: of a photo of 1 × 30,000
/// pixels it would take gigabytes.
struct Room {
    /// Source pixels for one pixel of the resized picture, along x and y.
    scale: [f64; 2],
    right: u32,
    down: u32,
}

impl Room {
    /// The short side becomes floor(size / fraction), the long side keeps the aspect ratio, rounded down: timm's
    /// evaluation transform.
    fn new(image: &Image<'_>, size: u32, fraction: f64) -> Room {
        let short = (f64::from(size) / fraction).floor();
        let [width, height] = [image.width(), image.height()].map(f64::from);
        let resized = [width, height].map(|side| (short * side / width.min(height)).floor());
        let room = |side: f64| (side as u32).saturating_sub(size);
        let scale = [width / resized[0], height / resized[1]];
        Room { scale, right: room(resized[0]), down: room(resized[1]) }
    }

    fn cut(&self, image: &Image<'_>, size: u32, right: u32, down: u32) -> Result<Image<'static>> {
        let [x, y] = self.scale;
        let side = f64::from(size);
        let window = Window { left: f64::from(right) * x, top: f64::from(down) * y, width: side * x, height: side * y };
        image.resize_window(window, size, size)
    }
}

/// The picture moved so that `right` and `down` become its left upper corner, at its own size.
fn shifted(image: &Image<'_>, right: i64, down: i64, padding: Padding) -> Result<Image<'static>> {
    let (width, height) = (i64::from(image.width()), i64::from(image.height()));
    let mut pixels = Vec::with_capacity(image.pixels().len());
    for y in down..down + height {
        for x in right..right + width {
            let source = match padding {
                Padding::Reflect => Some((reflect(x, width), reflect(y, height))),
                Padding::Zero => ((0..width).contains(&x) && (0..height).contains(&y)).then_some((x, y)),
            };
            let pixel = source.and_then(|(x, y)| {
                let at = (y * width + x) as usize * 3;
                image.pixels().get(at..at + 3)
            });
            pixels.extend_from_slice(pixel.unwrap_or(&[0; 3]));
        }
    }
    Image::new(image.width(), image.height(), pixels)
}

/// Brings a coordinate into 0..`length` by mirroring at the outermost pixels, as often as it takes.
fn reflect(x: i64, length: i64) -> i64 {
    if length == 1 {
        return 0;
    }
    let period = 2 * (length - 1);
    let x = x.rem_euclid(period);
    x.min(period - x)
}

/// `u8[S, S, 3]` to `u8[3, S, S]`, mirrored left to right if wanted.
fn channels_first(image: &Image<'_>, mirrored: bool, sample: &mut [u8]) {
    let width = image.width() as usize;
    let plane = width * image.height() as usize;
    for (channel, plane) in sample.chunks_exact_mut(plane).enumerate() {
        for (row, source) in plane.chunks_exact_mut(width).zip(image.pixels().chunks_exact(width * 3)) {
            let values = source.iter().skip(channel).step_by(3);
            for (value, &source) in row.iter_mut().zip(values) {
                *value = source;
            }
            if mirrored {
                row.reverse();
            }
        }
    }
}
