//! Resizing, bit for bit as Pillow's `Image.resize(size, BICUBIC)` and `BILINEAR`: what timm, transformers and torchvision feed their models.
//!
//! The filters along one axis are those of [`crate::resample`]. The two axes are resized one after the other, and in between
//! values are rounded to 8 bits and cut off at 0 and 255. So their order shows. It is that of Pillow 13; earlier ones always
//! began with the columns.

use super::image::{Image, check_side};
use crate::error::{Error, Result};
use crate::preprocess::Interpolation;
use crate::resample::Axis;

/// Weights are integers in units of 2⁻²². A sum of weights is 1 and the sum of their magnitudes below 2, so that a
/// weighted sum of bytes stays below 2³¹.
const WEIGHT_BITS: u32 = 22;

/// A rectangle in a source picture, in pixels that need not be whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// Distance from the left edge.
    pub left: f64,
    /// Distance from the top edge.
    pub top: f64,
    /// Width.
    pub width: f64,
    /// Height.
    pub height: f64,
}

/// A rectangle of whole pixels in a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Distance from the left edge.
    pub left: u32,
    /// Distance from the top edge.
    pub top: u32,
    /// Width, at least 1.
    pub width: u32,
    /// Height, at least 1.
    pub height: u32,
}

impl Image<'_> {
    /// The whole picture, resized to `width` × `height`. The aspect ratio is not kept.
    ///
    /// # Errors
    /// [`Error::Argument`] if a side is 0 or above [`super::MAX_SIDE`].
    pub fn resize(&self, width: u32, height: u32, filter: Interpolation) -> Result<Image<'static>> {
        let all = Window { left: 0.0, top: 0.0, width: f64::from(self.width()), height: f64::from(self.height()) };
        self.resize_window(all, width, height, filter)
    }

    /// A window of the picture, resized to `width` × `height`. Pixels around the window take part where the kernel
    /// reaches them, so this equals resizing the whole picture and then cropping, at the cost of the crop alone.
    ///
    /// # Errors
    /// [`Error::Argument`] if a side is 0 or above [`super::MAX_SIDE`], or the window is empty or leaves the picture.
    pub fn resize_window(
        &self,
        window: Window,
        width: u32,
        height: u32,
        filter: Interpolation,
    ) -> Result<Image<'static>> {
        check_side("data.resize", "width", width)?;
        check_side("data.resize", "height", height)?;
        let columns = axis("window width", self.width(), window.left, window.width, width, filter)?;
        let rows = axis("window height", self.height(), window.top, window.height, height, filter)?;

        let rows_first = rows_first([self.width(), self.height()], window, width, height);
        self.resample((0, 0, self.width()), &columns, &rows, rows_first)
    }

    /// A part of the picture, cut out and resized to `width` × `height`. Unlike with [`Image::resize_window`] nothing
    /// around the part has a share in it, as if the part were a picture of its own; it is not copied.
    ///
    /// # Errors
    /// [`Error::Argument`] if a side is 0 or above [`super::MAX_SIDE`], or the part is empty or leaves the picture.
    pub fn resize_part(&self, part: Part, width: u32, height: u32, filter: Interpolation) -> Result<Image<'static>> {
        check_side("data.resize", "width", width)?;
        check_side("data.resize", "height", height)?;
        let fits = |start: u32, length: u32, whole: u32| {
            length > 0 && start.checked_add(length).is_some_and(|end| end <= whole)
        };
        if !fits(part.left, part.width, self.width()) || !fits(part.top, part.height, self.height()) {
            let expected = format!("a part of {} x {} pixels", self.width(), self.height());
            return Err(Error::argument("data.resize", "part", expected, format!("{part:?}")));
        }
        let [part_width, part_height] = [part.width, part.height].map(f64::from);
        let columns = axis("part width", part.width, 0.0, part_width, width, filter)?;
        let rows = axis("part height", part.height, 0.0, part_height, height, filter)?;
        let whole = Window { left: 0.0, top: 0.0, width: part_width, height: part_height };
        let rows_first = rows_first([part.width, part.height], whole, width, height);
        self.resample((part.left, part.top, part.width), &columns, &rows, rows_first)
    }

    /// Resizes both axes; their pixels count from `left` and `top`, and of each row only `width` pixels are there.
    fn resample(
        &self,
        (left, top, width): (u32, u32, u32),
        columns: &Axis<i32>,
        rows: &Axis<i32>,
        rows_first: bool,
    ) -> Result<Image<'static>> {
        // Only the source rows that are needed.
        let first = rows.taps.iter().map(|taps| taps.start).min().unwrap_or(0);
        let end = rows.taps.iter().map(|taps| taps.start + taps.count).max().unwrap_or(0);
        let (stride, top) = (self.width() as usize * 3, top as usize);
        let pixels = &self.pixels()[(top + first) * stride..(top + end) * stride];
        let source = Rows { pixels, stride, left: left as usize * 3, length: width as usize * 3 };
        let output = if rows_first {
            let resized = resize_rows(&source, first, rows);
            resize_columns(&Rows::all(&resized, source.length), columns)
        } else {
            let resized = resize_columns(&source, columns);
            resize_rows(&Rows::all(&resized, columns.taps.len() * 3), first, rows)
        };
        Image::new(columns.taps.len() as u32, rows.taps.len() as u32, output)
    }
}

