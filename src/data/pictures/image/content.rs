//! What a file is, by its first bytes; what files are called.

use std::path::Path;

use ::image::{ImageFormat, guess_format};

/// What the names of pictures that are read may end in.
const ENDINGS: &[&str] = &[
    "jpg", "jpeg", "jpe", "jfif", "jif", "mpo", "png", "apng", "webp", "tif", "tiff", "gif", "bmp", "pbm", "pgm",
    "ppm", "pnm", "pam", "tga", "qoi",
];

/// What is found where a picture should be, and is not read: an offset, the bytes there, what it is, what to do.
const NOT_READ: &[(usize, &[u8], &str, &str)] = &[
    (4, b"ftypheic", "a HEIC picture", SAVE),
    (4, b"ftypheix", "a HEIC picture", SAVE),
    (4, b"ftypheim", "a HEIC picture", SAVE),
    (4, b"ftypheis", "a HEIC picture", SAVE),
    (4, b"ftyphevc", "a HEIC picture", SAVE),
    (4, b"ftypmif1", "a HEIF picture", SAVE),
    (4, b"ftypmsf1", "a HEIF picture", SAVE),
    (4, b"ftypavif", "an AVIF picture", SAVE),
    (4, b"ftypavis", "an AVIF picture", SAVE),
    (4, b"ftypcrx ", "a raw photo (Canon CR3)", SAVE),
    (4, b"ftyp", "a video", NO_PICTURE),
    (8, b"CR\x02", "a raw photo (Canon CR2)", SAVE),
    (0, b"II\x2b\0", "a BigTIFF picture", SAVE),
    (0, b"MM\0\x2b", "a BigTIFF picture", SAVE),
    (0, b"IIRO", "a raw photo (Olympus)", SAVE),
    (0, b"IIRS", "a raw photo (Olympus)", SAVE),
    (0, b"IIU\0", "a raw photo (Panasonic)", SAVE),
    (0, b"FUJIFILMCCD-RAW", "a raw photo (Fujifilm)", SAVE),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 picture", SAVE),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 picture", SAVE),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL picture", SAVE),
    (0, b"\xff\x0a", "a JPEG XL picture", SAVE),
    (0, b"8BPS", "a Photoshop document", SAVE),
    (0, b"\0\0\x01\0", "an icon", SAVE),
    (0, b"DDS ", "a DDS texture", SAVE),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR picture", SAVE),
    (0, b"#?RADIANCE", "a Radiance HDR picture", SAVE),
    (0, b"farbfeld", "a farbfeld picture", SAVE),
    (0, b"%PDF", "a PDF document", NO_PICTURE),
    (0, b"PK\x03\x04", "a ZIP archive", NO_PICTURE),
    (0, b"\x1f\x8b", "a gzip archive", NO_PICTURE),
    (0, b"version https://git-lfs", "a Git LFS pointer", "git lfs pull fetches the picture itself"),
];
const SAVE: &str = "it is not read, save it as JPEG or PNG";
const NO_PICTURE: &str = "it is no picture";

/// Whether the name ends like that of a picture which [`super::Image::open`] reads.
pub(crate) fn is_image_name(path: &Path) -> bool {
    ending(path).is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
}

/// What the name ends in, in small letters.
fn ending(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_ascii_lowercase())
}

/// The format of a file's bytes. The name decides only where the content has no signature (TGA). The error says in words
/// what the file is instead.
pub(super) fn recognise(bytes: &[u8], path: &Path) -> Result<ImageFormat, String> {
    // Said only where the name promises something else.
    let named = match ending(path) {
        Some(ending) if ENDINGS.contains(&ending.as_str()) => format!(", though it is named .{ending}"),
        _ => String::new(),
    };
    if bytes.is_empty() {
        return Err("is empty".to_owned());
    }
    if bytes.iter().all(|&byte| byte == 0) {
        return Err("holds nothing but zeros".to_owned());
    }
    let at = |offset: usize, signature: &[u8]| bytes.get(offset..).is_some_and(|rest| rest.starts_with(signature));
    if let Some((.., what, advice)) = NOT_READ.iter().find(|(offset, signature, ..)| at(*offset, signature)) {
        return Err(format!("is {what}{named}: {advice}"));
    }
    if is_markup(bytes) {
        return Err(format!("is no picture but a web page or an SVG drawing{named}"));
    }
    match guess_format(bytes) {
        Ok(format) => Ok(format),
        Err(_) if ending(path).as_deref() == Some("tga") => Ok(ImageFormat::Tga),
        Err(_) => Err(format!("is no picture of a kind that is read{named}")),
    }
}

/// Whether it begins like HTML or XML: what a server sends in place of a picture, or a drawing.
fn is_markup(bytes: &[u8]) -> bool {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    text.starts_with(b"<!") || text.starts_with(b"<?xml") || text.starts_with(b"<html") || text.starts_with(b"<svg")
}
