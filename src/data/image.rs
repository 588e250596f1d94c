//! A picture in memory, and how a photo becomes one.

use std::borrow::Cow;
use std::fs;
use std::io::Cursor;
use std::panic;
use std::path::Path;

use ::image::metadata::Orientation;
use ::image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use crate::error::{Error, Result};

/// Largest width and height that is decoded.
pub const MAX_SIDE: u32 = 32_768;
/// Largest number of pixels that is decoded: above today's 108-megapixel phones, below what exhausts a machine.
pub const MAX_PIXELS: u64 = 1 << 27;
/// Most bytes that the decoded picture may take before it is brought to RGB: 16-bit files take twice the usual.
const MAX_DECODED: u64 = 1 << 30;
/// Largest image file that is read, in bytes.
const MAX_FILE: u64 = 1 << 28;

/// A picture: `u8[height, width, 3]`, RGB, rows from the top. The pixels are owned or borrowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image<'a> {
    width: u32,
    height: u32,
    pixels: Cow<'a, [u8]>,
}

impl<'a> Image<'a> {
    /// A picture from its pixels, `u8[height, width, 3]`.
    ///
    /// # Errors
    /// [`Error::Argument`] if a side is 0 or above [`MAX_SIDE`], or the number of bytes does not fit the sides.
    pub fn new(width: u32, height: u32, pixels: impl Into<Cow<'a, [u8]>>) -> Result<Self> {
        let pixels = pixels.into();
        check_side("data.image", "width", width)?;
        check_side("data.image", "height", height)?;
        // Both sides are at most 2¹⁵, so this cannot overflow where usize has 32 bits.
        let expected = width as usize * height as usize * 3;
        if pixels.len() != expected {
            let expected = format!("{expected} bytes for {width} x {height} RGB");
            return Err(Error::argument("data.image", "pixels", expected, pixels.len()));
        }
        Ok(Image { width, height, pixels })
    }

    /// Reads and decodes a photo: JPEG, PNG, WebP, TIFF, GIF (first frame), BMP, PNM, TGA, ICO or QOI, recognised by
    /// its content. The Exif orientation is applied. Grey, alpha, palette, 16-bit and CMYK are brought to 8-bit RGB;
    /// alpha is dropped.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read. [`Error::File`] if it is no image, damaged, cut short, or larger
    /// than [`MAX_SIDE`] or [`MAX_PIXELS`]: that is known from the header, before memory is taken.
    pub fn open(path: &Path) -> Result<Image<'static>> {
        let bytes = read(path)?;
        // The decoders are other people's code and the bytes are anyone's: a decoder's bug is that file's error.
        let decoded = panic::catch_unwind(|| decode(&bytes, ImageFormat::from_path(path).ok()));
        match decoded {
            Ok(Ok(image)) => Ok(image),
            Ok(Err(what)) => Err(Error::file(path, what)),
            Err(_) => Err(Error::file(path, "the image decoder failed on it")),
        }
    }

    /// The same picture without a copy.
    pub fn borrowed(&self) -> Image<'_> {
        Image { width: self.width, height: self.height, pixels: Cow::Borrowed(&self.pixels) }
    }

    /// The same picture with pixels of its own; copied only if they are borrowed.
    pub fn into_owned(self) -> Image<'static> {
        Image { width: self.width, height: self.height, pixels: Cow::Owned(self.pixels.into_owned()) }
    }

    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The pixels, `u8[height, width, 3]`.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The pixels, to change; copied first if they are borrowed.
    pub fn pixels_mut(&mut self) -> &mut [u8] {
        self.pixels.to_mut()
    }
}

/// A side must be in 1..=[`MAX_SIDE`].
pub(crate) fn check_side(op: &'static str, name: &'static str, side: u32) -> Result<()> {
    if (1..=MAX_SIDE).contains(&side) {
        return Ok(());
    }
    Err(Error::argument(op, name, format!("in 1..={MAX_SIDE}"), side))
}

/// Whether the name ends like an image that [`Image::open`] reads.
pub(crate) fn is_image_name(path: &Path) -> bool {
    ImageFormat::from_path(path).is_ok_and(|format| format.reading_enabled())
}

/// The file's bytes. Only regular files: reading a pipe or a device might never end.
fn read(path: &Path) -> Result<Vec<u8>> {
    let about = fs::metadata(path).map_err(|e| Error::io(path, e))?;
    if !about.is_file() {
        return Err(Error::file(path, "is not a regular file"));
    }
    if about.len() > MAX_FILE {
        return Err(Error::file(path, format!("{} bytes are more than an image may have ({MAX_FILE})", about.len())));
    }
    fs::read(path).map_err(|e| Error::io(path, e))
}

/// Decodes a file's bytes; the error says in words what is wrong. `named` is the format that the name suggests, used
/// where the content has no signature (TGA).
fn decode(bytes: &[u8], named: Option<ImageFormat>) -> Result<Image<'static>, String> {
    let mut reader = ImageReader::new(Cursor::new(bytes));
    if let Some(format) = named {
        reader.set_format(format);
    }
    let mut reader = reader.with_guessed_format().map_err(|e| e.to_string())?;
    if reader.format() == Some(ImageFormat::Jpeg) && !bytes.starts_with(&[0xff, 0xd8]) {
        return Err("is no image, though it is named like a JPEG".to_owned());
    }
    if reader.format() == Some(ImageFormat::Jpeg) && !jpeg_is_complete(bytes) {
        return Err("the JPEG is cut short: it has no end-of-image marker".to_owned());
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODED);
    reader.limits(limits);

    let mut decoder = reader.into_decoder().map_err(|e| e.to_string())?;
    // Not every decoder obeys the limits, so they are checked here too.
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if width.max(height) > MAX_SIDE || pixels > MAX_PIXELS || decoder.total_bytes() > MAX_DECODED {
        return Err(format!("{width} x {height} pixels are more than is decoded ({MAX_PIXELS}, {MAX_SIDE} a side)"));
    }
    // Damaged metadata does not make the picture unreadable.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let decoded = DynamicImage::from_decoder(decoder).map_err(|e| e.to_string())?;
    let mut upright = DynamicImage::ImageRgb8(decoded.into_rgb8());
    upright.apply_orientation(orientation);
    let upright = upright.into_rgb8();
    Image::new(upright.width(), upright.height(), upright.into_raw()).map_err(|e| e.to_string())
}

/// Whether a JPEG reaches its end-of-image marker. The decoder fills what is missing with grey and reports success,
/// which would be trained on unseen.
///
/// The segments before the first scan are stepped over by their lengths, since a thumbnail inside them has an
/// end-of-image marker of its own. In the scans, FF D9 can only be that marker: a data byte FF is followed by 00.
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xda;
    const END_OF_IMAGE: [u8; 2] = [0xff, 0xd9];
    let mut at = 2;
    while let Some(&[0xff, marker, high, low]) = bytes.get(at..at + 4) {
        if marker == START_OF_SCAN {
            return bytes[at..].windows(2).rev().any(|pair| pair == END_OF_IMAGE);
        }
        // A marker may be preceded by any number of fill bytes FF; 01 and D0 to D7 stand alone, without a length.
        at += match marker {
            0xff => 1,
            0x01 | 0xd0..=0xd7 => 2,
            _ => 2 + usize::from(u16::from_be_bytes([high, low])),
        };
    }
    // Not laid out as segments at all: the decoder says what is wrong with it.
    bytes.get(at..at + 4).is_some()
}
