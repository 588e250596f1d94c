//! Random erasing.

use rand_pcg::Pcg32;
use rand_pcg::rand_core::Rng;
use serde::Serialize;

use crate::data::Image;
use crate::data::pictures::crop::check_interval;
use crate::data::pictures::draw::{uniform, unit};
use crate::data::random::below;
use crate::error::{Error, Result};

/// Paints over a random rectangle of some samples (Zhong et al., 2017), as timm and torchvision do it: area and shape are
/// drawn up to ten times, until the rectangle is smaller than the sample; else the sample stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RandomErasing {
    /// The share of samples, 0 to 1.
    pub probability: f64,
    /// The least and the largest share of a sample's area.
    pub scale: (f64, f64),
    /// The least and the largest height divided by width, drawn evenly by its logarithm.
    pub ratio: (f64, f64),
    /// What the rectangle is filled with.
    pub fill: Fill,
}

/// What an erased rectangle shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum Fill {
    /// One colour. [`Normalize::mean_color`](crate::data::Normalize::mean_color) is 0 to the model, as timm's mode `const`.
    Colour([u8; 3]),
    /// Every value random, evenly from 0 to 255: what the paper found best. (timm's mode `pixel` draws from a normal
    /// distribution instead, after normalising.)
    Noise,
}

impl RandomErasing {
    /// timm's settings: 2% to a third of the area, sides up to 10 : 3, filled with noise.
    pub const fn new(probability: f64) -> Self {
        RandomErasing { probability, scale: (0.02, 1.0 / 3.0), ratio: (0.3, 1.0 / 0.3), fill: Fill::Noise }
    }

    pub(in crate::data) fn check(self, op: &'static str) -> Result<()> {
        if !(0.0..=1.0).contains(&self.probability) {
            return Err(Error::argument(op, "probability", "from 0 to 1", self.probability));
        }
        check_interval(op, "scale", self.scale, (f64::MIN_POSITIVE, 1.0))?;
        check_interval(op, "ratio", self.ratio, (0.01, 100.0))
    }

    /// Draws whether, then for each try an area and a ratio, then for the one that fits x, y and the noise.
    pub(in crate::data) fn apply(self, image: &mut Image<'_>, rng: &mut Pcg32) {
        const TRIES: usize = 10;
        if unit(rng) >= self.probability {
            return;
        }
        let (width, height) = (image.width(), image.height());
        for _ in 0..TRIES {
            let area = f64::from(width) * f64::from(height) * uniform(rng, self.scale);
            let ratio = uniform(rng, (self.ratio.0.ln(), self.ratio.1.ln())).exp();
            let [h, w] = [area * ratio, area / ratio].map(|square| square.sqrt().round_ties_even() as u32);
            if w < width && h < height {
                let left = below(rng, width - w + 1);
                let top = below(rng, height - h + 1);
                self.fill(image, [left, top, w, h].map(|at| at as usize), rng);
                return;
            }
        }
    }

    fn fill(self, image: &mut Image<'_>, [left, top, width, height]: [usize; 4], rng: &mut Pcg32) {
        let stride = image.width() as usize * 3;
        for row in image.pixels_mut().chunks_exact_mut(stride).skip(top).take(height) {
            for pixel in row[left * 3..(left + width) * 3].chunks_exact_mut(3) {
                let [red, green, blue, _] = match self.fill {
                    Fill::Colour([red, green, blue]) => [red, green, blue, 0],
                    Fill::Noise => rng.next_u32().to_le_bytes(),
                };
                pixel.copy_from_slice(&[red, green, blue]);
            }
        }
    }
}
