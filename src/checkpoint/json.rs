//! Reading the small JSON files beside weights.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::quoted;
use crate::error::{Error, Result};

/// The largest JSON file that is read, in bytes. With the names of ImageNet's 21,843 classes such files take about 4 MB.
const MAX_JSON: u64 = 32 << 20;

/// The file's content, or `None` where there is no such file.
///
/// # Errors
/// [`Error::File`] if it is larger than [`MAX_JSON`], no regular file, or not JSON of this form; [`Error::Io`] if the system
/// refuses.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let metadata = match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        metadata => metadata.map_err(|e| Error::io(path, e))?,
    };
    if !metadata.is_file() {
        return Err(Error::file(path, "is not a regular file"));
    }
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let mut text = Vec::new();
    // One byte more than is allowed, so that a file which grows meanwhile shows.
    file.take(MAX_JSON + 1).read_to_end(&mut text).map_err(|e| Error::io(path, e))?;
    if text.len() as u64 > MAX_JSON {
        return Err(Error::file(
            path,
            format!("is larger than {MAX_JSON} bytes, the most that is read of such a file"),
        ));
    }
    let fault = |e: serde_json::Error| {
        let what = format!("not what such a file holds: {}", quoted(&e.to_string()));
        Error::File { path: path.to_owned(), offset: Some(position(&text, &e) as u64), what }
    };
    serde_json::from_slice(&text).map(Some).map_err(fault)
}

/// Where in `json` the parser stopped. It counts lines and columns from 1.
pub(super) fn position(json: &[u8], error: &serde_json::Error) -> usize {
    let mut line_starts = json.iter().enumerate().filter(|&(_, &byte)| byte == b'\n').map(|(i, _)| i + 1);
    let line_start = error.line().checked_sub(2).and_then(|n| line_starts.nth(n)).unwrap_or(0);
    line_start + error.column().saturating_sub(1)
}
