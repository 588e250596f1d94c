//! What folders for other libraries have in common.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::checkpoint::Storage;
use crate::error::{Error, Result};

/// The text entry of weights that transformers and PEFT ask for.
pub(super) fn of_pytorch() -> BTreeMap<String, String> {
    BTreeMap::from([("format".to_owned(), "pt".to_owned())])
}

/// The text of a file with a configuration, in `folder`.
///
/// # Errors
/// [`Error::File`] if it has no form in JSON.
pub(super) fn pretty_json(folder: &Path, value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value);
    text.map_err(|e| Error::file(folder, format!("its configuration cannot be written: {e}")))
}

/// transformers' name of an element type.
pub(super) fn dtype(storage: Storage) -> &'static str {
    match storage {
        Storage::F32 => "float32",
        Storage::F16 => "float16",
    }
}

/// transformers' name of class `i` where it has none.
pub(super) fn label(i: usize) -> String {
    format!("LABEL_{i}")
}
