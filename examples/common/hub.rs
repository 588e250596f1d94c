//! Weights that are named on the command line: a path, or a name on the Hugging Face Hub.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// The name on the Hub, of `hub:OWNER/MODEL`.
pub fn name(path: &Path) -> Option<&str> {
    path.to_str().and_then(|text| text.strip_prefix("hub:"))
}

/// Where they are: what is on the Hub is fetched.
pub fn found(path: &Path) -> Result<PathBuf> {
    match name(path) {
        Some(name) => fetch(name),
        None if path.exists() => Ok(path.to_owned()),
        None => bail!(
            "--weights {path:?}: there is no such file or folder; a model on the Hugging Face Hub is hub:OWNER/MODEL, in a build \
             with --features hub"
        ),
    }
}

#[cfg(feature = "hub")]
fn fetch(name: &str) -> Result<PathBuf> {
    use std::io::Write;
    // Nobody need read it.
    let _ = writeln!(std::io::stderr(), "fetching {name:?}");
    Ok(wgrad::checkpoint::hub::fetch(name)?)
}

#[cfg(not(feature = "hub"))]
fn fetch(_: &str) -> Result<PathBuf> {
    bail!("this build is without the Hub; build it with --features hub")
}
