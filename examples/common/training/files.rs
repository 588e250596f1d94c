//! The small files of a run.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use serde::de::DeserializeOwned;

use super::console::printable;

/// The content of a JSON file.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let name = || printable(&path.display().to_string());
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", name()))?;
    serde_json::from_slice(&bytes).map_err(|error| anyhow!("reading {}: {}", name(), printable(&error.to_string())))
}

/// Gives `path` new content: whenever the program is killed, the old content is there or the new. Of two programs only the one
/// that holds the folder's lock may do this.
pub fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let mut name = OsString::from(".");
    name.push(path.file_name().context("no file's name")?);
    name.push(".new");
    let new = path.with_file_name(name);
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&new)?;
        file.write_all(content)?;
        // Else a crash of the machine could leave the name with no content.
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    write().with_context(|| format!("writing {}", path.display()))
}
