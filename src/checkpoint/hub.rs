//! Checkpoints from the Hugging Face Hub, by name.
//!
//! This needs the network and the feature `hub`. It is not covered by the tests, which run offline.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Repo, RepoType};

use super::config_json::{CONFIG_FILE, PREPROCESSOR_FILE};
use super::quoted;
use super::shards::shard_names;
use super::source::{INDEX_FILE, WEIGHTS_FILE};
use crate::error::{Error, Result};

/// Fetches a model's files into the Hub's cache on this machine, unless they are there already, and returns their folder, for
/// [`super::open`]. `name` is `owner/model`, perhaps followed by `@` and a branch, tag or commit:
/// `timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k`. The variables `HF_HOME` and `HF_ENDPOINT` are respected.
///
/// # Errors
/// [`Error::Argument`] for an impossible name, [`Error::File`] if the model has no safetensors, [`Error::Io`] if the Hub
/// cannot be reached or has no such model.
pub fn fetch(name: &str) -> Result<PathBuf> {
    let (model, revision) = name.split_once('@').unwrap_or((name, "main"));
    let is_word = |word: &str| {
        !word.is_empty() && word != ".." && word.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    let words: Vec<&str> = model.split('/').chain([revision]).collect();
    if !(2..=3).contains(&words.len()) || !words.iter().all(|word| is_word(word)) {
        return Err(Error::argument("hub", "name", "OWNER/MODEL or OWNER/MODEL@REVISION", quoted(name)));
    }
    let failed = |e: ApiError| Error::io(Path::new("hub").join(name), std::io::Error::other(e.to_string()));
    let api = ApiBuilder::from_env().with_progress(false).build().map_err(failed)?;
    let repo = api.repo(Repo::with_revision(model.to_owned(), RepoType::Model, revision.to_owned()));
    let files: Vec<String> = repo.info().map_err(failed)?.siblings.into_iter().map(|file| file.rfilename).collect();
    let has = |file: &str| files.iter().any(|have| have == file);
    for file in [CONFIG_FILE, PREPROCESSOR_FILE].into_iter().filter(|file| has(file)) {
        repo.get(file).map_err(failed)?;
    }
    let weights = if has(WEIGHTS_FILE) {
        repo.get(WEIGHTS_FILE).map_err(failed)?
    } else if has(INDEX_FILE) {
        fetch_shards(&repo, failed)?
    } else {
        return Err(Error::file(name, format!("has neither {WEIGHTS_FILE} nor {INDEX_FILE} on the Hub")));
    };
    Ok(weights.parent().map(Path::to_owned).unwrap_or_default())
}

/// Fetches the index and the files that it names, and returns the index.
fn fetch_shards(repo: &ApiRepo, failed: impl Fn(ApiError) -> Error) -> Result<PathBuf> {
    let index = repo.get(INDEX_FILE).map_err(&failed)?;
    for shard in shard_names(&index)? {
        repo.get(&shard).map_err(&failed)?;
    }
    Ok(index)
}