/// Pillow begins with the rows if the whole picture loses rows, and more than twice as many as columns.
fn rows_first([whole_width, whole_height]: [u32; 2], window: Window, width: u32, height: u32) -> bool {
    let lost = |source: u32, length: f64, size: u32| {
        let source = f64::from(source);
        source - (source * f64::from(size) / length).round()
    };
    let rows = lost(whole_height, window.height, height);
    rows > 0.0 && rows > 2.0 * lost(whole_width, window.width, width)
}

/// Rows of pixels, `u8[H, W, 3]`, or a part of each.
struct Rows<'a> {
    pixels: &'a [u8],
    /// Bytes from one row to the next.
    stride: usize,
    /// The first byte of the part, and how many it has.
    left: usize,
    length: usize,
}

impl<'a> Rows<'a> {
    fn all(pixels: &'a [u8], stride: usize) -> Self {
        Rows { pixels, stride, left: 0, length: stride }
    }

    fn count(&self) -> usize {
        self.pixels.len() / self.stride
    }

    fn row(&self, y: usize) -> &'a [u8] {
        &self.pixels[y * self.stride + self.left..][..self.length]
    }
}

/// `u8[H, W, 3]` to `u8[H, width, 3]`.
fn resize_columns(source: &Rows<'_>, columns: &Axis<i32>) -> Vec<u8> {
    let output_row = columns.taps.len() * 3;
    let mut output = vec![0; source.count() * output_row];
    for (y, output) in output.chunks_exact_mut(output_row).enumerate() {
        let source = source.row(y);
        for (pixel, taps) in output.chunks_exact_mut(3).zip(&columns.taps) {
            let pixels = source[taps.start * 3..(taps.start + taps.count) * 3].chunks_exact(3);
            let mut sums = [HALF; 3];
            for (source, &weight) in pixels.zip(columns.weights(taps)) {
                for (sum, &value) in sums.iter_mut().zip(source) {
                    *sum += weight * i32::from(value);
                }
            }
            for (value, sum) in pixel.iter_mut().zip(sums) {
                *value = to_byte(sum);
            }
        }
    }
    output
}

/// `u8[H, W, 3]` to `u8[height, W, 3]`; `first` is the number that its taps give the source's first row.
fn resize_rows(source: &Rows<'_>, first: usize, rows: &Axis<i32>) -> Vec<u8> {
    let mut output = vec![0; rows.taps.len() * source.length];
    let mut sums = vec![0; source.length];
    for (output, taps) in output.chunks_exact_mut(source.length).zip(&rows.taps) {
        sums.fill(HALF);
        for (tap, &weight) in rows.weights(taps).iter().enumerate() {
            for (sum, &value) in sums.iter_mut().zip(source.row(taps.start - first + tap)) {
                *sum += weight * i32::from(value);
            }
        }
        for (value, &sum) in output.iter_mut().zip(&sums) {
            *value = to_byte(sum);
        }
    }
    output
}

/// Makes the shift in [`to_byte`] round to nearest.
const HALF: i32 = 1 << (WEIGHT_BITS - 1);

/// A weighted sum as a byte: the cubic kernel overshoots at edges, what leaves 0..=255 is cut off.
fn to_byte(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

/// How one axis is resized, with weights in units of 2⁻²².
fn axis(
    name: &'static str,
    source: u32,
    start: f64,
    length: f64,
    size: u32,
    filter: Interpolation,
) -> Result<Axis<i32>> {
    // A window computed from a ratio may stick out by rounding errors; NaN fails every comparison.
    if !(start >= 0.0 && length > 0.0 && start + length <= f64::from(source) * (1.0 + 1e-9)) {
        let expected = format!("a positive length inside the picture's {source} pixels");
        return Err(Error::argument("data.resize", name, expected, format!("{length} from {start}")));
    }
    let unit = f64::from(1u32 << WEIGHT_BITS);
    let axis = Axis::new(source as usize, start, length, size as usize, filter);
    Ok(axis.map(|weight| (weight * unit).round() as i32))
}
