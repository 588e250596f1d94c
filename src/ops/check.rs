//! What operations ask of their tensors, and the errors that say what they got.

use crate::error::{Error, Result};
use crate::shape::{DType, Shape};
use crate::tensor::Tensor;

/// The input must be f32.
pub(super) fn expect_f32(op: &'static str, x: &Tensor) -> Result<()> {
    expect(op, x, x.dtype() == DType::F32, "needs f32")
}

/// The input must be f32 or f16.
pub(super) fn expect_float(op: &'static str, x: &Tensor) -> Result<()> {
    expect(op, x, matches!(x.dtype(), DType::F32 | DType::F16), "needs f32 or f16")
}

/// `ok`, or an error that says `what` was expected of `x`.
pub(super) fn expect(op: &'static str, x: &Tensor, ok: bool, what: &'static str) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::Shape { op, what, got: x.info() }) }
}

/// `ok`, or an error that says how `lhs` and `rhs` do not fit. Tensors of two devices never fit.
pub(super) fn expect_match(op: &'static str, lhs: &Tensor, rhs: &Tensor, ok: bool, what: &'static str) -> Result<()> {
    expect_same_device(op, lhs, rhs)?;
    if ok { Ok(()) } else { Err(Error::Mismatch { op, what, lhs: lhs.info(), rhs: rhs.info() }) }
}

/// Tensors of two devices never fit.
pub(super) fn expect_same_device(op: &'static str, lhs: &Tensor, rhs: &Tensor) -> Result<()> {
    if lhs.gpu().same(rhs.gpu()) {
        return Ok(());
    }
    let what = "the tensors are on different devices";
    Err(Error::Mismatch { op, what, lhs: lhs.info(), rhs: rhs.info() })
}

/// `axis`, if `x` has it.
pub(super) fn axis(op: &'static str, x: &Tensor, axis: usize) -> Result<usize> {
    let rank = x.shape().rank();
    if axis < rank { Ok(axis) } else { Err(Error::argument(op, "axis", format!("an axis of {}", x.info()), axis)) }
}

/// A shape that follows from shapes already checked; an error where their product overflows.
pub(super) fn shape(op: &'static str, dims: &[usize]) -> Result<Shape> {
    crate::tensor::checked_shape(op, dims)
}

/// `x` itself, outside any graph, if no other handle shares its memory, else a copy: what may be written to in place.
pub(super) fn sole_or_copy(x: &Tensor) -> Result<Tensor> {
    if x.buffer().is_sole() { Ok(x.detach()) } else { x.copied() }
}
