//! Height and width as options take them.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result};
use serde::{Deserialize, Serialize};

/// Of pictures: `32x128`, or `224` for square ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size {
    pub height: usize,
    pub width: usize,
}

impl FromStr for Size {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (height, width) = text.split_once('x').unwrap_or((text, text));
        let side = |side: &str| side.parse().context("a side, or HEIGHTxWIDTH such as 32x128");
        Ok(Size { height: side(height)?, width: side(width)? })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.height, self.width)
    }
}

impl TryFrom<String> for Size {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Size> for String {
    fn from(size: Size) -> String {
        size.to_string()
    }
}

impl From<Size> for (usize, usize) {
    fn from(size: Size) -> (usize, usize) {
        (size.height, size.width)
    }
}
