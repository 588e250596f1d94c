//! Which part of a picture becomes the sample.

use rand_pcg::Pcg32;
use serde::Serialize;

use super::Transform;
use super::draw::uniform;
use super::image::Image;
use super::resize::{Part, Window};
use crate::data::random::below;
use crate::error::{Error, Result};
use crate::preprocess::{CropMode, Interpolation, resized_side};

/// What lies around a picture that is padded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Padding {
    /// Black.
    Zero,
    /// The picture mirrored at its outermost pixels, which are not repeated.
    Reflect,
}

/// Which part of a picture becomes the sample.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
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
    // As runs of before call it, whose data must stay theirs.
    #[serde(rename = "Centre")]
    Center {
        /// timm's `crop_pct`: 0.875 takes 224 of 256.
        fraction: f64,
    },
    /// Both sides resized to floor(S / `fraction`), whatever the aspect ratio, and the window of S × S in the middle: timm's `squash`,
    /// and what transformers' processors of ViT and DeiT do.
    Squash {
        /// As in [`Crop::Center`].
        fraction: f64,
    },
    /// As [`Crop::Center`], the window at random: photos in training.
    Random {
        /// As in [`Crop::Center`].
        fraction: f64,
    },
    /// A rectangle of random area and shape, resized to S × S: the crop that ImageNet models are trained with
    /// (Szegedy et al., 2015), as torchvision's and timm's `RandomResizedCrop`. An area and a ratio are drawn up to ten
    /// times, until the rectangle fits into the picture; after that the largest one in the middle that has an allowed
    /// ratio is taken.
    RandomResized {
        /// The least and the largest share of the picture's area: (0.08, 1) for training on many pictures, more than
        /// 0.08 for finetuning on few.
        scale: (f64, f64),
        /// The least and the largest width divided by height, drawn evenly by its logarithm: usually (3/4, 4/3).
        ratio: (f64, f64),
    },
}

impl Crop {
    /// That of evaluation, by what a checkpoint says of it.
    pub fn evaluation(mode: CropMode, fraction: f64) -> Self {
        match mode {
            CropMode::Center => Crop::Center { fraction },
            CropMode::Squash => Crop::Squash { fraction },
        }
    }

    /// What a checkpoint is to say of it, if it is that of evaluation: the mode, and the share of a side that is shown.
    pub fn mode_and_fraction(self) -> (CropMode, f64) {
        match self {
            Crop::Center { fraction } | Crop::Random { fraction } => (CropMode::Center, fraction),
            Crop::Squash { fraction } => (CropMode::Squash, fraction),
            Crop::Whole | Crop::Pad { .. } => (CropMode::Squash, 1.0),
            Crop::RandomResized { .. } => (CropMode::Center, 1.0),
        }
    }

    /// Whether the settings are in range.
    pub(super) fn check(self, op: &'static str) -> Result<()> {
        match self {
            Crop::Pad { pixels, .. } if pixels > Transform::MAX_PAD => {
                Err(Error::argument(op, "pixels", format!("at most {}", Transform::MAX_PAD), pixels))
            }
            Crop::Center { fraction } | Crop::Squash { fraction } | Crop::Random { fraction }
                if !(Transform::MIN_FRACTION..=1.0).contains(&fraction) =>
            {
                Err(Error::argument(op, "fraction", format!("in {}..=1", Transform::MIN_FRACTION), fraction))
            }
            Crop::RandomResized { scale, ratio } => {
                check_interval(op, "scale", scale, (f64::MIN_POSITIVE, 1.0))?;
                check_interval(op, "ratio", ratio, (0.01, 100.0))
            }
            _ => Ok(()),
        }
    }

    /// The chosen part of the picture at size `size` × `size`. The kinds other than [`Crop::RandomResized`] draw twice.
    pub(super) fn cut<'a>(
        self,
        image: &'a Image<'a>,
        size: u32,
        filter: Interpolation,
        rng: &mut Pcg32,
    ) -> Result<Image<'a>> {
        match self {
            Crop::Whole | Crop::Squash { fraction: 1.0 } => {
                choose(rng, 0, 0);
                fitted(image, size, filter)
            }
            Crop::Pad { pixels, padding } => {
                let (right, down) = choose(rng, 2 * pixels, 2 * pixels);
                let shift = |by: u32| i64::from(by) - i64::from(pixels);
                Ok(fitted(&shifted(image, shift(right), shift(down), padding)?, size, filter)?.into_owned())
            }
            Crop::Center { fraction } => {
                choose(rng, 0, 0);
                Room::new(image, size, fraction).cut_middle(image, size, filter)
            }
            Crop::Squash { fraction } => {
                choose(rng, 0, 0);
                Room::squashed(image, size, fraction).cut_middle(image, size, filter)
            }
            Crop::Random { fraction } => {
                let room = Room::new(image, size, fraction);
                let (right, down) = choose(rng, room.right, room.down);
                room.cut(image, size, filter, [right, down])
            }
            Crop::RandomResized { scale, ratio } => {
                let part = random_part([image.width(), image.height()], scale, ratio, rng);
                image.resize_part(part, size, size, filter)
            }
        }
    }
}

