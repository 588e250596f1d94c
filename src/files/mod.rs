//! Files, read within limits and written whole or not at all.
//!
//! | file | holds |
//! |---|---|
//! | `json` | texts and JSON of limited size |
//! | `replace` | new content for a path, as a whole or not at all |
//!
//! Without the feature `files` only what messages say of a file's content is left, for checkpoints in memory.

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
