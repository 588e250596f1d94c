//! Mixup and CutMix: samples of a batch mixed with each other, and their labels with them.

use rand_pcg::Pcg32;
use rayon::prelude::*;
use serde::Serialize;

use super::draw::{beta, unit};
use crate::data::Mixed;
use crate::data::Position;
use crate::data::random::{Purpose, below, keyed};
use crate::error::{Error, Result};

/// How samples are mixed: mixup (Zhang et al., 2018) blends a sample with its partner, CutMix (Yun et al., 2019) puts a
/// rectangle of the partner into it. As timm's `Mixup`: the partner of sample i of B is sample B − 1 − i, and the share λ
/// of the sample itself is drawn from Beta(α, α).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Mix {
    /// α of mixup, 0 for none; timm's recipes have 0.8. The smaller it is, the closer to one of the two.
    pub mixup_alpha: f64,
    /// α of CutMix, 0 for none; 1 is usual.
    pub cutmix_alpha: f64,
    /// How often anything is mixed, 0 to 1.
    pub probability: f64,
    /// Of that, how often it is CutMix, where both have an α.
    pub switch_probability: f64,
    /// Draws for every sample, where else the whole batch has one draw.
    pub per_sample: bool,
}

impl Default for Mix {
    /// timm's recipe for Vision Transformers: always one of both, equally often.
    fn default() -> Self {
        Mix { mixup_alpha: 0.8, cutmix_alpha: 1.0, probability: 1.0, switch_probability: 0.5, per_sample: false }
    }
}

/// What one sample becomes.
#[derive(Clone, Copy, PartialEq)]
enum Blend {
    /// Itself.
    Nothing,
    /// The own share, in units of 2⁻¹⁶, so that pixels and label are mixed by the same number.
    Mixup(u32),
    /// The rectangle that is the partner's: left, top, right, bottom.
    CutMix([usize; 4]),
}

/// 1 in the units of [`Blend::Mixup`].
const WHOLE: u32 = 1 << 16;

impl Mix {
    /// Largest α.
    pub const MAX_ALPHA: f64 = 1000.0;

    pub(super) fn check(self) -> Result<()> {
        const OP: &str = "data.mix";
        for (name, value, most) in [
            ("mixup_alpha", self.mixup_alpha, Self::MAX_ALPHA),
            ("cutmix_alpha", self.cutmix_alpha, Self::MAX_ALPHA),
            ("probability", self.probability, 1.0),
            ("switch_probability", self.switch_probability, 1.0),
        ] {
            if !(0.0..=most).contains(&value) {
                return Err(Error::argument(OP, name, format!("from 0 to {most}"), value));
            }
        }
        if self.mixup_alpha == 0.0 && self.cutmix_alpha == 0.0 {
            return Err(Error::argument(OP, "mixup_alpha", "above 0, or cutmix_alpha", 0));
        }
        Ok(())
    }

    /// Mixes a batch of `u8[B, 3, side, side]` in place. What is random depends on the seed and the batch's position; it
    /// is drawn before the samples are mixed, on as many threads as there are.
    pub(super) fn apply(
        self,
        images: &mut [u8],
        labels: &[u32],
        side: usize,
        seed: u64,
        position: Position,
    ) -> Option<Mixed> {
        let mut rng = keyed(Purpose::Mix, seed, [position.epoch, position.batch as u64]);
        let samples = labels.len();
        let draws = if self.per_sample { samples } else { 1 };
        let drawn: Vec<Blend> = (0..draws).map(|_| self.draw(side, &mut rng)).collect();
        if drawn.iter().all(|&blend| blend == Blend::Nothing) {
            return None;
        }
        let of = |sample: usize| drawn[if self.per_sample { sample } else { 0 }];
        let size = 3 * side * side;
        // The middle one of an odd number is its own partner, and stays.
        let (front, back) = images.split_at_mut(samples / 2 * size);
        let pairs = front.par_chunks_exact_mut(size).zip(back.par_chunks_exact_mut(size).rev());
        pairs.enumerate().for_each(|(sample, (one, other))| {
            let before = one.to_vec();
            of(sample).apply(one, other, side);
            of(samples - 1 - sample).apply(other, &before, side);
        });
        let labels = labels.iter().rev().copied().collect();
        Some(Mixed { labels, shares: (0..samples).map(|sample| of(sample).share(side)).collect() })
    }

    fn draw(self, side: usize, rng: &mut Pcg32) -> Blend {
        if unit(rng) >= self.probability {
            return Blend::Nothing;
        }
        let cut = unit(rng) < self.switch_probability;
        if self.mixup_alpha == 0.0 || (cut && self.cutmix_alpha > 0.0) {
            return Blend::cut(beta(rng, self.cutmix_alpha), side, rng);
        }
        Blend::Mixup((beta(rng, self.mixup_alpha) * f64::from(WHOLE)).round() as u32)
    }
}

impl Blend {
    /// A rectangle of 1 − λ of the area, its middle anywhere, so that it may be cut off at the edges.
    fn cut(lambda: f64, side: usize, rng: &mut Pcg32) -> Self {
        let half = ((side as f64 * (1.0 - lambda).sqrt()) as usize) / 2;
        let [x, y] = [(); 2].map(|()| below(rng, side as u32) as usize);
        let [left, top] = [x, y].map(|at| at.saturating_sub(half));
        let [right, bottom] = [x, y].map(|at| side.min(at + half));
        Blend::CutMix([left, top, right, bottom])
    }

    /// What is left of the own sample: of CutMix its actual area, which is more than λ where the rectangle is cut off.
    fn share(self, side: usize) -> f32 {
        match self {
            Blend::Nothing => 1.0,
            Blend::Mixup(own) => own as f32 / WHOLE as f32,
            Blend::CutMix([left, top, right, bottom]) => {
                (1.0 - ((right - left) * (bottom - top)) as f64 / (side * side) as f64) as f32
            }
        }
    }

    /// Both samples are `u8[3, side, side]`.
    fn apply(self, sample: &mut [u8], partner: &[u8], side: usize) {
        match self {
            Blend::Nothing => {}
            Blend::Mixup(own) => {
                for (value, &other) in sample.iter_mut().zip(partner) {
                    let sum = u32::from(*value) * own + u32::from(other) * (WHOLE - own);
                    *value = ((sum + WHOLE / 2) / WHOLE) as u8;
                }
            }
            Blend::CutMix([left, top, right, bottom]) => {
                for row in (0..3).flat_map(|channel| (top..bottom).map(move |y| (channel * side + y) * side)) {
                    sample[row + left..row + right].copy_from_slice(&partner[row + left..row + right]);
                }
            }
        }
    }
}
