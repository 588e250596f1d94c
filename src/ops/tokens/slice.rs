//! A range of every sample's tokens, such as the class token.

use std::ops::Range;

use super::copy_rows::{Rows, copy_rows, token_sizes};
use crate::autograd::{Backward, ParentGradients, record, unchanged};
use crate::error::{Error, Result};
use crate::ops::shape;
use crate::shape::DType;
use crate::tensor::Tensor;

/// Tokens `range` of every sample: `f32[B, T, C]` to `f32[B, range.len(), C]`; all of them are `x` itself. What
/// [`slice`](crate::ops::slice) gives along axis 1, by a kernel for rows.
///
/// # Errors
/// If `x` is not `f32[B, T, C]`, or the range is empty or exceeds T.
pub fn slice_tokens(x: &Tensor, range: Range<usize>) -> Result<Tensor> {
    const OP: &str = "slice_tokens";
    let [batch, tokens, width] = token_sizes(OP, x)?;
    if range.is_empty() || range.end > tokens {
        let expected = format!("a range that is not empty, within 0..{tokens}");
        return Err(Error::argument(OP, "range", expected, format_args!("{range:?}")));
    }
    if range.len() == tokens {
        return Ok(unchanged(x));
    }
    let slice = Slice { batch, tokens, width, first: range.start, count: range.len() };
    let y = Tensor::unwritten(x.gpu(), DType::F32, shape(OP, &[batch, slice.count, width])?)?;
    copy_rows(slice.whole(x), slice.cut(&y), slice.sizes(), 0)?;
    Ok(record(y, &[x], || slice))
}

#[derive(Clone, Copy)]
struct Slice {
    batch: usize,
    tokens: usize,
    width: usize,
    first: usize,
    count: usize,
}

impl Slice {
    /// The rows within x or its gradient.
    fn whole<'a>(&self, tensor: &'a Tensor) -> Rows<'a> {
        Rows { tensor, tokens: self.tokens, first: self.first }
    }

    /// The rows within y or its gradient.
    fn cut<'a>(&self, tensor: &'a Tensor) -> Rows<'a> {
        Rows { tensor, tokens: self.count, first: 0 }
    }

    fn sizes(&self) -> [usize; 3] {
        [self.batch, self.count, self.width]
    }
}

impl Backward for Slice {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        let Some(dx) = parents.destination(0)? else { return Ok(()) };
        if !dx.accumulate {
            dy.gpu().clear(dx.tensor.buffer())?;
        }
        copy_rows(self.cut(&dy), self.whole(&dx.tensor), self.sizes(), dx.flag())
    }

    fn reads(&self, _i: usize) -> bool {
        false
    }
}

/// The same on the CPU.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    use std::ops::Range;

    /// Rows `range` of every sample of `tokens` rows of `width`.
    pub fn forward(x: &[f32], tokens: usize, width: usize, range: Range<usize>) -> Vec<f32> {
        x.chunks(tokens * width).flat_map(|sample| &sample[range.start * width..range.end * width]).copied().collect()
    }

    /// dx: dy in those rows, 0 in the others.
    pub fn backward(dy: &[f32], tokens: usize, width: usize, range: Range<usize>) -> Vec<f32> {
        let sample = |dy: &[f32]| {
            let mut dx = vec![0.0; tokens * width];
            dx[range.start * width..range.end * width].copy_from_slice(dy);
            dx
        };
        dy.chunks(range.len() * width).flat_map(sample).collect()
    }
}
