//! JPEG: the decoders and the colours.
//!
//! There are two. zune-jpeg takes three quarters of the time, but decodes part of what T.81 allows to wrong pixels, without
//! an error (scans of single channels, unusual sampling). So it gets the plain files, which are nearly all, and
//! jpeg-decoder the others. `docs/pictures.md` tells how each was compared with libjpeg.

use ::image::RgbImage;
use ::image::metadata::Orientation;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::MAX_SIDE;
use super::decode::{Decoded, check_size, orientation_of};
use super::segments::{self, Segments};

/// Decodes a JPEG; the error says in words what is wrong.
pub(super) fn decode(bytes: &[u8]) -> Result<Decoded, String> {
    let jpeg = segments::parse(bytes)?;
    check_size(jpeg.width, jpeg.height)?;
    let pixels = match decode_plain(&jpeg) {
        Some(pixels) => pixels,
        None => decode_any(&jpeg)?,
    };
    let pixels = RgbImage::from_raw(jpeg.width, jpeg.height, pixels).ok_or("the JPEG has another size than it says")?;
    let orientation = jpeg.exif.and_then(orientation_of).unwrap_or(Orientation::NoTransforms);
    let doubt = "has no end-of-image marker: if it was cut short, its last rows are wrong";
    Ok(Decoded { pixels, orientation, doubt: (!jpeg.ended).then_some(doubt) })
}

/// Decodes a plain file. In strict mode the decoder refuses what is damaged, and some things that are not; the other one
/// has the last word.
fn decode_plain(jpeg: &Segments<'_>) -> Option<Vec<u8>> {
    if !jpeg.plain {
        return None;
    }
    let options = DecoderOptions::default().set_strict_mode(true).jpeg_set_out_colorspace(ColorSpace::RGB);
    let options = options.set_max_width(MAX_SIDE as usize).set_max_height(MAX_SIDE as usize);
    JpegDecoder::new_with_options(ZCursor::new(jpeg.stream.as_slice()), options).decode().ok()
}

/// Decodes any file.
fn decode_any(jpeg: &Segments<'_>) -> Result<Vec<u8>, String> {
    let mut decoder = jpeg_decoder::Decoder::new(jpeg.stream.as_slice());
    decoder.set_color_transform(jpeg.colours);
    let samples = decoder.decode().map_err(|e| format!("the JPEG is damaged or cut short ({e})"))?;
    Ok(match jpeg.channels {
        1 => samples.iter().flat_map(|&grey| [grey; 3]).collect(),
        3 => samples,
        _ => samples.chunks_exact(4).flat_map(|ink| cmyk_to_rgb([ink[0], ink[1], ink[2], ink[3]])).collect(),
    })
}

/// Inks to light, as Pillow does it, which knows no ink profiles either: light = (1 − ink)·(1 − black).
fn cmyk_to_rgb([cyan, magenta, yellow, black]: [u8; 4]) -> [u8; 3] {
    let white = u32::from(255 - black);
    [cyan, magenta, yellow].map(|ink| ((u32::from(255 - ink) * white + 127) / 255) as u8)
}
