//! Edits that move pixels.

use crate::data::Image;

/// Pixel (x, y) becomes the one at (a·x + b·y + c, d·x + e·y + f) of the picture as it was, its coordinates taken at the
/// middle of pixels; black where there is none. In 16.16 fixed point, as Pillow's `transform` does it: its rounding
/// decides which pixel is the nearest.
pub(super) fn affine(image: &mut Image<'_>, [a, b, c, d, e, f]: [f64; 6]) {
    // A picture has at most 2¹⁵ pixels a side, so that sums of these stay far below 2⁶³; NaN becomes 0.
    let fixed = |value: f64| ((value * 65536.0 + 0.5).floor() as i64).clamp(-(1 << 44), 1 << 44);
    let [along_x, along_y] = [[fixed(a), fixed(d)], [fixed(b), fixed(e)]];
    let [x0, y0] = [fixed(c + a * 0.5 + b * 0.5), fixed(f + d * 0.5 + e * 0.5)];
    let (width, height) = (image.width() as usize, image.height() as usize);
    let source = image.pixels().to_vec();
    let inside = |fixed: i64, length: usize| usize::try_from(fixed >> 16).ok().filter(|&at| at < length);
    for (row, y) in image.pixels_mut().chunks_exact_mut(width * 3).zip(0i64..) {
        let [mut source_x, mut source_y] = [x0 + along_y[0] * y, y0 + along_y[1] * y];
        for pixel in row.chunks_exact_mut(3) {
            match (inside(source_x, width), inside(source_y, height)) {
                (Some(x), Some(y)) => pixel.copy_from_slice(&source[(y * width + x) * 3..][..3]),
                _ => pixel.fill(0),
            }
            source_x += along_x[0];
            source_y += along_x[1];
        }
    }
}

/// The coefficients of [`affine`] that turn a picture counter-clockwise about (x, y).
pub(super) fn rotation(degrees: f64, x: f64, y: f64) -> [f64; 6] {
    let angle = -degrees.rem_euclid(360.0).to_radians();
    // So that a quarter turn moves whole pixels; Pillow does the same.
    let rounded = |value: f64| (value * 1e15).round() / 1e15;
    let [cos, sin] = [rounded(angle.cos()), rounded(angle.sin())];
    [cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y]
}
