//! Matrices that are larger than what a device binds at once, as GPT-2's embeddings are on many: in parts of whole rows.

use std::ops::Range;

use crate::error::Result;
use crate::gpu::{BufferView, Gpu};
use crate::shape::DType;

/// Some rows of a matrix, and where they lie.
pub(super) struct Part {
    pub(super) rows: Range<usize>,
    pub(super) view: BufferView,
}

/// Behind so many rows of any width a binding may begin, and a vec4 of columns.
const UNIT: usize = 64;

/// All `rows` rows of a matrix of f32, `width` each: in one part, unless that is more than the device binds.
///
/// # Errors
/// [`crate::Error::Limit`] if not even 64 rows can be bound.
pub(super) fn row_parts(gpu: &Gpu, matrix: &BufferView, rows: usize, width: usize) -> Result<Vec<Part>> {
    let row = width as u64 * DType::F32.size();
    let windows = gpu.windows(matrix, UNIT as u64 * row)?;
    let part = |(offset, view): (u64, BufferView)| {
        let first = (offset / row) as usize;
        // The last ends with what a matrix is padded by.
        let count = (view.size() / row) as usize;
        Part { rows: first..rows.min(first + count), view }
    };
    Ok(windows.into_iter().map(part).collect())
}
