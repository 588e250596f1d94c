//! A picture in memory, and how a photo becomes one.
//!
//! | file | holds |
//! |---|---|
//! | `content` | what a file is, by its first bytes; what files are called |
//! | `decode` | any format to RGB, upright, within limits |
//! | `jpeg` | JPEG: the decoders and the colours |
//! | `segments`, `frame` | what a JPEG is made of, and whether all of it is there |
//! | `tiff` | which TIFFs would be decoded wrongly |

mod content;
mod decode;
mod frame;
mod jpeg;
mod segments;
mod tiff;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs;
use std::panic;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::files::expect_regular;

pub(crate) use content::is_image_name;

/// Largest width and height that is decoded.
pub const MAX_SIDE: u32 = 32_768;
/// Largest number of pixels that is decoded: above today's 108-megapixel phones, below what exhausts a machine.
pub const MAX_PIXELS: u64 = 1 << 27;
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

    /// Reads and decodes a photo: JPEG, PNG, WebP, TIFF, GIF, BMP, PNM, TGA or QOI, recognised by its content,
    /// whatever it is called. Of several pictures in a file it is the first. The Exif orientation is applied.
    ///
    /// The pixels are those of `Image.open(path).convert("RGB")` in Pillow, but for rounding and for 16-bit grey, which
    /// Pillow clips and which is scaled here. Alpha is dropped: what is transparent shows the colour that is stored
    /// there. Colour profiles are not applied. `docs/pictures.md` has a table of all encodings.
    ///
    /// A picture is read whole or not at all. A JPEG without its end marker is read, with a warning, if its data are there.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read. [`Error::File`] if it is no picture; is one that is not read, such as
    /// HEIC, an arithmetic-coded JPEG, or a TIFF with a palette; is damaged or cut short; or is larger than
    /// [`MAX_SIDE`] or [`MAX_PIXELS`]: that is known from the header, before memory is taken.
    pub fn open(path: &Path) -> Result<Image<'static>> {
        let bytes = read(path)?;
        // The decoders are other people's code and the bytes are anyone's: a decoder's bug is that file's error.
        let decoded = panic::catch_unwind(|| decode::decode(&bytes, path));
        match decoded {
            Ok(Ok((image, doubt))) => {
                if let Some(doubt) = doubt {
                    warn_once(path, doubt);
                }
                Ok(image)
            }
            Ok(Err(what)) => Err(Error::file(path, what)),
            Err(_) => Err(Error::file(path, "its decoder failed on it")),
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

/// Warns of a picture the first time that it is read: training reads it once in every epoch.
fn warn_once(path: &Path, doubt: &str) {
    static WARNED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let mut warned = WARNED.lock().unwrap_or_else(PoisonError::into_inner);
    if warned.insert(path.to_owned()) {
        log::warn!("{}: {doubt}", path.display());
    }
}

/// The file's bytes.
fn read(path: &Path) -> Result<Vec<u8>> {
    let about = fs::metadata(path).map_err(|e| Error::io(path, e))?;
    expect_regular(path, &about)?;
    if about.len() > MAX_FILE {
        return Err(Error::file(path, format!("{} bytes are more than a picture may have ({MAX_FILE})", about.len())));
    }
    fs::read(path).map_err(|e| Error::io(path, e))
}
