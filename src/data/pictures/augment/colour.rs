//! Edits that change pixels' values, not their places.

use crate::data::Image;

/// Each value v becomes d + factor·(v − d), cut off at 0 and 255, fractions dropped: `degenerate` gives d of a pixel. In
/// single precision, as Pillow's `blend`.
fn blend(image: &mut Image<'_>, factor: f64, degenerate: impl Fn(&[u8]) -> [u8; 3]) {
    for pixel in image.pixels_mut().chunks_exact_mut(3) {
        let from = degenerate(pixel);
        for (value, from) in pixel.iter_mut().zip(from) {
            *value = between(from, *value, factor as f32);
        }
    }
}

fn between(from: u8, value: u8, factor: f32) -> u8 {
    let (from, value) = (f32::from(from), f32::from(value));
    (from + factor * (value - from)) as u8
}

/// The grey of a pixel, ITU-R 601-2 in 16-bit fixed point.
fn grey(pixel: &[u8]) -> u8 {
    let weighted = pixel.iter().zip([19_595, 38_470, 7_471]).map(|(&value, weight)| u32::from(value) * weight);
    ((weighted.sum::<u32>() + 0x8000) >> 16) as u8
}

pub(super) fn brightness(image: &mut Image<'_>, factor: f64) {
    blend(image, factor, |_| [0; 3]);
}

pub(super) fn saturation(image: &mut Image<'_>, factor: f64) {
    blend(image, factor, |pixel| [grey(pixel); 3]);
}

pub(super) fn contrast(image: &mut Image<'_>, factor: f64) {
    let pixels = image.pixels().chunks_exact(3);
    let count = pixels.len() as f64;
    let sum: u64 = pixels.map(|pixel| u64::from(grey(pixel))).sum();
    let mean = (sum as f64 / count + 0.5) as u8;
    blend(image, factor, |_| [mean; 3]);
}

/// The smoothed picture weighs a pixel 5 and its eight neighbours 1 each; the outermost pixels are not smoothed.
pub(super) fn sharpness(image: &mut Image<'_>, factor: f64) {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let source = image.pixels().to_vec();
    let row = width * 3;
    let pixels = image.pixels_mut();
    for y in 1..height.saturating_sub(1) {
        for at in y * row + 3..((y + 1) * row).saturating_sub(3) {
            let three =
                |middle: usize| [middle - 3, middle, middle + 3].map(|at| u32::from(source[at])).iter().sum::<u32>();
            let sum = three(at - row) + three(at) + three(at + row) + 4 * u32::from(source[at]);
            let smooth = ((2 * sum + 13) / 26) as u8;
            pixels[at] = between(smooth, source[at], factor as f32);
        }
    }
}

/// Replaces each value by its entry in the table of its channel.
fn map(image: &mut Image<'_>, tables: &[[u8; 256]; 3]) {
    for pixel in image.pixels_mut().chunks_exact_mut(3) {
        for (value, table) in pixel.iter_mut().zip(tables) {
            *value = table[usize::from(*value)];
        }
    }
}

/// The table of a function.
fn table(of: impl Fn(u8) -> u8) -> [u8; 256] {
    std::array::from_fn(|value| of(value as u8))
}

/// How many pixels have each value, by channel.
fn histograms(image: &Image<'_>) -> [[u32; 256]; 3] {
    let mut counts = [[0; 256]; 3];
    for pixel in image.pixels().chunks_exact(3) {
        for (&value, counts) in pixel.iter().zip(&mut counts) {
            counts[usize::from(value)] += 1;
        }
    }
    counts
}

pub(super) fn posterize(image: &mut Image<'_>, bits: u32) {
    let mask = !(0xff_u16 >> bits.min(8)) as u8;
    map(image, &[table(|value| value & mask); 3]);
}

pub(super) fn solarize(image: &mut Image<'_>, threshold: f64) {
    map(image, &[table(|value| if f64::from(value) < threshold { value } else { 255 - value }); 3]);
}

pub(super) fn auto_contrast(image: &mut Image<'_>) {
    let tables = histograms(image).map(|counts| {
        let low = counts.iter().position(|&count| count > 0).unwrap_or(0);
        let high = counts.iter().rposition(|&count| count > 0).unwrap_or(0);
        if high <= low {
            return table(|value| value);
        }
        let scale = 255.0 / (high - low) as f64;
        let offset = -(low as f64) * scale;
        table(|value| (f64::from(value) * scale + offset) as u8)
    });
    map(image, &tables);
}

/// A value becomes the number of pixels below it, in units of a 255th of those that are not of the highest value.
pub(super) fn equalize(image: &mut Image<'_>) {
    let tables = histograms(image).map(|counts| {
        let total: u32 = counts.iter().sum();
        let highest = counts.iter().rev().copied().find(|&count| count > 0).unwrap_or(0);
        let step = (total - highest) / 255;
        let mut below = step / 2;
        std::array::from_fn(|value| {
            let mapped = below.checked_div(step).map_or(value, |mapped| mapped.min(255) as usize);
            below += counts[value];
            mapped as u8
        })
    });
    map(image, &tables);
}

pub(super) fn hue(image: &mut Image<'_>, turn: f64) {
    // A hue is a byte, and a full turn 255: Pillow's. Negative shifts wrap around.
    let shift = (turn * 255.0) as i32 as u8;
    for pixel in image.pixels_mut().chunks_exact_mut(3) {
        let [hue, saturation, value] = to_hsv([pixel[0], pixel[1], pixel[2]]);
        pixel.copy_from_slice(&to_rgb([hue.wrapping_add(shift), saturation, value]));
    }
}

/// Hue, saturation and value in bytes, with Pillow's mixture of single and double precision, which decides roundings.
fn to_hsv([red, green, blue]: [u8; 3]) -> [u8; 3] {
    let (largest, least) = (red.max(green).max(blue), red.min(green).min(blue));
    if largest == least {
        return [0, 0, largest];
    }
    let range = f32::from(largest - least);
    let saturation = range / f32::from(largest);
    let [to_red, to_green, to_blue] = [red, green, blue].map(|channel| f32::from(largest - channel) / range);
    let sector = if red == largest {
        to_blue - to_green
    } else if green == largest {
        (2.0 + f64::from(to_red) - f64::from(to_blue)) as f32
    } else {
        (4.0 + f64::from(to_green) - f64::from(to_red)) as f32
    };
    let hue = ((f64::from(sector) / 6.0 + 1.0) % 1.0) as f32;
    [(f64::from(hue) * 255.0) as u8, (f64::from(saturation) * 255.0) as u8, largest]
}

/// Back from [`to_hsv`].
fn to_rgb([hue, saturation, value]: [u8; 3]) -> [u8; 3] {
    if saturation == 0 {
        return [value; 3];
    }
    let sector = f64::from(hue) * 6.0 / 255.0;
    let part = (sector - sector.floor()) as f32;
    let saturation = (f64::from(saturation) / 255.0) as f32;
    let less = |by: f64| (f64::from(value) * (1.0 - by)).round() as u8;
    let p = less(f64::from(saturation));
    let q = less(f64::from(saturation * part));
    let t = less(f64::from(saturation) * (1.0 - f64::from(part)));
    match sector.floor() as u32 % 6 {
        0 => [value, t, p],
        1 => [q, value, p],
        2 => [p, value, t],
        3 => [p, q, value],
        4 => [t, p, value],
        _ => [value, p, q],
    }
}
