//! What a `config.json` claims of its model, against what the weights say.

use std::path::Path;

use serde::Deserialize;

use super::folder::CONFIG_FILE;
use super::{json_text, parse_json, quoted};
use crate::error::{Error, Result};

/// Refuses the folder of a model that transformers itself calls something else than one of `known`.
///
/// # Errors
/// [`Error::File`] naming what it is called.
pub(crate) fn check_model_type(folder: &Path, known: &[&str]) -> Result<()> {
    let path = folder.join(CONFIG_FILE);
    json_text(&path)?.map_or(Ok(()), |text| check_kind(&path, &text, known))
}

/// The same of a `config.json`'s text.
///
/// # Errors
/// As [`check_model_type`].
pub(crate) fn check_kind(path: &Path, text: &[u8], known: &[&str]) -> Result<()> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Kind {
        model_type: Option<String>,
    }
    match parse_json::<Kind>(path, text)?.model_type {
        Some(kind) if !known.contains(&kind.as_str()) => {
            let known = known.join(", ");
            let what = format!("model_type {} is not supported yet, only {known} are", quoted(&kind));
            Err(Error::file(path, what))
        }
        _ => Ok(()),
    }
}

/// One of the sizes in a model's configuration `C`.
type Size<C> = fn(&C) -> usize;

/// A size that the tensors' shapes tell too, and must agree with.
#[derive(Debug)]
pub(crate) struct Claim<C> {
    key: &'static str,
    size: usize,
    found: Size<C>,
}

/// Those sizes that the file states.
pub(crate) fn claims<C, const N: usize>(stated: [(&'static str, Option<usize>, Size<C>); N]) -> Vec<Claim<C>> {
    stated.into_iter().filter_map(|(key, size, found)| size.map(|size| Claim { key, size, found })).collect()
}

/// Whether the file's claims are those of the tensors, from which `config` is.
///
/// # Errors
/// [`Error::File`] naming the first that is not.
pub(crate) fn check_claims<C>(folder: &Path, claims: &[Claim<C>], config: &C) -> Result<()> {
    match claims.iter().find(|claim| claim.size != (claim.found)(config)) {
        Some(Claim { key, size, found }) => {
            let what = format!("says {key} {size}, but the weights have {}", found(config));
            Err(Error::file(folder.join(CONFIG_FILE), what))
        }
        None => Ok(()),
    }
}
