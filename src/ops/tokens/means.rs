//! Running means of values by the ids that they belong to, as of the losses of a vocabulary's tokens.

use super::table::TableRows;
use crate::error::{Error, Result};
use crate::gpu::{Access, Fault, FaultSource, Grid, Kernel, NO_LOOPS, Params, params, wgsl};
use crate::ops::item::LANES;
use crate::ops::{expect, expect_f32, expect_match, shape};
use crate::shape::DType;
use crate::tensor::Tensor;

params!(MeansParams { places: u32, total: u32, ignores: u32, ignored: u32, momentum: f32, fault: u32 });

static PAIR: Kernel = Kernel {
    name: "update_means.pair",
    sources: &[wgsl!("update_means.wgsl"), wgsl!("lib/grid.wgsl"), wgsl!("lib/fault.wgsl")],
    entry: "pair",
    bindings: &[Access::Read, Access::Read, Access::Write, Access::Write],
    params: MeansParams::FIELDS,
    constants: &[],
    rounds: NO_LOOPS,
};

static FOLD: Kernel =
    Kernel { name: "update_means.fold", entry: "fold", bindings: &[Access::Read, Access::Read, Access::Write], ..PAIR };

pub(crate) const KERNELS: &[&Kernel] = &[&PAIR, &FOLD];

const OP: &str = "update_means";

/// Running means, `f32[V]`, after `values`, `f32[N]`, that belong to `ids`, `u32[N]`: of every id that occurs momentum·mean +
/// (1 − momentum)·(the mean of its values), of the others the mean as it is. Repeated ids add up always in the same order. What
/// belongs to `ignore_index` does not count; nor does a value that is not finite, as the loss of a step that overflowed, so that
/// it does not spoil a mean for good; nor does another id that is not below V, which makes the first read of what depends
/// on it an [`Error::OutOfRange`]. No gradient.
///
/// TokenBypass keeps such means of the losses of its vocabulary (Hou et al., 2022, arXiv 2203.13240): ids are then the labels, and
/// values the losses of [`crate::ops::Scores`].
///
/// # Errors
/// If the shapes or dtypes are others, or the momentum is not from 0 to 1.
pub fn update_means(
    means: &Tensor,
    ids: &Tensor,
    values: &Tensor,
    ignore_index: Option<u32>,
    momentum: f32,
) -> Result<Tensor> {
    for tensor in [means, values] {
        expect_f32(OP, tensor)?;
    }
    expect(OP, ids, ids.dtype() == DType::U32, "needs ids u32[N]")?;
    expect(OP, means, means.shape().rank() == 1, "needs means f32[V]")?;
    expect_match(OP, ids, values, ids.shape() == values.shape(), "there must be a value for each id")?;
    expect_match(OP, means, ids, true, "")?;
    if !(0.0..=1.0).contains(&momentum) {
        return Err(Error::argument(OP, "momentum", "from 0 to 1", momentum));
    }
    let (gpu, places, total) = (means.gpu(), ids.numel(), means.numel());
    let params = MeansParams {
        places: places as u32,
        total: total as u32,
        ignores: u32::from(ignore_index.is_some()),
        ignored: ignore_index.unwrap_or(0),
        momentum,
        fault: 0,
    };
    let pairs = Tensor::unwritten(gpu, DType::F32, shape(OP, &[places, 2])?)?;
    let faults = gpu.fault_place(Fault::Mean, &FaultSource::default())?;
    let buffers = [ids.buffer(), values.buffer(), pairs.buffer(), &faults.table];
    gpu.dispatch(&PAIR, &MeansParams { fault: faults.code, ..params }, &buffers, Grid::linear(places, LANES))?;
    let sums = Tensor::zeros(gpu, DType::F32, &[total, 2])?;
    TableRows { ids: ids.detach(), rows: total, channels: 2 }.add(&pairs, &sums)?;
    let result = means.empty_like()?;
    let buffers = [means.buffer(), sums.buffer(), result.buffer()];
    gpu.dispatch(&FOLD, &params, &buffers, Grid::linear(total, LANES))?;
    Ok(result)
}

/// The same on the CPU, slowly.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    /// The means after `values` of `ids`, of which those that are no place in `means` do not count, nor what is not finite.
    pub fn updated(means: &[f32], ids: &[u32], values: &[f32], momentum: f32) -> Vec<f32> {
        let momentum = f64::from(momentum);
        let updated = |(id, &mean): (usize, &f32)| {
            let own = ids.iter().zip(values).filter(|(other, value)| **other as usize == id && value.is_finite());
            let (sum, count) = own.fold((0.0, 0.0), |(sum, count), (_, &v)| (sum + f64::from(v), count + 1.0));
            if count == 0.0 { mean } else { (momentum * f64::from(mean) + (1.0 - momentum) * sum / count) as f32 }
        };
        means.iter().enumerate().map(updated).collect()
    }
}
