//! Which TIFFs would be decoded wrongly.

use std::io::Cursor;

use ::tiff::decoder::Decoder;
use ::tiff::tags::Tag;

/// Refuses what the decoder takes for something else, without an error of its own (TIFF 6.0, section 8 and "SampleFormat").
/// What it refuses itself is left to it.
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    const LOWEST_BIT_FIRST: u16 = 2;
    const REDUCED: u32 = 1;
    const UNSIGNED: u16 = 1;
    const FLOAT: u16 = 3;
    const UNSPECIFIED: u16 = 0;
    const PREMULTIPLIED: u16 = 1;

    let Ok(mut decoder) = Decoder::new(Cursor::new(bytes)) else {
        return Ok(());
    };
    if decoder.find_tag_unsigned(Tag::FillOrder).ok().flatten() == Some(LOWEST_BIT_FIRST) {
        return Err("is a TIFF whose bytes begin with their lowest bit (FillOrder 2): it is not read".to_owned());
    }
    if decoder.find_tag_unsigned(Tag::NewSubfileType).ok().flatten().is_some_and(|kind: u32| kind & REDUCED != 0) {
        return Err("is a raw photo: its first picture is a preview, and no other is read".to_owned());
    }
    let first = |list: Option<Vec<u16>>| list.and_then(|list| list.first().copied()).unwrap_or(1);
    let bits = first(decoder.find_tag_unsigned_vec(Tag::BitsPerSample).ok().flatten());
    let kind = first(decoder.find_tag_unsigned_vec(Tag::SampleFormat).ok().flatten());
    if kind != if bits > 16 { FLOAT } else { UNSIGNED } {
        let kind = if kind == FLOAT { "floats" } else { "integers" };
        return Err(format!(
            "is a TIFF of {bits}-bit {kind}: only unsigned integers up to 16 bits and 32-bit floats are read"
        ));
    }
    let extra: Vec<u16> = decoder.find_tag_unsigned_vec(Tag::ExtraSamples).ok().flatten().unwrap_or_default();
    if extra.first() == Some(&PREMULTIPLIED) {
        return Err(
            "is a TIFF whose colours are multiplied by their opacity (ExtraSamples 1): it is not read".to_owned()
        );
    }
    let mut number = |tag| decoder.find_tag_unsigned::<u32>(tag).ok().flatten();
    let is_chunky = number(Tag::PlanarConfiguration).unwrap_or(1) == 1;
    let is_simple = number(Tag::TileWidth).is_none() && number(Tag::Predictor).unwrap_or(1) == 1;
    let has_more = extra.len() > 1 || extra.first() == Some(&UNSPECIFIED);
    if is_chunky && has_more && !is_simple {
        return Err("is a TIFF with further channels in tiles or with a predictor: it is not read".to_owned());
    }
    Ok(())
}
