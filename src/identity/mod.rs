//! Descriptions of what decides on a run, as JSON.

#[cfg(feature = "train")]
mod difference;

#[cfg(feature = "train")]
pub(crate) use difference::difference;

use serde::Serialize;

/// A description's text. What is described is structs of numbers, truth values, names and texts, which can always be
/// written: JSON fails for keys that are no texts alone.
pub(crate) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
