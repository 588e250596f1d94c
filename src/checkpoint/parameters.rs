//! A model's parameters in and out of checkpoints.

use std::collections::BTreeMap;

use super::{Checkpoint, HostTensor, LoadReport, MatchOptions, match_parameters};
use crate::autograd::Parameters;
use crate::error::Result;
use crate::tensor::Tensor;

/// Bytes of tensors that are read together: one by one, each would cost a submission and a wait.
const READ: u64 = 32 << 20;

/// Reads every parameter back from the device, by path; awaiting it blocks no thread.
///
/// # Errors
/// If the device fails.
pub async fn download_async(parameters: &Parameters) -> Result<BTreeMap<String, HostTensor>> {
    read_named(parameters.iter().map(|p| (p.path().to_owned(), p.value())).collect()).await
}

/// Reads `f32` tensors of one device back, by name.
pub(crate) async fn read_named(tensors: Vec<(String, Tensor)>) -> Result<BTreeMap<String, HostTensor>> {
    let mut read = BTreeMap::new();
    let mut rest = tensors.as_slice();
    while !rest.is_empty() {
        let sums = rest.iter().scan(0, |sum, (_, tensor)| {
            *sum += tensor.buffer().size();
            Some(*sum)
        });
        let (now, later) = rest.split_at(sums.take_while(|sum| *sum <= READ).count().max(1));
        let values = Tensor::read_all(&now.iter().map(|(_, tensor)| tensor).collect::<Vec<_>>()).await?;
        for ((name, tensor), data) in now.iter().zip(values) {
            read.insert(name.clone(), HostTensor { shape: tensor.dims().to_vec(), data });
        }
        rest = later;
    }
    Ok(read)
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
