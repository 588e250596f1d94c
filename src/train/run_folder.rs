//! Where a run's files go.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::STATE_FILE;
use crate::checkpoint::{self, BEST_FILE, HostTensor};
use crate::error::{Error, Result};
use crate::files::temporary_file;

/// The latest weights.
pub(super) const LAST_FILE: &str = "last.safetensors";

/// Where `best.safetensors`, `last.safetensors` and the run's state go.
pub struct RunFolder<'a> {
    pub(super) path: PathBuf,
    pub(super) write: Writer<'a>,
}

pub(super) type Writer<'a> = Box<dyn Fn(&Path, &Weights) -> Result<()> + 'a>;

impl<'a> RunFolder<'a> {
    /// A folder, which is there. `write` writes a checkpoint in the model's file format; [`write_weights`] writes one that says
    /// nothing but the weights.
    pub fn new(path: impl Into<PathBuf>, write: impl Fn(&Path, &Weights) -> Result<()> + 'a) -> Self {
        RunFolder { path: path.into(), write: Box::new(write) }
    }

    /// Whether files can be made in it: asked before step 0, since the first is written when an epoch has been trained.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses.
    pub(super) fn check(&self) -> Result<()> {
        let path: &Path = if self.path.as_os_str().is_empty() { Path::new(".") } else { &self.path };
        // Named so that what a killed run leaves is found by `remove_leftovers`.
        let file = temporary_file(path, LAST_FILE);
        file.and_then(NamedTempFile::close).map_err(|error| Error::io(path, error))
    }
}

/// A model's weights in the host's memory, by path.
pub type Weights = BTreeMap<String, HostTensor>;

/// Weights in a safetensors file that says nothing else. The file appears whole or not at all.
///
/// # Errors
/// If the file system fails.
pub fn write_weights(path: &Path, weights: &Weights) -> Result<()> {
    checkpoint::write(path, weights, &BTreeMap::new())
}

/// Removes what a killed run has left half-written in its folder. What cannot be removed does no harm.
pub(super) fn remove_leftovers(folder: &Path) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        let is_ours = |name: &str| {
            name.ends_with(".tmp")
                && [LAST_FILE, BEST_FILE, STATE_FILE].iter().any(|f| name.starts_with(&format!(".{f}.")))
        };
        if path.file_name().and_then(|name| name.to_str()).is_some_and(is_ours)
            && let Err(error) = std::fs::remove_file(&path)
        {
            log::warn!("{}: {error}", path.display());
        }
    }
}
