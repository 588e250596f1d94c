//! Weights that are stored in half precision, as products read them.

use crate::error::Result;
use crate::ops::cast::cast_into;
use crate::shape::DType;
use crate::tensor::Tensor;

/// What `product` makes of the weight in f32: of a copy, if it is stored in f16. The copy's memory is the device's own: a buffer of the
/// pool that it has left would be taken for something smaller that stays until backward.
pub(super) fn with_full<R>(weight: &Tensor, product: impl FnOnce(&Tensor) -> Result<R>) -> Result<R> {
    if weight.dtype() == DType::F32 {
        return product(weight);
    }
    let gpu = weight.gpu();
    gpu.with_scratch(weight.numel() as u64 * DType::F32.size(), weight.info(), |memory| {
        let full = Tensor::from_view(gpu, DType::F32, weight.shape(), memory);
        cast_into(weight, &full)?;
        product(&full)
    })
}
