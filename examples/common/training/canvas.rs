//! What drawings share.

use plotters::coord::Shift;
use plotters::prelude::*;

pub use super::font::register;

pub const BLUE: RGBColor = RGBColor(31, 90, 180);
pub const ORANGE: RGBColor = RGBColor(214, 96, 20);
pub const GREY: RGBColor = RGBColor(90, 90, 90);
pub const PALE: RGBColor = RGBColor(225, 225, 225);

/// A drawing, or a part of one, in pixels.
pub type Canvas<'a> = DrawingArea<BitMapBackend<'a>, Shift>;
