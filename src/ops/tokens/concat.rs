//! Tokens of several tensors one after the other, sample by sample.

use super::copy_rows::{Rows, copy_rows, token_sizes};
use crate::autograd::{Backward, ParentGradients, record};
use crate::error::{Error, Result};
use crate::ops::{expect_match, shape};
use crate::shape::DType;
use crate::tensor::Tensor;

/// Joins along the token axis: `f32[B, T₀, C]`, `f32[B, T₁, C]`, .. to `f32[B, T₀ + T₁ + .., C]`.
///
/// # Errors
/// If there is no part, a part is not `f32[B, T, C]`, or B or C differ.
pub fn concat_tokens(parts: &[&Tensor]) -> Result<Tensor> {
    const OP: &str = "concat_tokens";
    let Some(&first) = parts.first() else { return Err(Error::argument(OP, "parts", "at least one tensor", 0)) };
    let mut concat = Concat { batch: 0, width: 0, total: 0, lengths: Vec::with_capacity(parts.len()) };
    for part in parts {
        let [batch, tokens, width] = token_sizes(OP, part)?;
        if concat.lengths.is_empty() {
            (concat.batch, concat.width) = (batch, width);
        }
        let fits = (batch, width) == (concat.batch, concat.width);
        expect_match(OP, first, part, fits, "parts must agree in B and C")?;
        concat.lengths.push(tokens);
        concat.total += tokens;
    }
    let y = Tensor::unwritten(first.gpu(), DType::F32, shape(OP, &[concat.batch, concat.total, concat.width])?)?;
    for (part, place) in parts.iter().zip(concat.places()) {
        copy_rows(concat.part(part, place), concat.joined(&y, place), concat.sizes(place), 0)?;
    }
    Ok(record(y, parts, || concat))
}

struct Concat {
    batch: usize,
    width: usize,
    /// Tokens of the result.
    total: usize,
    /// Tokens of each part.
    lengths: Vec<usize>,
}

/// A part's first token in the result, and how many it has.
#[derive(Clone, Copy)]
struct Place {
    first: usize,
    count: usize,
}

impl Concat {
    fn places(&self) -> impl Iterator<Item = Place> + '_ {
        self.lengths.iter().scan(0, |next, &count| {
            let place = Place { first: *next, count };
            *next += count;
            Some(place)
        })
    }

    /// All rows of a part or its gradient.
    fn part<'a>(&self, tensor: &'a Tensor, place: Place) -> Rows<'a> {
        Rows { tensor, tokens: place.count, first: 0 }
    }

    /// The part's rows within the result or its gradient.
    fn joined<'a>(&self, tensor: &'a Tensor, place: Place) -> Rows<'a> {
        Rows { tensor, tokens: self.total, first: place.first }
    }

    fn sizes(&self, place: Place) -> [usize; 3] {
        [self.batch, place.count, self.width]
    }
}

impl Backward for Concat {
    fn backward(self: Box<Self>, dy: Tensor, parents: &mut ParentGradients<'_>) -> Result<()> {
        for (i, place) in self.places().enumerate() {
            if let Some(to) = parents.destination(i)? {
                copy_rows(self.joined(&dy, place), self.part(&to.tensor, place), self.sizes(place), to.flag())?;
            }
        }
        Ok(())
    }

    fn reads(&self, _i: usize) -> bool {
        false
    }
}

/// The same on the CPU. The gradients of the parts are slices of dy: see [`super::slice::reference`].
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod reference {
    /// Joins `batch` samples; the parts' rows may have any width, the same for all.
    pub fn forward(parts: &[&[f32]], batch: usize) -> Vec<f32> {
        let sample = |b: usize| parts.iter().flat_map(move |p| &p[b * p.len() / batch..(b + 1) * p.len() / batch]);
        (0..batch).flat_map(sample).copied().collect()
    }
}
