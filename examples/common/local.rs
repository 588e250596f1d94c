//! Weights that are named on the command line: a path, or a name on the Hugging Face Hub.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::training::folder;

fn on_hub(path: &Path) -> Option<&str> {
    path.to_str().and_then(|text| text.strip_prefix("hub:"))
}

/// Where they are: `hub:OWNER/MODEL` is fetched.
pub fn found(path: &Path) -> Result<PathBuf> {
    on_hub(path).map_or_else(|| Ok(path.to_owned()), fetch)
}

/// The same from any folder.
pub fn kept(path: &Path) -> Result<PathBuf> {
    if on_hub(path).is_some() { Ok(path.to_owned()) } else { folder::absolute(path) }
}

#[cfg(feature = "hub")]
fn fetch(name: &str) -> Result<PathBuf> {
    crate::training::console::say!("fetching {name}");
    Ok(wgrad::checkpoint::hub::fetch(name)?)
}

#[cfg(not(feature = "hub"))]
fn fetch(_: &str) -> Result<PathBuf> {
    anyhow::bail!("this build is without the Hub; build it with --features hub")
}