/// Both ends in `bounds`, and in order.
pub(super) fn check_interval(
    op: &'static str,
    name: &'static str,
    (low, high): (f64, f64),
    bounds: (f64, f64),
) -> Result<()> {
    if bounds.0 <= low && low <= high && high <= bounds.1 {
        return Ok(());
    }
    let expected = if bounds.0 == f64::MIN_POSITIVE { "above 0".to_owned() } else { format!("at least {}", bounds.0) };
    let expected = format!("ascending, {expected} and at most {}", bounds.1);
    Err(Error::argument(op, name, expected, format!("({low}, {high})")))
}

/// A place in 0..=`right` and 0..=`down`.
fn choose(rng: &mut Pcg32, right: u32, down: u32) -> (u32, u32) {
    (below(rng, right.saturating_add(1)), below(rng, down.saturating_add(1)))
}

/// The whole picture at size `size` × `size`, borrowed if it already has that size.
fn fitted<'a>(image: &'a Image<'a>, size: u32, filter: Interpolation) -> Result<Image<'a>> {
    if (image.width(), image.height()) == (size, size) {
        return Ok(image.borrowed());
    }
    image.resize(size, size, filter)
}

/// The rectangle of [`Crop::RandomResized`]. For each try an area and a ratio are drawn, for the one that fits its x and y.
fn random_part([width, height]: [u32; 2], scale: (f64, f64), ratio: (f64, f64), rng: &mut Pcg32) -> Part {
    const TRIES: usize = 10;
    let area = f64::from(width) * f64::from(height);
    for _ in 0..TRIES {
        let area = area * uniform(rng, scale);
        let ratio = uniform(rng, (ratio.0.ln(), ratio.1.ln())).exp();
        let [w, h] = [area * ratio, area / ratio].map(|square| square.sqrt().round_ties_even() as u32);
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            let (left, top) = choose(rng, width - w, height - h);
            return Part { left, top, width: w, height: h };
        }
    }
    let own = f64::from(width) / f64::from(height);
    let side = |length: f64, whole: u32| (length.round_ties_even() as u32).clamp(1, whole);
    let (w, h) = if own < ratio.0 {
        (width, side(f64::from(width) / ratio.0, height))
    } else if own > ratio.1 {
        (side(f64::from(height) * ratio.1, width), height)
    } else {
        (width, height)
    };
    Part { left: (width - w) / 2, top: (height - h) / 2, width: w, height: h }
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
        let short = resized_side(size as usize, fraction) as f64;
        let [width, height] = [image.width(), image.height()].map(f64::from);
        Room::of(image, size, [width, height].map(|side| (short * side / width.min(height)).floor()))
    }

    /// Both sides become floor(size / fraction).
    fn squashed(image: &Image<'_>, size: u32, fraction: f64) -> Room {
        Room::of(image, size, [resized_side(size as usize, fraction) as f64; 2])
    }

    /// In the picture resized to these sides.
    fn of(image: &Image<'_>, size: u32, resized: [f64; 2]) -> Room {
        let room = |side: f64| (side as u32).saturating_sub(size);
        let scale = [f64::from(image.width()) / resized[0], f64::from(image.height()) / resized[1]];
        Room { scale, right: room(resized[0]), down: room(resized[1]) }
    }

    /// The window in the middle: torchvision's CenterCrop rounds half to even, and so does this.
    fn cut_middle(&self, image: &Image<'_>, size: u32, filter: Interpolation) -> Result<Image<'static>> {
        let middle = |spare: u32| (f64::from(spare) / 2.0).round_ties_even() as u32;
        self.cut(image, size, filter, [middle(self.right), middle(self.down)])
    }

    /// The window so far to the right and down.
    fn cut(
        &self,
        image: &Image<'_>,
        size: u32,
        filter: Interpolation,
        [right, down]: [u32; 2],
    ) -> Result<Image<'static>> {
        let [x, y] = self.scale;
        let side = f64::from(size);
        let window = Window { left: f64::from(right) * x, top: f64::from(down) * y, width: side * x, height: side * y };
        image.resize_window(window, size, size, filter)
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
