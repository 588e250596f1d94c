//! Any format to RGB, upright, within limits.

use std::io::{Cursor, ErrorKind};
use std::path::Path;

use ::image::metadata::Orientation;
use ::image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};

use super::{Image, MAX_PIXELS, MAX_SIDE, content, jpeg, tiff};

/// Most bytes that the decoded picture may take before it is brought to RGB: 16-bit files take twice the usual.
const MAX_DECODED: u64 = 1 << 30;

/// What a decoder makes of a file.
pub(super) struct Decoded {
    pub pixels: RgbImage,
    /// How the pixels have to be turned.
    pub orientation: Orientation,
    /// What may be wrong with them.
    pub doubt: Option<&'static str>,
}

/// Decodes the bytes of the file at `path`, and says what may be wrong with the picture; the error says in words what is
/// wrong with the file.
pub(super) fn decode(bytes: &[u8], path: &Path) -> Result<(Image<'static>, Option<&'static str>), String> {
    let Decoded { pixels, orientation, doubt } = match content::recognise(bytes, path)? {
        ImageFormat::Jpeg => jpeg::decode(bytes)?,
        format => decode_as(format, bytes)?,
    };
    let mut upright = DynamicImage::ImageRgb8(pixels);
    upright.apply_orientation(orientation);
    let upright = upright.into_rgb8();
    let image = Image::new(upright.width(), upright.height(), upright.into_raw()).map_err(|e| e.to_string())?;
    Ok((image, doubt))
}

/// Refuses what is too large, before memory is taken for it.
pub(super) fn check_size(width: u32, height: u32) -> Result<(), String> {
    if width.max(height) > MAX_SIDE || u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(format!("{width} x {height} pixels are more than is decoded ({MAX_PIXELS}, {MAX_SIDE} a side)"));
    }
    Ok(())
}

/// Refuses a WebP of which less is there than its header says, or the header of a chunk of an extended one, as libwebp does: how it is
/// turned stands behind its pixels, the decoder would do without, and it takes the memory that a chunk says before it reads it.
fn check_riff(bytes: &[u8]) -> Result<(), String> {
    let size_at = |at: usize| bytes.get(at..)?.first_chunk().map(|size| u32::from_le_bytes(*size) as usize);
    let cut_short = || "is cut short".to_owned();
    let end =
        size_at(4).and_then(|size| size.checked_add(8)).filter(|&end| end <= bytes.len()).ok_or_else(cut_short)?;
    let is_extended = bytes.get(12..16) == Some(b"VP8X");
    let mut at = 12;
    while is_extended && at + 8 <= end {
        let size = size_at(at + 4).filter(|&size| size <= end - at - 8).ok_or_else(cut_short)?;
        at += 8 + size.next_multiple_of(2);
    }
    Ok(())
}

/// What a block of Exif says, behind the headers that some writers put before it, in other formats than JPEG too, and twice.
pub(super) fn orientation_of(exif: &[u8]) -> Option<Orientation> {
    const HEADER: &[u8] = b"Exif\0\0";
    let once = exif.strip_prefix(HEADER).unwrap_or(exif);
    Orientation::from_exif_chunk(once.strip_prefix(HEADER).unwrap_or(once))
}

/// Decodes all formats but JPEG.
fn decode_as(format: ImageFormat, bytes: &[u8]) -> Result<Decoded, String> {
    match format {
        ImageFormat::Tiff => tiff::check(bytes)?,
        ImageFormat::WebP => check_riff(bytes)?,
        _ => {}
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODED);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);

    let explain = |error: ImageError| match error {
        ImageError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => "is cut short".to_owned(),
        error => error.to_string(),
    };
    let mut decoder = reader.into_decoder().map_err(explain)?;
    // Not every decoder obeys the limits, so they are checked here too.
    let (width, height) = decoder.dimensions();
    check_size(width, height)?;
    if decoder.total_bytes() > MAX_DECODED {
        return Err(format!("takes {} bytes decoded, more than {MAX_DECODED}", decoder.total_bytes()));
    }
    // Damaged metadata does not make the picture unreadable.
    let exif = decoder.exif_metadata().ok().flatten();
    let told = exif.and_then(|exif| orientation_of(&exif));
    let orientation = told.or_else(|| decoder.orientation().ok()).unwrap_or(Orientation::NoTransforms);
    let pixels = DynamicImage::from_decoder(decoder).map_err(explain)?.into_rgb8();
    Ok(Decoded { pixels, orientation, doubt: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Once, twice or not at all behind the header.
    #[test]
    fn exif_behind_headers() {
        let exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        for headers in 0..3 {
            let block = [b"Exif\0\0".repeat(headers), exif.to_vec()].concat();
            assert_eq!(orientation_of(&block), Some(Orientation::Rotate90), "{headers}");
        }
    }
}
