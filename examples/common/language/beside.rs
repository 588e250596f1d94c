//! The tokenizer that belongs to weights.

use std::path::Path;

use anyhow::{Context, Result};
use wgrad::data::Tokenizer;

/// The one that is named, or that in the folder of the weights.
pub fn tokenizer(weights: &Path, named: Option<&Path>) -> Result<Tokenizer> {
    let path = named.unwrap_or_else(|| folder(weights));
    Tokenizer::open(path).with_context(|| format!("the tokenizer in {} (--tokenizer names another)", path.display()))
}

/// The weights themselves, if they are a folder, or what they lie in.
fn folder(weights: &Path) -> &Path {
    if weights.is_dir() {
        return weights;
    }
    // The parent of a bare name is empty.
    weights.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
