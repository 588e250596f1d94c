//! A model's parameters in and out of checkpoints.

use std::collections::BTreeMap;

use super::{Checkpoint, HostTensor, LoadReport, MatchOptions, match_parameters};
use crate::autograd::Parameters;
use crate::error::Result;
use crate::tensor::Tensor;

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
