//! Files, read within limits and written whole or not at all.
//!
//! | file | holds |
//! |---|---|
//! | `json` | texts and JSON of limited size |
//! | `replace` | new content for a path, as a whole or not at all |
//!
//! Without the feature `files` only what checkpoints need of it is left: what is no file, and what messages say of a
//! file's content.

#[cfg(feature = "files")]
mod json;
#[cfg(feature = "files")]
mod replace;

#[cfg(any(feature = "text", feature = "pictures"))]
pub(crate) use json::read_text;
#[cfg(feature = "files")]
pub(crate) use json::{json_text, parse_json, read_json};
#[cfg(feature = "files")]
pub(crate) use replace::{replace_file, sync_folder, temporary_file};

use std::fs::Metadata;
use std::path::Path;

use crate::error::{Error, Result};

/// Whether `about` is of a regular file: to read a pipe or a device might never end.
///
/// # Errors
/// [`Error::File`] naming `path`.
pub(crate) fn expect_regular(path: &Path, about: &Metadata) -> Result<()> {
    if about.is_file() { Ok(()) } else { Err(Error::file(path, "is not a regular file")) }
}

/// The folder that `path` lies in: the current one for a name by itself.
#[cfg(feature = "files")]
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// How much of a name, or of a parser's complaint, a message repeats.
const MAX_QUOTED: usize = 200;

/// Text from a file, for a message: without control characters, and cut to a bearable length.
pub(crate) fn quoted(text: &str) -> String {
    let mut short: String =
        text.chars().take(MAX_QUOTED).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(MAX_QUOTED).is_some() {
        short.push('…');
    }
    short
}

/// Where in `json` the parser stopped. It counts lines and columns from 1.
pub(crate) fn position(json: &[u8], error: &serde_json::Error) -> usize {
    let mut line_starts = json.iter().enumerate().filter(|&(_, &byte)| byte == b'\n').map(|(i, _)| i + 1);
    let line_start = error.line().checked_sub(2).and_then(|n| line_starts.nth(n)).unwrap_or(0);
    line_start + error.column().saturating_sub(1)
}
