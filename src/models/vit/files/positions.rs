//! Position embeddings for another image size.

use crate::checkpoint::HostTensor;
use crate::error::{Error, Result};
use crate::preprocess::Interpolation;
use crate::resample::{Axis, Edges};

/// The most patches along one side.
const MAX_SIDE: usize = 4096;

/// How position embeddings are resampled: libraries differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resampling {
    /// Bicubic with antialiasing, as timm's `resample_abs_pos_embed`, and transformers' `Dinov2WithRegisters`.
    #[default]
    Antialiased,
    /// Bicubic without, as transformers' `ViT`, `DeiT`, `Dinov2`, `CLIP` and `Siglip`.
    Plain,
    /// Bilinear without antialiasing, as timm does with FlexiViT's and most of RADIO's.
    Bilinear,
    /// The same, the outermost positions kept (`align_corners`), as timm does with RADIO v3's of ViT-B and ViT-H.
    BilinearAligned,
}

impl Resampling {
    /// From `from` samples along an axis to `to`.
    fn axis(self, from: usize, to: usize) -> Axis<f64> {
        match self {
            Resampling::Antialiased => Axis::new(from, 0.0, from as f64, to, Interpolation::Bicubic),
            Resampling::Plain => Axis::plain(from, to, Interpolation::Bicubic, Edges::Whole),
            Resampling::Bilinear => Axis::plain(from, to, Interpolation::Bilinear, Edges::Whole),
            Resampling::BilinearAligned => Axis::plain(from, to, Interpolation::Bilinear, Edges::Aligned),
        }
    }
}

/// Position embeddings `f32[1, prefix + h·w, C]` of a grid of `from` = (h, w) patches, resampled to the grid `to` as PyTorch's
/// `interpolate` does. The first `prefix` stay as they are. The result is `pos` itself where the grids are
/// equal.
///
/// # Errors
/// [`Error::Parameter`] if `pos` has another shape or a side of `to` is not in 1..=4096.
pub fn resample_pos_embed(
    pos: &HostTensor,
    prefix: usize,
    from: (usize, usize),
    to: (usize, usize),
    resampling: Resampling,
) -> Result<HostTensor> {
    let fault = |what: String| Error::Parameter { name: "pos_embed".to_owned(), what };
    let positions = from.0.checked_mul(from.1).and_then(|n| n.checked_add(prefix));
    let &[1, count, width] = pos.shape.as_slice() else {
        return Err(fault(format!("is {:?}, expected [1, T, C]", pos.shape)));
    };
    let is_empty = width == 0 || from.0 == 0 || from.1 == 0;
    if is_empty || positions != Some(count) || pos.data.len() != count.saturating_mul(width) {
        return Err(fault(format!("is {:?}, expected {prefix} + {} x {} positions", pos.shape, from.0, from.1)));
    }
    if ![to.0, to.1].iter().all(|side| (1..=MAX_SIDE).contains(side)) {
        return Err(fault(format!("cannot be resampled to {} x {}: sides are 1 to {MAX_SIDE}", to.0, to.1)));
    }
    if from == to {
        return Ok(pos.clone());
    }
    let (kept, grid) = pos.data.split_at(prefix * width);
    // The columns first, as PyTorch.
    let columns = resampling.axis(from.1, to.1);
    let grid: Vec<f32> = grid.chunks(from.1 * width).flat_map(|row| resampled(row, width, &columns)).collect();
    let rows = resampling.axis(from.0, to.0);
    let grid = resampled(&grid, to.1 * width, &rows);
    Ok(HostTensor { shape: vec![1, prefix + to.0 * to.1, width], data: [kept, &grid].concat() })
}

/// Weighted sums of the items, each `size` values, that `source` consists of.
fn resampled(source: &[f32], size: usize, axis: &Axis<f64>) -> Vec<f32> {
    let mut output = Vec::with_capacity(axis.taps.len() * size);
    let mut sums = vec![0.0; size];
    for taps in &axis.taps {
        sums.fill(0.0);
        let items = source.chunks_exact(size).skip(taps.start).take(taps.count);
        for (item, weight) in items.zip(axis.weights(taps)) {
            for (sum, &value) in sums.iter_mut().zip(item) {
                *sum += weight * f64::from(value);
            }
        }
        output.extend(sums.iter().map(|&sum| sum as f32));
    }
    output
}
