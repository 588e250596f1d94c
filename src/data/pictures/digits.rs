//! The handwritten digits that come with the crate, as a data set.

use super::{Crop, DataSet, Split};
use crate::data::Digits;
use crate::error::Result;
use crate::normalize::Normalize;
use crate::preprocess::Interpolation;

/// [`Digits::embedded`], repeated for the three channels.
///
/// They are divided by class with a fixed seed, always alike: 1,259 for training, 179 for validation, 359 for test.
/// They are centred, so training shows them as they are; mirrored digits are other signs, so they are not mirrored.
///
/// # Errors
/// None in practice: the file is part of the program.
pub fn digits() -> Result<DataSet> {
    let Digits { grey, labels } = Digits::embedded()?;
    let pixels = grey.into_iter().flat_map(|grey| [grey; 3]).collect();
    let class_names: Vec<String> = (0..Digits::CLASSES).map(|digit| digit.to_string()).collect();
    let side = Digits::SIDE as u32;
    let all = Split::from_pixels(side, side, pixels, labels)?.with_class_names(&class_names);
    let [train, validation, test] = all.divide(0.1, 0.2, 0)?;
    Ok(DataSet {
        name: "digits".to_owned(),
        class_names,
        train,
        validation,
        test,
        normalize: Normalize::DIGITS,
        train_crop: Crop::Whole,
        eval_crop: Crop::Whole,
        interpolation: Interpolation::default(),
        flip: false,
        unused: Vec::new(),
        warnings: Vec::new(),
    })
}
