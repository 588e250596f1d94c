//! Files, read within limits and written whole or not at all.
//!
//! | file | holds |
//! |---|---|
//! | `json` | texts and JSON of limited size |
//! | `replace` | new content for a path, as a whole or not at all |

mod json;
mod replace;

#[cfg(feature = "text")]
pub(crate) use json::{parse_json, read_text};
pub(crate) use json::{position, read_json};
pub(crate) use replace::{replace_file, sync_folder};

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
