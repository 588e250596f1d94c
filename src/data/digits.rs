//! The handwritten digits that come with the crate: real data for tests, examples and first steps, without a download.

use std::io::Read;

use flate2::read::GzDecoder;

use crate::error::{Error, Result};

/// scikit-learn's file, unchanged: a line has 64 values 0..=16, row by row, and the digit. See assets/README.md.
const FILE: &[u8] = include_bytes!("../../assets/digits.csv.gz");
/// What errors call it.
const NAME: &str = "assets/digits.csv.gz";
/// Largest value: how many of a cell's 4 × 4 scanned pixels can be ink.
const INK: u32 = 16;

/// The optical digits of the UCI Machine Learning Repository as scikit-learn's `load_digits` has them, N = 1,797 in the file's
/// order.
#[derive(Clone, Debug, PartialEq)]
pub struct Digits {
    /// `u8[N, 8, 8]`: ink, scaled from 0..=16 to 0..=255.
    pub grey: Vec<u8>,
    /// Which digit each is, `u32[N]`.
    pub labels: Vec<u32>,
}

impl Digits {
    /// Side of a picture.
    pub const SIDE: usize = 8;
    /// How many digits there are to tell apart.
    pub const CLASSES: usize = 10;

    /// Unpacks them. It needs neither files nor threads.
    ///
    /// # Errors
    /// None in practice: the file is part of the program.
    pub fn embedded() -> Result<Self> {
        let mut text = String::new();
        GzDecoder::new(FILE).read_to_string(&mut text).map_err(|e| Error::io(NAME, e))?;
        let mut digits = Digits { grey: Vec::new(), labels: Vec::new() };
        for (number, line) in text.lines().enumerate() {
            let label = read_line(line, &mut digits.grey);
            digits.labels.push(label.ok_or_else(|| Error::file(NAME, format!("line {} is no picture", number + 1)))?);
        }
        Ok(digits)
    }
}

/// Adds a line's pixels, `u8[8, 8]`, and returns its digit; `None` if it is not such a line.
fn read_line(line: &str, grey: &mut Vec<u8>) -> Option<u32> {
    let mut values = line.split(',').map(|value| value.parse::<u32>().ok());
    for _ in 0..Digits::SIDE * Digits::SIDE {
        let ink = values.next()??;
        grey.push(u8::try_from((ink * 255 + INK / 2) / INK).ok()?);
    }
    let label = values.next()?.filter(|&digit| digit < Digits::CLASSES as u32);
    values.next().is_none().then_some(label)?
}
