//! Checkpoints cut into several files, with an index that says which tensor is in which.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::{Checkpoint, quoted, read, read_json};
use crate::error::{Error, Result};

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    /// A tensor's name to the name of its file.
    weight_map: BTreeMap<String, String>,
}

/// The files of an index, each once.
///
/// # Errors
/// As [`weight_map`].
#[cfg(feature = "hub")]
pub(super) fn shard_names(index: &Path) -> Result<BTreeSet<String>> {
    weight_map(index).map(|map| map.into_values().collect())
}

/// Which tensor is in which file. Files are names of files beside the index: no folders, no `..`, nothing absolute.
///
/// # Errors
/// [`Error::File`] if it is no such index or names another file; [`Error::Io`] if it cannot be read.
fn weight_map(index: &Path) -> Result<BTreeMap<String, String>> {
    let Some(Index { weight_map }) = read_json(index)? else {
        return Err(Error::file(index, "is not there"));
    };
    for name in weight_map.values() {
        if !is_plain(name) {
            let what = format!("names the file {}, which is not a safetensors file in this folder", quoted(name));
            return Err(Error::file(index, what));
        }
    }
    Ok(weight_map)
}

/// Whether it is the name of a safetensors file, on any system, and no path.
fn is_plain(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let is_one = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
    is_one && name.ends_with(".safetensors") && !name.contains(['/', '\\', ':', '\0'])
}

/// All shards as one checkpoint.
///
/// # Errors
/// As [`read()`] and [`weight_map`], and [`Error::File`] if a tensor is in two shards or not in the one that the index says.
pub(super) fn read_shards(index: &Path) -> Result<Checkpoint> {
    let weight_map = weight_map(index)?;
    let folder: PathBuf = index.parent().map(Path::to_owned).unwrap_or_default();
    let names: BTreeSet<&String> = weight_map.values().collect();
    let missing: Vec<&str> =
        names.iter().filter(|name| !folder.join(name).exists()).map(|name| name.as_str()).collect();
    if let Some(first) = missing.first() {
        let what = format!(
            "names {} files, of which {} are not beside it, the first {}: fetch them too",
            names.len(),
            missing.len(),
            quoted(first)
        );
        return Err(Error::file(index, what));
    }
    let mut whole = Checkpoint::default();
    for name in names {
        let path = folder.join(name);
        let shard = read(&path)?;
        let tensors = shard.tensors.keys().chain(shard.skipped.keys());
        if let Some(stray) = tensors.into_iter().find(|tensor| weight_map.get(*tensor) != Some(name)) {
            let what = format!("tensor {} is here, but not by the index {}", quoted(stray), index.display());
            return Err(Error::file(path, what));
        }
        whole.tensors.extend(shard.tensors);
        whole.skipped.extend(shard.skipped);
        whole.metadata.extend(shard.metadata);
    }
    let missing = |name: &&String| !whole.tensors.contains_key(*name) && !whole.skipped.contains_key(*name);
    match weight_map.keys().find(missing) {
        Some(name) => Err(Error::file(index, format!("tensor {} is not in its file", quoted(name)))),
        None => Ok(whole),
    }
}
