//! Which edits a sample gets.

use rand_pcg::Pcg32;
use serde::Serialize;

use super::Edit;
use crate::data::Image;
use crate::data::pictures::draw::uniform;
use crate::data::random::below;
use crate::error::{Error, Result};

/// Random edits from a list of fourteen: none, shear and translation along x and y, rotation, brightness, saturation,
/// contrast, sharpness, posterise, solarise, stretched contrast, equalisation. Strengths are torchvision's, 31 levels from
/// nothing to the most; the direction of signed ones is random.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum AutoAugment {
    /// No edits.
    #[default]
    None,
    /// TrivialAugment (Müller and Hutter, 2021), with its wide strengths: one edit, its level random. It has no setting
    /// and is seldom worse than those that have.
    Trivial,
    /// RandAugment (Cubuk et al., 2019): several edits, all of one level.
    Rand {
        /// How many, one after the other, at most [`AutoAugment::MAX_OPS`]; usually 2. The same may come again.
        ops: u32,
        /// The level, 0 to 30; usually 9.
        magnitude: u32,
    },
}

/// Levels of an edit's strength.
const LEVELS: u32 = 31;

/// Which edit, before its strength is known.
const KINDS: u32 = 14;

/// The largest strengths of a policy.
struct Space {
    shear: f32,
    /// Pixels along x and y.
    translate: [f32; 2],
    degrees: f32,
    /// How far the factors of brightness, saturation, contrast and sharpness leave 1.
    factor: f32,
    /// Bits that posterising takes away.
    bits: f32,
}

impl AutoAugment {
    /// Most edits of [`AutoAugment::Rand`].
    pub const MAX_OPS: u32 = 16;

    pub(in crate::data) fn check(self, op: &'static str) -> Result<()> {
        match self {
            AutoAugment::Rand { ops, .. } if ops > Self::MAX_OPS => {
                Err(Error::argument(op, "ops", format!("at most {}", Self::MAX_OPS), ops))
            }
            AutoAugment::Rand { magnitude, .. } if magnitude >= LEVELS => {
                Err(Error::argument(op, "magnitude", format!("below {LEVELS}"), magnitude))
            }
            _ => Ok(()),
        }
    }

    /// Draws kind, level (where it is random) and sign of each edit, and applies it.
    pub(in crate::data) fn apply(self, image: &mut Image<'_>, rng: &mut Pcg32) {
        let (ops, level) = match self {
            AutoAugment::None => return,
            AutoAugment::Trivial => (1, None),
            AutoAugment::Rand { ops, magnitude } => (ops, Some(magnitude)),
        };
        let space = self.space(image);
        for _ in 0..ops {
            let kind = below(rng, KINDS);
            let level = level.unwrap_or_else(|| below(rng, LEVELS));
            let negative = below(rng, 2) == 1;
            if let Some(edit) = space.edit(kind, level, negative) {
                edit.apply(image);
            }
        }
    }

    fn space(self, image: &Image<'_>) -> Space {
        match self {
            AutoAugment::Rand { .. } => Space {
                shear: 0.3,
                translate: [image.width(), image.height()].map(|side| (150.0 / 331.0 * f64::from(side)) as f32),
                degrees: 30.0,
                factor: 0.9,
                bits: 4.0,
            },
            _ => Space { shear: 0.99, translate: [32.0; 2], degrees: 135.0, factor: 0.99, bits: 6.0 },
        }
    }
}

impl Space {
    /// The edit of a kind, in torchvision's order; the first is none.
    fn edit(&self, kind: u32, level: u32, negative: bool) -> Option<Edit> {
        let signed = |most: f32| if negative { -strength(level, 0.0, most) } else { strength(level, 0.0, most) };
        Some(match kind {
            1 => Edit::ShearX(signed(self.shear)),
            2 => Edit::ShearY(signed(self.shear)),
            3 => Edit::TranslateX(signed(self.translate[0]) as i32),
            4 => Edit::TranslateY(signed(self.translate[1]) as i32),
            5 => Edit::Rotate(signed(self.degrees)),
            6 => Edit::Brightness(1.0 + signed(self.factor)),
            7 => Edit::Saturation(1.0 + signed(self.factor)),
            8 => Edit::Contrast(1.0 + signed(self.factor)),
            9 => Edit::Sharpness(1.0 + signed(self.factor)),
            10 => {
                let taken = level as f32 / ((LEVELS - 1) as f32 / self.bits);
                Edit::Posterize(8 - (taken.round_ties_even() as u32).min(8))
            }
            11 => Edit::Solarize(strength(level, 255.0, 0.0)),
            12 => Edit::AutoContrast,
            13 => Edit::Equalize,
            _ => return None,
        })
    }
}

/// Level `level` on the way from one strength to the other, rounded as `torch.linspace` does: in single precision, from
/// the nearer end.
fn strength(level: u32, from: f32, to: f32) -> f64 {
    let last = LEVELS - 1;
    let step = (to - from) / last as f32;
    let value = if level < LEVELS / 2 { from + step * level as f32 } else { to - step * (last - level) as f32 };
    f64::from(value)
}

/// Random changes of colour, as torchvision's `ColorJitter`: in random order, each by a random amount. A setting of 0
/// leaves its change out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ColorJitter {
    /// b: the factor of brightness is drawn from max(0, 1 − b) to 1 + b. timm's usual value for the first three is 0.4.
    pub brightness: f64,
    /// The same for contrast.
    pub contrast: f64,
    /// The same for saturation.
    pub saturation: f64,
    /// h, at most 1/2: the hue is turned by −h to h of a full turn.
    pub hue: f64,
}

impl ColorJitter {
    /// Largest value of the settings other than hue.
    pub const MAX_FACTOR: f64 = 100.0;

    pub(in crate::data) fn check(self, op: &'static str) -> Result<()> {
        let ColorJitter { brightness, contrast, saturation, hue } = self;
        let most = Self::MAX_FACTOR;
        for (name, value, most) in [
            ("brightness", brightness, most),
            ("contrast", contrast, most),
            ("saturation", saturation, most),
            ("hue", hue, 0.5),
        ] {
            if !(0.0..=most).contains(&value) {
                return Err(Error::argument(op, name, format!("from 0 to {most}"), value));
            }
        }
        Ok(())
    }

    /// Draws the order and all four amounts, whether used or not.
    pub(in crate::data) fn apply(self, image: &mut Image<'_>, rng: &mut Pcg32) {
        let mut order = [0, 1, 2, 3];
        crate::data::random::shuffle(rng, &mut order);
        let mut factor = |by: f64| uniform(rng, ((1.0 - by).max(0.0), 1.0 + by));
        let edits = [
            (self.brightness, Edit::Brightness(factor(self.brightness))),
            (self.contrast, Edit::Contrast(factor(self.contrast))),
            (self.saturation, Edit::Saturation(factor(self.saturation))),
            (self.hue, Edit::Hue(uniform(rng, (-self.hue, self.hue)))),
        ];
        for (setting, edit) in order.map(|which| edits[which as usize]) {
            if setting > 0.0 {
                edit.apply(image);
            }
        }
    }
}
