//! Weights that are stored in half precision, as products read them.

use std::sync::{Mutex, PoisonError};

use crate::error::Result;
use crate::gpu::{BufferView, Fit};
use crate::ops::cast::cast_into;
use crate::shape::DType;
use crate::tensor::Tensor;

/// Where the f32 copy of a weight lies for as long as one product reads it. The memory is its own, as large as the largest weight so far:
/// a buffer of the pool that such a copy has left would be taken for something smaller that stays until backward.
#[derive(Debug, Default)]
struct Copy(Mutex<Option<BufferView>>);

/// What `product` makes of the weight in f32: of a copy, if it is stored in f16.
pub(super) fn with_full<R>(weight: &Tensor, product: impl FnOnce(&Tensor) -> Result<R>) -> Result<R> {
    if weight.dtype() == DType::F32 {
        return product(weight);
    }
    let gpu = weight.gpu();
    let copy = gpu.attachment::<Copy>();
    // Held until the product is recorded, so that no other thread's copy comes between.
    let mut place = copy.0.lock().unwrap_or_else(PoisonError::into_inner);
    let bytes = weight.numel() as u64 * DType::F32.size();
    let own = place.take().filter(|own| own.is_on(gpu) && own.size() >= bytes);
    let own = own.map_or_else(|| gpu.alloc(bytes, Fit::Exact, weight.info()), Ok)?;
    let full = Tensor::from_view(gpu, DType::F32, weight.shape(), own.part(0, own.size()));
    *place = Some(own);
    cast_into(weight, &full)?;
    product(&full)
}
