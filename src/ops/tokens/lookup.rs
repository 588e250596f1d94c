//! Looking tokens up in a table of embeddings.

use super::table::TableRows;
use crate::autograd::{Backward, ParentGradients, record};
use crate::error::{Error, Result};
use crate::ops::{expect, expect_f32, expect_match, shape};
use crate::shape::DType;
use crate::tensor::Tensor;

/// y\[.., c\] = weight\[ids\[..\], c\]: `f32[V, C]` and `u32[..]` to `f32[.., C]`, as PyTorch's `embedding`. An id that is not below V
/// gives zeros, and makes the first read of what depends on it an [`Error::OutOfRange`]. The weight's gradient adds up repeated
/// ids always in the same order.
///
/// The weight may be a parameter that is larger than what the device binds at once.
///
/// # Errors
/// If the weight is not `f32[V, C]`, or the ids not u32.
pub fn embedding(weight: &Tensor, ids: &Tensor) -> Result<Tensor> {
    const OP: &str = "embedding";
    expect_f32(OP, weight)?;
    let Some([rows, channels]) = weight.shape().to_array::<2>() else {
        return Err(Error::Shape { op: OP, what: "needs a weight f32[V, C]", got: weight.info() });
    };
    expect(OP, ids, ids.dtype() == DType::U32, "needs ids u32[..]")?;
    expect_match(OP, weight, ids, true, "")?;
    let y = Tensor::unwritten(weight.gpu(), DType::F32, shape(OP, &[ids.dims(), &[channels]].concat())?)?;
    let table = TableRows { ids: ids.detach(), rows, channels };
    table.look_up(weight, &y)?;
    Ok(record(y, &[weight], || Rule { table }))
}

struct Rule {
    table: TableRows,
}

impl Backward for Rule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Some(dweight) = parents.destination(0)? else { return Ok(()) };
        dweight.zeroed()?;
        self.table.add(&dy, &dweight.tensor)
    }

    fn reads(&self, _i: usize) -> bool {
        false
    }
}

/// The same on the CPU, slowly.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    /// y `f32[N, C]` of a table `f32[V, C]`.
    pub fn forward(weight: &[f32], ids: &[u32], channels: usize) -> Vec<f32> {
        ids.iter().flat_map(|&id| &weight[id as usize * channels..][..channels]).copied().collect()
    }

    /// dweight of `rows` rows, given dy `f32[N, C]`.
    pub fn backward(dy: &[f32], ids: &[u32], rows: usize) -> Vec<f32> {
        let channels = dy.len() / ids.len();
        let mut dweight = vec![0.0f64; rows * channels];
        for (row, &id) in dy.chunks(channels).zip(ids) {
            let sums = &mut dweight[id as usize * channels..][..channels];
            sums.iter_mut().zip(row).for_each(|(sum, &v)| *sum += f64::from(v));
        }
        dweight.iter().map(|&v| v as f32).collect()
    }
}
