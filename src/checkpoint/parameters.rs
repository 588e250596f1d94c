//! A model's parameters in and out of checkpoints.

use std::collections::BTreeMap;

use super::{Checkpoint, HostTensor, LoadReport, MatchOptions, match_parameters};
use crate::autograd::Parameters;
use crate::error::Result;

/// Reads every parameter back from the device, by path; awaiting it blocks no thread.
///
/// # Errors
/// If the device fails.
pub async fn download_async(parameters: &Parameters) -> Result<BTreeMap<String, HostTensor>> {
    let mut tensors = BTreeMap::new();
    for (path, value) in parameters.iter().map(|p| (p.path().to_owned(), p.value())) {
        tensors.insert(path, HostTensor { shape: value.dims().to_vec(), data: value.read().await? });
    }
    Ok(tensors)
}

/// [`download_async`], blocking the thread.
///
/// # Errors
/// As [`download_async`].
#[cfg(not(target_arch = "wasm32"))]
pub fn download(parameters: &Parameters) -> Result<BTreeMap<String, HostTensor>> {
    pollster::block_on(download_async(parameters))
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
