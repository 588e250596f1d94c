//! The file in a folder that holds the weights, or says where they are.

use std::path::{Path, PathBuf};

use super::shards::read_shards;
use super::{Checkpoint, foreign_names, read};
use crate::error::{Error, Result};

/// The best checkpoint in a run's folder.
pub(crate) const BEST_FILE: &str = "best.safetensors";

/// A run's state in its folder.
pub(crate) const STATE_FILE: &str = "state.safetensors";

/// The key of the text entry that tells a run's state, which is no model, from a model's checkpoint.
pub(crate) const RUN_STATE: &str = "run_state";

/// A folder's weights in one file.
pub(crate) const WEIGHTS_FILE: &str = "model.safetensors";
/// A folder's list of shards.
pub(super) const INDEX_FILE: &str = "model.safetensors.index.json";
/// A folder's file with the model's sizes.
pub(crate) const CONFIG_FILE: &str = "config.json";
/// A folder's file with the pictures' treatment.
pub(crate) const PREPROCESSOR_FILE: &str = "preprocessor_config.json";
/// The same within another file, as transformers 5 writes it with a tokenizer.
pub(crate) const PROCESSOR_FILE: &str = "processor_config.json";

/// A model's folder's files with the tokenizer, in any of the forms that it comes in, and with what generation begins from.
pub const TOKENIZER_FILES: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "chat_template.jinja",
    "generation_config.json",
];

/// Opens a file, an index of shards or a folder with either, or a run's folder: its best checkpoint. `describe` makes of the
/// tensors, and the file that they lay in, what the caller wants to know of them.
///
/// # Errors
/// [`Error::Io`] if the system refuses, [`Error::File`] if a file's content is wrong or of another kind, which is named; and what
/// `describe` finds wrong.
pub(crate) fn open<T>(path: &Path, describe: impl FnOnce(Checkpoint, &Path) -> Result<T>) -> Result<T> {
    let file = if std::fs::metadata(path).map_err(|e| Error::io(path, e))?.is_dir() {
        weights_in(path)?
    } else {
        path.to_owned()
    };
    let is_index = file.to_str().is_some_and(|name| name.ends_with(".safetensors.index.json"));
    let checkpoint = if is_index { read_shards(&file)? } else { read(&file)? };
    let described = refuse_state(&checkpoint, &file).and_then(|()| describe(checkpoint, &file));
    described.map_err(|error| match foreign_names::parts(&file) {
        Some(parts) => Error::file(&file, format!("is one of {parts} parts: give their folder ({error})")),
        None => error,
    })
}

/// The file in a folder that holds its weights, or says where they are.
fn weights_in(folder: &Path) -> Result<PathBuf> {
    let places = [BEST_FILE, WEIGHTS_FILE, INDEX_FILE].map(|name| folder.join(name));
    if let Some(file) = places.into_iter().find(|file| file.exists()) {
        return Ok(file);
    }
    let io = |e| Error::io(folder, e);
    let entries = std::fs::read_dir(folder).map_err(io)?.collect::<std::io::Result<Vec<_>>>().map_err(io)?;
    let mut names: Vec<String> = entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    Err(Error::file(folder, foreign_names::in_place_of_weights(&names)))
}

fn refuse_state(checkpoint: &Checkpoint, file: &Path) -> Result<()> {
    if checkpoint.metadata.contains_key(RUN_STATE) {
        let what = format!("is the state of a run, not a model: give {BEST_FILE} beside it, or the folder");
        return Err(Error::file(file, what));
    }
    Ok(())
}
