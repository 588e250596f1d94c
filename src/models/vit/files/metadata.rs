//! What this crate's own files say of their model, in the text entries beside the tensors.

use std::collections::BTreeMap;
use std::path::Path;

use crate::checkpoint::{CONFIG, Checkpoint, HostTensor, download, write};
use crate::error::{Error, Result};
use crate::models::vit::{Vit, VitConfig};

/// Key of the class names, a JSON list.
const CLASS_NAMES: &str = "class_names";
/// Key of the crop fraction.
const CROP_FRACTION: &str = "crop_fraction";

/// Writes a model under timm's names; its sizes and its class names go into the metadata. The file appears whole or not
/// at all.
///
/// # Errors
/// If the device or the file system fails.
pub fn save(path: &Path, model: &Vit, class_names: &[String]) -> Result<()> {
    let file = VitFile { config: model.config(), class_names, crop_fraction: None };
    file.write(path, &download(model.parameters())?)
}

/// What a file says of a ViT beside its weights.
#[derive(Clone, Copy, Debug)]
pub struct VitFile<'a> {
    /// The model's sizes.
    pub config: &'a VitConfig,
    /// A name for each class, or none at all.
    pub class_names: &'a [String],
    /// The share of a picture's short side that the model is evaluated on, where that is known.
    pub crop_fraction: Option<f64>,
}

impl VitFile<'_> {
    /// [`save`] for weights that have been read back.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn write(&self, path: &Path, weights: &BTreeMap<String, HostTensor>) -> Result<()> {
        write(path, weights, &self.metadata(path)?)
    }

    /// The text entries. `path` is for an error.
    ///
    /// # Errors
    /// None that are known: names have a form in JSON.
    pub(super) fn metadata(&self, path: &Path) -> Result<BTreeMap<String, String>> {
        let names = serde_json::to_string(self.class_names)
            .map_err(|e| Error::file(path, format!("the class names cannot be written: {e}")))?;
        let crop = self.crop_fraction.map(|fraction| (CROP_FRACTION, fraction.to_string()));
        let entries = [(CONFIG, self.config.identity()), (CLASS_NAMES, names)].into_iter().chain(crop);
        Ok(entries.map(|(key, text)| (key.to_owned(), text)).collect())
    }
}

/// The model's sizes, if the file was written by this crate.
///
/// # Errors
/// As [`VitConfig::from_identity`].
pub(super) fn config(checkpoint: &Checkpoint) -> Result<Option<VitConfig>> {
    checkpoint.metadata.get(CONFIG).map(|text| VitConfig::from_identity(text)).transpose()
}

/// The class names, if the file was written by this crate.
pub(super) fn class_names(checkpoint: &Checkpoint) -> Option<Vec<String>> {
    serde_json::from_str(checkpoint.metadata.get(CLASS_NAMES)?).ok()
}

/// The crop fraction, if the file tells a possible one.
pub(super) fn crop_fraction(checkpoint: &Checkpoint) -> Option<f64> {
    let crop = checkpoint.metadata.get(CROP_FRACTION).and_then(|text| text.parse().ok());
    crop.filter(|f| *f > 0.0 && *f <= 1.0)
}
