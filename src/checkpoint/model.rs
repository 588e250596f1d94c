//! Models in and out of checkpoints.

use std::collections::BTreeMap;
use std::path::Path;

use super::source::CROP_FRACTION;
use super::{Checkpoint, HostTensor, LoadReport, MatchOptions, match_parameters, read_bytes, write};
use crate::autograd::Parameters;
use crate::error::{Error, Result};
use crate::models::vit::{Vit, VitConfig};
use crate::tensor::Tensor;

/// Metadata key of a [`VitConfig`] in JSON.
const CONFIG: &str = "config";
/// Metadata key of the class names, a JSON list.
const CLASS_NAMES: &str = "class_names";

/// The small ViT in assets/, pretrained on CIFAR-100 by `examples/vit_pretrain.rs`: patch 4, 32×32 pictures, 65 tokens.
///
/// # Errors
/// None in a build whose asset is intact.
pub fn embedded() -> Result<Checkpoint> {
    read_bytes(include_bytes!("../../assets/vit_cifar100.safetensors"), "embedded checkpoint")
}

/// Reads every parameter back from the device, by path.
///
/// # Errors
/// If the device fails.
pub fn download(parameters: &Parameters) -> Result<BTreeMap<String, HostTensor>> {
    let host = |tensor: Tensor| Ok(HostTensor { shape: tensor.dims().to_vec(), data: tensor.to_vec()? });
    parameters.iter().map(|p| Ok((p.path().to_owned(), host(p.value())?))).collect()
}

/// Sets the parameters that the checkpoint provides, and says which are new, missing or unused.
///
/// # Errors
/// As [`match_parameters`]; nothing is changed then.
pub fn load_parameters(
    parameters: &Parameters,
    checkpoint: &Checkpoint,
    options: &MatchOptions<'_>,
) -> Result<LoadReport> {
    let wanted: Vec<_> = parameters.iter().map(|p| (p.path().to_owned(), p.value().dims().to_vec())).collect();
    let report = match_parameters(&wanted, checkpoint, options)?;
    for name in &report.loaded {
        if let Some(parameter) = parameters.get(name) {
            parameter.set(&checkpoint.get(name)?.data)?;
        }
    }
    Ok(report)
}

/// Writes a model under timm's names; its sizes and its class names go into the metadata. The file appears whole or not
/// at all.
///
/// # Errors
/// If the device or the file system fails.
pub fn save_vit(path: &Path, model: &Vit, class_names: &[String]) -> Result<()> {
    write_vit(path, model.config(), &download(model.parameters())?, class_names, None)
}

/// [`save_vit`] for weights that have been read back, with the share of a picture that the model is evaluated on, where that is
/// known.
///
/// # Errors
/// If the file system fails.
pub(crate) fn write_vit(
    path: &Path,
    config: &VitConfig,
    weights: &BTreeMap<String, HostTensor>,
    class_names: &[String],
    crop_fraction: Option<f64>,
) -> Result<()> {
    write(path, weights, &vit_metadata(path, config, class_names, crop_fraction)?)
}

/// What the metadata says of a model. `path` is for an error.
///
/// # Errors
/// None that are known: both values have a form in JSON.
pub(super) fn vit_metadata(
    path: &Path,
    config: &VitConfig,
    class_names: &[String],
    crop_fraction: Option<f64>,
) -> Result<BTreeMap<String, String>> {
    let json = |what, e: serde_json::Error| Error::file(path, format!("{what} cannot be written: {e}"));
    let config = serde_json::to_string(config).map_err(|e| json("the configuration", e))?;
    let names = serde_json::to_string(class_names).map_err(|e| json("the class names", e))?;
    let crop = crop_fraction.map(|fraction| (CROP_FRACTION.to_owned(), fraction.to_string()));
    Ok([(CONFIG.to_owned(), config), (CLASS_NAMES.to_owned(), names)].into_iter().chain(crop).collect())
}

/// The model's sizes, if the file was written by [`save_vit`].
///
/// # Errors
/// If the metadata is not a valid configuration.
pub fn vit_config(checkpoint: &Checkpoint) -> Result<Option<VitConfig>> {
    let Some(text) = checkpoint.metadata.get(CONFIG) else { return Ok(None) };
    let config: VitConfig = serde_json::from_str(text)
        .map_err(|e| Error::Parameter { name: CONFIG.to_owned(), what: format!("not a ViT's configuration: {e}") })?;
    config.check()?;
    Ok(Some(config))
}

/// The class names, if the file was written by [`save_vit`].
pub fn class_names(checkpoint: &Checkpoint) -> Option<Vec<String>> {
    serde_json::from_str(checkpoint.metadata.get(CLASS_NAMES)?).ok()
}
