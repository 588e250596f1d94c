//! One change of a picture.

use super::{colour, shape};
use crate::data::Image;

/// One change of a picture, bit for bit as Pillow 13 makes it when torchvision asks for it. Moved pixels are the nearest
/// ones of the source, and what comes from outside the picture is black. Any value is possible; what makes no sense, NaN
/// among it, gives a picture without one.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Edit {
    /// Pixel (x, y) becomes that at (x + a·y, y).
    ShearX(f64),
    /// Pixel (x, y) becomes that at (x, y + a·x).
    ShearY(f64),
    /// Moves the picture right, by pixels.
    TranslateX(i32),
    /// Moves the picture down, by pixels.
    TranslateY(i32),
    /// Turns it about its middle, counter-clockwise, by degrees.
    Rotate(f64),
    /// From black (0) through the picture (1) and beyond.
    Brightness(f64),
    /// From grey (0) through the picture (1) and beyond; torchvision's `Color`.
    Saturation(f64),
    /// From its mean grey (0) through the picture (1) and beyond.
    Contrast(f64),
    /// From smoothed (0) through the picture (1) and beyond.
    Sharpness(f64),
    /// Turns the colour circle by this share of a full turn, −1/2 to 1/2.
    Hue(f64),
    /// Keeps this many of a value's 8 bits, the upper ones.
    Posterize(u32),
    /// Inverts the values that are not below this one, 0 to 256.
    Solarize(f64),
    /// Stretches each channel so that it reaches from 0 to 255.
    AutoContrast,
    /// Maps each channel so that its values are spread evenly.
    Equalize,
}

impl Edit {
    /// Changes `image`, which keeps its size.
    pub fn apply(self, image: &mut Image<'_>) {
        let [width, height] = [image.width(), image.height()].map(f64::from);
        match self {
            Edit::ShearX(by) => shape::affine(image, [1.0, by, 0.0, 0.0, 1.0, 0.0]),
            Edit::ShearY(by) => shape::affine(image, [1.0, 0.0, 0.0, by, 1.0, 0.0]),
            Edit::TranslateX(by) => shape::affine(image, [1.0, 0.0, -f64::from(by), 0.0, 1.0, 0.0]),
            Edit::TranslateY(by) => shape::affine(image, [1.0, 0.0, 0.0, 0.0, 1.0, -f64::from(by)]),
            Edit::Rotate(degrees) => shape::affine(image, shape::rotation(degrees, width / 2.0, height / 2.0)),
            Edit::Brightness(factor) => colour::brightness(image, factor),
            Edit::Saturation(factor) => colour::saturation(image, factor),
            Edit::Contrast(factor) => colour::contrast(image, factor),
            Edit::Sharpness(factor) => colour::sharpness(image, factor),
            Edit::Hue(turn) => colour::hue(image, turn),
            Edit::Posterize(bits) => colour::posterize(image, bits),
            Edit::Solarize(threshold) => colour::solarize(image, threshold),
            Edit::AutoContrast => colour::auto_contrast(image),
            Edit::Equalize => colour::equalize(image),
        }
    }
}
