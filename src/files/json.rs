//! Reading texts and JSON that must not be large.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::{expect_regular, position, quoted};
use crate::error::{Error, Result};

/// The largest JSON file that is read, in bytes. With the names of ImageNet's 21,843 classes such files take about 4 MB.
const MAX_JSON: u64 = 32 << 20;

/// The file's content, or `None` where there is no such file.
///
/// # Errors
/// [`Error::File`] if it is larger than [`MAX_JSON`], no regular file, or not JSON of this form; [`Error::Io`] if the system
/// refuses.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    json_text(path)?.map(|text| parse_json(path, &text)).transpose()
}

/// What [`read_json`] would parse.
///
/// # Errors
/// As [`read_json`], but for the form.
pub(crate) fn json_text(path: &Path) -> Result<Option<Vec<u8>>> {
    read_limited(path, MAX_JSON)
}

/// What JSON from `path` says.
///
/// # Errors
/// [`Error::File`] if it is not of this form.
pub(crate) fn parse_json<T: DeserializeOwned>(path: &Path, text: &[u8]) -> Result<T> {
    serde_json::from_slice(text).map_err(|e| {
        let what = format!("not what such a file holds: {}", quoted(&e.to_string()));
        Error::File { path: path.to_owned(), offset: Some(position(text, &e) as u64), what }
    })
}

/// The file's text, or `None` where there is no such file.
///
/// # Errors
/// [`Error::File`] if it has more than `limit` bytes, is no regular file, or not UTF-8; [`Error::Io`] if the system refuses.
#[cfg(any(feature = "text", feature = "pictures"))]
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<Option<String>> {
    let Some(bytes) = read_limited(path, limit)? else { return Ok(None) };
    String::from_utf8(bytes).map(Some).map_err(|e| {
        let offset = Some(e.utf8_error().valid_up_to() as u64);
        Error::File { path: path.to_owned(), offset, what: "is not UTF-8".to_owned() }
    })
}

/// The bytes of a file of at most `limit` bytes, or `None` where there is no such file.
fn read_limited(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let metadata = match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        metadata => metadata.map_err(|e| Error::io(path, e))?,
    };
    expect_regular(path, &metadata)?;
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let mut bytes = Vec::new();
    // One byte more than is allowed, so that a file which grows meanwhile shows.
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| Error::io(path, e))?;
    if bytes.len() as u64 > limit {
        return Err(Error::file(path, format!("is larger than {limit} bytes, the most that is read of such a file")));
    }
    Ok(Some(bytes))
}
