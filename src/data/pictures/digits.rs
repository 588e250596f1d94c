//! The handwritten digits that come with the crate: real data for tests, examples and first steps, without a download.

use std::io::Read;

use flate2::read::GzDecoder;

use super::{Crop, DataSet, Split};
use crate::error::{Error, Result};
use crate::normalize::Normalize;

/// scikit-learn's file, unchanged: a line has 64 values 0..=16, row by row, and the digit. See assets/README.md.
const FILE: &[u8] = include_bytes!("../../../assets/digits.csv.gz");
/// What errors call it.
const NAME: &str = "assets/digits.csv.gz";
/// Side of an image.
const SIDE: u32 = 8;
/// Largest value: how many of a cell's 4 × 4 scanned pixels can be ink.
const INK: u32 = 16;

/// The optical digits of the UCI Machine Learning Repository as scikit-learn's `load_digits` has them: 1,797 images of
/// 8 × 8 grey values in ten classes, scaled from 0..=16 to 0..=255 and repeated for the three channels.
///
/// They are divided by class with a fixed seed, always alike: 1,259 for training, 179 for validation, 359 for test.
/// They are centred, so training shows them as they are; mirrored digits are other signs, so they are not mirrored.
///
/// # Errors
/// None in practice: the file is part of the program.
pub fn digits() -> Result<DataSet> {
    let mut text = String::new();
    GzDecoder::new(FILE).read_to_string(&mut text).map_err(|e| Error::io(NAME, e))?;
    let mut pixels = Vec::new();
    let mut labels = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let label = read_line(line, &mut pixels);
        labels.push(label.ok_or_else(|| Error::file(NAME, format!("line {} is no picture", number + 1)))?);
    }
    let class_names: Vec<String> = (0..10).map(|digit| digit.to_string()).collect();
    let all = Split::from_pixels(SIDE, SIDE, pixels, labels)?.with_class_names(&class_names);
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
        flip: false,
        unused: Vec::new(),
        warnings: Vec::new(),
    })
}

/// Adds a line's pixels, `u8[8, 8, 3]`, and returns its digit; `None` if it is not such a line.
fn read_line(line: &str, pixels: &mut Vec<u8>) -> Option<u32> {
    let mut values = line.split(',').map(|value| value.parse::<u32>().ok());
    for _ in 0..SIDE * SIDE {
        let ink = values.next()??;
        let grey = u8::try_from((ink * 255 + INK / 2) / INK).ok()?;
        pixels.extend([grey; 3]);
    }
    let label = values.next()?.filter(|&digit| digit < 10);
    values.next().is_none().then_some(label)?
}
