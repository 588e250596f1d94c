//! Another shape for the same memory.

use crate::autograd::{Backward, ParentGradients, record};
use crate::error::{Error, Result};
use crate::shape::Shape;
use crate::tensor::{Tensor, checked_shape};

/// The same elements in the same order under the shape `dims`; nothing is copied. Any dtype.
///
/// # Errors
/// If `dims` is not a shape of as many elements.
pub fn reshape(x: &Tensor, dims: &[usize]) -> Result<Tensor> {
    const OP: &str = "reshape";
    let shape = checked_shape(OP, dims)?;
    if shape.numel() != x.numel() {
        let expected = format!("of {} elements, as {}", x.numel(), x.info());
        return Err(Error::argument(OP, "shape", expected, shape));
    }
    Ok(record(x.with_shape(shape), &[x], || Rule { shape: x.shape() }))
}

struct Rule {
    /// Of x.
    shape: Shape,
}

impl Backward for Rule {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let dx = dy.with_shape(self.shape);
        drop(dy); // so that later gradients can be added to dx in place
        parents.give(0, dx)
    }

    fn reads(&self, _i: usize) -> bool {
        false
    }
}
