//! What language models of transformers have in common on disk: a `config.json` that tells all sizes, weights that are stored
//! twice, and a tokenizer's files beside them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::library::{of_pytorch, pretty_json};
use crate::checkpoint::{
    CONFIG, CONFIG_FILE, Checkpoint, Folder, HostTensor, Settings, Storage, TOKENIZER_FILES, WEIGHTS_FILE, check_kind,
    depth, fault, json_text, parse_json,
};
use crate::error::{Error, Result};

/// What a language model's folder holds beside weights and sizes.
#[derive(Clone, Copy, Debug, Default)]
pub struct FolderOptions<'a> {
    /// The tokenizer's files by name, as they stood beside the model that training began with: `tokenizer.json`,
    /// `tokenizer_config.json`, `vocab.json` with `merges.txt`, `vocab.txt` and the like. A model is of use to others only with
    /// them.
    pub tokenizer: &'a [(&'a str, &'a [u8])],
    /// The element type of the weights.
    pub storage: Storage,
}

/// The configuration: from the text entries of a file that [`single_file_metadata`] describes, else from the `config.json` beside it.
///
/// # Errors
/// [`Error::File`] if there is none, it is of another model than `model_type`, or says what the model would pass over.
pub(super) fn read_config<C: DeserializeOwned>(
    checkpoint: &Checkpoint,
    file: &Path,
    model_type: &str,
    settings: &Settings,
) -> Result<C> {
    if let Some(text) = checkpoint.metadata.get(CONFIG) {
        return serde_json::from_str(text).map_err(|e| {
            Error::file(file, format!("its text entry {CONFIG:?} is no {model_type}'s configuration: {e}"))
        });
    }
    let path = config_beside(file);
    let text = json_text(&path)?
        .ok_or_else(|| Error::file(&path, "is not there, and nothing else tells the model's sizes"))?;
    parse_config(&path, &text, model_type, settings)
}

fn config_beside(file: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(CONFIG_FILE)
}

/// The configuration of a `config.json`'s text.
///
/// # Errors
/// As [`read_config`].
pub(super) fn parse_config<C: DeserializeOwned>(
    path: &Path,
    text: &[u8],
    model_type: &str,
    settings: &Settings,
) -> Result<C> {
    check_kind(path, text, &[model_type])?;
    settings.check(path, text)?;
    parse_json(path, text)
}

/// Whether transformers' class of this name is what the `config.json` beside a file calls its model, if that has the configuration.
///
/// # Errors
/// As [`read_config`].
pub(super) fn is_of_class(checkpoint: &Checkpoint, file: &Path, class: &str) -> Result<bool> {
    if checkpoint.metadata.contains_key(CONFIG) {
        return Ok(false);
    }
    let path = config_beside(file);
    json_text(&path)?.map_or(Ok(false), |text| says_class(&path, &text, class))
}

/// Whether transformers' class of this name is what a `config.json`'s text calls its model.
///
/// # Errors
/// [`Error::File`] if it is not such a text.
pub(super) fn says_class(path: &Path, text: &[u8], class: &str) -> Result<bool> {
    #[derive(Deserialize)]
    struct Classes {
        architectures: Option<Vec<String>>,
    }
    let classes: Classes = parse_json(path, text)?;
    Ok(classes.architectures.is_some_and(|classes| classes.iter().any(|own| own == class)))
}

/// Takes out the tensor `copy`, which models of transformers tie to `original`.
///
/// # Errors
/// [`Error::Parameter`] if the two differ: such a model has an output layer of its own.
pub(super) fn take_copy(checkpoint: &mut Checkpoint, copy: &str, original: &str) -> Result<()> {
    let Some(taken) = checkpoint.tensors.remove(copy) else { return Ok(()) };
    if taken == *checkpoint.get(original)? {
        return Ok(());
    }
    Err(fault(
        copy,
        format!("differs from {original}: a model whose output layer is not tied to its tokens is not computed here"),
    ))
}

/// Whether a matrix has the rows that `config.json` says, before all shapes are looked at, for a clearer message.
///
/// # Errors
/// [`Error::Parameter`] if it has more or fewer.
pub(super) fn check_rows(checkpoint: &Checkpoint, name: &str, setting: &str, expected: usize) -> Result<()> {
    match checkpoint.get(name)?.shape.as_slice() {
        &[rows, _] if rows != expected => {
            Err(fault(name, format!("has {rows} rows, but the configuration says {setting} {expected}")))
        }
        _ => Ok(()),
    }
}

/// Whether there are as many blocks as `config.json` says, each with a tensor `landmark`.
///
/// # Errors
/// [`Error::Parameter`] if there are more or fewer, or one is missing between.
pub(super) fn check_depth(
    checkpoint: &Checkpoint,
    blocks: &str,
    landmark: &str,
    setting: &str,
    expected: usize,
) -> Result<()> {
    let found = depth(checkpoint, blocks, landmark)?;
    if found == expected {
        return Ok(());
    }
    Err(fault(blocks, format!("the file has {found} blocks, but the configuration says {setting} {expected}")))
}

/// The shapes of a layer's weight and bias.
pub(super) fn layer_shapes(name: &str, shape: &[usize]) -> [(String, Vec<usize>); 2] {
    [(format!("{name}.weight"), shape.to_vec()), (format!("{name}.bias"), shape[..1].to_vec())]
}

/// Writes a folder as transformers loads it, whole or not at all, see [`Folder::write`].
///
/// # Errors
/// [`Error::Argument`] for a file that is none of a tokenizer's; otherwise as [`Folder::write`].
pub(super) fn write_folder(
    folder: &Path,
    tensors: BTreeMap<String, HostTensor>,
    config: &impl Serialize,
    options: &FolderOptions<'_>,
) -> Result<()> {
    if let Some((name, _)) = options.tokenizer.iter().find(|(name, _)| !TOKENIZER_FILES.contains(name)) {
        return Err(Error::argument("save", "tokenizer", format!("one of {}", TOKENIZER_FILES.join(", ")), name));
    }
    let json = pretty_json(folder, config)?;
    let given = |name: &'static str| {
        let file = options.tokenizer.iter().find(|(given, _)| *given == name);
        (name, file.map(|(_, content)| *content))
    };
    let files: Vec<_> = TOKENIZER_FILES.into_iter().map(given).chain([(CONFIG_FILE, Some(json.as_bytes()))]).collect();
    let contents =
        Folder { weights: WEIGHTS_FILE, tensors, metadata: of_pytorch(), storage: options.storage, files: &files };
    contents.write(folder)
}

/// The text entries of a file that needs no `config.json` beside it.
pub(super) fn single_file_metadata(identity: String) -> BTreeMap<String, String> {
    let mut metadata = of_pytorch();
    metadata.insert(CONFIG.to_owned(), identity);
    metadata
}
