//! What the files beside the weights tell.

use std::path::Path;

use super::forms::Sides;
use super::infer::Hints;
use crate::checkpoint::Claim;
use crate::error::{Error, Result};
use crate::models::vit::VitConfig;
use crate::ops::Normalize;

/// What the files beside the weights tell.
#[derive(Debug, Default)]
pub(super) struct Described {
    pub(super) hints: Hints,
    pub(super) class_names: Option<Vec<String>>,
    pub(super) crop_fraction: Option<f64>,
    /// Of the pictures that the model is shown, where it resamples its positions for them.
    pub(super) shown: Option<(usize, usize)>,
    pub(super) claims: Vec<Claim<VitConfig>>,
    /// Heads that config.json itself says: of the hints', not those by a name or a library's default.
    pub(super) own_heads: Option<usize>,
    /// Height and width of the pictures for which it says itself that the positions are.
    pub(super) own_size: Option<(usize, usize)>,
}

/// Mean and deviation, if both are there.
pub(super) fn normalization(path: &Path, mean: Option<[f32; 3]>, std: Option<[f32; 3]>) -> Result<Option<Normalize>> {
    let (Some(mean), Some(std)) = (mean, std) else { return Ok(None) };
    if !mean.iter().all(|m| m.is_finite()) || !std.iter().all(|s| s.is_normal() && *s > 0.0) {
        let what = format!("mean {mean:?} must be finite and deviation {std:?} positive");
        return Err(Error::file(path, what));
    }
    Ok(Some(Normalize { mean, std }))
}

/// A share of a picture's side.
pub(super) fn fraction(path: &Path, fraction: Option<f64>) -> Result<Option<f64>> {
    match fraction.filter(|f| !(*f > 0.0 && *f <= 1.0)) {
        Some(f) => Err(Error::file(path, format!("the crop must be a share of the picture in 0 to 1, got {f}"))),
        None => Ok(fraction),
    }
}

/// The side of a square.
pub(super) fn square(path: &Path, key: &str, Sides { height, width }: Sides) -> Result<usize> {
    if height != width {
        return Err(Error::file(path, format!("{key} {height} x {width} is not square")));
    }
    Ok(height)
}
