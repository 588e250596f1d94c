//! The weights that a run begins with, as its arguments keep them.

#[path = "hub.rs"]
mod hub;

use std::path::{Path, PathBuf};

use anyhow::Result;

pub use hub::found;

use crate::training::folder;

/// From any folder: an absolute path, or a name on the Hub.
pub fn kept(path: &Path) -> Result<PathBuf> {
    if hub::name(path).is_some() { Ok(path.to_owned()) } else { folder::absolute(path) }
}
