//! Checkpoints from the Hugging Face Hub, by name, through the crate hf-hub. Only with the feature `hub`.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use super::folder::{CONFIG_FILE, INDEX_FILE, PREPROCESSOR_FILE, PROCESSOR_FILE, TOKENIZER_FILES, WEIGHTS_FILE};
use super::shards::shard_names;
use super::{foreign_names, quoted};
use crate::error::{Error, Result};

/// Where models come from and go to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HubOptions {
    /// Address of the Hub or of a mirror, as `https://huggingface.co`; by default what the variable `HF_ENDPOINT` says, else
    /// that one. It is trusted with the token that lies beside the cache, if there is one.
    pub endpoint: Option<String>,
    /// Folder of downloaded files; by default `hub` in the folder that `HF_HOME` names, else `~/.cache/huggingface/hub`. Other
    /// programs that use the Hub share it.
    pub cache: Option<PathBuf>,
}

/// [`fetch_with`] the Hub and cache that the variables `HF_ENDPOINT` and `HF_HOME` name.
///
/// # Errors
/// As [`fetch_with`].
pub fn fetch(name: &str) -> Result<PathBuf> {
    fetch_with(name, &HubOptions::default())
}

/// Fetches a model's files into the cache, unless they are there already, and returns their folder, for a model's
/// `open`, such as [`crate::models::vit::open`].
/// `name` is `owner/model`, perhaps followed by `@` and a branch, tag or commit:
/// `timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k`. All files are of the same commit, the one that the branch or tag is at now.
///
/// # Errors
/// [`Error::Argument`] for an impossible name, [`Error::File`] if the model has no safetensors or a file did not come whole,
/// [`Error::Io`] if the Hub cannot be reached, has no such model or answers what nobody can use.
pub fn fetch_with(name: &str, options: &HubOptions) -> Result<PathBuf> {
    let (model, revision) = name.split_once('@').unwrap_or((name, "main"));
    let words: Vec<&str> = model.split('/').chain([revision]).collect();
    if !(2..=3).contains(&words.len()) || !words.iter().all(|word| is_word(word)) {
        return Err(Error::argument("hub", "name", "OWNER/MODEL or OWNER/MODEL@REVISION", quoted(name)));
    }
    // hf-hub takes for granted that redirections lead somewhere, and panics where they do not.
    catch_unwind(AssertUnwindSafe(|| Model::find(name, model, revision, options)?.fetch()))
        .unwrap_or_else(|_| Err(unusable(name, "an answer that hf-hub cannot handle")))
}

/// Whether it may be a part of an address and the name of a file.
fn is_word(word: &str) -> bool {
    let is_dots = word == "." || word == "..";
    !word.is_empty() && !is_dots && word.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

fn failed(name: &str, error: &ApiError) -> Error {
    unusable(name, &error.to_string())
}

fn unusable(name: &str, what: &str) -> Error {
    Error::io(Path::new("hub").join(name), std::io::Error::other(what.to_owned()))
}

/// The Hub's address, of what the user says and what the environment does, without the slash that hf-hub puts behind it.
fn endpoint(said: Option<String>, of_environment: Option<String>) -> Option<String> {
    said.or(of_environment).map(|endpoint| endpoint.trim_end_matches('/').to_owned())
}

/// One commit of a model on the Hub.
struct Model<'a> {
    /// As the user says it.
    name: &'a str,
    api: Api,
    repo: ApiRepo,
    /// Of its files.
    names: Vec<String>,
}

impl<'a> Model<'a> {
    fn find(name: &'a str, model: &str, revision: &str, options: &HubOptions) -> Result<Self> {
        let from_cache = |path| ApiBuilder::from_cache(Cache::new(path));
        let builder = options.cache.clone().map_or_else(ApiBuilder::from_env, from_cache);
        let endpoint = endpoint(options.endpoint.clone(), std::env::var("HF_ENDPOINT").ok());
        let builder = endpoint.into_iter().fold(builder, ApiBuilder::with_endpoint);
        let api = builder.with_progress(false).build().map_err(|error| failed(name, &error))?;
        let repo =
            |revision: &str| api.repo(Repo::with_revision(model.to_owned(), RepoType::Model, revision.to_owned()));
        let info = repo(revision).info().map_err(|error| failed(name, &error))?;
        if !is_word(&info.sha) {
            return Err(unusable(name, "a commit with an impossible name"));
        }
        // By its commit: a branch may move on between two files, and what the cache has of a branch may be of an older one.
        let repo = repo(&info.sha);
        Ok(Model { name, api, repo, names: info.siblings.into_iter().map(|file| file.rfilename).collect() })
    }

    fn fetch(&self) -> Result<PathBuf> {
        let beside = [CONFIG_FILE, PREPROCESSOR_FILE, PROCESSOR_FILE].into_iter().chain(TOKENIZER_FILES);
        for file in beside.filter(|file| self.has(file)) {
            self.get(file)?;
        }
        let weights = if self.has(WEIGHTS_FILE) {
            self.get(WEIGHTS_FILE)?
        } else if self.has(INDEX_FILE) {
            let index = self.get(INDEX_FILE)?;
            shard_names(&index)?.iter().try_for_each(|shard| self.get(shard).map(drop))?;
            index
        } else {
            return Err(Error::file(self.name, foreign_names::in_place_of_weights(&self.names)));
        };
        Ok(weights.parent().map(Path::to_owned).unwrap_or_default())
    }

    fn has(&self, file: &str) -> bool {
        self.names.iter().any(|name| name == file)
    }

    /// A file in the cache, with as many bytes as the Hub says.
    fn get(&self, file: &str) -> Result<PathBuf> {
        let failed = |error: ApiError| failed(&format!("{}/{file}", self.name), &error);
        let metadata = self.api.metadata(&self.repo.url(file)).map_err(failed)?;
        // hf-hub makes names of files of them.
        if !is_word(metadata.etag()) || !is_word(metadata.commit_hash()) {
            return Err(unusable(self.name, &format!("{file} with an impossible tag")));
        }
        let path = self.repo.get(file).map_err(failed)?;
        let io = |error| Error::io(&path, error);
        let (got, size) = (fs::metadata(&path).map_err(io)?.len(), metadata.size() as u64);
        if got != size {
            // Else it would be taken for whole the next time. The path may be a link to the file proper.
            let proper = fs::canonicalize(&path).map_err(io)?;
            fs::remove_file(&proper).map_err(io)?;
            if proper != path && path.is_symlink() {
                fs::remove_file(&path).map_err(io)?;
            }
            return Err(Error::file(self.name, format!("{got} of the {size} bytes of {file} came from the Hub")));
        }
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::endpoint;

    #[test]
    fn an_endpoint_has_no_slash_at_its_end() {
        let of = |said: Option<&str>, environment: Option<&str>| {
            endpoint(said.map(str::to_owned), environment.map(str::to_owned))
        };
        assert_eq!(of(None, Some("https://mirror/")).as_deref(), Some("https://mirror"));
        assert_eq!(of(Some("http://said//"), Some("https://mirror/")).as_deref(), Some("http://said"));
        assert_eq!(of(None, None), None);
    }
}
